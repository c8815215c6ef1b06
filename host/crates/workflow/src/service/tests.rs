//! Runs on a real database: crashes between transactions, answers given twice, timers, approvals, triggers.

use super::*;
use crate::state::{Decision, Status};
use db::run::RunFilter;
use model::{ActionOutcome, ActionRequest, ErrorRecord, ManualClock, RetryAdvice};
use std::collections::BTreeMap;

/// An engine without its loop: each turn is one transaction, and dropping it is a crash.
struct World {
    _dir: tempfile::TempDir,
    db: Db,
    clock: Arc<ManualClock>,
    core: Core,
    handle: Handle,
    asks: mpsc::Receiver<Ask>,
    tenant: TenantId,
    /// What the action stage did: idempotency key to how often.
    effects: BTreeMap<String, u32>,
    /// How often each result is handed back.
    answers: u32,
    cursor: i64,
}

const HEAD: &str = "document: {dsl: '1.0.3', namespace: test, name: t, version: '0.1.0'}\n";

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&format!("sqlite:{}", dir.path().join("orx.db").display())).await.unwrap();
        let clock = Arc::new(ManualClock::at(Timestamp::from_secs(1_700_000_000)));
        let Service { core, asks, handle } = Service::new(db.clone(), clock.clone(), Config::default());
        let mut world = Self {
            _dir: dir,
            db,
            clock,
            core,
            handle,
            asks,
            tenant: TenantId::default_tenant(),
            effects: BTreeMap::new(),
            answers: 1,
            cursor: 0,
        };
        world.core.load().await.unwrap();
        world
    }

    /// What memory held is gone; what the disk has is read again.
    async fn crash(&mut self) {
        let Service { core, asks, handle } = Service::new(self.db.clone(), self.clock.clone(), Config::default());
        (self.core, self.asks, self.handle) = (core, asks, handle);
        self.core.load().await.unwrap();
    }

    async fn turn(&mut self) -> bool {
        let mut asks = Vec::new();
        while let Ok(ask) = self.asks.try_recv() {
            asks.push(ask);
        }
        self.core.turn(asks).await.unwrap()
    }

    async fn settle(&mut self) {
        while self.turn().await || self.act(&mut echo).await {}
    }

    /// The handle's call, answered by turns of the loop.
    async fn ask<T, E: std::fmt::Debug>(
        &mut self,
        call: impl Future<Output = std::result::Result<T, E>>,
    ) -> std::result::Result<T, E> {
        let mut call = std::pin::pin!(call);
        loop {
            tokio::select! {
                biased;
                answer = &mut call => return answer,
                () = tokio::time::sleep(Duration::from_millis(1)) => { self.turn().await; }
            }
        }
    }

    async fn put(&mut self, tasks: &str) {
        let (handle, tenant, text) = (
            self.handle.clone(),
            self.tenant.clone(),
            if tasks.starts_with("document:") { tasks.to_owned() } else { format!("{HEAD}{tasks}") },
        );
        self.ask(async move { handle.put_definition(&tenant, &text).await }).await.unwrap();
    }

    async fn start(&mut self, input: Value) -> RunId {
        let (handle, tenant) = (self.handle.clone(), self.tenant.clone());
        self.ask(async move { handle.start(&tenant, "t", None, input, Cause::manual("tester")).await }).await.unwrap()
    }

    async fn run(&self, run: RunId) -> db::run::RunRow {
        self.db.run(&self.tenant, run).await.unwrap()
    }

    async fn steps(&self, run: RunId) -> Vec<(String, String)> {
        self.handle.run(&self.tenant, run).await.unwrap().steps.into_iter().map(|step| (step.path, step.status)).collect()
    }

    async fn event(&self, kind: &str, subject: &str, data: Value) {
        let mut event = Event::new("e", "/s", kind, data);
        event.subject = Some(subject.into());
        let tenant = self.tenant.clone();
        self.db
            .write::<_, db::Error, _>(move |tx| {
                Box::pin(async move { tx.hand_off(Topic::Event, &tenant, Timestamp(0), &event).await })
            })
            .await
            .unwrap();
    }

    /// The action stage: does each key's effect once, answers each request.
    async fn act(&mut self, act: &mut dyn FnMut(&ActionRequest) -> ActionOutcome) -> bool {
        let rows = self.db.handed::<ActionRequest>(Topic::ActionRequest, self.cursor, 100).await.unwrap();
        let has_rows = !rows.is_empty();
        for row in rows {
            self.cursor = row.id;
            let request = row.payload;
            *self.effects.entry(request.idempotency_key.clone()).or_default() += 1;
            let result =
                ActionResult { request: request.id, run: request.run, step: request.step.clone(), outcome: act(&request) };
            for _ in 0..self.answers {
                let (tenant, result) = (row.tenant.clone(), result.clone());
                self.db
                    .write::<_, db::Error, _>(move |tx| {
                        Box::pin(async move { tx.hand_off(Topic::ActionResult, &tenant, Timestamp(0), &result).await })
                    })
                    .await
                    .unwrap();
            }
        }
        has_rows
    }
}

fn echo(request: &ActionRequest) -> ActionOutcome {
    ActionOutcome::Done { output: request.input.clone() }
}

fn in_doubt() -> ActionOutcome {
    let error = ErrorRecord {
        code: "action.in_doubt".into(),
        message: "the host died".into(),
        retry: RetryAdvice::Never,
        details: Value::Null,
    };
    ActionOutcome::InDoubt { error }
}

const LONG: &str = "do:
- one: {call: x/a, with: {n: '${ .n }'}}
- loop: {for: {in: '[1,2]'}, do: [{two: {call: x/b, with: {n: '${ .n + $item }'}}}]}
- wait: {wait: {seconds: 60}}
- both: {fork: {branches: [{l: {call: x/l, with: {n: '${ .n }'}}}, {r: {wait: PT5S}}]}}
- sum: {set: {total: '${ map(.n) | add }'}}
- last: {call: x/z, with: {total: '${ .total }'}}
";

/// Runs `LONG` to its end, crashing where `crash` says so, and answers the output and the effects.
async fn run_long(answers: u32, mut crash: impl FnMut(usize) -> bool) -> (Value, BTreeMap<String, u32>, Vec<(String, String)>) {
    let mut world = World::new().await;
    world.answers = answers;
    world.put(LONG).await;
    let run = world.start(json!({"n": 10})).await;
    let (mut turns, mut rows_before) = (0, 0);
    loop {
        turns += 1;
        assert!(turns < 200, "the run does not end");
        if crash(turns) {
            world.crash().await;
        }
        world.turn().await;
        if crash(turns + 1_000) {
            world.crash().await;
        }
        let has_acted = world.act(&mut echo).await;
        if world.run(run).await.ended.is_some() {
            break;
        }
        let rows = world.db.journal(&world.tenant, run, 0, 1_000).await.unwrap().len();
        if std::mem::replace(&mut rows_before, rows) == rows && !has_acted {
            world.clock.advance_millis(1_000);
        }
    }
    let row = world.run(run).await;
    assert_eq!(row.status, "completed", "{}", row.error);
    let effects = world.effects.into_iter().map(|(key, count)| (key.split_once(':').unwrap().1.to_owned(), count)).collect();
    let steps = world.handle.run(&world.tenant, run).await.unwrap().steps;
    (row.output, effects, steps.into_iter().map(|step| (step.path, step.status)).collect())
}

#[tokio::test]
async fn a_crash_after_any_transaction_changes_nothing() {
    let plain = run_long(1, |_| false).await;
    assert_eq!(plain.0, json!({"total": 26}));
    assert_eq!(plain.1.values().copied().collect::<Vec<_>>(), [1, 1, 1, 1, 1], "{:?}", plain.1);
    assert_eq!(run_long(1, |_| true).await, plain, "crash after each");
    assert_eq!(run_long(2, |_| true).await, plain, "each answer twice");
    for at in 1..12 {
        assert_eq!(run_long(1, |turn| turn == at).await, plain, "crash before turn {at}");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 6, failure_persistence: None, ..Default::default() })]
    #[test]
    fn random_crashes_change_nothing(points: Vec<u8>, answers in 1u32..3) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (output, effects, _) = runtime.block_on(run_long(answers, |turn| points.iter().any(|point| usize::from(*point) % 64 == turn % 64)));
        assert_eq!(output, json!({"total": 26}));
        assert!(effects.values().all(|count| *count == 1), "{effects:?}");
    }
}

#[tokio::test]
async fn a_transition_that_was_not_committed_is_made_again() {
    let mut world = World::new().await;
    world.put(LONG).await;
    let run = world.start(json!({"n": 1})).await;
    world.act(&mut echo).await;
    let mut batch = Batch::new(world.clock.now());
    assert!(world.core.take_results(&mut batch).await.unwrap());
    drop(batch);
    world.crash().await;
    world.turn().await;
    assert_eq!(world.steps(run).await[0], ("/do/0/one".into(), "completed".into()));
}

#[tokio::test]
async fn timers_survive_a_restart_and_fire_when_due() {
    let mut world = World::new().await;
    world.put("do: [{w: {wait: '${ .wait }'}}, {s: {set: {ok: true}}}]").await;
    let run = world.start(json!({"wait": "PT2M"})).await;
    world.settle().await;
    assert_eq!(world.run(run).await.status, "waiting");
    world.clock.advance_millis(119_000);
    world.crash().await;
    world.settle().await;
    assert_eq!(world.run(run).await.status, "waiting");
    world.clock.advance_millis(1_000);
    world.settle().await;
    assert_eq!(world.run(run).await.output, json!({"ok": true}));
}

#[tokio::test]
async fn a_long_pure_loop_goes_on_over_many_transactions_and_a_crash() {
    let mut world = World::new().await;
    world.put("do: [{a: {for: {in: '[range(2500)]'}, do: [{b: {set: {n: '${ .n + 1 }'}}}]}}]").await;
    let run = world.start(json!({"n": 0})).await;
    world.crash().await;
    world.settle().await;
    assert_eq!(world.run(run).await.output, json!({"n": 2500}));
}

#[tokio::test]
async fn a_call_in_doubt_waits_for_a_person() {
    for (decision, expected) in [
        (Decision::Skip { output: json!({"by": "hand"}) }, json!({"by": "hand"})),
        (Decision::Retry, json!({"n": 1})),
        (Decision::Fail, json!({"failed": "action.in_doubt"})),
    ] {
        let mut world = World::new().await;
        world
            .put("do: [{t: {try: [{c: {call: x/a, with: {n: 1}}}], catch: {do: [{s: {set: {failed: '${ $error.code }'}}}]}}}]")
            .await;
        let run = world.start(json!({})).await;
        world.act(&mut |_| in_doubt()).await;
        world.turn().await;
        world.crash().await;
        let asking = world.handle.runs_asking(&world.tenant).await.unwrap();
        assert_eq!((asking.len(), asking[0].status.as_str(), &asking[0].waits[0]["for"]), (1, "suspended", &json!("decision")));
        let (handle, tenant) = (world.handle.clone(), world.tenant.clone());
        let step = "/do/0/t/try/0/c";
        let again = (handle.clone(), tenant.clone());
        world.ask(async move { handle.decide(&tenant, run, step, decision, "ann").await }).await.unwrap();
        world.settle().await;
        assert_eq!(world.run(run).await.output, expected);
        let refused =
            world.ask(async move { again.0.decide(&again.1, run, step, Decision::Fail, "ann").await }).await.unwrap_err();
        assert!(refused.to_string().contains("has no call in doubt"), "{refused}");
        assert_eq!(world.effects.len(), 1, "one key, however often it was asked");
    }
}

#[tokio::test]
async fn an_approval_is_answered_once_and_only_by_the_handle() {
    let mut world = World::new().await;
    world.put("do: [{ask: {listen: {to: {one: {with: {type: io.orchestrix.approval.answered}}}}, metadata: {question: '${ \"scale \" + .app + \"?\" }'}}}, {go: {switch: [{yes: {when: '.[0].approved', then: act}}, {no: {then: end}}]}}, {act: {call: x/a, with: {}}}]").await;
    let run = world.start(json!({"app": "web"})).await;
    let forged = json!({"run": run.to_string(), "step": "/do/0/ask", "approved": true, "by": "mallory"});
    world.event("io.orchestrix.approval.answered", &run.to_string(), forged).await;
    world.settle().await;
    let asking = world.handle.runs_asking(&world.tenant).await.unwrap();
    assert_eq!(asking[0].waits[0]["note"]["question"], "scale web?");
    let (handle, tenant) = (world.handle.clone(), world.tenant.clone());
    let answer = |by: &'static str| {
        let (handle, tenant) = (handle.clone(), tenant.clone());
        async move { handle.answer(&tenant, run, None, by, true, "fine").await }
    };
    world.ask(answer("ann")).await.unwrap();
    assert!(world.ask(answer("bob")).await.unwrap_err().to_string().contains("does not wait for this approval"));
    let requests = world.db.handed::<ActionRequest>(Topic::ActionRequest, 0, 10).await.unwrap();
    assert_eq!(requests[0].payload.approval.as_deref(), Some("ann at /do/0/ask"));
    world.settle().await;
    assert_eq!(world.run(run).await.status, "completed");
}

#[tokio::test]
async fn an_alert_starts_one_run_however_often_it_is_told() {
    let mut world = World::new().await;
    world.put("schedule: {on: {one: {with: {type: io.orchestrix.alert.firing, data: {alert: {labels: {app: web}}}}}}}\ndo: [{a: {call: x/a, with: {app: '${ $workflow.input[0].data.alert.labels.app }'}}}]").await;
    let alert = |app: &str| json!({"alert": {"id": "0193b5a0-0000-7000-8000-000000000001", "labels": {"app": app}}});
    world.event("io.orchestrix.alert.firing", "f1", alert("db")).await;
    world.event("io.orchestrix.alert.firing", "f1", alert("web")).await;
    world.event("io.orchestrix.alert.firing", "f1", alert("web")).await;
    world.turn().await;
    world.crash().await;
    world.event("io.orchestrix.alert.firing", "f1", alert("web")).await;
    world.event("io.orchestrix.alert.firing", "f2", alert("web")).await;
    world.turn().await;
    let runs = world.db.runs(&world.tenant, &RunFilter::default()).await.unwrap();
    assert_eq!(runs.len(), 2, "one for each fingerprint");
    assert_eq!(runs[0].alert.as_deref(), Some("0193b5a0-0000-7000-8000-000000000001"));
    world.settle().await;
    assert_eq!(world.run(runs[0].id).await.output, json!({"app": "web"}));
    world.event("io.orchestrix.alert.firing", "f1", alert("web")).await;
    world.settle().await;
    assert_eq!(
        world.db.runs(&world.tenant, &RunFilter::default()).await.unwrap().len(),
        3,
        "when it has ended, the next one starts"
    );
}

#[tokio::test]
async fn a_schedule_gathers_all_its_events_over_a_crash() {
    let mut world = World::new().await;
    world.put("schedule: {on: {all: [{with: {type: a}}, {with: {type: b}}]}}\ndo: [{a: {set: '${ map(.type) }'}}]").await;
    world.event("b", "s", json!(1)).await;
    world.turn().await;
    world.crash().await;
    world.event("a", "s", json!(1)).await;
    world.settle().await;
    let runs = world.db.runs(&world.tenant, &RunFilter::default()).await.unwrap();
    assert_eq!((runs.len(), &runs[0].output), (1, &json!(["b", "a"])));
}

#[tokio::test]
async fn times_start_runs_and_missed_ones_are_not_made_up() {
    for (schedule, seconds) in [("every: PT10S", 10), ("cron: '*/1 * * * *'", 60), ("after: PT10S", 10)] {
        let mut world = World::new().await;
        world.put(&format!("schedule: {{{schedule}}}\ndo: [{{a: {{set: {{x: 1}}}}}}]")).await;
        for _ in 0..2 {
            world.clock.advance_millis(seconds * 1_000);
            world.settle().await;
        }
        assert_eq!(world.db.runs(&world.tenant, &RunFilter::default()).await.unwrap().len(), 2, "{schedule}");
        world.clock.advance_millis(seconds * 50_000);
        world.crash().await;
        world.settle().await;
        assert_eq!(world.db.runs(&world.tenant, &RunFilter::default()).await.unwrap().len(), 3, "{schedule}");
    }
}

#[tokio::test]
async fn a_run_runs_another_and_takes_its_output_or_its_error() {
    let mut world = World::new().await;
    let child = |body: &str| format!("document: {{dsl: '1.0.3', namespace: test, name: child, version: '0.1.0'}}\ndo: [{body}]");
    world.put(&child("{c: {call: x/a, with: {n: '${ .n }'}}}")).await;
    world.put("do: [{r: {run: {workflow: {namespace: test, name: child, version: latest, input: {n: 4}}}}}, {s: {set: {got: '${ .n }'}}}]").await;
    let run = world.start(json!({})).await;
    world.crash().await;
    world.settle().await;
    assert_eq!(world.run(run).await.output, json!({"got": 4}));
    world.put(&child("{c: {raise: {error: {type: 'https://x/e', status: 400}}}}")).await;
    let run = world.start(json!({})).await;
    world.settle().await;
    assert_eq!(world.run(run).await.error["type"], "https://x/e");
    world.put("do: [{r: {run: {workflow: {namespace: test, name: absent}}}}]").await;
    let run = world.start(json!({})).await;
    world.settle().await;
    assert!(world.run(run).await.error["detail"].as_str().unwrap().contains("no workflow test/absent"));
    world.put("do: [{r: {run: {workflow: {namespace: test, name: t}}}}]").await;
    let run = world.start(json!({})).await;
    world.settle().await;
    assert!(world.run(run).await.error["detail"].as_str().unwrap().contains("deeper than 16 levels"));
}

#[tokio::test]
async fn operators_pause_resume_and_cancel() {
    let mut world = World::new().await;
    world.put("do: [{a: {call: x/a, with: {n: 1}}}, {b: {call: x/b, with: {n: 2}}}]").await;
    let run = world.start(json!({})).await;
    let (handle, tenant) = (world.handle.clone(), world.tenant.clone());
    let h = (handle.clone(), tenant.clone());
    world.ask(async move { h.0.pause(&h.1, run, "ann").await }).await.unwrap();
    world.settle().await;
    assert_eq!(
        (world.run(run).await.status.as_str(), world.effects.len()),
        ("suspended", 1),
        "the answer is kept, no step begins"
    );
    let h = (handle.clone(), tenant.clone());
    world.ask(async move { h.0.resume(&h.1, run, "ann").await }).await.unwrap();
    assert_eq!(world.run(run).await.status, "running");
    let h = (handle.clone(), tenant.clone());
    world.ask(async move { h.0.cancel(&h.1, run, "ann").await }).await.unwrap();
    world.settle().await;
    assert_eq!(world.run(run).await.status, "cancelled");
    assert_eq!(world.steps(run).await, [("/do/0/a".into(), "completed".into()), ("/do/1/b".into(), "cancelled".into())]);
    let other = TenantId::new("other").unwrap();
    let refused = world.ask(async move { handle.cancel(&other, run, "eve").await }).await.unwrap_err();
    assert!(matches!(refused, Error::Db(db::Error::NotFound { .. })), "{refused}");
}

#[tokio::test]
async fn a_run_keeps_the_definition_it_began_with() {
    let mut world = World::new().await;
    world.put("do: [{w: {wait: PT1M}}, {s: {set: {version: old}}}]").await;
    let run = world.start(json!({})).await;
    world.put("do: [{s: {set: {version: new}}}]").await;
    world.crash().await;
    world.clock.advance_millis(60_000);
    world.settle().await;
    assert_eq!((world.run(run).await.output, world.run(run).await.revision), (json!({"version": "old"}), 1));
    let run = world.start(json!({})).await;
    assert_eq!((world.run(run).await.output, world.run(run).await.revision), (json!({"version": "new"}), 2));
}

#[tokio::test]
async fn the_loop_runs_starts_and_stops() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(&format!("sqlite:{}", dir.path().join("orx.db").display())).await.unwrap();
    let service = Service::new(db.clone(), Arc::new(model::SystemClock), Config::default());
    let (handle, cancel, tenant) = (service.handle(), CancellationToken::new(), TenantId::default_tenant());
    let running = tokio::spawn(service.run(cancel.clone()));
    let invalid = handle.put_definition(&tenant, "do: []").await.unwrap_err();
    assert!(matches!(&invalid, Error::Invalid(d) if d[0].message.contains("\"document\" is missing")), "{invalid}");
    let put = handle
        .put_definition(&tenant, &format!("{HEAD}do: [{{w: {{wait: {{milliseconds: 20}}}}}}, {{s: {{set: {{ok: 1}}}}}}]"))
        .await
        .unwrap();
    assert!(put.is_new);
    let run = handle.start(&tenant, "test/t", None, json!({}), Cause::manual("ann")).await.unwrap();
    let page = loop {
        let page = handle.run(&tenant, run).await.unwrap();
        if page.run.ended.is_some() {
            break page;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!((page.run.status.as_str(), page.steps.len()), (Status::Completed.as_str(), 2));
    assert_eq!(handle.stats().runs_completed, 1);
    cancel.cancel();
    running.await.unwrap().unwrap();
    assert!(matches!(handle.start(&tenant, "t", None, json!({}), Cause::default()).await, Err(Error::Closed)));
}
