//! The metrics engine: samples in by batches, out by matchers and time range.
//!
//! A batch is checked, becomes one log record, and after the sync is applied to the *head* in the order of the log by one
//! thread. A head that is big or old enough is frozen, written out as *segments* (one a tenant and time block) and the log
//! is cut. Late samples are welcome within the retention: a later segment of the same block takes them, and the
//! maintenance merges. Of samples with equal labels and time the last write counts.

mod batch;
mod chunk;
mod columns;
mod engine;
mod head;
mod index;
mod maintain;
mod matching;
mod metadata;
mod read;
mod segment;
mod varint;

pub use batch::MetricBatch;

use crate::{Appended, Corruption, Result, lock::FolderLock, wal::DiskFault};
use async_trait::async_trait;
use cap_std::fs::Dir;
use engine::Inner;
use model::{Clock, LabelSet, Matcher, MetricMetadata, TenantId, Timestamp, limits};
use std::sync::Arc;
use tokio::sync::broadcast;

/// How the metrics engine behaves.
#[derive(Clone, Debug)]
pub struct MetricsConfig {
    /// Samples older than this are refused, not read, and removed block by block.
    pub retention_ms: i64,
    /// The length of a time block.
    pub block_ms: i64,
    /// Log bytes in a head before it is written out; bounds memory and the replay after a crash.
    pub flush_bytes: u64,
    /// A head is written out at this age in any case.
    pub flush_age_ms: i64,
    /// Bytes accepted but not yet applied; beyond it appends are `Busy`.
    pub pending_bytes_max: usize,
    pub series_per_tenant_max: usize,
    /// Samples one query may load.
    pub query_samples_max: usize,
    /// Makes the log's disk fail, for tests.
    pub fault: Option<Arc<DiskFault>>,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        const HOUR_MS: i64 = 60 * 60 * 1000;
        Self {
            retention_ms: 30 * 24 * HOUR_MS,
            block_ms: 2 * HOUR_MS,
            flush_bytes: 128 << 20,
            flush_age_ms: 2 * HOUR_MS,
            pending_bytes_max: 64 << 20,
            series_per_tenant_max: limits::SERIES_PER_TENANT_MAX,
            query_samples_max: limits::QUERY_SAMPLES_MAX,
            fault: None,
        }
    }
}

/// The open metrics engine. Clones share it.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

/// Told after each commit: these metrics of this tenant have news. A hint may be lost; state is the truth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricHint {
    pub tenant: TenantId,
    /// Sorted, each once.
    pub names: Vec<Arc<str>>,
    pub appended_at: Timestamp,
}

/// A series' samples in a time range, ascending.
#[derive(Clone, Debug, PartialEq)]
pub struct SeriesData {
    pub labels: Arc<LabelSet>,
    pub times: Vec<i64>,
    pub values: Vec<f64>,
}

/// Counters since the start, and present sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetricsStats {
    pub requests: u64,
    pub samples_stored: u64,
    pub samples_rejected: u64,
    pub requests_busy: u64,
    pub requests_disk_full: u64,
    pub queries: u64,
    pub samples_read: u64,
    pub wal_syncs: u64,
    pub wal_bytes: u64,
    pub wal_torn_bytes: u64,
    pub flushes: u64,
    pub maintenance_failures: u64,
    pub compactions: u64,
    pub segments_expired: u64,
    pub corruptions: u64,
    pub head_series: u64,
    pub head_samples: u64,
    pub segments: u64,
    pub segment_bytes: u64,
}

impl Metrics {
    /// Opens the engine in `dir`; `lock` is held as long as anything of it lives. Blocks.
    pub(crate) fn open(dir: Dir, config: MetricsConfig, clock: Arc<dyn Clock>, lock: Option<Arc<FolderLock>>) -> Result<Self> {
        Inner::open(dir, config, clock, lock).map(|inner| Self(Arc::new(inner)))
    }

    /// Stores a batch and returns once it is synced and readable. Series and samples that break a limit are refused with
    /// the reason, the others stored. [`crate::Error::Busy`] and [`crate::Error::DiskFull`] mean that nothing was.
    pub async fn append(&self, tenant: &TenantId, batch: MetricBatch) -> Result<Appended> {
        self.0.append(tenant, batch).await
    }

    /// Hints for whoever evaluates on arrival.
    pub fn hints(&self) -> broadcast::Receiver<Arc<MetricHint>> {
        self.0.shared.hints.subscribe()
    }

    pub fn stats(&self) -> MetricsStats {
        self.0.shared.stats()
    }

    /// Fails once the log has stopped for good.
    pub fn check_alive(&self) -> Result<()> {
        self.0.shared.wal.check_alive()
    }

    /// Damage found on disk since the start, each place once, the first thousand.
    pub fn corruptions(&self) -> Vec<Corruption> {
        self.0.shared.corruptions()
    }

    /// Reads every byte of every segment and returns all damage there is.
    pub async fn verify(&self) -> Result<Vec<Corruption>> {
        let shared = self.0.shared.clone();
        crate::blocking(move || shared.verify()).await
    }

    /// Writes the head out now, merges and expires what is due. The background does the same by itself.
    pub async fn flush(&self) -> Result<()> {
        let shared = self.0.shared.clone();
        crate::blocking(move || shared.maintain(true)).await
    }

    /// Writes the head out and stops. Appends are refused from now on; reads go on.
    pub async fn close(&self) {
        let inner = self.0.clone();
        let closed = crate::blocking(move || inner.close()).await;
        if let Err(error) = closed {
            // The log has it all: the next start replays.
            tracing::warn!(%error, "the metrics head was not written out at shutdown");
        }
    }
}

/// What queries read metrics through. Matchers as in Prometheus; times in milliseconds, both ends included.
#[async_trait]
pub trait MetricReader: Send + Sync {
    /// Series with their samples, sorted by labels. Staleness markers are included as NaN with
    /// [`model::STALE_NAN_BITS`]. More than `QUERY_SAMPLES_MAX` samples are [`crate::Error::TooLarge`].
    async fn select(&self, tenant: &TenantId, matchers: &[Matcher], start_ms: i64, end_ms: i64) -> Result<Vec<SeriesData>>;

    async fn series(&self, tenant: &TenantId, matchers: &[Matcher], start_ms: i64, end_ms: i64) -> Result<Vec<Arc<LabelSet>>>;

    async fn label_names(&self, tenant: &TenantId, matchers: &[Matcher], start_ms: i64, end_ms: i64) -> Result<Vec<String>>;

    async fn label_values(
        &self,
        tenant: &TenantId,
        name: &str,
        matchers: &[Matcher],
        start_ms: i64,
        end_ms: i64,
    ) -> Result<Vec<String>>;

    /// Of one metric or of all, sorted by name.
    async fn metadata(&self, tenant: &TenantId, metric: Option<&str>) -> Result<Vec<MetricMetadata>>;
}

#[async_trait]
impl MetricReader for Metrics {
    async fn select(&self, tenant: &TenantId, matchers: &[Matcher], start_ms: i64, end_ms: i64) -> Result<Vec<SeriesData>> {
        let (shared, tenant, matchers) = (self.0.shared.clone(), tenant.clone(), matchers.to_vec());
        crate::blocking(move || shared.select(&tenant, &matchers, start_ms, end_ms)).await
    }

    async fn series(&self, tenant: &TenantId, matchers: &[Matcher], start_ms: i64, end_ms: i64) -> Result<Vec<Arc<LabelSet>>> {
        let (shared, tenant, matchers) = (self.0.shared.clone(), tenant.clone(), matchers.to_vec());
        crate::blocking(move || shared.series(&tenant, &matchers, start_ms, end_ms)).await
    }

    async fn label_names(&self, tenant: &TenantId, matchers: &[Matcher], start_ms: i64, end_ms: i64) -> Result<Vec<String>> {
        let (shared, tenant, matchers) = (self.0.shared.clone(), tenant.clone(), matchers.to_vec());
        crate::blocking(move || shared.label_names(&tenant, &matchers, start_ms, end_ms)).await
    }

    async fn label_values(
        &self,
        tenant: &TenantId,
        name: &str,
        matchers: &[Matcher],
        start_ms: i64,
        end_ms: i64,
    ) -> Result<Vec<String>> {
        let (shared, tenant, matchers, name) = (self.0.shared.clone(), tenant.clone(), matchers.to_vec(), name.to_owned());
        crate::blocking(move || shared.label_values(&tenant, &name, &matchers, start_ms, end_ms)).await
    }

    async fn metadata(&self, tenant: &TenantId, metric: Option<&str>) -> Result<Vec<MetricMetadata>> {
        Ok(self.0.shared.metadata.read().list(tenant, metric))
    }
}

#[cfg(test)]
mod tests;
