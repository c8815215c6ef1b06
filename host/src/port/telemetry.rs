//! The tenant's telemetry as plugins may read it.

use super::{failed, refusal};
use ::telemetry::{Direction, SpanQuery, Telemetry};
use async_trait::async_trait;
use model::{ErrorRecord, LabelSet, LogRecord, MatchOp, Matcher, RetryAdvice, Series, Span, SpanKind, SpanStatus, TenantId};
use plugin::{TelemetryPort, TimeRange};
use query::promql::{self, Engine, Value};
use std::sync::Arc;

pub struct Reader {
    telemetry: Telemetry,
    engine: Arc<Engine>,
}

impl Reader {
    pub fn new(telemetry: Telemetry, engine: Arc<Engine>) -> Self {
        Self { telemetry, engine }
    }
}

#[async_trait]
impl TelemetryPort for Reader {
    async fn query_metrics(&self, tenant: &TenantId, text: &str, range: TimeRange) -> Result<Vec<Series>, ErrorRecord> {
        let expr = promql::parse(text).map_err(|e| refusal("query.invalid", format!("{text:?}: {e}"), RetryAdvice::Never))?;
        let failed_query = |e: query::Error| refusal("query.failed", e.to_string(), RetryAdvice::AfterMs(1_000));
        if range.step_ms > 0 {
            let step = i64::try_from(range.step_ms).unwrap_or(i64::MAX);
            return self.engine.range(tenant, &expr, range.start.millis(), range.end.millis(), step).await.map_err(failed_query);
        }
        Ok(match self.engine.instant(tenant, &expr, range.end.millis()).await.map_err(failed_query)? {
            Value::Vector(samples) => {
                samples.into_iter().map(|s| Series { labels: s.labels, times: vec![s.t], values: vec![s.v] }).collect()
            }
            Value::Matrix(series) => series,
            Value::Scalar { t, v } => vec![Series { labels: LabelSet::default(), times: vec![t], values: vec![v] }],
            Value::String { .. } => {
                return Err(refusal("query.invalid", "a text has no samples: ask for a number", RetryAdvice::Never));
            }
        })
    }

    async fn query_logs(
        &self,
        tenant: &TenantId,
        text: &str,
        range: TimeRange,
        limit: usize,
    ) -> Result<Vec<LogRecord>, ErrorRecord> {
        let selector =
            query::logql::parse(text).map_err(|e| refusal("query.invalid", format!("{text:?}: {e}"), RetryAdvice::Never))?;
        let query = selector.to_query(range.start, range.end, limit, Direction::Backward);
        Ok(self.telemetry.logs.search(tenant, &query).await.map_err(|e| failed(&e))?.records)
    }

    async fn query_spans(&self, tenant: &TenantId, text: &str, range: TimeRange, limit: usize) -> Result<Vec<Span>, ErrorRecord> {
        let query = span_query(text).map_err(|why| refusal("query.invalid", why, RetryAdvice::Never))?;
        let query = SpanQuery { start: range.start, end: range.end, limit, ..query };
        self.telemetry.traces.search(tenant, &query).await.map_err(|e| failed(&e))
    }
}

/// A log selector's braces: `service`, `name`, `kind` and `status` are the span's own, the rest are attributes.
fn span_query(text: &str) -> Result<SpanQuery, String> {
    let selector = query::logql::parse(text).map_err(|e| format!("{text:?}: {e}"))?;
    let parsed = selector.to_query(Default::default(), Default::default(), 0, Direction::Backward);
    if !parsed.lines.is_empty() || parsed.text.is_some() {
        return Err(format!("{text:?}: spans have no lines; select by labels such as {{service=\"shop\", status=\"error\"}}"));
    }
    let mut query = SpanQuery::default();
    for matcher in parsed.streams.into_iter().chain(parsed.fields) {
        let Matcher { name, op, value } = &matcher;
        let unknown = || format!("{text:?}: {value:?} is no {name} of a span");
        match (name.as_str(), op) {
            ("service" | "service_name", MatchOp::Equal) => query.service = Some(value.clone()),
            ("name", MatchOp::Equal) => query.name = Some(value.clone()),
            ("kind", MatchOp::Equal) => query.kind = Some(kind(value).ok_or_else(unknown)?),
            ("status", MatchOp::Equal) => query.status = Some(status(value).ok_or_else(unknown)?),
            ("service" | "name" | "kind" | "status", _) => return Err(format!("{text:?}: {name} takes only =")),
            _ => query.attributes.push(matcher),
        }
    }
    Ok(query)
}

fn kind(text: &str) -> Option<SpanKind> {
    serde_json::from_value(text.into()).ok()
}

fn status(text: &str) -> Option<SpanStatus> {
    serde_json::from_value(text.into()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_selector_names_the_spans_own_parts_and_attributes() {
        let query = span_query(r#"{service="shop", status="error", http_method="GET"}"#).unwrap();
        assert_eq!((query.service.as_deref(), query.status), (Some("shop"), Some(SpanStatus::Error)));
        assert_eq!(query.attributes, [Matcher::equal("http_method", "GET")]);
        for bad in [r#"{kind="nonsense"}"#, r#"{service=~"s.*"}"#, r#"{service="s"} |= "text""#, "{"] {
            assert!(span_query(bad).is_err(), "{bad}");
        }
    }
}
