//! Logs: searched and counted, in our own shape.

use crate::{
    error::{Code, FieldProblem, Problem, Result},
    extract::{Caller, Form},
    state::State,
    time::{parse_duration_ms, parse_time, rfc3339},
};
use axum::{Json, Router, routing};
use model::{LogRecord, Timestamp, limits};
use query::logql::{self, Selector};
use serde_json::{Value, json};
use telemetry::Direction;

const LIMIT_DEFAULT: usize = 100;
const BACK_MS: i64 = 3_600_000;
/// Bars of a histogram that a page draws when no step is given.
const BARS: i64 = 60;

pub fn routes() -> Router<State> {
    Router::new().route("/api/v1/logs", routing::get(search)).route("/api/v1/logs/histogram", routing::get(histogram))
}

async fn search(state: axum::extract::State<State>, Caller(who): Caller, form: Form) -> Result<Json<Value>> {
    let selector = parse(form.get("query").unwrap_or(""))?;
    let (start, end) = bounds(&form, state.now())?;
    let mut query = selector.to_query(start, end, limit(&form)?, direction(&form)?);
    query.trace_id = trace(&form)?;
    let page = state.telemetry.logs.search(&who.tenant, &query).await?;
    let items: Vec<Value> = page.records.iter().map(shown).collect();
    Ok(Json(json!({ "items": items, "truncated": page.is_truncated, "start": rfc3339(start), "end": rfc3339(end) })))
}

async fn histogram(state: axum::extract::State<State>, Caller(who): Caller, form: Form) -> Result<Json<Value>> {
    let selector = parse(form.get("query").unwrap_or(""))?;
    let (start, end) = bounds(&form, state.now())?;
    let step = match form.get("step") {
        Some(text) => parse_duration_ms("step", text)?,
        None => (end.millis_since(start) / BARS).max(1_000),
    };
    let mut query = selector.to_query(start, end, 0, Direction::Forward);
    query.trace_id = trace(&form)?;
    let buckets = state.telemetry.logs.histogram(&who.tenant, &query, step).await?;
    let items: Vec<Value> = buckets
        .iter()
        .map(|b| json!({ "start": rfc3339(b.start), "severity": severity_name(b.severity), "count": b.count }))
        .collect();
    Ok(Json(json!({ "stepMs": step, "start": rfc3339(start), "end": rfc3339(end), "items": items })))
}

/// Only records of this trace.
fn trace(form: &Form) -> Result<Option<Vec<u8>>> {
    form.get("trace").map(trace_id).transpose()
}

fn trace_id(text: &str) -> Result<Vec<u8>> {
    let bytes = hex::decode(text).ok().filter(|b| b.len() == 16);
    bytes.ok_or_else(|| Problem::parameter("trace", "a trace id has 32 hexadecimal digits"))
}

/// A query, or where it goes wrong.
pub fn parse(text: &str) -> Result<Selector> {
    logql::parse(text).map_err(|error| {
        let place = FieldProblem { message: error.to_string(), ..FieldProblem::default() };
        Problem::new(Code::Query, error.to_string()).with_errors(vec![place])
    })
}

pub fn bounds(form: &Form, now: Timestamp) -> Result<(Timestamp, Timestamp)> {
    let end = match form.get("end") {
        Some(text) => parse_time("end", text)?,
        // One past now: a record that arrived this instant belongs to it.
        None => Timestamp(now.nanos().saturating_add(1)),
    };
    let start = match (form.get("start"), form.get("since")) {
        (Some(text), _) => parse_time("start", text)?,
        (None, Some(since)) => end.plus_millis(-parse_duration_ms("since", since)?),
        (None, None) => end.plus_millis(-BACK_MS),
    };
    if end < start {
        return Err(Problem::parameter("end", "lies before start"));
    }
    Ok((start, end))
}

pub fn limit(form: &Form) -> Result<usize> {
    match form.get("limit") {
        None => Ok(LIMIT_DEFAULT),
        Some(text) => match text.parse() {
            Ok(0) | Err(_) => Err(Problem::parameter("limit", format!("{text:?} must be 1 to {}", limits::PAGE_ROWS_MAX))),
            Ok(n) => Ok(usize::min(n, limits::PAGE_ROWS_MAX)),
        },
    }
}

pub fn direction(form: &Form) -> Result<Direction> {
    match form.get("direction").map(str::to_lowercase).as_deref() {
        None | Some("backward") => Ok(Direction::Backward),
        Some("forward") => Ok(Direction::Forward),
        Some(other) => Err(Problem::parameter("direction", format!("{other:?} is none of backward, forward"))),
    }
}

/// A record as the API shows it.
pub fn shown(record: &LogRecord) -> Value {
    let severity = if record.severity_text.is_empty() { severity_name(record.severity_number) } else { &record.severity_text };
    json!({
        "time": rfc3339(record.time),
        "severity": severity,
        "severityText": severity,
        "severityNumber": record.severity_number,
        "service": record.service(),
        "body": record.body,
        "attributes": record.attributes,
        "resource": record.resource,
        "scope": record.scope,
        "traceId": hex::encode(&record.trace_id),
        "spanId": hex::encode(&record.span_id),
    })
}

/// OpenTelemetry's bands of four numbers each.
fn severity_name(number: u8) -> &'static str {
    match number {
        1..=4 => "trace",
        5..=8 => "debug",
        9..=12 => "info",
        13..=16 => "warn",
        17..=20 => "error",
        21..=24 => "fatal",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_id_has_32_hexadecimal_digits() {
        assert_eq!(trace_id(&"0a".repeat(16)).unwrap(), [10; 16]);
        for bad in ["0a", "zz".repeat(16).as_str(), "0a".repeat(17).as_str(), "é".repeat(16).as_str()] {
            assert!(trace_id(bad).unwrap_err().detail.contains("32 hexadecimal"), "{bad}");
        }
    }
}
