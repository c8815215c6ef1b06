//! Traces: one by its id, spans by what they are.

use crate::{
    error::{Problem, Result},
    extract::{Caller, Form, Path},
    log,
    state::State,
    time::{parse_duration_ms, rfc3339},
};
use axum::{Json, Router, routing};
use model::{Span, SpanStatus};
use serde_json::{Value, json};
use telemetry::SpanQuery;

pub fn routes() -> Router<State> {
    Router::new()
        .route("/api/v1/traces", routing::get(search))
        .route("/api/v1/traces/{id}", routing::get(show))
        .route("/api/v1/services", routing::get(services))
        .route("/api/v1/services/{name}/operations", routing::get(operations))
}

async fn show(state: axum::extract::State<State>, Caller(who): Caller, Path(id): Path<String>) -> Result<Json<Value>> {
    let bytes = hex::decode(&id).ok().filter(|b| b.len() == 16);
    let bytes = bytes.ok_or_else(|| Problem::parameter("id", "a trace id has 32 hexadecimal digits"))?;
    let spans = state.telemetry.traces.trace(&who.tenant, &bytes).await?;
    if spans.is_empty() {
        return Err(Problem::not_found(format_args!("trace {id}")));
    }
    Ok(Json(json!({ "traceId": id.to_lowercase(), "items": spans.iter().map(shown).collect::<Vec<_>>() })))
}

async fn search(state: axum::extract::State<State>, Caller(who): Caller, form: Form) -> Result<Json<Value>> {
    let (start, end) = log::bounds(&form, state.now())?;
    let text = |name: &str| form.get(name).map(str::to_owned);
    let duration = |name: &str| -> Result<Option<u64>> {
        let Some(text) = form.get(name) else { return Ok(None) };
        let ms = parse_duration_ms(name, text)?;
        u64::try_from(ms)
            .map(|ms| Some(ms.saturating_mul(1_000_000)))
            .map_err(|_| Problem::parameter(name, "must not be negative"))
    };
    let status = match form.get("status") {
        None => None,
        Some("ok") => Some(SpanStatus::Ok),
        Some("error") => Some(SpanStatus::Error),
        Some("unset") => Some(SpanStatus::Unset),
        Some(other) => return Err(Problem::parameter("status", format!("{other:?} is none of ok, error, unset"))),
    };
    let query = SpanQuery {
        service: text("service"),
        name: text("name"),
        kind: None,
        status,
        duration_ns_min: duration("minDuration")?,
        duration_ns_max: duration("maxDuration")?,
        attributes: Vec::new(),
        start,
        end,
        limit: log::limit(&form)?,
    };
    let spans = state.telemetry.traces.search(&who.tenant, &query).await?;
    Ok(Json(json!({ "items": spans.iter().map(shown).collect::<Vec<_>>() })))
}

async fn services(state: axum::extract::State<State>, Caller(who): Caller, form: Form) -> Result<Json<Value>> {
    let (start, end) = log::bounds(&form, state.now())?;
    Ok(Json(json!({ "items": state.telemetry.traces.services(&who.tenant, start, end).await? })))
}

async fn operations(
    state: axum::extract::State<State>,
    Caller(who): Caller,
    Path(name): Path<String>,
    form: Form,
) -> Result<Json<Value>> {
    let (start, end) = log::bounds(&form, state.now())?;
    Ok(Json(json!({ "items": state.telemetry.traces.operations(&who.tenant, &name, start, end).await? })))
}

fn shown(span: &Span) -> Value {
    let ns = span.end.nanos().saturating_sub(span.start.nanos());
    let events: Vec<Value> =
        span.events.iter().map(|e| json!({ "time": rfc3339(e.time), "name": e.name, "attributes": e.attributes })).collect();
    json!({
        "traceId": hex::encode(&span.trace_id),
        "spanId": hex::encode(&span.span_id),
        "parentSpanId": hex::encode(&span.parent_span_id),
        "service": span.service(),
        "name": span.name,
        "kind": span.kind,
        "status": span.status,
        "statusMessage": span.status_message,
        "start": rfc3339(span.start),
        "end": rfc3339(span.end),
        "durationMs": ns as f64 / 1e6,
        "attributes": span.attributes,
        "resource": span.resource,
        "events": events,
    })
}
