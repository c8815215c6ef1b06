//! Loki's query API over our logs: what Grafana's Loki data source calls first.

use crate::{
    error::{Code, Problem},
    extract::{Caller, Form, Path},
    log,
    state::State,
    time::parse_time,
};
use axum::{
    Json, Router,
    response::{IntoResponse, Response},
    routing,
};
use model::{LabelSet, LogRecord, Timestamp};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A problem as Loki's clients read it: JSON with `message`.
pub struct Refused(Problem);

impl<E: Into<Problem>> From<E> for Refused {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        self.0.log();
        let body = json!({ "status": "error", "message": self.0.detail, "code": self.0.code.as_str() });
        (self.0.code.status(), Json(body)).into_response()
    }
}

type Result<T> = std::result::Result<T, Refused>;

pub fn routes() -> Router<State> {
    Router::new()
        .route("/loki/api/v1/query", routing::get(query))
        .route("/loki/api/v1/query_range", routing::get(query_range))
        .route("/loki/api/v1/labels", routing::get(labels))
        .route("/loki/api/v1/label/{name}/values", routing::get(label_values))
}

async fn query(state: axum::extract::State<State>, Caller(who): Caller, form: Form) -> Result<Json<Value>> {
    // Grafana checks a data source by this very query; it needs no store.
    if form.get("query").map(|q| q.replace(' ', "")) == Some("vector(1)+vector(1)".into()) {
        let t = state.now().millis() / 1_000;
        return Ok(Json(
            json!({ "status": "success", "data": { "resultType": "vector", "result": [{ "metric": {}, "value": [t, "2"] }] } }),
        ));
    }
    let end = match form.get("time") {
        Some(text) => parse_time("time", text)?,
        None => state.now(),
    };
    let start = end.plus_millis(-3_600_000);
    answer(&state, &who.tenant, &form, start, Timestamp(end.nanos().saturating_add(1))).await
}

async fn query_range(state: axum::extract::State<State>, Caller(who): Caller, form: Form) -> Result<Json<Value>> {
    let (start, end) = log::bounds(&form, state.now())?;
    answer(&state, &who.tenant, &form, start, end).await
}

async fn answer(state: &State, tenant: &model::TenantId, form: &Form, start: Timestamp, end: Timestamp) -> Result<Json<Value>> {
    let text = form.required("query")?;
    if text.contains('(') && !text.trim_start().starts_with('{') {
        return Err(Problem::new(
            Code::Query,
            "metric queries over logs are not offered yet; send a selector such as {service_name=\"cart\"} |= \"timeout\"",
        )
        .into());
    }
    let selector = log::parse(text)?;
    let query = selector.to_query(start, end, log::limit(form)?, log::direction(form)?);
    let page = state.telemetry.logs.search(tenant, &query).await.map_err(Problem::from)?;
    Ok(Json(json!({ "status": "success", "data": { "resultType": "streams", "result": streams(&page.records), "stats": {} } })))
}

async fn labels(state: axum::extract::State<State>, Caller(who): Caller, form: Form) -> Result<Json<Value>> {
    let (start, end) = log::bounds(&form, state.now())?;
    let names = state.telemetry.logs.label_names(&who.tenant, &[], start, end).await.map_err(Problem::from)?;
    Ok(Json(json!({ "status": "success", "data": names })))
}

async fn label_values(
    state: axum::extract::State<State>,
    Caller(who): Caller,
    Path(name): Path<String>,
    form: Form,
) -> Result<Json<Value>> {
    let (start, end) = log::bounds(&form, state.now())?;
    let values = state.telemetry.logs.label_values(&who.tenant, &name, &[], start, end).await.map_err(Problem::from)?;
    Ok(Json(json!({ "status": "success", "data": values })))
}

/// Records by stream, each stream's lines in the order they came.
fn streams(records: &[LogRecord]) -> Vec<Value> {
    let mut by_stream: BTreeMap<LabelSet, Vec<Value>> = BTreeMap::new();
    for record in records {
        let mut labels = LabelSet::from_pairs(record.resource.iter().map(|(name, value)| (label_name(name), value.to_text())));
        if !record.severity_text.is_empty() {
            labels.set("level", record.severity_text.to_lowercase());
        }
        let mut line = vec![json!(record.time.nanos().to_string()), json!(record.body)];
        let mut metadata = serde_json::Map::new();
        metadata.extend(record.attributes.iter().map(|(name, value)| (label_name(name), Value::String(value.to_text()))));
        if !record.trace_id.is_empty() {
            metadata.insert("trace_id".into(), hex::encode(&record.trace_id).into());
        }
        if !metadata.is_empty() {
            line.push(json!({ "structuredMetadata": metadata }));
        }
        by_stream.entry(labels).or_default().push(Value::Array(line));
    }
    by_stream.into_iter().map(|(stream, values)| json!({ "stream": stream, "values": values })).collect()
}

fn label_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect()
}
