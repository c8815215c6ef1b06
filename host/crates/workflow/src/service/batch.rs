//! The transitions of one transaction.

use super::{CONSUMER, Core, Relaxed, TIMERS_AHEAD_MS, TriggerKey};
use crate::command::{self, Command};
use crate::definition::{Definition, Schedule};
use crate::interpret::{Effect, Machine, Writes};
use crate::row;
use crate::state::{Cause, Parent, RunError, Sequence, State, Status};
use crate::{Error, Result};
use db::Topic;
use db::definition::{Pick, ScheduleRow};
use model::{ActionRequest, Event, RunId, TenantId, Timestamp};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// Largest checkpoint: beyond it the run holds more than a workflow should, and each step would cost more.
const CHECKPOINT_BYTES_MAX: usize = 16 << 20;

pub(super) struct Batch {
    pub now: Timestamp,
    runs: BTreeMap<RunId, Working>,
    pub schedules: HashMap<TriggerKey, ScheduleRow>,
    pub events: Vec<(TenantId, Event)>,
    pub cursor_events: Option<i64>,
    pub cursor_results: Option<i64>,
    pub orphan_timers: Vec<RunId>,
    woken: HashSet<RunId>,
    pub replies: Vec<Box<dyn FnOnce(Result<()>) + Send>>,
}

/// A run that this transaction moves.
struct Working {
    state: State,
    definition: Option<Arc<Definition>>,
    is_changed: bool,
    /// Sequence number, and entries as JSON.
    journal: Vec<(i64, String)>,
    requests: Vec<ActionRequest>,
    events: Vec<Event>,
}

impl Batch {
    pub fn new(now: Timestamp) -> Self {
        Self {
            now,
            runs: BTreeMap::new(),
            schedules: HashMap::new(),
            events: Vec::new(),
            cursor_events: None,
            cursor_results: None,
            orphan_timers: Vec::new(),
            woken: HashSet::new(),
            replies: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.runs.len()
    }

    pub fn woken(&mut self, run: RunId) {
        self.woken.insert(run);
    }

    pub fn is_woken(&self, run: RunId) -> bool {
        self.woken.contains(&run)
    }

    /// Runs of the tenant that began to listen within this batch, and so are in no index yet.
    pub fn listening(&self, tenant: &TenantId) -> Vec<RunId> {
        self.runs
            .values()
            .filter(|working| working.is_changed && working.state.tenant == *tenant)
            .filter(|working| working.state.frames.values().any(|frame| matches!(frame.body, crate::state::Body::Listen { .. })))
            .map(|working| working.state.run)
            .collect()
    }
}

/// One run as it is stored.
struct Stored {
    row: db::run::RunRow,
    state: String,
    wake: Option<Timestamp>,
    kinds: Option<Vec<String>>,
    journal: Vec<(i64, String)>,
    requests: Vec<ActionRequest>,
    events: Vec<Event>,
}

impl Core {
    /// Begins a run within the batch.
    #[allow(clippy::too_many_arguments)]
    pub(super) async fn start(
        &mut self,
        batch: &mut Batch,
        run: RunId,
        tenant: &TenantId,
        definition: Arc<Definition>,
        revision: i64,
        input: Value,
        cause: Cause,
        parent: Option<(Parent, u32)>,
    ) -> Result<()> {
        if batch.runs.contains_key(&run) || self.states.contains_key(&run) || self.db.run_state(run).await?.is_some() {
            return Ok(());
        }
        let (parent, depth) = match parent {
            Some((parent, depth)) => (Some(parent), depth),
            None => (None, 0),
        };
        let document = &definition.document;
        let state = State {
            run,
            tenant: tenant.clone(),
            namespace: document.namespace.clone(),
            name: document.name.clone(),
            version: document.version.clone(),
            revision,
            status: Status::Running,
            cause,
            parent,
            depth,
            started: batch.now,
            deadline: None,
            input,
            context: serde_json::json!({}),
            root: Sequence::default(),
            frames: BTreeMap::new(),
            seq: 0,
            steps: 0,
            counter: 0,
            is_paused: false,
            is_ready: false,
            approval: None,
            output: Value::Null,
            error: None,
            ended: None,
        };
        if let Some(flight) = row::flight(&state) {
            let other = batch.runs.values().find(|w| {
                w.state.tenant == *tenant && !w.state.status.is_ended() && row::flight(&w.state).as_deref() == Some(&flight)
            });
            let is_in_flight = match other {
                Some(_) => true,
                None => {
                    self.db.is_in_flight(tenant, &flight).await?
                        // One that ends within this batch has made room.
                        && !batch.runs.values().any(|w| w.state.tenant == *tenant && w.state.status.is_ended() && row::flight(&w.state).as_deref() == Some(&flight))
                }
            };
            if is_in_flight {
                return Err(Error::InFlight { run: other.map_or_else(|| flight.clone(), |w| w.state.run.to_string()) });
            }
        }
        self.stats.runs_started.fetch_add(1, Relaxed);
        batch.runs.insert(
            run,
            Working {
                state,
                definition: Some(definition),
                is_changed: true,
                journal: Vec::new(),
                requests: Vec::new(),
                events: Vec::new(),
            },
        );
        self.work(batch, run, Command::Start).await?;
        Ok(())
    }

    /// Applies a command to a run, and to other runs what follows from it. Answers whether the run changed.
    pub(super) async fn command(&mut self, batch: &mut Batch, run: RunId, command: Command) -> Result<bool> {
        if let std::collections::btree_map::Entry::Vacant(slot) = batch.runs.entry(run) {
            let state = match self.states.get(&run) {
                Some(state) => State::clone(state),
                None => {
                    let text = self.db.run_state(run).await?.ok_or_else(|| db::Error::not_found(format!("run {run}")))?;
                    serde_json::from_str(&text).map_err(|e| Error::Checkpoint { run, why: e.to_string() })?
                }
            };
            let definition = self.definition(&state.tenant.clone(), &state.namespace, &state.name, state.revision).await;
            let definition = match definition {
                Ok(definition) => Some(definition),
                Err(Error::Invalid(_)) => None,
                Err(error) => return Err(error),
            };
            slot.insert(Working {
                state,
                definition,
                is_changed: false,
                journal: Vec::new(),
                requests: Vec::new(),
                events: Vec::new(),
            });
        }
        self.work(batch, run, command).await
    }

    async fn work(&mut self, batch: &mut Batch, run: RunId, command: Command) -> Result<bool> {
        let mut open = VecDeque::from([(run, command)]);
        let mut is_changed = false;
        while let Some((target, command)) = open.pop_front() {
            if target != run && !batch.runs.contains_key(&target) {
                // A parent or child that this batch has not met yet.
                match Box::pin(self.command(batch, target, command)).await {
                    Ok(_) | Err(Error::Db(db::Error::NotFound { .. })) => continue,
                    Err(error) => return Err(error),
                }
            }
            let Some(working) = batch.runs.get_mut(&target) else { continue };
            let (writes, effects) = moved(working, command, self, batch.now);
            let has_moved = !writes.journal.is_empty() || !writes.requests.is_empty();
            is_changed |= has_moved && target == run;
            if has_moved {
                self.stats.transitions.fetch_add(1, Relaxed);
                self.stats.steps.fetch_add(writes.state.steps - working.state.steps, Relaxed);
                self.stats.requests_sent.fetch_add(writes.requests.len() as u64, Relaxed);
                let body = serde_json::to_string(&writes.journal).expect("entries have text keys only");
                working.journal.push((writes.state.seq, body));
            }
            // A pass without an entry may still have moved something: a listener that matched one of several.
            working.is_changed |= has_moved || writes.state != working.state;
            working.state = writes.state;
            working.requests.extend(writes.requests);
            working.events.extend(writes.events);
            let (tenant, depth, cause) = (working.state.tenant.clone(), working.state.depth, working.state.cause.clone());
            for effect in effects {
                match effect {
                    Effect::Ended { parent, outcome } => {
                        open.push_back((parent.run, Command::ChildEnded { step: parent.step, child: target, outcome }));
                    }
                    Effect::Cancel { child } => open.push_back((child, Command::Cancel { by: format!("run {target}") })),
                    Effect::Start { child, step, is_awaited, namespace, name, version, input } => {
                        let pick = version.map_or(Pick::Newest, Pick::Version);
                        let found = match self.db.definition(&tenant, &format!("{namespace}/{name}"), &pick).await {
                            Ok(row) => {
                                self.definition(&tenant, &row.namespace, &row.name, row.revision).await.map(|d| (d, row.revision))
                            }
                            Err(error) => Err(error.into()),
                        };
                        match found {
                            Ok((definition, revision)) => {
                                let parent = is_awaited.then(|| Parent { run: target, step: step.clone() });
                                let cause =
                                    Cause { kind: "workflow".into(), principal: None, fingerprint: None, ..cause.clone() };
                                let parent = parent.map(|parent| (parent, depth + 1));
                                Box::pin(self.start(batch, child, &tenant, definition, revision, input, cause, parent)).await?;
                            }
                            Err(Error::Db(db::Error::NotFound { .. }) | Error::Invalid(_)) => {
                                let outcome = Err(RunError::new(
                                    "configuration",
                                    400,
                                    "Configuration Error",
                                    format!("there is no workflow {namespace}/{name} to run"),
                                ));
                                open.push_back((target, Command::ChildEnded { step, child, outcome }));
                            }
                            Err(error) => return Err(error),
                        }
                    }
                }
            }
        }
        Ok(is_changed)
    }

    /// Stores the batch, then takes over what it made.
    pub(super) async fn commit(&mut self, mut batch: Batch) -> Result<()> {
        let now = batch.now;
        let replies = std::mem::take(&mut batch.replies);
        self.restart_after_end(&mut batch);
        let mut runs = Vec::new();
        let mut moved = Vec::new();
        for (_, mut working) in std::mem::take(&mut batch.runs) {
            if !working.is_changed {
                continue;
            }
            let mut text = serde_json::to_string(&working.state).expect("a state has text keys only");
            if text.len() > CHECKPOINT_BYTES_MAX {
                fault(&mut working, self, now, &format!("the run holds more than {CHECKPOINT_BYTES_MAX} bytes"));
                text = serde_json::to_string(&working.state).expect("a state has text keys only");
            }
            let definition = working.definition.as_deref();
            let kinds = definition.map(|definition| row::listens(&working.state, definition)).unwrap_or_default();
            let before = self.listens.get(&working.state.run).map(|(_, kinds)| kinds.clone()).unwrap_or_default();
            let mut before_sorted = before;
            before_sorted.sort();
            let is_same = before_sorted == kinds;
            runs.push(Stored {
                row: row::row(&working.state, definition, now),
                state: text,
                wake: working.state.wake(now),
                kinds: (!is_same).then_some(kinds),
                journal: working.journal,
                requests: working.requests,
                events: working.events,
            });
            moved.push(working.state);
        }
        let is_idle = runs.is_empty() && batch.schedules.is_empty() && batch.events.is_empty() && batch.orphan_timers.is_empty();
        let cursor_events = batch.cursor_events.unwrap_or(self.cursor_events);
        let cursor_results = batch.cursor_results.unwrap_or(self.cursor_results);
        if is_idle {
            // Nothing came of the rows that were read: the cursor moves with the next transition. Until then a
            // restart reads them again, to the same nothing.
            self.cursor_events = cursor_events;
            self.cursor_results = cursor_results;
            for reply in replies {
                reply(Ok(()));
            }
            return Ok(());
        }
        let wakes: Vec<(RunId, TenantId, Option<Timestamp>, Option<Vec<String>>)> =
            runs.iter().map(|run| (run.row.id, run.row.tenant.clone(), run.wake, run.kinds.clone())).collect();
        let Batch { schedules, events, orphan_timers, .. } = batch;
        let committed = self
            .db
            .write::<(), Error, _>(move |tx| {
                Box::pin(async move {
                    for run in &runs {
                        let (id, tenant) = (run.row.id, &run.row.tenant);
                        tx.put_run(&run.row, &run.state).await?;
                        for (seq, body) in &run.journal {
                            tx.add_to_journal(tenant, id, *seq, now, body).await?;
                        }
                        tx.set_timer(tenant, id, run.wake).await?;
                        if let Some(kinds) = &run.kinds {
                            tx.set_listeners(tenant, id, kinds).await?;
                        }
                        for request in &run.requests {
                            tx.hand_off(Topic::ActionRequest, tenant, now, request).await?;
                        }
                        for event in &run.events {
                            tx.hand_off(Topic::Event, tenant, now, event).await?;
                        }
                    }
                    for (tenant, event) in &events {
                        tx.hand_off(Topic::Event, tenant, now, event).await?;
                    }
                    for schedule in schedules.values() {
                        tx.put_definition_schedule(schedule).await?;
                    }
                    for run in orphan_timers {
                        tx.set_timer(&TenantId::default_tenant(), run, None).await?;
                    }
                    tx.set_cursor(CONSUMER, Topic::Event, cursor_events).await?;
                    tx.set_cursor(CONSUMER, Topic::ActionResult, cursor_results).await?;
                    Ok(())
                })
            })
            .await;
        if let Err(error) = committed {
            self.stats.commits_failed.fetch_add(1, Relaxed);
            // What memory says may not be what the disk says: read it again.
            for (run, ..) in &wakes {
                self.states.remove(run);
                self.set_timer(*run, None);
            }
            self.timers_until = Timestamp(i64::MIN);
            let why = error.to_string();
            for reply in replies {
                reply(Err(Error::Refused(format!("nothing was stored: {why}"))));
            }
            return Err(error);
        }
        self.stats.commits.fetch_add(1, Relaxed);
        self.cursor_events = cursor_events;
        self.cursor_results = cursor_results;
        for (run, tenant, wake, kinds) in wakes {
            self.set_timer(run, wake.filter(|due| *due <= now.plus_millis(TIMERS_AHEAD_MS)));
            if let Some(kinds) = kinds {
                self.set_listens(&tenant, run, kinds);
            }
        }
        if self.states.len() + moved.len() > self.config.states_max {
            self.states.clear();
        }
        for state in moved {
            match state.status {
                Status::Completed => self.stats.runs_completed.fetch_add(1, Relaxed),
                Status::Faulted => self.stats.runs_faulted.fetch_add(1, Relaxed),
                Status::Cancelled => self.stats.runs_cancelled.fetch_add(1, Relaxed),
                _ => {
                    self.states.insert(state.run, Arc::new(state));
                    continue;
                }
            };
            self.states.remove(&state.run);
        }
        for reply in replies {
            reply(Ok(()));
        }
        Ok(())
    }

    /// `schedule.after`: the next start is reckoned from the end of the last.
    fn restart_after_end(&mut self, batch: &mut Batch) {
        for working in batch.runs.values().filter(|working| working.is_changed && working.state.ended == Some(batch.now)) {
            let state = &working.state;
            let key = (state.tenant.clone(), state.namespace.clone(), state.name.clone());
            if let Some(trigger) = self.triggers.get_mut(&key)
                && matches!(trigger.definition.schedule, Some(Schedule::After(_)))
                && trigger.due.is_none()
            {
                trigger.due = trigger.next_due(batch.now);
                batch.schedules.insert(key, trigger.row());
            }
        }
    }
}

/// Applies purely; a panic is our bug, ends that run loudly and no other.
fn moved(working: &Working, command: Command, core: &Core, now: Timestamp) -> (Writes, Vec<Effect>) {
    let Some(definition) = &working.definition else {
        let mut state = working.state.clone();
        state.status = Status::Faulted;
        state.ended = Some(now);
        state.error = Some(RunError::runtime("the pinned definition no longer validates in this version"));
        state.seq += 1;
        let journal = vec![crate::journal::Entry::Run { status: Status::Faulted, by: None, why: Some("definition".into()) }];
        return (Writes { state, journal, requests: Vec::new(), events: Vec::new() }, Vec::new());
    };
    let state = &working.state;
    let engine = &*core.engine;
    let step =
        || std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| command::apply(state, command, definition, engine, now)));
    // jq over a large value takes its time: let the other tasks of this thread move elsewhere.
    let applied = match tokio::runtime::Handle::current().runtime_flavor() {
        tokio::runtime::RuntimeFlavor::MultiThread => tokio::task::block_in_place(step),
        _ => step(),
    };
    applied.unwrap_or_else(|_| {
        tracing::error!(run = %state.run, "the interpreter panicked; this is a bug of the host, and the run is ended");
        let mut machine = Machine::new(definition, engine, state.clone(), now);
        machine.fault(RunError::runtime("the interpreter failed; see the host's log"));
        machine.finish()
    })
}

fn fault(working: &mut Working, core: &Core, now: Timestamp, why: &str) {
    let Some(definition) = &working.definition else { return };
    let mut machine = Machine::new(definition, &core.engine, working.state.clone(), now);
    machine.fault(RunError::runtime(why));
    let (writes, _) = machine.finish();
    let body = serde_json::to_string(&writes.journal).expect("entries have text keys only");
    working.journal.push((writes.state.seq, body));
    working.state = writes.state;
    working.requests.clear();
    working.events = writes.events;
}
