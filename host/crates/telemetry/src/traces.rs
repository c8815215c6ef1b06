//! Traces: spans by trace id, by what they are and how long they took, and which services and
//! operations there are.

mod kind;

use crate::lock::FolderLock;
use crate::logs::{field_holds, field_match, narrow_field};
use crate::store::{Clause, Plan, SignalConfig, SignalStats, Store, TailBatch};
use crate::wal::Lsn;
use crate::{Appended, Corruption, Error, Result, blocking};
use cap_std::fs::Dir;
use kind::SpanKindOf;
use model::{Clock, LabelSet, Matcher, Span, SpanKind, SpanStatus, TenantId, Timestamp, limits};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::watch;

/// Which spans; all parts must hold. Spans are placed by their start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpanQuery {
    pub service: Option<String>,
    pub name: Option<String>,
    pub kind: Option<SpanKind>,
    pub status: Option<SpanStatus>,
    pub duration_ns_min: Option<u64>,
    /// Inclusive.
    pub duration_ns_max: Option<u64>,
    /// Over span attributes, then resource attributes, under label names.
    pub attributes: Vec<Matcher>,
    pub start: Timestamp,
    /// Exclusive.
    pub end: Timestamp,
    /// 0 takes the most, `limits::PAGE_ROWS_MAX`.
    pub limit: usize,
}

/// The spans' store. Clones share it.
#[derive(Clone, Debug)]
pub struct Traces(Store<SpanKindOf>);

impl Traces {
    /// Opens the folder and replays the log. Must run inside a tokio runtime.
    pub async fn open(dir: Dir, config: SignalConfig, clock: Arc<dyn Clock>, lock: Option<Arc<FolderLock>>) -> Result<Self> {
        blocking(move || Store::open(dir, config, clock, lock)).await.map(Self)
    }

    /// Returns once the spans are synced and searchable.
    pub async fn append(&self, tenant: &TenantId, spans: Vec<Span>) -> Result<Appended> {
        self.0.append(tenant, spans).await
    }

    /// All spans of a trace by start, at most `limits::TRACE_SPANS_MAX`; none for an unknown id.
    pub async fn trace(&self, tenant: &TenantId, trace_id: &[u8]) -> Result<Vec<Span>> {
        let id = trace_id.to_vec();
        let wanted = id.clone();
        let plan = Plan {
            start: i64::MIN,
            end: i64::MAX,
            limit: limits::TRACE_SPANS_MAX,
            is_backward: false,
            number: None,
            streams: Arc::new(|_: &LabelSet| true),
            record: Box::new(move |span: &Span, _: &LabelSet| span.trace_id == wanted),
            clauses: vec![Clause::Trace(id)],
            is_exact: true,
        };
        Ok(self.0.search(tenant, plan).await?.records)
    }

    /// Newest first.
    pub async fn search(&self, tenant: &TenantId, query: &SpanQuery) -> Result<Vec<Span>> {
        Ok(self.0.search(tenant, query.plan()?).await?.records)
    }

    /// Services seen around the range: splits answer as a whole.
    pub async fn services(&self, tenant: &TenantId, start: Timestamp, end: Timestamp) -> Result<Vec<String>> {
        self.values(tenant, "service", None, start, end).await
    }

    /// Span names of a service seen around the range.
    pub async fn operations(&self, tenant: &TenantId, service: &str, start: Timestamp, end: Timestamp) -> Result<Vec<String>> {
        self.values(tenant, "name", Some(service), start, end).await
    }

    async fn values(
        &self,
        tenant: &TenantId,
        label: &str,
        service: Option<&str>,
        start: Timestamp,
        end: Timestamp,
    ) -> Result<Vec<String>> {
        let streams = self.0.streams(tenant, start.0, end.0).await?;
        let of_service = streams.iter().filter(|s| service.is_none_or(|service| s.get("service") == Some(service)));
        let values: BTreeSet<String> = of_service.filter_map(|s| s.get(label).map(str::to_owned)).collect();
        Ok(values.into_iter().collect())
    }

    /// As [`crate::Logs::tail`].
    pub async fn tail(&self, after: Lsn, records_max: usize) -> Result<Vec<TailBatch<Span>>> {
        self.0.tail(after, records_max).await
    }

    pub fn tail_wake(&self) -> watch::Receiver<u64> {
        self.0.tail_wake()
    }

    pub fn newest(&self) -> Lsn {
        self.0.newest()
    }

    pub async fn flush(&self) -> Result<()> {
        self.0.flush().await
    }

    pub async fn maintain(&self) -> Result<()> {
        self.0.maintain().await
    }

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

impl SpanQuery {
    fn plan(&self) -> Result<Plan<SpanKindOf>> {
        let (min, max) = (self.duration_ns_min.unwrap_or(0), self.duration_ns_max.unwrap_or(u64::MAX));
        if min > max {
            return Err(Error::Invalid("the shortest duration is longer than the longest".into()));
        }
        let wanted: Vec<(&str, String)> = [
            ("service", self.service.clone()),
            ("name", self.name.clone()),
            ("kind", self.kind.map(|k| kind::kind_text(k).to_owned())),
            ("status", self.status.map(|s| kind::status_text(s).to_owned())),
        ]
        .into_iter()
        .filter_map(|(label, value)| Some((label, value?)))
        .collect();
        let has_streams = !wanted.is_empty();
        let streams: crate::store::StreamMatch =
            Arc::new(move |labels: &LabelSet| wanted.iter().all(|(label, value)| labels.get(label).unwrap_or("") == value));
        let fields = self.attributes.iter().map(field_match).collect::<Result<Vec<_>>>()?;
        let mut clauses = Vec::new();
        if has_streams {
            clauses.push(Clause::Streams(streams.clone()));
        }
        let mut is_exact = true;
        for field in &fields {
            is_exact &= narrow_field(field, &mut clauses);
        }
        Ok(Plan {
            start: self.start.0,
            end: self.end.0,
            limit: if self.limit == 0 { limits::PAGE_ROWS_MAX } else { self.limit.min(limits::PAGE_ROWS_MAX) },
            is_backward: true,
            number: Some(min..=max),
            streams,
            record: Box::new(move |span: &Span, labels: &LabelSet| {
                fields.iter().all(|field| field_holds::<SpanKindOf>(field, span, labels))
            }),
            clauses,
            is_exact,
        })
    }
}

#[cfg(test)]
mod tests;
