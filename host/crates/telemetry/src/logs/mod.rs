//! Logs: append, search by stream, words, line filters and attributes, counts over time, and the
//! log of appends for stream detectors.

mod kind;
mod query;

pub use kind::{TRUNCATED_ATTRIBUTE, severity_band, severity_level, stream_labels};
pub(crate) use kind::{admit_attributes, admit_id, admit_time, attribute_terms, truncate};
pub use query::{Direction, LineFilter, LineOp, LogQuery};
pub(crate) use query::{field_holds, field_match, narrow_field};

use crate::lock::FolderLock;
use crate::store::{SignalConfig, SignalStats, Store, TailBatch};
use crate::wal::Lsn;
use crate::{Appended, Corruption, Error, Result, blocking};
use cap_std::fs::Dir;
use kind::LogKind;
use model::{Clock, LabelSet, LogRecord, Matcher, TenantId, Timestamp, limits};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::watch;

/// A page of records, newest first unless asked otherwise.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogPage {
    pub records: Vec<LogRecord>,
    /// There is more in the range than the page holds.
    pub is_truncated: bool,
    /// Files that could not be read; what they held is missing from the page.
    pub warnings: Vec<String>,
}

/// Records of one severity band in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogBucket {
    pub start: Timestamp,
    /// The band's lowest severity number: 0 unknown, 1 trace, 5 debug, 9 info, 13 warn, 17 error, 21 fatal.
    pub severity: u8,
    pub count: u64,
}

/// The logs' store. Clones share it.
#[derive(Clone, Debug)]
pub struct Logs(Store<LogKind>);

impl Logs {
    /// Opens the folder and replays the log. Must run inside a tokio runtime.
    pub async fn open(dir: Dir, config: SignalConfig, clock: Arc<dyn Clock>, lock: Option<Arc<FolderLock>>) -> Result<Self> {
        blocking(move || Store::open(dir, config, clock, lock)).await.map(Self)
    }

    /// Returns once the records are synced and searchable.
    pub async fn append(&self, tenant: &TenantId, records: Vec<LogRecord>) -> Result<Appended> {
        self.0.append(tenant, records).await
    }

    pub async fn search(&self, tenant: &TenantId, query: &LogQuery) -> Result<LogPage> {
        let found = self.0.search(tenant, query.plan()?).await?;
        Ok(LogPage { records: found.records, is_truncated: found.is_truncated, warnings: found.warnings })
    }

    /// Counts per step and severity band, empty ones left out. Limit and direction of the query don't matter.
    pub async fn histogram(&self, tenant: &TenantId, query: &LogQuery, step_ms: i64) -> Result<Vec<LogBucket>> {
        let plan = query.plan()?;
        let (start, span) = (query.start.0, query.end.0.saturating_sub(query.start.0));
        let step =
            step_ms.checked_mul(1_000_000).filter(|s| *s > 0).ok_or_else(|| Error::Invalid("the step must be above 0".into()))?;
        if span / step > limits::QUERY_STEPS_MAX as i64 {
            return Err(Error::Invalid(format!(
                "more than {} steps; make the step larger or the range shorter",
                limits::QUERY_STEPS_MAX
            )));
        }
        let bucket =
            move |time: i64, severity: u64| (start + (time - start).div_euclid(step) * step, severity_band(severity as u8));
        let (counts, _warnings) = self.0.count_by(tenant, plan, bucket).await?;
        Ok(counts.into_iter().map(|((start, severity), count)| LogBucket { start: Timestamp(start), severity, count }).collect())
    }

    /// Distinct streams that match. Splits answer as a whole, so a stream may come that only lies near the range.
    pub async fn streams(
        &self,
        tenant: &TenantId,
        matchers: &[Matcher],
        start: Timestamp,
        end: Timestamp,
    ) -> Result<Vec<LabelSet>> {
        let matches = query::stream_match(matchers)?;
        let streams = self.0.streams(tenant, start.0, end.0).await?;
        Ok(streams.into_iter().filter(|labels| matches(labels)).collect())
    }

    pub async fn label_names(
        &self,
        tenant: &TenantId,
        matchers: &[Matcher],
        start: Timestamp,
        end: Timestamp,
    ) -> Result<Vec<String>> {
        let streams = self.streams(tenant, matchers, start, end).await?;
        let names: BTreeSet<String> = streams.iter().flat_map(|s| s.iter().map(|(n, _)| n.to_owned())).collect();
        Ok(names.into_iter().collect())
    }

    pub async fn label_values(
        &self,
        tenant: &TenantId,
        name: &str,
        matchers: &[Matcher],
        start: Timestamp,
        end: Timestamp,
    ) -> Result<Vec<String>> {
        let streams = self.streams(tenant, matchers, start, end).await?;
        let values: BTreeSet<String> = streams.iter().filter_map(|s| s.get(name).map(str::to_owned)).collect();
        Ok(values.into_iter().collect())
    }

    /// Requests after the cursor, of all tenants, in order; stops after `records_max` records but never inside a request.
    /// A cursor that fell out of the log gets [`Error::CursorLost`].
    pub async fn tail(&self, after: Lsn, records_max: usize) -> Result<Vec<TailBatch<LogRecord>>> {
        self.0.tail(after, records_max).await
    }

    /// Changes with each commit, to the newest number.
    pub fn tail_wake(&self) -> watch::Receiver<u64> {
        self.0.tail_wake()
    }

    /// Where a reader begins that wants only what comes from now on.
    pub fn newest(&self) -> Lsn {
        self.0.newest()
    }

    /// Cuts heads into splits now, merges, and applies retention.
    pub async fn flush(&self) -> Result<()> {
        self.0.flush().await
    }

    /// The work that is otherwise done each tick: what is due becomes a split, old splits go.
    pub async fn maintain(&self) -> Result<()> {
        self.0.maintain().await
    }

    /// Reads everything on disk and tells what is damaged.
    pub async fn verify(&self) -> Result<Vec<Corruption>> {
        self.0.verify().await
    }

    /// Fails once the log has stopped for good.
    pub fn check_alive(&self) -> Result<()> {
        self.0.check_alive()
    }

    pub fn stats(&self) -> SignalStats {
        self.0.stats()
    }

    pub async fn close(&self) {
        self.0.close().await;
    }
}

#[cfg(test)]
mod tests;
