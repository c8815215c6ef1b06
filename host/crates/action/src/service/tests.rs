use super::*;
use crate::{Effects, doubt::Repeat};
use async_trait::async_trait;
use model::{Grant, ManualClock, RequestId, RunId, Timestamp};
use plugin::{CallError, Effect};
use std::collections::HashSet;

/// A plugin whose one operation scales something, in a world that remembers.
#[derive(Default)]
struct World {
    /// Idempotency keys whose effect happened, in order.
    happened: Mutex<Vec<String>>,
    /// The host dies: `begin` it writes the row and no more, `effect` the effect happens and no more.
    dies_at: Mutex<Option<&'static str>>,
    facts: Mutex<Option<Facts>>,
    effects: Mutex<Option<Arc<Effects>>>,
    probes: AtomicU64,
}

#[async_trait]
impl Executor for World {
    fn facts(&self, _: &Installation, _: &ActionCall) -> Option<Facts> {
        *self.facts.lock()
    }

    async fn execute(&self, installation: &Installation, context: CallContext, call: &ActionCall) -> Result<Value, CallError> {
        if call.operation == "fail" {
            return Err(CallError::Trap { message: "index out of bounds".into() });
        }
        let who = Caller {
            tenant: context.tenant.clone(),
            installation: installation.name.clone(),
            plugin: installation.plugin.clone(),
            version: installation.version.clone(),
            digest: installation.digest.clone(),
            invocation: context.invocation,
            idempotency_key: context.idempotency_key.clone(),
            cause: context.cause.clone(),
        };
        let effect = Effect {
            kind: "kubernetes.deployment.scale".into(),
            target: "prod/shop/deployment/cart".into(),
            summary: "scale cart to 5".into(),
            before: None,
            after: None,
            undo: None,
            idempotent: true,
        };
        let effects = self.effects.lock().clone().unwrap();
        let dies_at = *self.dies_at.lock();
        let permit = EffectPort::begin(&*effects, &who, &effect).await.map_err(CallError::Plugin)?;
        if dies_at == Some("begin") {
            std::future::pending::<()>().await;
        }
        self.happened.lock().push(context.idempotency_key.clone());
        if dies_at == Some("effect") {
            std::future::pending::<()>().await;
        }
        EffectPort::settle(&*effects, &who, permit, "done", Value::Null).await;
        Ok(json!({ "replicas": 5 }))
    }

    async fn probe(&self, _: &Installation, context: CallContext, _: &ActionCall) -> Result<Verdict, CallError> {
        self.probes.fetch_add(1, Ordering::Relaxed);
        let done = self.happened.lock().contains(&context.idempotency_key);
        Ok(if done { Verdict::Done(json!({ "replicas": 5, "probed": true })) } else { Verdict::NotDone })
    }
}

struct Stage {
    _dir: tempfile::TempDir,
    db: Db,
    world: Arc<World>,
    clock: Arc<ManualClock>,
    tenant: TenantId,
}

impl Stage {
    async fn start(repeat: Repeat, can_probe: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&format!("sqlite:{}", dir.path().join("a.db").display())).await.unwrap();
        let clock = Arc::new(ManualClock::at(Timestamp::from_secs(1000)));
        let world = Arc::new(World::default());
        *world.facts.lock() = Some(Facts { repeat, can_probe });
        *world.effects.lock() = Some(Arc::new(Effects::new(db.clone(), clock.clone())));
        let tenant = TenantId::default_tenant();
        let installation = Installation {
            tenant: tenant.clone(),
            name: "kubernetes".into(),
            plugin: "orchestrix/kubernetes".into(),
            version: "0.1.0".into(),
            digest: format!("sha256:{}", "0".repeat(64)),
            config: json!({}),
            grant: Grant::default(),
            secrets: Default::default(),
            is_enabled: true,
        };
        db.write::<_, db::Error, _>(move |tx| Box::pin(async move { tx.put_installation(&installation, Timestamp(0)).await }))
            .await
            .unwrap();
        Self { _dir: dir, db, world, clock, tenant }
    }

    /// A host that has just started.
    fn service(&self) -> Service {
        let effects = Arc::new(Effects::new(self.db.clone(), self.clock.clone()));
        Service::new(self.db.clone(), self.world.clone(), effects, self.clock.clone(), Config::default())
    }

    async fn ask(&self, operation: &str) -> RequestId {
        let request = ActionRequest {
            id: RequestId::generate(),
            run: Some(RunId::generate()),
            step: "/do/0/scale".into(),
            alert: None,
            approval: None,
            installation: "kubernetes".into(),
            operation: operation.into(),
            input: json!({}),
            idempotency_key: format!("key-{}", RequestId::generate()),
            deadline: None,
            traceparent: String::new(),
        };
        let (id, tenant) = (request.id, self.tenant.clone());
        self.db
            .write::<_, db::Error, _>(move |tx| {
                Box::pin(async move { tx.hand_off(Topic::ActionRequest, &tenant, Timestamp(0), &request).await.map(|_| ()) })
            })
            .await
            .unwrap();
        id
    }

    async fn results(&self) -> Vec<ActionOutcome> {
        self.db
            .handed::<ActionResult>(Topic::ActionResult, 0, 100)
            .await
            .unwrap()
            .into_iter()
            .map(|r| r.payload.outcome)
            .collect()
    }

    async fn ledger(&self) -> Vec<String> {
        let rows = self.db.ledger(&self.tenant, 0, 100).await.unwrap();
        rows.iter().map(|r| format!("{:?} {}", r.entry, r.body["status"].as_str().unwrap_or("-"))).collect()
    }

    /// The host dies in the middle of one action; the next one starts, and takes up what is there.
    async fn crash_and_restart(&self, dies_at: &'static str) {
        *self.world.dies_at.lock() = Some(dies_at);
        self.ask("scale").await;
        let first = self.service();
        first.consume().await.unwrap();
        while self.db.ledger(&self.tenant, 0, 10).await.unwrap().is_empty()
            || (dies_at == "effect" && self.world.happened.lock().is_empty())
        {
            tokio::task::yield_now().await;
        }
        *self.world.dies_at.lock() = None;
        let second = self.service();
        second.resume().await.unwrap();
        second.consume().await.unwrap();
        second.idle().await;
    }
}

#[tokio::test]
async fn a_request_is_performed_once_and_answered_once() {
    let stage = Stage::start(Repeat::Idempotent, false).await;
    stage.ask("scale").await;
    let service = stage.service();
    assert_eq!(service.consume().await.unwrap(), 1);
    assert_eq!(service.consume().await.unwrap(), 0);
    service.idle().await;
    assert_eq!(stage.results().await, [ActionOutcome::Done { output: json!({ "replicas": 5 }) }]);
    assert_eq!(stage.ledger().await, ["Begun -", "Settled done"]);
    assert_eq!(service.stats(), Stats { requests: 1, done: 1, failed: 0, in_doubt: 0 });
}

#[tokio::test]
async fn a_failure_of_the_plugin_is_the_answer_not_a_crash() {
    let stage = Stage::start(Repeat::Never, false).await;
    stage.ask("fail").await;
    stage.ask("scale").await;
    let service = stage.service();
    service.consume().await.unwrap();
    service.idle().await;
    let codes: HashSet<_> = stage
        .results()
        .await
        .into_iter()
        .map(|outcome| match outcome {
            ActionOutcome::Failed { error } => error.code,
            ActionOutcome::Done { .. } => "done".into(),
            ActionOutcome::InDoubt { .. } => "doubt".into(),
        })
        .collect();
    assert_eq!(codes, HashSet::from(["plugin.trap".to_owned(), "done".to_owned()]));
}

#[tokio::test]
async fn killed_after_the_effect_the_probe_finds_it_and_it_is_not_repeated() {
    for repeat in [Repeat::Never, Repeat::Idempotent] {
        let stage = Stage::start(repeat, true).await;
        stage.crash_and_restart("effect").await;
        assert_eq!(stage.world.happened.lock().len(), 1);
        assert_eq!(stage.results().await, [ActionOutcome::Done { output: json!({ "replicas": 5, "probed": true }) }]);
        assert_eq!(stage.ledger().await, ["Begun -", "Settled done"]);
    }
}

#[tokio::test]
async fn killed_before_the_effect_the_probe_says_so_and_it_is_done_now() {
    let stage = Stage::start(Repeat::Never, true).await;
    stage.crash_and_restart("begin").await;
    assert_eq!(stage.world.happened.lock().len(), 1);
    assert_eq!(stage.results().await, [ActionOutcome::Done { output: json!({ "replicas": 5 }) }]);
    assert_eq!(stage.ledger().await, ["Begun -", "Settled not-done", "Begun -", "Settled done"]);
}

#[tokio::test]
async fn what_is_harmless_is_repeated_and_the_ledger_says_so() {
    let stage = Stage::start(Repeat::Harmless, false).await;
    stage.crash_and_restart("effect").await;
    assert_eq!(stage.world.happened.lock().len(), 2);
    assert_eq!(stage.ledger().await, ["Begun -", "Settled in-doubt", "Begun -", "Settled done"]);
}

#[tokio::test]
async fn what_may_not_be_repeated_and_can_not_be_probed_waits_for_a_person() {
    let stage = Stage::start(Repeat::Never, false).await;
    stage.crash_and_restart("effect").await;
    assert_eq!(stage.world.happened.lock().len(), 1);
    let results = stage.results().await;
    let [ActionOutcome::InDoubt { error }] = results.as_slice() else { panic!("{results:?}") };
    assert_eq!(error.details["effects"][0]["target"], "prod/shop/deployment/cart");
    assert_eq!(stage.ledger().await, ["Begun -", "Settled in-doubt"]);
}

#[tokio::test]
async fn an_unknown_installation_and_a_passed_deadline_are_answered_with_the_mend() {
    let stage = Stage::start(Repeat::Never, false).await;
    let service = stage.service();
    let request = |installation: &str, deadline| ActionRequest {
        id: RequestId::generate(),
        run: None,
        step: String::new(),
        alert: None,
        approval: None,
        installation: installation.into(),
        operation: "scale".into(),
        input: json!({}),
        idempotency_key: "k".into(),
        deadline,
        traceparent: String::new(),
    };
    let unknown = service.perform(&stage.tenant, &request("kubernets", None), false).await;
    let ActionOutcome::Failed { error } = unknown else { panic!("{unknown:?}") };
    assert!(error.code == "plugin.not_installed" && error.message.contains("orchestrix apply"), "{error:?}");
    let late = service.perform(&stage.tenant, &request("kubernetes", Some(Timestamp::from_secs(999))), false).await;
    assert!(matches!(late, ActionOutcome::Failed { error } if error.code == "action.deadline"));
    let other = service.perform(&TenantId::new("other").unwrap(), &request("kubernetes", None), false).await;
    assert!(matches!(other, ActionOutcome::Failed { error } if error.code == "plugin.not_installed"));
    assert!(stage.world.happened.lock().is_empty());
}
