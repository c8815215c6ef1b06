//! Alertmanager's API v2, for amtool, Grafana and Karma. Alerts come in through `ingest`.

use crate::{
    error::{Problem, Result, read_json},
    extract::{Body, Caller, Form, Path},
    silence,
    state::State,
    time::{parse_time, rfc3339},
};
use ::alert::{group::group, matching::Matchers};
use axum::{Json, Router, http::StatusCode, routing};
use db::silence::Silence;
use model::{Alert, AlertState, MatchOp, Matcher};
use serde::Deserialize;
use serde_json::{Value, json};

const LIST_MAX: i64 = 1_000;
const RECEIVER: &str = "orchestrix";

pub fn routes() -> Router<State> {
    Router::new()
        .route("/api/v2/status", routing::get(status))
        .route("/api/v2/receivers", routing::get(|| async { Json(json!([{ "name": RECEIVER }])) }))
        .route("/api/v2/alerts/groups", routing::get(groups))
        .route("/api/v2/silences", routing::get(silences).post(store))
        .route("/api/v2/silence/{id}", routing::get(show).delete(end))
}

/// Shares its path with ingest's POST, which checks credentials itself.
pub fn alerts_route() -> axum::routing::MethodRouter<State> {
    routing::get(alerts)
}

async fn status(state: axum::extract::State<State>) -> Json<Value> {
    Json(json!({
        "cluster": { "status": "disabled", "peers": [] },
        "versionInfo": { "version": env!("CARGO_PKG_VERSION"), "revision": "", "branch": "", "buildUser": "", "buildDate": "", "goVersion": "" },
        "config": { "original": "" },
        "uptime": rfc3339(state.started),
    }))
}

async fn alerts(state: axum::extract::State<State>, Caller(who): Caller, form: Form) -> Result<Json<Value>> {
    let alerts = wanted(&state, &who.tenant, &form).await?;
    Ok(Json(alerts.iter().map(shown).collect()))
}

async fn groups(state: axum::extract::State<State>, Caller(who): Caller, form: Form) -> Result<Json<Value>> {
    let alerts = wanted(&state, &who.tenant, &form).await?;
    let groups = group(&alerts, &["alertname"]);
    Ok(Json(
        groups
            .iter()
            .map(|g| {
                let alerts: Vec<Value> = g.alerts.iter().map(|a| shown(a)).collect();
                json!({ "labels": g.labels, "receiver": { "name": RECEIVER }, "alerts": alerts })
            })
            .collect(),
    ))
}

/// Firing alerts, by Alertmanager's own filters.
async fn wanted(state: &State, tenant: &model::TenantId, form: &Form) -> Result<Vec<Alert>> {
    let flag = |name: &str| match form.get(name) {
        None | Some("true") => Ok(true),
        Some("false") => Ok(false),
        Some(other) => Err(Problem::parameter(name, format!("{other:?} is neither true nor false"))),
    };
    let (with_active, with_silenced) = (flag("active")?, flag("silenced")?);
    let matchers = filter(form)?;
    let mut alerts = state.db.open_alerts(tenant).await?;
    alerts.retain(|a| {
        let is_shown = if a.is_silenced { with_silenced } else { with_active };
        a.state == AlertState::Firing && is_shown && matchers.matches(&a.labels)
    });
    Ok(alerts)
}

fn filter(form: &Form) -> Result<Matchers> {
    let matchers = form
        .all("filter")
        .map(|text| silence::parse_matcher(text).map_err(|why| Problem::parameter("filter", why)))
        .collect::<Result<Vec<_>>>()?;
    Matchers::compile(&matchers).map_err(|why| Problem::parameter("filter", why))
}

fn shown(alert: &Alert) -> Value {
    json!({
        "fingerprint": alert.fingerprint,
        "labels": alert.labels,
        "annotations": alert.annotations,
        "startsAt": rfc3339(alert.fired_at.unwrap_or(alert.active_at)),
        // Alertmanager's alerts end by themselves unless repeated; ours are repeated by state.
        "endsAt": rfc3339(alert.resolved_at.unwrap_or(alert.last_seen_at.plus_millis(300_000))),
        "updatedAt": rfc3339(alert.last_seen_at),
        "generatorURL": format!("/alerts/{}", alert.id),
        "receivers": [{ "name": RECEIVER }],
        "status": { "state": if alert.is_silenced { "suppressed" } else { "active" }, "silencedBy": [], "inhibitedBy": [], "mutedBy": [] },
    })
}

async fn silences(state: axum::extract::State<State>, Caller(who): Caller, form: Form) -> Result<Json<Value>> {
    let wanted = form
        .all("filter")
        .map(|text| silence::parse_matcher(text).map_err(|why| Problem::parameter("filter", why)))
        .collect::<Result<Vec<_>>>()?;
    let now = state.now();
    let silences = state.db.silences(&who.tenant, LIST_MAX).await?;
    Ok(Json(silences.iter().filter(|s| wanted.iter().all(|m| s.matchers.contains(m))).map(|s| as_theirs(s, now)).collect()))
}

async fn show(state: axum::extract::State<State>, Caller(who): Caller, Path(id): Path<String>) -> Result<Json<Value>> {
    Ok(Json(as_theirs(&state.db.silence(&who.tenant, &id).await?, state.now())))
}

async fn end(state: axum::extract::State<State>, Caller(who): Caller, Path(id): Path<String>) -> Result<StatusCode> {
    silence::expire(&state, &who, id).await?;
    Ok(StatusCode::OK)
}

/// As amtool and Grafana post it; Alertmanager ignores fields it does not know, and so does this.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Posted {
    #[serde(default)]
    id: Option<String>,
    matchers: Vec<PostedMatcher>,
    starts_at: String,
    ends_at: String,
    #[serde(default)]
    created_by: String,
    #[serde(default)]
    comment: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PostedMatcher {
    name: String,
    value: String,
    #[serde(default)]
    is_regex: bool,
    #[serde(default)]
    is_equal: Option<bool>,
}

async fn store(state: axum::extract::State<State>, Caller(who): Caller, Body(bytes): Body) -> Result<Json<Value>> {
    let posted: Posted = read_json(&bytes)?;
    let matchers = posted
        .matchers
        .into_iter()
        .map(|m| {
            let op = match (m.is_regex, m.is_equal.unwrap_or(true)) {
                (false, true) => MatchOp::Equal,
                (false, false) => MatchOp::NotEqual,
                (true, true) => MatchOp::Regex,
                (true, false) => MatchOp::NotRegex,
            };
            Matcher::new(m.name, op, m.value)
        })
        .collect();
    let id = match posted.id.filter(|id| !id.is_empty()) {
        Some(id) => uuid::Uuid::parse_str(&id).map_err(|_| Problem::invalid("/id", "is no UUID"))?.to_string(),
        None => uuid::Uuid::new_v4().to_string(),
    };
    let created_by = if posted.created_by.is_empty() { who.name.clone() } else { posted.created_by };
    let silence = Silence {
        id: id.clone(),
        matchers,
        starts: parse_time("startsAt", &posted.starts_at)?,
        ends: parse_time("endsAt", &posted.ends_at)?,
        created_by,
        comment: posted.comment,
        updated: state.now(),
    };
    silence::check(&silence)?;
    silence::put(&state, &who, silence).await?;
    Ok(Json(json!({ "silenceID": id })))
}

fn as_theirs(s: &Silence, now: model::Timestamp) -> Value {
    let matchers: Vec<Value> = s
        .matchers
        .iter()
        .map(|m| {
            json!({ "name": m.name, "value": m.value,
                    "isRegex": matches!(m.op, MatchOp::Regex | MatchOp::NotRegex),
                    "isEqual": matches!(m.op, MatchOp::Equal | MatchOp::Regex) })
        })
        .collect();
    json!({
        "id": s.id,
        "matchers": matchers,
        "startsAt": rfc3339(s.starts),
        "endsAt": rfc3339(s.ends),
        "updatedAt": rfc3339(s.updated),
        "createdBy": s.created_by,
        "comment": s.comment,
        "status": { "state": silence::status(s, now) },
    })
}
