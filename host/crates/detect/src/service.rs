//! The stage: one loop that owns the schedule, a handle for everybody else.

use crate::{
    agenda::{Agenda, Why, next_due},
    detector::Detectors,
    error::{Error, Result},
    evaluate::{Done, Evaluator, Job, event},
    judge::{self, Memory},
    spec::{Source, Spec},
    stream::Runner,
};
use db::{Db, Topic, monitor::Monitor};
use model::{Clock, ErrorRecord, Finding, FindingStatus, MonitorId, TenantId, Timestamp};
use parking_lot::RwLock;
use query::promql::Engine;
use serde_json::Value;
use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use telemetry::{Logs, MetricHint, Metrics};
use tokio::{
    sync::{broadcast, mpsc, oneshot},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// How long the hints of one write are gathered before the monitors they touch are evaluated.
const DEBOUNCE_MS: i64 = 5;
/// A monitor rests this many times as long as its last evaluation took before a hint starts another:
/// early evaluations of one monitor take at most a twentieth of a core.
const REST_FACTOR: u32 = 20;
/// The loop looks at the clock this often even when nothing is due: a clock that was set is noticed.
const LOOK_MS: i64 = 250;
/// Commands waiting for the loop; senders wait when it is full.
const COMMANDS: usize = 256;
/// A monitor's query may load this much and run this long: an alert must not depend on a heavier one.
const QUERY_SAMPLES_MAX: usize = 5_000_000;
const QUERY_WALL_MS_MAX: u64 = 10_000;

#[derive(Clone, Debug)]
pub struct Config {
    /// Evaluations at once. They wait for the database most of the time.
    pub running_max: usize,
    /// Of these, for one tenant.
    pub share_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { running_max: 16, share_max: 8 }
    }
}

/// How a monitor fares.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    pub evaluated_at: Option<Timestamp>,
    pub took_us: u64,
    /// Consecutive failures; 0 when the last evaluation succeeded.
    pub failures: u64,
    pub last_error: Option<String>,
    pub findings: u64,
    pub firing: u64,
    pub reports_written: u64,
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub evaluations: u64,
    pub evaluations_early: u64,
    pub failures: u64,
    pub reports: u64,
    pub monitors: u64,
}

#[derive(Default)]
pub(crate) struct Shared {
    statuses: RwLock<HashMap<MonitorId, Status>>,
    evaluations: AtomicU64,
    early: AtomicU64,
    failures: AtomicU64,
    reports: AtomicU64,
}

enum Command {
    Changed(Monitor),
    Removed(MonitorId),
    Evaluate(MonitorId, oneshot::Sender<Result<Vec<Finding>, ErrorRecord>>),
}

/// The cheap-clone handle on the stage.
#[derive(Clone)]
pub struct Handle {
    db: Db,
    clock: Arc<dyn Clock>,
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
}

impl Handle {
    /// Creates the monitor or changes its settings. Wrong settings are [`Error::Spec`].
    pub async fn upsert(&self, tenant: &TenantId, name: &str, spec: Value) -> Result<Monitor> {
        Spec::parse(&spec).map_err(|message| Error::Spec { name: name.into(), message })?;
        let (monitor, now) =
            (Monitor { id: MonitorId::generate(), tenant: tenant.clone(), name: name.into(), spec }, self.clock.now());
        let stored =
            self.db.write::<_, db::Error, _>(move |tx| Box::pin(async move { tx.put_monitor(&monitor, now).await })).await?;
        // Stored is done: when the stage is not running it finds the monitor at its next start.
        let _ = self.commands.send(Command::Changed(stored.clone())).await;
        Ok(stored)
    }

    /// Removes the monitor; its alerts end by a last, empty report in the same commit.
    pub async fn remove(&self, tenant: &TenantId, name: &str) -> Result<()> {
        let (tenant, owned, now) = (tenant.clone(), name.to_owned(), self.clock.now());
        let removed = self
            .db
            .write::<_, db::Error, _>(move |tx| {
                Box::pin(async move {
                    let monitor = tx.delete_monitor(&tenant, &owned).await?;
                    if let Ok(spec) = Spec::parse(&monitor.spec) {
                        let last = judge::report(monitor.id, &monitor.name, &spec, now, true, Vec::new());
                        tx.hand_off(Topic::Finding, &tenant, now, &last).await?;
                    }
                    Ok(monitor)
                })
            })
            .await
            .map_err(|error| match error {
                db::Error::NotFound { .. } => Error::NoMonitor(name.into()),
                other => other.into(),
            })?;
        let _ = self.commands.send(Command::Removed(removed.id)).await;
        Ok(())
    }

    /// Evaluates a scheduled monitor now, as its interval would, and answers what was found.
    pub async fn evaluate_now(&self, tenant: &TenantId, name: &str) -> Result<Vec<Finding>> {
        let monitor = self.find(tenant, name).await?;
        let (answer, answered) = oneshot::channel();
        self.commands.send(Command::Evaluate(monitor.id, answer)).await.map_err(|_| Error::Closed)?;
        let result = answered.await.map_err(|_| Error::Closed)?;
        result.map_err(|record| Error::Failed { name: name.into(), record })
    }

    pub async fn status(&self, tenant: &TenantId, name: &str) -> Result<Status> {
        let monitor = self.find(tenant, name).await?;
        Ok(self.shared.statuses.read().get(&monitor.id).cloned().unwrap_or_default())
    }

    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    async fn find(&self, tenant: &TenantId, name: &str) -> Result<Monitor> {
        self.db.monitor(tenant, name).await.map_err(|error| match error {
            db::Error::NotFound { .. } => Error::NoMonitor(name.into()),
            other => other.into(),
        })
    }
}

impl Shared {
    fn stats(&self) -> Stats {
        Stats {
            evaluations: self.evaluations.load(Relaxed),
            evaluations_early: self.early.load(Relaxed),
            failures: self.failures.load(Relaxed),
            reports: self.reports.load(Relaxed),
            monitors: self.statuses.read().len() as u64,
        }
    }

    /// A stream detector failed: the first of consecutive failures is also an event.
    pub(crate) async fn stream_failed(&self, db: &Db, monitor: &Monitor, error: &ErrorRecord, now: Timestamp) {
        self.failures.fetch_add(1, Relaxed);
        let is_first = {
            let mut statuses = self.statuses.write();
            let Some(status) = statuses.get_mut(&monitor.id) else { return };
            status.failures += 1;
            status.last_error = Some(format!("{}: {}", error.code, error.message));
            status.failures == 1
        };
        if is_first {
            tell(db, monitor, "io.orchestrix.monitor.failing", now, Some(error)).await;
        }
    }

    pub(crate) async fn stream_went_on(&self, db: &Db, monitor: &Monitor, now: Timestamp, findings: &[Finding], reports: u64) {
        self.reports.fetch_add(reports, Relaxed);
        let has_recovered = {
            let mut statuses = self.statuses.write();
            let Some(status) = statuses.get_mut(&monitor.id) else { return };
            let has_recovered = status.failures > 0;
            status.evaluated_at = Some(now);
            (status.failures, status.last_error) = (0, None);
            status.reports_written += reports;
            if !findings.is_empty() {
                status.findings = findings.len() as u64;
                status.firing = firing(findings);
            }
            has_recovered
        };
        if has_recovered {
            tell(db, monitor, "io.orchestrix.monitor.recovered", now, None).await;
        }
    }
}

async fn tell(db: &Db, monitor: &Monitor, kind: &str, now: Timestamp, error: Option<&ErrorRecord>) {
    let (event, tenant) = (event(monitor, kind, now, error), monitor.tenant.clone());
    let told = db
        .write::<_, db::Error, _>(move |tx| {
            Box::pin(async move { tx.hand_off(Topic::Event, &tenant, now, &event).await.map(drop) })
        })
        .await;
    if let Err(error) = told {
        tracing::error!(monitor = %monitor.name, %error, "a monitor's event could not be stored");
    }
}

fn firing(findings: &[Finding]) -> u64 {
    findings.iter().filter(|f| f.status == FindingStatus::Firing).count() as u64
}

struct Entry {
    monitor: Arc<Monitor>,
    spec: Arc<Spec>,
    generation: u64,
    /// While an evaluation runs, it has these.
    memory: Memory,
    failures: u64,
    last_error: Option<String>,
    /// Time of the last evaluation, in milliseconds: the next is later.
    last_ms: i64,
    is_queued: bool,
    is_running: bool,
    /// A hint or a person asked for another evaluation meanwhile.
    again: Option<Why>,
    /// An early evaluation stands on the agenda.
    is_hinted: bool,
    rested_at_ms: i64,
    answers: Vec<oneshot::Sender<Result<Vec<Finding>, ErrorRecord>>>,
    stream: Option<CancellationToken>,
}

pub struct Service {
    config: Config,
    evaluator: Arc<Evaluator>,
    metrics: Metrics,
    logs: Logs,
    db: Db,
    clock: Arc<dyn Clock>,
    commands: mpsc::Receiver<Command>,
    handle: Handle,
    shared: Arc<Shared>,
    entries: HashMap<MonitorId, Entry>,
    /// Which monitors read a metric; and those whose query leaves the name open.
    readers: HashMap<(TenantId, String), HashSet<MonitorId>>,
    open_readers: HashMap<TenantId, HashSet<MonitorId>>,
    agenda: Agenda,
    running: JoinSet<Done>,
    streams: JoinSet<()>,
    generations: u64,
}

impl Service {
    pub fn new(
        config: Config,
        db: Db,
        telemetry: &telemetry::Telemetry,
        engine: Engine,
        detectors: Arc<dyn Detectors>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let (sender, commands) = mpsc::channel(COMMANDS);
        let shared = Arc::new(Shared::default());
        let handle = Handle { db: db.clone(), clock: clock.clone(), commands: sender, shared: shared.clone() };
        let engine = engine.bounded(QUERY_SAMPLES_MAX, QUERY_WALL_MS_MAX);
        Self {
            config,
            evaluator: Arc::new(Evaluator { db: db.clone(), engine, detectors }),
            metrics: telemetry.metrics.clone(),
            logs: telemetry.logs.clone(),
            db,
            clock,
            commands,
            handle,
            shared,
            entries: HashMap::new(),
            readers: HashMap::new(),
            open_readers: HashMap::new(),
            agenda: Agenda::default(),
            running: JoinSet::new(),
            streams: JoinSet::new(),
            generations: 0,
        }
    }

    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Takes up all stored monitors and runs until cancelled; evaluations under way are finished first.
    pub async fn run(mut self, cancel: CancellationToken) -> Result<()> {
        let mut hints = self.metrics.hints();
        for monitor in self.db.monitors_of_all().await? {
            self.adopt(monitor).await?;
        }
        while !cancel.is_cancelled() {
            let now = self.clock.now().millis();
            while let Some((id, why)) = self.agenda.pop_due(now) {
                self.come_due(id, why, now);
            }
            while let Some((tenant, id, why)) = self.agenda.take(self.config.running_max, self.config.share_max) {
                self.start(&tenant, id, why, now);
            }
            let pause = self.agenda.next_ms().map_or(LOOK_MS, |at| at - now).clamp(1, LOOK_MS);
            tokio::select! {
                () = cancel.cancelled() => break,
                Some(command) = self.commands.recv() => self.obey(command).await?,
                hint = hints.recv() => match hint {
                    Ok(hint) => self.hint(&hint, now),
                    Err(broadcast::error::RecvError::Lagged(_)) => self.hint_all(now),
                    // The store is closed; intervals go on, and find what they find.
                    Err(broadcast::error::RecvError::Closed) => tokio::time::sleep(Duration::from_millis(LOOK_MS.unsigned_abs())).await,
                },
                Some(done) = self.running.join_next(), if !self.running.is_empty() => match done {
                    Ok(done) => self.finished(done),
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    Err(_) => {}
                },
                () = tokio::time::sleep(Duration::from_millis(pause.unsigned_abs())) => {}
            }
        }
        for entry in self.entries.values_mut() {
            if let Some(stop) = entry.stream.take() {
                stop.cancel();
            }
        }
        while self.running.join_next().await.is_some() {}
        while self.streams.join_next().await.is_some() {}
        Ok(())
    }

    async fn obey(&mut self, command: Command) -> Result<()> {
        match command {
            Command::Changed(monitor) => self.adopt(monitor).await?,
            Command::Removed(id) => self.forget(id),
            Command::Evaluate(id, answer) => match self.entries.get_mut(&id) {
                Some(entry) if entry.stream.is_none() => {
                    entry.answers.push(answer);
                    self.ask(id, Why::Asked);
                }
                _ => {
                    let message = "a stream monitor is evaluated by the records that arrive".to_owned();
                    let record = ErrorRecord {
                        code: "monitor.stream".into(),
                        message,
                        retry: model::RetryAdvice::Never,
                        details: Value::Null,
                    };
                    let _ = answer.send(Err(record));
                }
            },
        }
        Ok(())
    }

    /// Takes up a monitor, new or changed.
    async fn adopt(&mut self, monitor: Monitor) -> Result<()> {
        let id = monitor.id;
        let before = self.entries.remove(&id);
        self.unindex(id);
        if let Some(stop) = before.as_ref().and_then(|entry| entry.stream.as_ref()) {
            stop.cancel();
        }
        self.shared.statuses.write().entry(id).or_default();
        let spec = match Spec::parse(&monitor.spec) {
            Ok(spec) => Arc::new(spec),
            Err(message) => {
                // An older version took what this one refuses.
                tracing::warn!(monitor = %monitor.name, tenant = %monitor.tenant, error = %message, "a stored monitor is left out");
                if let Some(status) = self.shared.statuses.write().get_mut(&id) {
                    (status.failures, status.last_error) = (1, Some(message));
                }
                return Ok(());
            }
        };
        let now = self.clock.now();
        let stored = self.db.monitor_state(&monitor.tenant, id).await?;
        if let Some(status) = self.shared.statuses.write().get_mut(&id) {
            (status.failures, status.last_error) = (stored.failures, stored.last_error.clone());
        }
        self.generations += 1;
        let mut entry = Entry {
            monitor: Arc::new(monitor),
            spec: spec.clone(),
            generation: self.generations,
            memory: Memory::with_known(stored.known, now),
            failures: stored.failures,
            last_error: stored.last_error,
            last_ms: before.as_ref().map_or(0, |entry| entry.last_ms),
            is_queued: false,
            is_running: before.as_ref().is_some_and(|entry| entry.is_running),
            again: None,
            is_hinted: false,
            rested_at_ms: 0,
            answers: before.map(|entry| entry.answers).unwrap_or_default(),
            stream: None,
        };
        if let Source::Stream(filter) = &spec.source {
            let stop = CancellationToken::new();
            let runner = Runner {
                monitor: (*entry.monitor).clone(),
                spec: spec.clone(),
                filter: filter.clone(),
                db: self.db.clone(),
                logs: self.logs.clone(),
                detectors: self.evaluator.detectors.clone(),
                clock: self.clock.clone(),
                shared: self.shared.clone(),
            };
            self.streams.spawn(runner.run(stop.clone()));
            entry.stream = Some(stop);
            self.entries.insert(id, entry);
            return Ok(());
        }
        let tenant = entry.monitor.tenant.clone();
        if let Source::Query(expr) = &spec.source {
            match expr.metric_names() {
                Some(names) => {
                    for name in names {
                        self.readers.entry((tenant.clone(), name)).or_default().insert(id);
                    }
                }
                None => {
                    self.open_readers.entry(tenant).or_default().insert(id);
                }
            }
        }
        // Once at once: after a start nobody should wait an interval to hear what is wrong.
        self.agenda.at(now.millis(), id, Why::Early);
        entry.is_hinted = true;
        self.agenda.at(next_due(now.millis(), spec.every_ms, id), id, Why::Interval(next_due(now.millis(), spec.every_ms, id)));
        self.entries.insert(id, entry);
        Ok(())
    }

    fn forget(&mut self, id: MonitorId) {
        if let Some(stop) = self.entries.remove(&id).and_then(|entry| entry.stream) {
            stop.cancel();
        }
        self.unindex(id);
        self.shared.statuses.write().remove(&id);
    }

    fn unindex(&mut self, id: MonitorId) {
        self.readers.retain(|_, ids| {
            ids.remove(&id);
            !ids.is_empty()
        });
        self.open_readers.retain(|_, ids| {
            ids.remove(&id);
            !ids.is_empty()
        });
    }

    fn hint(&mut self, hint: &MetricHint, now: i64) {
        let mut touched: HashSet<MonitorId> = self.open_readers.get(&hint.tenant).cloned().unwrap_or_default();
        if !self.readers.is_empty() {
            for name in &hint.names {
                if let Some(ids) = self.readers.get(&(hint.tenant.clone(), name.to_string())) {
                    touched.extend(ids);
                }
            }
        }
        touched.into_iter().for_each(|id| self.hint_one(id, now));
    }

    /// Hints were lost: any monitor may have news.
    fn hint_all(&mut self, now: i64) {
        let ids: Vec<_> = self.readers.values().chain(self.open_readers.values()).flatten().copied().collect();
        ids.into_iter().for_each(|id| self.hint_one(id, now));
    }

    fn hint_one(&mut self, id: MonitorId, now: i64) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if !entry.is_hinted {
            entry.is_hinted = true;
            self.agenda.at((now + DEBOUNCE_MS).max(entry.rested_at_ms), id, Why::Early);
        }
    }

    fn come_due(&mut self, id: MonitorId, why: Why, now: i64) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        match why {
            Why::Interval(at) => {
                let every = entry.spec.every_ms;
                // An entry of settings that were since changed lies off the grid and dies out.
                if next_due(at - 1, every, id) != at {
                    return;
                }
                let next = next_due(now, every, id);
                self.agenda.at(next, id, Why::Interval(next));
            }
            Why::Early => entry.is_hinted = false,
            Why::Asked => {}
        }
        self.ask(id, why);
    }

    fn ask(&mut self, id: MonitorId, why: Why) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if entry.is_running {
            entry.again = Some(why);
        } else if !entry.is_queued {
            entry.is_queued = true;
            let tenant = entry.monitor.tenant.clone();
            self.agenda.enqueue(&tenant, id, why);
        }
    }

    fn start(&mut self, tenant: &TenantId, id: MonitorId, why: Why, now: i64) {
        let Some(entry) = self.entries.get_mut(&id) else {
            // Removed while it waited: its place is given back.
            self.agenda.done(tenant);
            return;
        };
        entry.is_queued = false;
        // The interval's own time when it is reached in time, so that a host's load doesn't move the evaluation.
        let at = match why {
            Why::Interval(at) if now - at < entry.spec.every_ms / 2 => at,
            _ => now,
        };
        if at <= entry.last_ms && matches!(why, Why::Interval(_)) {
            // An early evaluation has seen more already.
            self.agenda.done(tenant);
            return;
        }
        let at = at.max(entry.last_ms + 1);
        entry.last_ms = at;
        entry.is_running = true;
        if why == Why::Early {
            self.shared.early.fetch_add(1, Relaxed);
        }
        let job = Job {
            monitor: entry.monitor.clone(),
            spec: entry.spec.clone(),
            generation: entry.generation,
            at: Timestamp::from_millis(at),
            memory: entry.memory.clone(),
            failures: entry.failures,
            last_error: entry.last_error.clone(),
        };
        let evaluator = self.evaluator.clone();
        self.running.spawn(async move { evaluator.run(job).await });
    }

    fn finished(&mut self, done: Done) {
        let Done { job, result, is_written, took } = done;
        let id = job.monitor.id;
        self.agenda.done(&job.monitor.tenant);
        self.shared.evaluations.fetch_add(1, Relaxed);
        self.shared.reports.fetch_add(u64::from(is_written), Relaxed);
        self.shared.failures.fetch_add(u64::from(result.is_err()), Relaxed);
        if let Some(status) = self.shared.statuses.write().get_mut(&id) {
            status.evaluated_at = Some(job.at);
            status.took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            (status.failures, status.last_error) = (job.failures, job.last_error.clone());
            status.reports_written += u64::from(is_written);
            if let Ok(findings) = &result {
                (status.findings, status.firing) = (findings.len() as u64, firing(findings));
            }
        }
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.is_running = false;
        let rest = i64::try_from((took * REST_FACTOR).as_millis()).unwrap_or(i64::MAX).min(entry.spec.every_ms);
        entry.rested_at_ms = self.clock.now().millis().saturating_add(rest);
        if entry.generation == job.generation {
            (entry.memory, entry.failures, entry.last_error) = (job.memory, job.failures, job.last_error);
            for answer in entry.answers.drain(..) {
                let _ = answer.send(result.clone());
            }
        } else {
            // It judged by settings that are gone; whoever asked waits for the new ones.
            entry.memory.forget_written();
            entry.again = Some(Why::Early);
        }
        match entry.again.take() {
            Some(Why::Early) if !entry.is_hinted => {
                entry.is_hinted = true;
                let at = entry.rested_at_ms;
                self.agenda.at(at, id, Why::Early);
            }
            Some(Why::Asked) => self.ask(id, Why::Asked),
            Some(why @ Why::Interval(_)) => self.ask(id, why),
            _ => {}
        }
    }
}
