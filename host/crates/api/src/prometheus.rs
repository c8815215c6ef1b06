//! The Prometheus HTTP API over our store: what Grafana, promtool and dashboards call.
//!
//! Failures have Prometheus' shape (`status`, `errorType`, `error`) beside our code.

use crate::{
    error::{Code, Problem},
    extract::{Caller, Form, Path},
    state::State,
    time::{parse_duration_ms, parse_time},
};
use axum::{
    Json, Router,
    response::{IntoResponse, Response},
    routing,
};
use model::{LabelSet, Matcher, TenantId, Timestamp, limits};
use query::promql::{self, Answer, Expr, Node, Value};
use serde_json::{Value as Data, json};
use telemetry::MetricReader;

/// How far back the label endpoints look without a begin: what is in use now, at the price of a few blocks.
const LABELS_BACK_MS: i64 = 24 * 3_600_000;

/// A problem in Prometheus' shape.
pub struct Refused(Problem);

impl<E: Into<Problem>> From<E> for Refused {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        self.0.log();
        let kind = match self.0.code {
            Code::Internal => "internal",
            Code::Busy => "unavailable",
            Code::QueryTooBig => "execution",
            Code::NotFound => "not_found",
            _ => "bad_data",
        };
        let body = json!({ "status": "error", "errorType": kind, "error": self.0.detail, "code": self.0.code.as_str() });
        (self.0.code.status(), Json(body)).into_response()
    }
}

type Result<T> = std::result::Result<T, Refused>;

pub fn routes() -> Router<State> {
    Router::new()
        .route("/api/v1/query", routing::get(instant).post(instant))
        .route("/api/v1/query_range", routing::get(range).post(range))
        .route("/api/v1/query_exemplars", routing::get(exemplars).post(exemplars))
        .route("/api/v1/format_query", routing::get(format_query))
        .route("/api/v1/series", routing::get(series).post(series))
        .route("/api/v1/labels", routing::get(labels).post(labels))
        .route("/api/v1/label/{name}/values", routing::get(label_values))
        .route("/api/v1/metadata", routing::get(metadata))
        .route("/api/v1/status/buildinfo", routing::get(buildinfo))
        .route("/api/v1/status/config", routing::get(|| async { done(json!({ "yaml": "" })) }))
        .route("/api/v1/status/flags", routing::get(|| async { done(json!({})) }))
        .route("/api/v1/status/runtimeinfo", routing::get(|| async { done(json!({ "storageRetention": "" })) }))
        .route("/api/v1/status/tsdb", routing::get(tsdb))
}

fn done(data: Data) -> Json<Data> {
    Json(json!({ "status": "success", "data": data }))
}

async fn instant(state: axum::extract::State<State>, Caller(who): Caller, form: Form) -> Result<Json<Data>> {
    let expr = parse(form.required("query")?)?;
    let at = match form.get("time") {
        Some(text) => parse_time("time", text)?,
        None => state.now(),
    };
    let answer = state.queries.instant_annotated(&who.tenant, &expr, at.millis()).await.map_err(failed)?;
    Ok(shape(answer))
}

async fn range(state: axum::extract::State<State>, Caller(who): Caller, form: Form) -> Result<Json<Data>> {
    let expr = parse(form.required("query")?)?;
    let start = parse_time("start", form.required("start")?)?.millis();
    let end = parse_time("end", form.required("end")?)?.millis();
    let step = parse_duration_ms("step", form.required("step")?)?;
    if step <= 0 {
        return Err(Problem::parameter("step", "must be above 0").into());
    }
    if end < start {
        return Err(Problem::parameter("end", "lies before start").into());
    }
    if (end - start) / step >= limits::QUERY_STEPS_MAX as i64 {
        let why = format!("makes more than {} points a series; take a larger one, or a shorter range", limits::QUERY_STEPS_MAX);
        return Err(Problem::parameter("step", why).into());
    }
    let answer = state.queries.range_annotated(&who.tenant, &expr, start, end, step).await.map_err(failed)?;
    Ok(shape(answer))
}

/// Exemplars are not stored; an empty answer is what Prometheus gives when it has none.
async fn exemplars(form: Form) -> Result<Json<Data>> {
    parse(form.required("query")?)?;
    Ok(done(json!([])))
}

async fn format_query(form: Form) -> Result<Json<Data>> {
    Ok(done(json!(parse(form.required("query")?)?.to_string())))
}

async fn series(state: axum::extract::State<State>, Caller(who): Caller, form: Form) -> Result<Json<Data>> {
    let (start, end) = bounds(&state, &form)?;
    let sets = selectors(&form)?;
    if sets.is_empty() {
        return Err(Problem::parameter("match[]", "is missing; give at least one selector").into());
    }
    let mut found = std::collections::BTreeSet::new();
    for matchers in &sets {
        let series = state.telemetry.metrics.series(&who.tenant, matchers, start, end).await.map_err(Problem::from)?;
        found.extend(series.into_iter().map(|labels| (*labels).clone()));
    }
    let limit = limit(&form)?;
    Ok(done(json!(found.iter().take(limit).collect::<Vec<&LabelSet>>())))
}

async fn labels(state: axum::extract::State<State>, Caller(who): Caller, form: Form) -> Result<Json<Data>> {
    let (start, end) = bounds(&state, &form)?;
    let mut found = std::collections::BTreeSet::new();
    for matchers in one_at_least(selectors(&form)?) {
        found.extend(state.telemetry.metrics.label_names(&who.tenant, &matchers, start, end).await.map_err(Problem::from)?);
    }
    let limit = limit(&form)?;
    Ok(done(json!(found.iter().take(limit).collect::<Vec<_>>())))
}

async fn label_values(
    state: axum::extract::State<State>,
    Caller(who): Caller,
    Path(name): Path<String>,
    form: Form,
) -> Result<Json<Data>> {
    let (start, end) = bounds(&state, &form)?;
    let mut found = std::collections::BTreeSet::new();
    for matchers in one_at_least(selectors(&form)?) {
        found.extend(
            state.telemetry.metrics.label_values(&who.tenant, &name, &matchers, start, end).await.map_err(Problem::from)?,
        );
    }
    let limit = limit(&form)?;
    Ok(done(json!(found.iter().take(limit).collect::<Vec<_>>())))
}

async fn metadata(state: axum::extract::State<State>, Caller(who): Caller, form: Form) -> Result<Json<Data>> {
    let found = state.telemetry.metrics.metadata(&who.tenant, form.get("metric")).await.map_err(Problem::from)?;
    let mut by_name = serde_json::Map::new();
    for entry in found.into_iter().take(limit(&form)?) {
        let kind = serde_json::to_value(entry.kind).unwrap_or_default();
        by_name.insert(entry.name, json!([{ "type": kind, "help": entry.help, "unit": entry.unit }]));
    }
    Ok(done(Data::Object(by_name)))
}

async fn buildinfo() -> Json<Data> {
    // Grafana asks the version for what it may use; this is the Prometheus whose API is spoken here.
    done(json!({ "version": "3.0.0", "application": "orchestrix", "orchestrix": env!("CARGO_PKG_VERSION"),
                 "revision": "", "branch": "", "buildUser": "", "buildDate": "", "goVersion": "" }))
}

async fn tsdb(state: axum::extract::State<State>, Caller(who): Caller) -> Result<Json<Data>> {
    let now = state.now();
    let names = metric_names(&state, &who.tenant, now).await?;
    Ok(done(
        json!({ "headStats": { "numSeries": state.telemetry.metrics.series(&who.tenant, &[], now.plus_millis(-limits::LOOKBACK_MS).millis(), now.millis()).await.map_err(Problem::from)?.len() },
                    "seriesCountByMetricName": names.iter().map(|n| json!({ "name": n })).collect::<Vec<_>>() }),
    ))
}

async fn metric_names(state: &State, tenant: &TenantId, now: Timestamp) -> Result<Vec<String>> {
    let start = now.plus_millis(-limits::LOOKBACK_MS).millis();
    Ok(state.telemetry.metrics.label_values(tenant, "__name__", &[], start, now.millis()).await.map_err(Problem::from)?)
}

fn parse(text: &str) -> std::result::Result<Expr, Problem> {
    promql::parse(text).map_err(|error| {
        let place = crate::error::FieldProblem {
            line: Some(error.line),
            column: Some(error.column),
            message: error.message.clone(),
            ..Default::default()
        };
        Problem::new(Code::Query, error.to_string()).with_errors(vec![place])
    })
}

/// What a query's failure is to the caller.
pub fn failed(error: query::Error) -> Problem {
    match error {
        query::Error::Parse(_) | query::Error::Execution(_) => Problem::new(Code::Query, error.to_string()),
        query::Error::TooLarge { .. } | query::Error::OutOfTime(_) => Problem::new(Code::QueryTooBig, error.to_string()),
        query::Error::Cancelled => Problem::new(Code::Busy, error.to_string()),
        query::Error::Store(inner) => inner.into(),
    }
}

/// The selectors of `match[]`, each as its matchers.
fn selectors(form: &Form) -> std::result::Result<Vec<Vec<Matcher>>, Problem> {
    form.all("match[]")
        .map(|text| match parse(text)?.node {
            Node::Selector(selector) => Ok(selector.matchers),
            _ => Err(Problem::parameter("match[]", format!("{text:?} is no selector such as up{{job=\"a\"}}"))),
        })
        .collect()
}

fn one_at_least(mut sets: Vec<Vec<Matcher>>) -> Vec<Vec<Matcher>> {
    if sets.is_empty() {
        sets.push(Vec::new());
    }
    sets
}

fn bounds(state: &State, form: &Form) -> std::result::Result<(i64, i64), Problem> {
    let end = match form.get("end") {
        Some(text) => parse_time("end", text)?,
        None => state.now(),
    };
    let start = match form.get("start") {
        Some(text) => parse_time("start", text)?,
        None => end.plus_millis(-LABELS_BACK_MS),
    };
    Ok((start.millis(), end.millis()))
}

fn limit(form: &Form) -> std::result::Result<usize, Problem> {
    match form.get("limit") {
        None | Some("0") => Ok(usize::MAX),
        Some(text) => text.parse().map_err(|_| Problem::parameter("limit", format!("{text:?} is no number"))),
    }
}

fn shape(answer: Answer) -> Json<Data> {
    let (kind, result) = match answer.value {
        Value::Scalar { t, v } => ("scalar", point(t, v)),
        Value::String { t, s } => ("string", json!([seconds(t), s])),
        Value::Vector(samples) => {
            ("vector", samples.into_iter().map(|s| json!({ "metric": s.labels, "value": point(s.t, s.v) })).collect())
        }
        Value::Matrix(series) => (
            "matrix",
            series
                .into_iter()
                .map(|s| {
                    let values: Vec<Data> = s.times.iter().zip(&s.values).map(|(t, v)| point(*t, *v)).collect();
                    json!({ "metric": s.labels, "values": values })
                })
                .collect(),
        ),
    };
    let mut body = json!({ "status": "success", "data": { "resultType": kind, "result": result } });
    if !answer.warnings.is_empty() {
        body["warnings"] = json!(answer.warnings);
    }
    if !answer.infos.is_empty() {
        body["infos"] = json!(answer.infos);
    }
    Json(body)
}

fn point(t: i64, v: f64) -> Data {
    json!([seconds(t), number(v)])
}

fn seconds(t_ms: i64) -> Data {
    if t_ms % 1_000 == 0 { json!(t_ms / 1_000) } else { json!(t_ms as f64 / 1_000.0) }
}

/// A sample's value as Prometheus writes it: a text, because JSON has no infinities.
pub fn number(v: f64) -> String {
    match v {
        v if v.is_nan() => "NaN".into(),
        f64::INFINITY => "+Inf".into(),
        f64::NEG_INFINITY => "-Inf".into(),
        v if v != 0.0 && (v.abs() >= 1e21 || v.abs() < 1e-6) => format!("{v:e}"),
        v => v.to_string(),
    }
}

impl From<telemetry::Error> for Problem {
    fn from(error: telemetry::Error) -> Self {
        use telemetry::Error as E;
        match error {
            E::Busy { retry_after_ms } => {
                Self { retry_after_s: Some(retry_after_ms.div_ceil(1_000).max(1)), ..Self::new(Code::Busy, error.to_string()) }
            }
            E::DiskFull => Self::new(Code::DiskFull, error.to_string()),
            E::Invalid(_) => Self::new(Code::Query, error.to_string()),
            E::TooLarge(_) => Self::new(Code::QueryTooBig, error.to_string()),
            E::Closed => Self::new(Code::Busy, "the host is shutting down"),
            other => Self::internal(&other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_prometheus_writes_them() {
        for (v, text) in [
            (0.0, "0"),
            (1.5, "1.5"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
            (1e-9, "1e-9"),
            (1e25, "1e25"),
        ] {
            assert_eq!(number(v), text);
        }
        assert_eq!(seconds(1_500), json!(1.5));
        assert_eq!(seconds(2_000), json!(2));
    }
}
