//! A chat that takes Slack's calls (`chat.postMessage`, `chat.update`, incoming webhooks) and shows the messages.

use crate::{
    journal,
    world::{Message, World},
};
use axum::{
    Json, Router,
    extract::{Path, State},
    http::{HeaderMap, Method, Uri},
    response::Html,
    routing::{get, post},
};
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

pub fn routes() -> Router<Arc<World>> {
    Router::new()
        .route("/api/chat.postMessage", post(post_message))
        .route("/api/chat.update", post(update))
        .route("/services/{*hook}", post(webhook))
        .route("/chat/messages", get(messages))
        .route("/chat", get(page))
}

async fn post_message(
    State(world): State<Arc<World>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Json<Value> {
    if !headers.contains_key("authorization") {
        return Json(json!({ "ok": false, "error": "not_authed" }));
    }
    let (Some(channel), text) = (body["channel"].as_str(), body["text"].as_str().unwrap_or_default()) else {
        return Json(json!({ "ok": false, "error": "channel_not_found" }));
    };
    if text.is_empty() && body["blocks"].is_null() {
        return Json(json!({ "ok": false, "error": "no_text" }));
    }
    let mut state = world.lock();
    state.note(journal::write(&method, &uri, &headers, body.clone()));
    let message = Message {
        ts: timestamp(state.messages.len()),
        channel: channel.into(),
        text: text.into(),
        thread_ts: body["thread_ts"].as_str().map(str::to_owned),
        blocks: body["blocks"].clone(),
    };
    let answer = json!({ "ok": true, "channel": channel, "ts": message.ts, "message": { "text": text, "ts": message.ts } });
    state.say(message);
    Json(answer)
}

async fn update(
    State(world): State<Arc<World>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Json<Value> {
    let mut state = world.lock();
    state.note(journal::write(&method, &uri, &headers, body.clone()));
    let Some(found) = state.messages.iter_mut().find(|m| body["ts"] == m.ts.as_str() && body["channel"] == m.channel.as_str())
    else {
        return Json(json!({ "ok": false, "error": "message_not_found" }));
    };
    found.text = body["text"].as_str().unwrap_or_default().into();
    found.blocks = body["blocks"].clone();
    Json(json!({ "ok": true, "channel": found.channel, "ts": found.ts, "text": found.text }))
}

async fn webhook(
    State(world): State<Arc<World>>,
    Path(hook): Path<String>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> &'static str {
    let mut state = world.lock();
    state.note(journal::write(&method, &uri, &headers, body.clone()));
    let message = Message {
        ts: timestamp(state.messages.len()),
        channel: hook,
        text: body["text"].as_str().unwrap_or_default().into(),
        thread_ts: None,
        blocks: body["blocks"].clone(),
    };
    state.say(message);
    "ok"
}

async fn messages(State(world): State<Arc<World>>) -> Json<Vec<Message>> {
    Json(world.lock().messages.clone())
}

async fn page(State(world): State<Arc<World>>) -> Html<String> {
    let rows: String = world
        .lock()
        .messages
        .iter()
        .map(|m| {
            format!("<li><b>{}</b> {}{}</li>", escape(&m.channel), if m.thread_ts.is_some() { "↳ " } else { "" }, escape(&m.text))
        })
        .collect();
    Html(format!(
        "<!doctype html><meta charset=utf-8><meta http-equiv=refresh content=2><title>Playground chat</title><h1>Chat</h1><ol>{rows}</ol>"
    ))
}

pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// As Slack's: seconds and a counter, unique within the chat.
fn timestamp(count: usize) -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    format!("{seconds}.{count:06}")
}
