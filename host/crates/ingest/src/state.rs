//! What all protocols share: where data goes, who may send, what the time is, and what was counted.

use crate::{Authenticate, Refusal, Report};
use db::Db;
use model::{Clock, TenantId, Timestamp};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};
use telemetry::Telemetry;

/// Reads stored secrets: HMAC keys of webhooks, bearer tokens of scrape jobs. Implemented by the binary.
#[async_trait::async_trait]
pub trait Secrets: Send + Sync {
    /// `None` when the tenant has no secret of that name.
    async fn secret(&self, tenant: &TenantId, name: &str) -> Result<Option<Vec<u8>>, String>;
}

/// Cheap to clone; one for the whole process.
#[derive(Clone)]
pub struct State(Arc<Inner>);

struct Inner {
    telemetry: Telemetry,
    db: Db,
    auth: Arc<dyn Authenticate>,
    secrets: Arc<dyn Secrets>,
    clock: Arc<dyn Clock>,
    counters: Counters,
}

#[derive(Default)]
pub(crate) struct Counters {
    requests: AtomicU64,
    requests_refused: AtomicU64,
    requests_shed: AtomicU64,
    samples: AtomicU64,
    logs: AtomicU64,
    spans: AtomicU64,
    events: AtomicU64,
    items_refused: AtomicU64,
}

/// Totals since the start, for the host's own `/metrics`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub requests: u64,
    /// Answered 4xx or 5xx as a whole.
    pub requests_refused: u64,
    /// Of those, because the disk could not keep up or was full.
    pub requests_shed: u64,
    pub samples: u64,
    pub logs: u64,
    pub spans: u64,
    pub events: u64,
    /// Samples, log records, spans and events refused inside requests that were otherwise kept.
    pub items_refused: u64,
}

#[derive(Clone, Copy)]
pub(crate) enum Counted {
    Samples,
    Logs,
    Spans,
    Events,
}

impl State {
    pub fn new(
        telemetry: Telemetry,
        db: Db,
        auth: Arc<dyn Authenticate>,
        secrets: Arc<dyn Secrets>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self(Arc::new(Inner { telemetry, db, auth, secrets, clock, counters: Counters::default() }))
    }

    pub fn stats(&self) -> Stats {
        let c = &self.0.counters;
        Stats {
            requests: c.requests.load(Relaxed),
            requests_refused: c.requests_refused.load(Relaxed),
            requests_shed: c.requests_shed.load(Relaxed),
            samples: c.samples.load(Relaxed),
            logs: c.logs.load(Relaxed),
            spans: c.spans.load(Relaxed),
            events: c.events.load(Relaxed),
            items_refused: c.items_refused.load(Relaxed),
        }
    }

    pub(crate) fn telemetry(&self) -> &Telemetry {
        &self.0.telemetry
    }
    pub(crate) fn db(&self) -> &Db {
        &self.0.db
    }
    pub(crate) fn auth(&self) -> &dyn Authenticate {
        &*self.0.auth
    }
    pub(crate) fn secrets(&self) -> &dyn Secrets {
        &*self.0.secrets
    }
    pub(crate) fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// Counts a finished request and hands its result on.
    pub(crate) fn count<T>(&self, result: Result<T, Refusal>) -> Result<T, Refusal> {
        let c = &self.0.counters;
        c.requests.fetch_add(1, Relaxed);
        if let Err(refusal) = &result {
            c.requests_refused.fetch_add(1, Relaxed);
            if refusal.is_shed() {
                c.requests_shed.fetch_add(1, Relaxed);
            }
        }
        result
    }

    pub(crate) fn count_items(&self, what: Counted, report: &Report) {
        let c = &self.0.counters;
        let counter = match what {
            Counted::Samples => &c.samples,
            Counted::Logs => &c.logs,
            Counted::Spans => &c.spans,
            Counted::Events => &c.events,
        };
        counter.fetch_add(report.stored, Relaxed);
        c.items_refused.fetch_add(report.refused, Relaxed);
    }
}
