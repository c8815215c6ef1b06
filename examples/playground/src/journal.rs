//! Every write that arrived, so that "exactly once" can be counted from outside.

use crate::world::{World, Write};
use axum::{
    Json,
    extract::State,
    http::{HeaderMap, Method, Uri},
};
use serde_json::Value;
use std::sync::Arc;

pub async fn list(State(world): State<Arc<World>>) -> Json<Vec<Write>> {
    Json(world.lock().journal.clone())
}

pub fn write(method: &Method, uri: &Uri, headers: &HeaderMap, body: Value) -> Write {
    let key = headers.get("idempotency-key").and_then(|v| v.to_str().ok()).map(str::to_owned);
    Write { method: method.to_string(), path: uri.path().into(), idempotency_key: key, body }
}
