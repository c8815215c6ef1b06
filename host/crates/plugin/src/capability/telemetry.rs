//! `telemetry`: the tenant's own metrics, logs and traces, as the grant allows.

use crate::{
    bindings::import::{
        telemetry::{self, LogBatch, Series, SpanBatch},
        types::PluginError,
    },
    convert,
    port::TimeRange,
    store::State,
};
use model::{LogRecord, Signal, Span, limits};
use serde_json::json;
use std::time::Instant;
use wasmtime::{Result, component::Resource};

const FIELDS_MAX: usize = 32;

/// A log query's answer, given out page by page.
pub struct LogPages {
    records: std::vec::IntoIter<LogRecord>,
    fields: Vec<String>,
}

pub struct SpanPages {
    spans: std::vec::IntoIter<Span>,
    fields: Vec<String>,
}

impl telemetry::Host for State {
    async fn query_metrics(&mut self, promql: String, range: telemetry::TimeRange) -> Result<Result<Vec<Series>, PluginError>> {
        let (call, began) = (self.call.clone(), Instant::now());
        let arguments = json!({ "promql": promql, "start": range.start, "end": range.end, "step_ms": range.step_ms });
        let result = async {
            call.rights().telemetry(Signal::Metrics).map_err(|why| call.deny("permission.denied", why))?;
            call.shared.ports.telemetry.query_metrics(&call.context.tenant, &promql, self::range(range)).await
        }
        .await;
        let shown = result.as_ref().map(|all| json!(all)).map_err(Clone::clone);
        call.record("telemetry.query-metrics", began, arguments, shown);
        Ok(result.map(|all| convert::series(&all)).map_err(|e| convert::plugin_error(&e)))
    }

    async fn query_logs(
        &mut self,
        query: String,
        range: telemetry::TimeRange,
        mut fields: Vec<String>,
        limit: u32,
    ) -> Result<Result<Resource<LogPages>, PluginError>> {
        let (call, began) = (self.call.clone(), Instant::now());
        fields.truncate(FIELDS_MAX);
        let limit = (limit as usize).min(limits::PAGE_ROWS_MAX);
        let arguments = json!({ "query": query, "start": range.start, "end": range.end, "fields": fields, "limit": limit });
        let result = async {
            call.rights().telemetry(Signal::Logs).map_err(|why| call.deny("permission.denied", why))?;
            call.shared.ports.telemetry.query_logs(&call.context.tenant, &query, self::range(range), limit).await
        }
        .await;
        call.record("telemetry.query-logs", began, arguments, result.as_ref().map(|all| json!(all)).map_err(Clone::clone));
        match result {
            Ok(records) => Ok(Ok(self.table.push(LogPages { records: records.into_iter(), fields })?)),
            Err(error) => Ok(Err(convert::plugin_error(&error))),
        }
    }

    async fn query_spans(
        &mut self,
        query: String,
        range: telemetry::TimeRange,
        mut fields: Vec<String>,
        limit: u32,
    ) -> Result<Result<Resource<SpanPages>, PluginError>> {
        let (call, began) = (self.call.clone(), Instant::now());
        fields.truncate(FIELDS_MAX);
        let limit = (limit as usize).min(limits::PAGE_ROWS_MAX);
        let arguments = json!({ "query": query, "start": range.start, "end": range.end, "fields": fields, "limit": limit });
        let result = async {
            call.rights().telemetry(Signal::Traces).map_err(|why| call.deny("permission.denied", why))?;
            call.shared.ports.telemetry.query_spans(&call.context.tenant, &query, self::range(range), limit).await
        }
        .await;
        call.record("telemetry.query-spans", began, arguments, result.as_ref().map(|all| json!(all)).map_err(Clone::clone));
        match result {
            Ok(spans) => Ok(Ok(self.table.push(SpanPages { spans: spans.into_iter(), fields })?)),
            Err(error) => Ok(Err(convert::plugin_error(&error))),
        }
    }
}

impl telemetry::HostLogPages for State {
    async fn next(&mut self, pages: Resource<LogPages>, max: u32) -> Result<Result<LogBatch, PluginError>> {
        let pages = self.table.get_mut(&pages)?;
        let page: Vec<LogRecord> = pages.records.by_ref().take(max as usize).collect();
        Ok(Ok(convert::log_batch(&page, &pages.fields)))
    }
    async fn drop(&mut self, pages: Resource<LogPages>) -> Result<()> {
        self.table.delete(pages)?;
        Ok(())
    }
}

impl telemetry::HostSpanPages for State {
    async fn next(&mut self, pages: Resource<SpanPages>, max: u32) -> Result<Result<SpanBatch, PluginError>> {
        let pages = self.table.get_mut(&pages)?;
        let page: Vec<Span> = pages.spans.by_ref().take(max as usize).collect();
        Ok(Ok(convert::span_batch(&page, &pages.fields)))
    }
    async fn drop(&mut self, pages: Resource<SpanPages>) -> Result<()> {
        self.table.delete(pages)?;
        Ok(())
    }
}

fn range(range: telemetry::TimeRange) -> TimeRange {
    TimeRange { start: convert::timestamp(range.start), end: convert::timestamp(range.end), step_ms: range.step_ms }
}
