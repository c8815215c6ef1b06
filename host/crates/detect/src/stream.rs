//! Stream monitors: a warm detector with one owner, fed from the log of the logs by cursor.
//!
//! Requests are observed one by one in the order of the log, and ticks lie on a fixed grid of a second between
//! them, by the arrival times that the log keeps. So what is found depends neither on where reads were cut nor on
//! a restart: cursor, next tick, snapshot and findings are committed together, and after a crash the detector is
//! made again from that snapshot.

use crate::{
    detector::{Detectors, Stream},
    filter::Filter,
    judge,
    service::Shared,
    spec::Spec,
};
use db::{
    Db, Topic,
    monitor::{Monitor, StreamState},
};
use model::{Clock, ErrorRecord, Finding, FindingReport, LogRecord, Timestamp};
use std::{sync::Arc, time::Duration};
use telemetry::{Logs, Lsn, TailBatch};
use tokio_util::sync::CancellationToken;

/// The grid of ticks: windows close within a second without traffic.
const TICK_MS: i64 = 1_000;
/// Ticks made up for after a pause; before that nothing was there to change.
const TICKS_BEHIND_MAX: i64 = 60;
/// A tick waits this long for requests that were accepted before it and are not readable yet.
const GRACE_MS: i64 = 100;
/// Records of one read: a bounded piece of memory, and a transaction that stays short.
const READ_RECORDS: usize = 2_000;
/// A cursor that moved without findings is stored this often: what is read again after a crash.
const IDLE_COMMIT_MS: i64 = 5_000;
/// After so many failures at one request it is passed over, so that one record can't stop a monitor for good.
const FAILURES_MAX: u32 = 5;

pub(crate) struct Runner {
    pub monitor: Monitor,
    pub spec: Arc<Spec>,
    pub filter: Arc<Filter>,
    pub db: Db,
    pub logs: Logs,
    pub detectors: Arc<dyn Detectors>,
    pub clock: Arc<dyn Clock>,
    pub shared: Arc<Shared>,
}

/// The detector between commits.
struct Warm {
    stream: Box<dyn Stream>,
    state: StreamState,
    reports: Vec<FindingReport>,
    committed_at: Timestamp,
}

impl Runner {
    pub(crate) async fn run(self, cancel: CancellationToken) {
        let mut wake = self.logs.tail_wake();
        let mut failures = 0_u32;
        loop {
            let failed = tokio::select! {
                () = cancel.cancelled() => return,
                failed = self.follow(&mut wake, &mut failures) => failed,
            };
            failures += 1;
            let name = &self.monitor.name;
            tracing::warn!(monitor = %name, tenant = %self.monitor.tenant, error = %failed.message, failures, "stream detector failed");
            self.shared.stream_failed(&self.db, &self.monitor, &failed, self.clock.now()).await;
            let pause = Duration::from_millis(100 << failures.min(8));
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Follows the log from the committed state until something fails.
    async fn follow(&self, wake: &mut tokio::sync::watch::Receiver<u64>, failures: &mut u32) -> ErrorRecord {
        let mut warm = match self.warm_up().await {
            Ok(warm) => warm,
            Err(error) => return error,
        };
        loop {
            wake.borrow_and_update();
            let batches = match self.logs.tail(Lsn(warm.state.cursor), READ_RECORDS).await {
                Ok(batches) => batches,
                Err(telemetry::Error::CursorLost { .. }) => {
                    let newest = self.logs.newest().0;
                    tracing::warn!(monitor = %self.monitor.name, from = warm.state.cursor, to = newest, "log records were gone before the monitor read them");
                    warm.state.cursor = newest;
                    continue;
                }
                Err(error) => return failure("host.telemetry", error.to_string()),
            };
            let is_caught_up = batches.is_empty();
            for batch in batches {
                if let Err(error) = self.take(&mut warm, &batch).await {
                    // What succeeded before the failing request is kept, so that only this one is tried again.
                    if let Err(error) = self.store(&mut warm).await {
                        return failure("host.database", error.to_string());
                    }
                    if *failures + 1 >= FAILURES_MAX {
                        if let Err(error) = self.pass_over(batch.lsn).await {
                            return error;
                        }
                        *failures = 0;
                    }
                    return error;
                }
            }
            if is_caught_up {
                let now = self.clock.now();
                if let Err(error) = self.tick_until(&mut warm, now.plus_millis(-GRACE_MS)).await {
                    return error;
                }
            }
            match self.commit(&mut warm).await {
                Ok(true) => *failures = 0,
                Ok(false) => {}
                Err(error) => return failure("host.database", error.to_string()),
            }
            if is_caught_up {
                let now = self.clock.now();
                let pause = warm.state.next_tick.millis_since(now).saturating_add(GRACE_MS + 1).clamp(5, TICK_MS);
                let _ = tokio::time::timeout(Duration::from_millis(pause.unsigned_abs()), wake.changed()).await;
            }
        }
    }

    async fn warm_up(&self) -> Result<Warm, ErrorRecord> {
        let Monitor { tenant, id, .. } = &self.monitor;
        let now = self.clock.now();
        let stored = self.db.stream_state(tenant, *id).await.map_err(|e| failure("host.database", e.to_string()))?;
        let is_new = stored.is_none();
        let state =
            stored.unwrap_or_else(|| StreamState { cursor: self.logs.newest().0, next_tick: grid_after(now), snapshot: None });
        let stream = self.detectors.stream(tenant, &self.spec.detector, &self.spec.params, state.snapshot.clone()).await?;
        let mut warm = Warm { stream, state, reports: Vec::new(), committed_at: now };
        if is_new {
            // Where a monitor began is kept at once: a crash must not move the beginning.
            self.store(&mut warm).await.map_err(|e| failure("host.database", e.to_string()))?;
        }
        Ok(warm)
    }

    /// One request of the log.
    async fn take(&self, warm: &mut Warm, batch: &TailBatch<LogRecord>) -> Result<(), ErrorRecord> {
        self.tick_until(warm, batch.arrival).await?;
        if batch.tenant == self.monitor.tenant {
            let seen: Vec<LogRecord> = batch.records.iter().filter(|r| self.filter.matches(r)).cloned().collect();
            if !seen.is_empty() {
                let findings = warm.stream.observe(batch.arrival, &seen).await?;
                self.note(warm, batch.arrival, findings)?;
            }
        }
        warm.state.cursor = batch.lsn.0;
        Ok(())
    }

    async fn tick_until(&self, warm: &mut Warm, until: Timestamp) -> Result<(), ErrorRecord> {
        if until.millis_since(warm.state.next_tick) > TICKS_BEHIND_MAX * TICK_MS {
            warm.state.next_tick = grid_after(until.plus_millis(-TICKS_BEHIND_MAX * TICK_MS));
        }
        while warm.state.next_tick <= until {
            let at = warm.state.next_tick;
            let findings = warm.stream.tick(at).await?;
            self.note(warm, at, findings)?;
            warm.state.next_tick = at.plus_millis(TICK_MS);
        }
        Ok(())
    }

    fn note(&self, warm: &mut Warm, at: Timestamp, findings: Vec<Finding>) -> Result<(), ErrorRecord> {
        if findings.len() > judge::FINDINGS_MAX {
            return Err(failure(
                "plugin.output",
                format!("{} findings at once; at most {}", findings.len(), judge::FINDINGS_MAX),
            ));
        }
        if !findings.is_empty() {
            // A stream detector tells changes, not the whole: the report is not complete.
            warm.reports.push(judge::report(self.monitor.id, &self.monitor.name, &self.spec, at, false, findings));
        }
        Ok(())
    }

    /// Stores what is due; answers whether it did.
    async fn commit(&self, warm: &mut Warm) -> db::Result<bool> {
        let now = self.clock.now();
        if warm.reports.is_empty() && now.millis_since(warm.committed_at) < IDLE_COMMIT_MS {
            return Ok(false);
        }
        self.store(warm).await?;
        Ok(true)
    }

    async fn store(&self, warm: &mut Warm) -> db::Result<()> {
        let now = self.clock.now();
        let snapshot = warm.stream.snapshot();
        warm.state.snapshot = (!snapshot.is_empty()).then_some(snapshot);
        let (reports, state) = (std::mem::take(&mut warm.reports), warm.state.clone());
        let (tenant, id) = (self.monitor.tenant.clone(), self.monitor.id);
        let statuses: Vec<Finding> = reports.iter().flat_map(|r| r.findings.iter().cloned()).collect();
        let written = reports.len() as u64;
        self.db
            .write::<_, db::Error, _>(move |tx| {
                Box::pin(async move {
                    if !tx.has_monitor(id).await? {
                        return Ok(());
                    }
                    for report in &reports {
                        tx.hand_off(Topic::Finding, &tenant, report.at, report).await?;
                    }
                    tx.set_stream_state(&tenant, id, &state, now).await
                })
            })
            .await?;
        warm.committed_at = now;
        self.shared.stream_went_on(&self.db, &self.monitor, now, &statuses, written).await;
        Ok(())
    }

    async fn pass_over(&self, lsn: Lsn) -> Result<(), ErrorRecord> {
        let Monitor { tenant, id, name, .. } = self.monitor.clone();
        tracing::warn!(monitor = %name, lsn = lsn.0, "a request that the detector fails on is passed over");
        let stored = self.db.stream_state(&tenant, id).await.map_err(|e| failure("host.database", e.to_string()))?;
        let Some(mut state) = stored else { return Ok(()) };
        state.cursor = lsn.0;
        let now = self.clock.now();
        self.db
            .write::<_, db::Error, _>(move |tx| Box::pin(async move { tx.set_stream_state(&tenant, id, &state, now).await }))
            .await
            .map_err(|e| failure("host.database", e.to_string()))
    }
}

fn grid_after(t: Timestamp) -> Timestamp {
    Timestamp::from_millis(t.millis().div_euclid(TICK_MS).saturating_add(1).saturating_mul(TICK_MS))
}

fn failure(code: &str, message: String) -> ErrorRecord {
    ErrorRecord { code: code.into(), message, retry: model::RetryAdvice::Now, details: serde_json::Value::Null }
}
