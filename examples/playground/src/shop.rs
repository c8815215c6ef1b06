//! The shop: serves customers, logs and traces what it does, and breaks when told to.

use crate::{
    chat::escape,
    journal,
    telemetry::Telemetry,
    world::{Fault, World},
};
use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri},
    response::{Html, IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

pub fn routes() -> Router<Arc<World>> {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/fault", get(fault).post(set_fault))
        .route("/db/health", get(db_health))
        .route("/db/pool/restart", post(restart_pool))
        .route("/db/failover", post(fail_over))
        .route("/tickets", get(tickets).post(file_ticket))
}

/// Serves a customer each `pace`, for as long as the process lives.
pub async fn serve_customers(world: Arc<World>, telemetry: Telemetry, pace: Duration) {
    let mut ticks = tokio::time::interval(pace);
    let mut number = 0_u64;
    loop {
        ticks.tick().await;
        number += 1;
        let (healthy, endpoint) = {
            let mut state = world.lock();
            let healthy = state.db_is_healthy();
            match healthy {
                true => state.requests_ok += 1,
                false => state.requests_failed += 1,
            }
            (healthy, state.db_endpoint)
        };
        telemetry.checkout(number, endpoint, healthy);
    }
}

async fn metrics(State(world): State<Arc<World>>) -> Response {
    let state = world.lock();
    let text = format!(
        "# HELP cpu_usage CPU used by the service, in percent of its replicas' limit.\n\
         # TYPE cpu_usage gauge\n\
         cpu_usage{{service=\"cart\",namespace=\"shop\"}} {}\n\
         # HELP shop_checkouts_total Checkouts by outcome.\n\
         # TYPE shop_checkouts_total counter\n\
         shop_checkouts_total{{outcome=\"ok\"}} {}\n\
         shop_checkouts_total{{outcome=\"error\"}} {}\n\
         # HELP shop_replicas Replicas of the cart service.\n\
         # TYPE shop_replicas gauge\n\
         shop_replicas{{service=\"cart\"}} {}\n",
        state.cpu_usage(),
        state.requests_ok,
        state.requests_failed,
        state.deployments.iter().find(|d| d.name == "cart").map_or(0, |d| d.replicas),
    );
    ([("content-type", "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Switch {
    fault: Fault,
}

async fn fault(State(world): State<Arc<World>>) -> Json<Value> {
    let state = world.lock();
    Json(
        json!({ "fault": state.fault, "cpu_usage": state.cpu_usage(), "db_endpoint": state.db_endpoint, "db_healthy": state.db_is_healthy() }),
    )
}

async fn set_fault(State(world): State<Arc<World>>, Json(switch): Json<Switch>) -> Json<Value> {
    let mut state = world.lock();
    state.fault = switch.fault;
    Json(json!({ "fault": state.fault, "cpu_usage": state.cpu_usage() }))
}

async fn db_health(State(world): State<Arc<World>>) -> Json<Value> {
    let state = world.lock();
    let healthy = state.db_is_healthy();
    Json(
        json!({ "healthy": healthy, "endpoint": state.db_endpoint, "error": if healthy { Value::Null } else { "connection timeout".into() } }),
    )
}

async fn restart_pool(State(world): State<Arc<World>>, method: Method, uri: Uri, headers: HeaderMap) -> Json<Value> {
    let mut state = world.lock();
    state.note(journal::write(&method, &uri, &headers, Value::Null));
    if state.fault == Fault::DbPoolStuck {
        state.fault = Fault::None;
    }
    Json(json!({ "restarted": true, "healthy": state.db_is_healthy() }))
}

async fn fail_over(State(world): State<Arc<World>>, method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let mut state = world.lock();
    state.note(journal::write(&method, &uri, &headers, Value::Null));
    if state.db_endpoint == "replica" {
        return (StatusCode::CONFLICT, Json(json!({ "error": "the replica is the primary already" }))).into_response();
    }
    state.db_endpoint = "replica";
    Json(json!({ "endpoint": state.db_endpoint, "healthy": state.db_is_healthy() })).into_response()
}

async fn tickets(State(world): State<Arc<World>>) -> Json<Vec<Value>> {
    Json(world.lock().tickets.clone())
}

async fn file_ticket(
    State(world): State<Arc<World>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Response {
    let mut state = world.lock();
    let write = journal::write(&method, &uri, &headers, body.clone());
    // The desk knows a request it has seen: the same key is the same ticket.
    let seen = write.idempotency_key.as_ref().and_then(|key| state.tickets.iter().find(|t| t["key"] == key.as_str()).cloned());
    let key = write.idempotency_key.clone();
    state.note(write);
    if let Some(ticket) = seen {
        return Json(ticket).into_response();
    }
    let ticket =
        json!({ "id": format!("INC-{}", 1001 + state.tickets.len()), "key": key, "title": body["title"], "body": body["body"] });
    state.file_ticket(ticket.clone());
    (StatusCode::CREATED, Json(ticket)).into_response()
}

/// One page for people: what is going on, and the switches.
pub async fn page(State(world): State<Arc<World>>) -> Html<String> {
    let state = world.lock();
    let facts = [
        (
            "fault",
            serde_json::to_value(state.fault).map_or_else(|_| String::new(), |v| v.as_str().unwrap_or_default().to_owned()),
        ),
        ("CPU of cart", format!("{:.1} %", state.cpu_usage())),
        ("replicas of cart", state.deployments.first().map_or(0, |d| d.replicas).to_string()),
        ("database", format!("{} ({})", state.db_endpoint, if state.db_is_healthy() { "healthy" } else { "timing out" })),
        ("checkouts", format!("{} ok, {} failed", state.requests_ok, state.requests_failed)),
        ("tickets", state.tickets.len().to_string()),
    ];
    let rows: String = facts.iter().map(|(name, value)| format!("<tr><th align=left>{name}<td>{}", escape(value))).collect();
    let buttons: String = ["none", "cpu-spike", "db-pool-stuck", "db-primary-down"]
        .iter()
        .map(|f| format!("<button onclick=\"fetch('/fault',{{method:'POST',headers:{{'content-type':'application/json'}},body:JSON.stringify({{fault:'{f}'}})}}).then(()=>location.reload())\">{f}</button> "))
        .collect();
    Html(format!(
        "<!doctype html><meta charset=utf-8><meta http-equiv=refresh content=2><title>Playground</title><h1>Playground</h1><table>{rows}</table>\
         <h2>Break something</h2><p>{buttons}</p><p><a href=/chat>chat</a> · <a href=/tickets>tickets</a> · <a href=/journal>journal</a> · <a href=/metrics>metrics</a></p>"
    ))
}
