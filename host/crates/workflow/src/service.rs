//! The loop: gathers commands, applies them, commits all they write in one transaction, begins anew.
//!
//! One task owns all runs. While a commit is on its way to the disk the next commands queue up, so that the
//! cost of a commit is shared by all runs that moved. Cursors move in the transaction that stores what was
//! made of the rows; after a crash the same rows are read again and give the same transitions.

mod batch;

use crate::command::Command;
use crate::definition::{self, Definition, Schedule};
use crate::expression::Engine;
use crate::handle::{Handle, PutDefinition};
use crate::interpret::derived;
use crate::state::{Cause, State};
use crate::trigger::{self, Trigger};
use crate::{Error, Result};
use batch::Batch;
use db::definition::{DefinitionRow, Pick};
use db::{Db, Topic};
use model::{ActionResult, Clock, Event, RunId, TenantId, Timestamp, limits};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

const CONSUMER: &str = "workflow";
/// Callers waiting for the loop. Full means commits are slower than callers: they wait.
const ASKS_LEN: usize = 1_024;
/// Timers kept in memory: those of the near future. The rest are rows.
const TIMERS_AHEAD_MS: i64 = 5_000;
const TIMERS_LEN_MAX: i64 = 50_000;

#[derive(Clone, Debug)]
pub struct Config {
    /// States kept in memory; beyond it they are read from their checkpoints again.
    pub states_max: usize,
    /// Definitions kept parsed.
    pub definitions_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        // A state of a few KiB each: some 50 MB at most in the usual case.
        Self { states_max: 10_000, definitions_max: 1_000 }
    }
}

macro_rules! stats {
    ($($name:ident),* $(,)?) => {
        /// Counters since the start.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Stats { $(pub $name: u64),* }
        #[derive(Debug, Default)]
        pub(crate) struct StatsCells { $(pub $name: AtomicU64),* }
        impl StatsCells {
            pub fn read(&self) -> Stats { Stats { $($name: self.$name.load(Relaxed)),* } }
        }
    };
}
stats!(
    runs_started,
    runs_completed,
    runs_faulted,
    runs_cancelled,
    runs_in_flight_skipped,
    steps,
    transitions,
    commits,
    commits_failed,
    events_read,
    results_read,
    timers_fired,
    requests_sent
);

/// What a handle asks of the loop.
pub(crate) enum Ask {
    Put { tenant: TenantId, text: String, definition: Arc<Definition>, reply: oneshot::Sender<Result<PutDefinition>> },
    Enable { row: DefinitionRow, is_enabled: bool, reply: oneshot::Sender<Result<()>> },
    Delete { row: DefinitionRow, reply: oneshot::Sender<Result<()>> },
    Start { row: DefinitionRow, input: Value, cause: Cause, reply: oneshot::Sender<Result<RunId>> },
    Command { run: RunId, command: Command, reply: oneshot::Sender<Result<bool>> },
    Answer { tenant: TenantId, run: RunId, event: Event, reply: oneshot::Sender<Result<()>> },
    Look,
}

pub struct Service {
    core: Core,
    asks: mpsc::Receiver<Ask>,
    handle: Handle,
}

type DefinitionKey = (TenantId, String, String, i64);
type TriggerKey = (TenantId, String, String);

struct Core {
    db: Db,
    clock: Arc<dyn Clock>,
    engine: Arc<Engine>,
    config: Config,
    stats: Arc<StatsCells>,
    definitions: HashMap<DefinitionKey, Arc<Definition>>,
    triggers: HashMap<TriggerKey, Trigger>,
    states: HashMap<RunId, Arc<State>>,
    /// Who listens to what, from the listener rows; derived, rebuilt at each start.
    listening: HashMap<(TenantId, String), HashSet<RunId>>,
    listens: HashMap<RunId, (TenantId, Vec<String>)>,
    timers: BTreeSet<(Timestamp, RunId)>,
    timer_of: HashMap<RunId, Timestamp>,
    timers_until: Timestamp,
    cursor_events: i64,
    cursor_results: i64,
}

impl Service {
    pub fn new(db: Db, clock: Arc<dyn Clock>, config: Config) -> Self {
        let (sender, asks) = mpsc::channel(ASKS_LEN);
        let stats = Arc::new(StatsCells::default());
        let handle = Handle { asks: sender, db: db.clone(), clock: clock.clone(), stats: stats.clone() };
        let core = Core {
            db,
            clock,
            engine: Arc::new(Engine::default()),
            config,
            stats,
            definitions: HashMap::new(),
            triggers: HashMap::new(),
            states: HashMap::new(),
            listening: HashMap::new(),
            listens: HashMap::new(),
            timers: BTreeSet::new(),
            timer_of: HashMap::new(),
            timers_until: Timestamp(i64::MIN),
            cursor_events: 0,
            cursor_results: 0,
        };
        Self { core, asks, handle }
    }

    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs until cancelled. What was acknowledged is on disk; the rest is found again at the next start.
    pub async fn run(mut self, cancel: CancellationToken) -> Result<()> {
        drop(self.handle);
        let core = &mut self.core;
        core.load().await?;
        let mut results = core.db.subscribe(Topic::ActionResult);
        let mut events = core.db.subscribe(Topic::Event);
        let mut next: Option<Ask> = None;
        loop {
            if cancel.is_cancelled() {
                return Ok(());
            }
            let mut asks: Vec<Ask> = next.take().into_iter().collect();
            while asks.len() < ASKS_LEN
                && let Ok(ask) = self.asks.try_recv()
            {
                asks.push(ask);
            }
            match core.turn(asks).await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(error = chain(&error), "workflow transitions were not stored and will be tried again");
                    let pause = tokio::time::sleep(Duration::from_millis(limits::HANDOFF_SCAN_MS));
                    tokio::select! { () = pause => {}, () = cancel.cancelled() => return Ok(()) }
                    continue;
                }
            }
            // All branches are cancel-safe: a hint not taken here is found by the next scan.
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                ask = self.asks.recv() => match ask {
                    Some(ask) => next = Some(ask),
                    None => tokio::time::sleep(Duration::from_millis(50)).await,
                },
                () = results.wait() => {}
                () = events.wait() => {}
                () = tokio::time::sleep(core.sleep()) => {}
            }
        }
    }
}

impl Core {
    async fn load(&mut self) -> Result<()> {
        self.cursor_events = self.db.cursor(CONSUMER, Topic::Event).await?;
        self.cursor_results = self.db.cursor(CONSUMER, Topic::ActionResult).await?;
        let now = self.clock.now();
        let schedules = self.db.definition_schedules_of_all().await?;
        for row in self.db.definitions_of_all().await? {
            if !row.is_enabled {
                continue;
            }
            match definition::parse(&row.text) {
                Ok(definition) => {
                    let schedule =
                        schedules.iter().find(|s| s.tenant == row.tenant && s.namespace == row.namespace && s.name == row.name);
                    self.arm(&row, Arc::new(definition), schedule, now);
                }
                Err(diagnostics) => {
                    let why = diagnostics.first().map(ToString::to_string).unwrap_or_default();
                    tracing::warn!(tenant = %row.tenant, workflow = row.name, why, "a stored workflow no longer validates; its triggers are off");
                }
            }
        }
        for (tenant, run, kind) in self.db.listeners_of_all().await? {
            self.listening.entry((tenant.clone(), kind.clone())).or_default().insert(run);
            self.listens.entry(run).or_insert_with(|| (tenant, Vec::new())).1.push(kind);
        }
        Ok(())
    }

    fn arm(
        &mut self,
        row: &DefinitionRow,
        definition: Arc<Definition>,
        schedule: Option<&db::definition::ScheduleRow>,
        now: Timestamp,
    ) {
        let key = (row.tenant.clone(), row.namespace.clone(), row.name.clone());
        if definition.schedule.is_some() && row.is_enabled {
            self.triggers.insert(key, Trigger::new(row.tenant.clone(), definition, row.revision, schedule, now));
        } else {
            self.triggers.remove(&key);
        }
    }

    /// One batch: gather, apply, commit. Answers whether there was anything to do.
    async fn turn(&mut self, asks: Vec<Ask>) -> Result<bool> {
        let now = self.clock.now();
        let mut batch = Batch::new(now);
        let has_asks = !asks.is_empty();
        for ask in asks {
            self.take_ask(&mut batch, ask).await;
        }
        let has_results = self.take_results(&mut batch).await?;
        let has_events = self.take_events(&mut batch).await?;
        let has_timers = self.take_timers(&mut batch).await?;
        let has_schedules = self.take_schedules(&mut batch).await?;
        self.commit(batch).await?;
        Ok(has_asks || has_results || has_events || has_timers || has_schedules)
    }

    /// How long nothing will happen by itself.
    fn sleep(&self) -> Duration {
        let now = self.clock.now();
        let timer = self.timers.first().map(|(due, _)| *due);
        let schedule = self.triggers.values().filter_map(|trigger| trigger.due).min();
        let ns =
            [timer, schedule].into_iter().flatten().map(|due| due.nanos().saturating_sub(now.nanos())).min().unwrap_or(i64::MAX);
        Duration::from_nanos(u64::try_from(ns).unwrap_or(0)).min(Duration::from_millis(limits::HANDOFF_SCAN_MS))
    }

    async fn take_ask(&mut self, batch: &mut Batch, ask: Ask) {
        match ask {
            Ask::Look => {}
            Ask::Put { tenant, text, definition, reply } => {
                let _ = reply.send(self.put(tenant, text, definition, batch.now).await);
            }
            Ask::Enable { mut row, is_enabled, reply } => {
                let (tenant, namespace, name) = (row.tenant.clone(), row.namespace.clone(), row.name.clone());
                let done = self
                    .db
                    .write::<_, Error, _>(move |tx| {
                        Box::pin(async move { Ok(tx.enable_definition(&tenant, &namespace, &name, is_enabled).await?) })
                    })
                    .await;
                if done.is_ok() {
                    row.is_enabled = is_enabled;
                    if let Ok(definition) = definition::parse(&row.text) {
                        self.arm(&row, Arc::new(definition), None, batch.now);
                    }
                }
                let _ = reply.send(done);
            }
            Ask::Delete { row, reply } => {
                let key = (row.tenant.clone(), row.namespace.clone(), row.name.clone());
                let (tenant, namespace, name) = key.clone();
                let done = self
                    .db
                    .write::<_, Error, _>(move |tx| {
                        Box::pin(async move { Ok(tx.delete_definition(&tenant, &namespace, &name).await?) })
                    })
                    .await;
                if done.is_ok() {
                    self.triggers.remove(&key);
                }
                let _ = reply.send(done);
            }
            Ask::Start { row, input, cause, reply } => {
                let started = async {
                    let definition = self.definition(&row.tenant, &row.namespace, &row.name, row.revision).await?;
                    let run = RunId::generate();
                    self.start(batch, run, &row.tenant, definition, row.revision, input, cause, None).await?;
                    Ok(run)
                };
                match started.await {
                    Ok(run) => batch.replies.push(Box::new(move |committed| {
                        let _ = reply.send(committed.map(|()| run));
                    })),
                    Err(error) => {
                        let _ = reply.send(Err(error));
                    }
                }
            }
            Ask::Command { run, command, reply } => match self.command(batch, run, command).await {
                Ok(is_changed) => batch.replies.push(Box::new(move |committed| {
                    let _ = reply.send(committed.map(|()| is_changed));
                })),
                Err(error) => {
                    let _ = reply.send(Err(error));
                }
            },
            Ask::Answer { tenant, run, event, reply } => {
                let json = serde_json::to_value(&event).expect("an event has text keys only");
                match self.command(batch, run, Command::Event(json)).await {
                    Ok(true) => {
                        batch.events.push((tenant, event));
                        batch.replies.push(Box::new(move |committed| {
                            let _ = reply.send(committed);
                        }));
                    }
                    Ok(false) => {
                        let _ = reply.send(Err(Error::Refused(format!("run {run} no longer waits for this approval"))));
                    }
                    Err(error) => {
                        let _ = reply.send(Err(error));
                    }
                }
            }
        }
    }

    async fn put(
        &mut self,
        tenant: TenantId,
        text: String,
        definition: Arc<Definition>,
        now: Timestamp,
    ) -> Result<PutDefinition> {
        let document = &definition.document;
        let mut row = DefinitionRow {
            tenant: tenant.clone(),
            namespace: document.namespace.clone(),
            name: document.name.clone(),
            version: document.version.clone(),
            revision: 0,
            is_newest: true,
            is_enabled: true,
            created: now,
            text,
        };
        let (stored, cursor) = (row.clone(), self.cursor_events);
        // The cursor too: events before this moment are not for the new triggers.
        let (revision, is_new) = self
            .db
            .write::<_, Error, _>(move |tx| {
                Box::pin(async move {
                    tx.set_cursor(CONSUMER, Topic::Event, cursor).await?;
                    Ok(tx.put_definition(&stored).await?)
                })
            })
            .await?;
        row.revision = revision;
        row.is_enabled =
            self.db.definition(&tenant, &format!("{}/{}", row.namespace, row.name), &Pick::Revision(revision)).await?.is_enabled;
        if is_new {
            self.arm(&row, definition.clone(), None, now);
            let key = (row.tenant.clone(), row.namespace.clone(), row.name.clone());
            if let Some(schedule) = self.triggers.get(&key).map(Trigger::row) {
                self.db
                    .write::<_, Error, _>(move |tx| Box::pin(async move { Ok(tx.put_definition_schedule(&schedule).await?) }))
                    .await?;
            }
        }
        Ok(PutDefinition { namespace: row.namespace, name: row.name, version: row.version, revision, is_new })
    }

    async fn take_results(&mut self, batch: &mut Batch) -> Result<bool> {
        let rows = self.db.handed::<ActionResult>(Topic::ActionResult, self.cursor_results, limits::HANDOFF_BATCH_ROWS).await?;
        let has_rows = !rows.is_empty();
        for row in rows {
            self.stats.results_read.fetch_add(1, Relaxed);
            batch.cursor_results = Some(row.id);
            let Some(run) = row.payload.run else { continue };
            match self.command(batch, run, Command::Result(row.payload)).await {
                Ok(_) | Err(Error::Db(db::Error::NotFound { .. })) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(has_rows)
    }

    async fn take_events(&mut self, batch: &mut Batch) -> Result<bool> {
        let rows = self.db.handed::<Event>(Topic::Event, self.cursor_events, limits::HANDOFF_BATCH_ROWS).await?;
        let has_rows = !rows.is_empty();
        for row in rows {
            self.stats.events_read.fetch_add(1, Relaxed);
            batch.cursor_events = Some(row.id);
            let mut hearers: HashSet<RunId> = HashSet::new();
            for kind in [row.payload.kind.as_str(), ""] {
                hearers.extend(self.listening.get(&(row.tenant.clone(), kind.to_owned())).into_iter().flatten());
            }
            hearers.extend(batch.listening(&row.tenant));
            // An answer to an approval came to its run by the handle; from the bus, where anybody may put events
            // in, it counts for nothing.
            let is_answer = row.payload.kind == crate::interpret::APPROVAL_ANSWERED;
            let has_triggers =
                self.triggers.values().any(|t| t.tenant == row.tenant && matches!(t.definition.schedule, Some(Schedule::On(_))));
            if is_answer || (hearers.is_empty() && !has_triggers) {
                continue;
            }
            let event = serde_json::to_value(&row.payload).expect("an event has text keys only");
            let mut hearers: Vec<RunId> = hearers.into_iter().collect();
            hearers.sort();
            for run in hearers {
                match self.command(batch, run, Command::Event(event.clone())).await {
                    Ok(_) | Err(Error::Db(db::Error::NotFound { .. })) => {}
                    Err(error) => return Err(error),
                }
            }
            let mut started = Vec::new();
            for (key, trigger) in &mut self.triggers {
                if trigger.tenant != row.tenant {
                    continue;
                }
                let gathered_before = trigger.gathered.len();
                let input = trigger.consume(&event, &self.engine);
                if trigger.gathered.len() != gathered_before {
                    batch.schedules.insert(key.clone(), trigger.row());
                }
                if let Some(input) = input {
                    started.push((trigger.definition.clone(), trigger.revision, input));
                }
            }
            started.sort_by_key(|(definition, ..)| definition.full_name());
            for (definition, revision, input) in started {
                // The same row gives the same run, however often it is read.
                let name = definition.full_name();
                let id = derived(&[b"event", row.tenant.as_str().as_bytes(), name.as_bytes(), &row.id.to_be_bytes()]);
                let run = RunId::from_uuid(uuid::Builder::from_custom_bytes(id).into_uuid());
                let started =
                    self.start(batch, run, &row.tenant, definition, revision, input, trigger::cause(&event), None).await;
                match started {
                    Ok(()) => {}
                    Err(Error::InFlight { run }) => {
                        self.stats.runs_in_flight_skipped.fetch_add(1, Relaxed);
                        tracing::debug!(
                            workflow = name,
                            run,
                            "an unfinished run is already about this alert; no second one is started"
                        );
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(has_rows)
    }

    async fn take_timers(&mut self, batch: &mut Batch) -> Result<bool> {
        // Half-way through the near future, read on.
        if batch.now.plus_millis(TIMERS_AHEAD_MS / 2) >= self.timers_until {
            let until = batch.now.plus_millis(TIMERS_AHEAD_MS);
            let rows = self.db.timers_of_all(until, TIMERS_LEN_MAX).await?;
            // More than fit: read on when those are done.
            self.timers_until = if i64::try_from(rows.len()).unwrap_or(i64::MAX) < TIMERS_LEN_MAX { until } else { batch.now };
            for (run, due) in rows {
                self.set_timer(run, Some(due));
            }
        }
        let mut has_timers = false;
        while let Some((due, run)) = self.timers.first().copied()
            && due <= batch.now
            && batch.len() < ASKS_LEN
        {
            self.set_timer(run, None);
            if batch.is_woken(run) {
                continue;
            }
            self.stats.timers_fired.fetch_add(1, Relaxed);
            has_timers = true;
            match self.command(batch, run, Command::Wake).await {
                Ok(_) => batch.woken(run),
                Err(Error::Db(db::Error::NotFound { .. })) => batch.orphan_timers.push(run),
                Err(error) => return Err(error),
            }
        }
        Ok(has_timers)
    }

    async fn take_schedules(&mut self, batch: &mut Batch) -> Result<bool> {
        let due: Vec<TriggerKey> = self
            .triggers
            .iter()
            .filter(|(_, trigger)| trigger.due.is_some_and(|due| due <= batch.now))
            .map(|(key, _)| key.clone())
            .collect();
        let has_due = !due.is_empty();
        for key in due {
            let Some(trigger) = self.triggers.get_mut(&key) else { continue };
            let at = trigger.due.unwrap_or(batch.now);
            trigger.due = match trigger.definition.schedule {
                // Again when the run has ended.
                Some(Schedule::After(_)) => None,
                Some(Schedule::Every(ms)) if at.plus_millis(ms) > batch.now => Some(at.plus_millis(ms)),
                _ => trigger.next_due(batch.now),
            };
            batch.schedules.insert(key.clone(), trigger.row());
            let (definition, revision) = (trigger.definition.clone(), trigger.revision);
            let id =
                derived(&[b"schedule", key.0.as_str().as_bytes(), definition.full_name().as_bytes(), &at.nanos().to_be_bytes()]);
            let run = RunId::from_uuid(uuid::Builder::from_custom_bytes(id).into_uuid());
            let cause = Cause { kind: "schedule".into(), ..Cause::default() };
            self.start(batch, run, &key.0, definition, revision, json!({}), cause, None).await?;
        }
        Ok(has_due)
    }

    /// The definition that a run pins.
    async fn definition(&mut self, tenant: &TenantId, namespace: &str, name: &str, revision: i64) -> Result<Arc<Definition>> {
        let key = (tenant.clone(), namespace.to_owned(), name.to_owned(), revision);
        if let Some(found) = self.definitions.get(&key) {
            return Ok(found.clone());
        }
        let row = self.db.definition(tenant, &format!("{namespace}/{name}"), &Pick::Revision(revision)).await?;
        let definition = Arc::new(definition::parse(&row.text).map_err(Error::Invalid)?);
        if self.definitions.len() >= self.config.definitions_max {
            self.definitions.clear();
        }
        self.definitions.insert(key, definition.clone());
        Ok(definition)
    }

    fn set_timer(&mut self, run: RunId, due: Option<Timestamp>) {
        if let Some(before) = self.timer_of.remove(&run) {
            self.timers.remove(&(before, run));
        }
        if let Some(due) = due {
            self.timers.insert((due, run));
            self.timer_of.insert(run, due);
        }
    }

    fn set_listens(&mut self, tenant: &TenantId, run: RunId, kinds: Vec<String>) {
        if let Some((tenant, kinds)) = self.listens.remove(&run) {
            for kind in kinds {
                let key = (tenant.clone(), kind);
                if let Some(runs) = self.listening.get_mut(&key) {
                    runs.remove(&run);
                    if runs.is_empty() {
                        self.listening.remove(&key);
                    }
                }
            }
        }
        if !kinds.is_empty() {
            for kind in &kinds {
                self.listening.entry((tenant.clone(), kind.clone())).or_default().insert(run);
            }
            self.listens.insert(run, (tenant.clone(), kinds));
        }
    }
}

#[cfg(test)]
mod tests;

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}
