//! The loop: reports in by cursor, alerts, timelines and bus events out, in one transaction a batch.

use crate::{
    Error,
    matching::Matchers,
    state::{self, Change, Command, Given},
};
use db::{Db, Handed, Topic, Tx};
use model::{AlertEvent, AlertId, AlertState, Clock, Event, FindingReport, LabelSet, TenantId, Timestamp, limits};
use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;

const CONSUMER: &str = "alert";
/// How often time alone is looked at: silences that begin or end, senders that went silent.
const TICK: Duration = Duration::from_secs(1);
/// After a failed transaction: the database may be locked or full; the cursor has not moved.
const RETRY: Duration = Duration::from_millis(500);

/// What the stage did since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub reports: u64,
    pub transitions: u64,
    pub failures: u64,
}

#[derive(Debug, Default)]
struct Counters {
    reports: AtomicU64,
    transitions: AtomicU64,
    failures: AtomicU64,
}

#[derive(Clone, Debug)]
pub struct Service {
    db: Db,
    clock: Arc<dyn Clock>,
    counters: Arc<Counters>,
}

impl Service {
    pub fn new(db: Db, clock: Arc<dyn Clock>) -> Self {
        Self { db, clock, counters: Arc::default() }
    }

    pub fn stats(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            reports: read(&self.counters.reports),
            transitions: read(&self.counters.transitions),
            failures: read(&self.counters.failures),
        }
    }

    /// Runs until cancelled. A failure is logged and tried again: nothing is lost, the cursor did not move.
    pub async fn run(self, cancel: CancellationToken) {
        let mut wake = self.db.subscribe(Topic::Finding);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let outcome = tokio::select! {
                () = cancel.cancelled() => return,
                outcome = self.consume() => outcome,
            };
            let outcome = match outcome {
                Ok(limits::HANDOFF_BATCH_ROWS..) => continue,
                Ok(_) => tokio::select! {
                    () = cancel.cancelled() => return,
                    () = wake.wait() => Ok(()),
                    _ = tick.tick() => self.tick().await,
                },
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                self.counters.failures.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(error = &error as &dyn std::error::Error, "alert stage failed, trying again");
                tokio::select! {
                    () = cancel.cancelled() => return,
                    () = tokio::time::sleep(RETRY) => {}
                }
            }
        }
    }

    /// Takes one batch of reports; answers how many there were.
    pub async fn consume(&self) -> Result<i64, Error> {
        let after = self.db.cursor(CONSUMER, Topic::Finding).await?;
        let reports = self.db.handed::<FindingReport>(Topic::Finding, after, limits::HANDOFF_BATCH_ROWS).await?;
        let (Some(last), count) = (reports.last().map(|r| r.id), reports.len()) else { return Ok(0) };
        let now = self.clock.now();
        let transitions = self
            .db
            .write::<u64, Error, _>(move |tx| {
                Box::pin(async move {
                    let mut transitions = 0;
                    for report in &reports {
                        transitions += take(tx, report, now).await?;
                    }
                    tx.set_cursor(CONSUMER, Topic::Finding, last).await?;
                    Ok(transitions)
                })
            })
            .await?;
        self.counters.reports.fetch_add(count as u64, Ordering::Relaxed);
        self.counters.transitions.fetch_add(transitions, Ordering::Relaxed);
        Ok(count as i64)
    }

    /// Looks at what time alone changes.
    pub async fn tick(&self) -> Result<(), Error> {
        let now = self.clock.now();
        let mut by_tenant: HashMap<TenantId, Vec<db::alert::AlertRow>> = HashMap::new();
        for (tenant, row) in self.db.open_alerts_of_all().await? {
            by_tenant.entry(tenant).or_default().push(row);
        }
        for (tenant, rows) in by_tenant {
            let transitions = self
                .db
                .write::<u64, Error, _>(move |tx| {
                    Box::pin(async move {
                        let silences = Silences::load(tx, &tenant, now).await?;
                        let mut transitions = 0;
                        for row in &rows {
                            let changed = decide(Some(row), Command::Tick { now }, &silences);
                            // The rows were read outside this transaction: a report may have been quicker.
                            let Some(change) = changed else { continue };
                            let fresh = tx.current_alerts(&tenant, row.reporter).await?;
                            if fresh.contains(row) {
                                transitions += write(tx, &tenant, change, now).await?;
                            }
                        }
                        Ok(transitions)
                    })
                })
                .await?;
            self.counters.transitions.fetch_add(transitions, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Applies one report to all things it mentions, and, when it is complete, to those it does not.
async fn take(tx: &mut Tx, handed: &Handed<FindingReport>, now: Timestamp) -> Result<u64, Error> {
    let (tenant, report) = (&handed.tenant, &handed.payload);
    let current: HashMap<_, _> =
        tx.current_alerts(tenant, report.monitor).await?.into_iter().map(|row| (row.thing, row)).collect();
    let silences = Silences::load(tx, tenant, now).await?;
    let mut changes = Vec::new();
    let mut mentioned = HashSet::new();
    for finding in &report.findings {
        let thing = finding.labels.fingerprint();
        if mentioned.insert(thing) {
            changes.extend(decide(current.get(&thing), Command::Observe { report, finding }, &silences));
        }
    }
    if report.is_complete {
        for row in current.values().filter(|row| !mentioned.contains(&row.thing)) {
            changes.extend(decide(Some(row), Command::Absent { report }, &silences));
        }
    }
    let mut transitions = 0;
    for change in changes {
        transitions += write(tx, tenant, change, now).await?;
    }
    Ok(transitions)
}

fn decide(current: Option<&db::alert::AlertRow>, command: Command<'_>, silences: &Silences) -> Option<Change> {
    state::apply(current, command, Given { fresh_id: AlertId::generate() }, |labels| silences.matches(labels))
}

async fn write(tx: &mut Tx, tenant: &TenantId, change: Change, now: Timestamp) -> Result<u64, Error> {
    tx.put_alert(tenant, &change.row, now).await?;
    let Some(event) = change.event else { return Ok(0) };
    tx.add_to_timeline(tenant, &event).await?;
    let kind = bus_kind(&event, change.announces, change.row.is_announced);
    tx.hand_off(Topic::Event, tenant, now, &bus_event(&event, kind)).await?;
    Ok(1)
}

/// The type under which the bus hears of a change. Nothing starts for what a silence covers, nothing starts
/// twice when a silence ends, and nobody hears the end of what was never announced.
fn bus_kind(event: &AlertEvent, announces: bool, is_announced: bool) -> &'static str {
    match event.to {
        AlertState::Firing if announces => "io.orchestrix.alert.firing",
        AlertState::Resolved if is_announced => "io.orchestrix.alert.resolved",
        _ if event.alert.is_silenced => "io.orchestrix.alert.silenced",
        _ if event.from == Some(event.to) => "io.orchestrix.alert.unsilenced",
        AlertState::Pending => "io.orchestrix.alert.pending",
        AlertState::Inactive => "io.orchestrix.alert.inactive",
        AlertState::Firing => "io.orchestrix.alert.firing",
        AlertState::Resolved => "io.orchestrix.alert.resolved",
    }
}

fn bus_event(event: &AlertEvent, kind: &str) -> Event {
    let id = format!("{}-{}-{}", event.alert.id, kind.rsplit('.').next().unwrap_or(kind), event.at.nanos());
    let data = serde_json::to_value(event).expect("an alert event is plain data with string keys");
    let mut out = Event::new(id, format!("/monitors/{}", event.alert.monitor_name), kind, data);
    out.subject = Some(event.alert.fingerprint.to_string());
    out.time = jiff::Timestamp::from_nanosecond(i128::from(event.at.nanos())).ok().map(|t| t.to_string());
    out
}

struct Silences(Vec<Matchers>);

impl Silences {
    async fn load(tx: &mut Tx, tenant: &TenantId, now: Timestamp) -> Result<Self, Error> {
        let silences = tx.silences_at(tenant, now).await?;
        // They were compiled when they were accepted; one that no longer compiles silences nothing.
        Ok(Self(silences.iter().filter_map(|silence| Matchers::compile(&silence.matchers).ok()).collect()))
    }

    fn matches(&self, labels: &LabelSet) -> bool {
        self.0.iter().any(|matchers| matchers.matches(labels))
    }
}

#[cfg(test)]
mod tests;
