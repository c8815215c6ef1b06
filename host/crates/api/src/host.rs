//! The host about itself: status, `/metrics`, and what Prometheus calls rules and targets.

use crate::{error::Result, extract::Caller, state::State, time::rfc3339};
use axum::{
    Json, Router,
    http::header,
    response::{IntoResponse, Response},
    routing,
};
use model::AlertState;
use serde::Serialize;
use serde_json::{Value, json};
use std::{collections::BTreeMap, fmt::Write};

/// One of the host's own metrics.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// `orx_<stage>_<thing>_<unit>_total` for counters.
    pub name: String,
    pub help: &'static str,
    pub is_counter: bool,
    pub labels: Vec<(&'static str, String)>,
    pub value: f64,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub version: String,
    pub tenant: String,
    pub now: String,
    pub started: String,
    pub uptime_seconds: i64,
    /// Under the data folder.
    pub disk_free_bytes: Option<u64>,
    pub alerts_firing: usize,
    pub alerts_pending: usize,
    /// Runs by status.
    pub runs: BTreeMap<String, i64>,
    pub plugins: usize,
}

pub fn routes() -> Router<State> {
    Router::new()
        .route("/api/v1/status", routing::get(status))
        .route("/metrics", routing::get(metrics))
        .route("/api/v1/rules", routing::get(rules))
        .route("/api/v1/targets", routing::get(targets))
}

async fn status(state: axum::extract::State<State>, Caller(who): Caller) -> Result<Json<Status>> {
    let now = state.now();
    let open = state.db.open_alerts(&who.tenant).await?;
    let count = |wanted: AlertState| open.iter().filter(|a| a.state == wanted).count();
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION").into(),
        tenant: who.tenant.to_string(),
        now: rfc3339(now),
        started: rfc3339(state.started),
        uptime_seconds: now.millis_since(state.started) / 1_000,
        disk_free_bytes: rustix::fs::statvfs(&state.data_dir).ok().map(|v| v.f_bavail.saturating_mul(v.f_frsize)),
        alerts_firing: count(AlertState::Firing),
        alerts_pending: count(AlertState::Pending),
        runs: state.db.run_counts(&who.tenant).await?.into_iter().collect(),
        plugins: state.db.installations(&who.tenant).await?.len(),
    }))
}

async fn metrics(state: axum::extract::State<State>, Caller(who): Caller) -> Response {
    let mut all = (state.stats)();
    // Plugins' meters name their installation, so each tenant sees its own only.
    for (key, meter) in state.plugins.stats().into_iter().filter(|(key, _)| key.tenant == who.tenant) {
        let labels = vec![("installation", key.installation), ("version", key.version), ("function", key.function)];
        let mut add = |name: &str, help, value: u64| {
            all.push(Metric { name: name.into(), help, is_counter: true, labels: labels.clone(), value: value as f64 });
        };
        add("orx_plugin_calls_total", "calls of a plugin's function", meter.calls);
        add("orx_plugin_failures_total", "calls without a result", meter.failures);
        add("orx_plugin_cpu_microseconds_total", "CPU time of a plugin's calls", meter.cpu_us);
        add("orx_plugin_denials_total", "host calls that were refused", meter.denials);
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], render(&all)).into_response()
}

/// Prometheus text; lines of one name stand together, as the format wants.
fn render(metrics: &[Metric]) -> String {
    let mut by_name: BTreeMap<&str, Vec<&Metric>> = BTreeMap::new();
    for metric in metrics {
        by_name.entry(&metric.name).or_default().push(metric);
    }
    let mut text = String::new();
    for (name, group) in by_name {
        let kind = if group[0].is_counter { "counter" } else { "gauge" };
        let _ = writeln!(text, "# HELP {name} {}\n# TYPE {name} {kind}", group[0].help);
        for metric in group {
            text.push_str(name);
            for (i, (label, value)) in metric.labels.iter().enumerate() {
                let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                let _ = write!(text, "{}{label}=\"{value}\"", if i == 0 { '{' } else { ',' });
            }
            if !metric.labels.is_empty() {
                text.push('}');
            }
            let _ = writeln!(text, " {}", crate::prometheus::number(metric.value));
        }
    }
    text
}

/// Monitors in the shape of Prometheus' alerting rules.
async fn rules(state: axum::extract::State<State>, Caller(who): Caller) -> Result<Json<Value>> {
    let open = state.db.open_alerts(&who.tenant).await?;
    let mut rules = Vec::new();
    for monitor in state.db.monitors(&who.tenant).await? {
        let alerts: Vec<Value> = open.iter().filter(|a| a.monitor == Some(monitor.id)).map(crate::alert::shown).collect();
        let is = |wanted: AlertState| open.iter().any(|a| a.monitor == Some(monitor.id) && a.state == wanted);
        let state_now = match () {
            () if is(AlertState::Firing) => "firing",
            () if is(AlertState::Pending) => "pending",
            () => "inactive",
        };
        let health = state.monitors.status(&who.tenant, &monitor.name).await?;
        let spec = &monitor.spec;
        let seconds =
            |key: &str| spec[key].as_str().and_then(|t| crate::time::parse_duration_ms(key, t).ok()).unwrap_or(0) as f64 / 1e3;
        rules.push(json!({
            "type": "alerting",
            "name": monitor.name,
            "query": spec["query"].as_str().or_else(|| spec["stream"].as_str()).unwrap_or(""),
            "duration": seconds("for"),
            "keepFiringFor": seconds("keepFiringFor"),
            "labels": spec.get("labels").cloned().unwrap_or_else(|| json!({})),
            "annotations": spec.get("annotations").cloned().unwrap_or_else(|| json!({})),
            "alerts": alerts,
            "state": state_now,
            "health": if health.failures == 0 { "ok" } else { "err" },
            "lastError": health.last_error.unwrap_or_default(),
            "lastEvaluation": health.evaluated_at.map(rfc3339).unwrap_or_default(),
            "evaluationTime": health.took_us as f64 / 1e6,
        }));
    }
    let groups =
        if rules.is_empty() { json!([]) } else { json!([{ "name": "monitors", "file": "", "interval": 15, "rules": rules }]) };
    Ok(Json(json!({ "status": "success", "data": { "groups": groups } })))
}

async fn targets(state: axum::extract::State<State>, Caller(who): Caller) -> Json<Value> {
    let active: Vec<Value> = state
        .scrapes
        .targets(&who.tenant)
        .into_iter()
        .map(|t| {
            json!({
                "discoveredLabels": {},
                "labels": t.labels,
                "scrapePool": t.job,
                "scrapeUrl": t.url,
                "globalUrl": t.url,
                "lastError": t.last_error,
                "lastScrape": t.last_scrape.map(rfc3339).unwrap_or_default(),
                "lastScrapeDuration": t.last_duration.as_secs_f64(),
                "health": match t.is_up { None => "unknown", Some(true) => "up", Some(false) => "down" },
                "scrapeInterval": format!("{}s", t.interval.as_secs()),
                "scrapeTimeout": format!("{}s", t.timeout.as_secs()),
            })
        })
        .collect();
    let problems: Vec<Value> =
        state.scrapes.problems(&who.tenant).into_iter().map(|(job, why)| json!({ "job": job, "message": why })).collect();
    Json(json!({ "status": "success", "data": { "activeTargets": active, "droppedTargets": [], "problems": problems } }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_of_one_name_stand_together_and_labels_are_escaped() {
        let metric = |name: &str, label: &str, value| Metric {
            name: name.into(),
            help: "help",
            is_counter: true,
            labels: vec![("a", label.into())],
            value,
        };
        let text = render(&[metric("x_total", "1", 1.0), metric("y_total", "q\"\n", 2.0), metric("x_total", "2", 3.0)]);
        let wanted = "# HELP x_total help\n# TYPE x_total counter\nx_total{a=\"1\"} 1\nx_total{a=\"2\"} 3\n\
                      # HELP y_total help\n# TYPE y_total counter\ny_total{a=\"q\\\"\\n\"} 2\n";
        assert_eq!(text, wanted);
    }
}
