//! Alerts: Prometheus' shape with more fields, and one alert with its timeline.

use crate::{
    error::{Problem, Result},
    extract::{Caller, Path, Query},
    state::State,
    time::rfc3339,
};
use axum::{Json, Router, routing};
use model::{Alert, AlertId, AlertState};
use serde::Deserialize;
use serde_json::{Value, json};

const LIMIT_MAX: i64 = 1_000;

pub fn routes() -> Router<State> {
    Router::new().route("/api/v1/alerts", routing::get(list)).route("/api/v1/alerts/{id}", routing::get(show))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    /// pending, firing, resolved, inactive, all; open ones without.
    state: Option<String>,
    limit: Option<i64>,
}

async fn list(state: axum::extract::State<State>, Caller(who): Caller, Query(filter): Query<Filter>) -> Result<Json<Value>> {
    let limit = filter.limit.unwrap_or(LIMIT_MAX).clamp(1, LIMIT_MAX);
    let alerts = match filter.state.as_deref() {
        None | Some("open") => state.db.open_alerts(&who.tenant).await?,
        Some("all") => state.db.alerts(&who.tenant, None, limit).await?,
        Some(text) => {
            let wanted: AlertState = text.parse().map_err(|why| Problem::parameter("state", why))?;
            state.db.alerts(&who.tenant, Some(wanted), limit).await?
        }
    };
    let alerts: Vec<Value> = alerts.iter().take(usize::try_from(limit).unwrap_or(0)).map(shown).collect();
    Ok(Json(json!({ "status": "success", "data": { "alerts": alerts } })))
}

async fn show(state: axum::extract::State<State>, Caller(who): Caller, Path(id): Path<String>) -> Result<Json<Value>> {
    let id: AlertId = id.parse().map_err(|_| Problem::not_found(format_args!("alert {id:?}")))?;
    let alert = state.db.alert(&who.tenant, id).await?;
    let timeline = state.db.alert_timeline(&who.tenant, id).await?;
    let timeline: Vec<Value> = timeline
        .iter()
        .map(|e| json!({ "at": rfc3339(e.at), "from": e.from, "to": e.to, "reason": e.reason, "value": e.alert.value }))
        .collect();
    Ok(Json(json!({ "alert": shown(&alert), "timeline": timeline })))
}

pub fn shown(alert: &Alert) -> Value {
    json!({
        "id": alert.id.to_string(),
        "labels": alert.labels,
        "annotations": alert.annotations,
        "state": alert.state,
        "activeAt": rfc3339(alert.active_at),
        "value": alert.value.map(crate::prometheus::number).unwrap_or_default(),
        "monitor": alert.monitor_name,
        "fingerprint": alert.fingerprint,
        "severity": alert.severity,
        "summary": alert.summary,
        "firedAt": alert.fired_at.map(rfc3339),
        "resolvedAt": alert.resolved_at.map(rfc3339),
        "lastSeenAt": rfc3339(alert.last_seen_at),
        "flapScore": alert.flap_score,
        "isSilenced": alert.is_silenced,
        "evidence": alert.evidence,
    })
}
