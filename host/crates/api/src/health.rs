//! Whether the host lives, and whether it can serve.

use crate::state::State;
use axum::{Json, Router, http::StatusCode, response::IntoResponse, routing};
use serde_json::{Value, json};
use std::sync::atomic::Ordering;

pub fn routes() -> Router<State> {
    Router::new().route("/healthz", routing::get(healthz)).route("/readyz", routing::get(readyz))
}

async fn healthz() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

async fn readyz(state: axum::extract::State<State>) -> impl IntoResponse {
    let waiting: serde_json::Map<String, Value> =
        state.ready.waiting().into_iter().map(|(what, why)| (what.to_owned(), Value::String(why))).collect();
    if state.ready.is_draining.load(Ordering::SeqCst) {
        return (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": "draining" })));
    }
    if waiting.is_empty() {
        return (StatusCode::OK, Json(json!({ "status": "ready" })));
    }
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": "starting", "waiting": waiting })))
}
