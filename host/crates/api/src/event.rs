//! Events: searched in the store, and streamed from the bus as they happen.

use crate::{
    error::{Code, Problem, Result},
    extract::{Caller, Form},
    log,
    state::State,
};
use axum::{
    Json, Router,
    http::HeaderMap,
    response::sse::{self, KeepAlive, Sse},
    routing,
};
use db::{Handed, Topic};
use futures::stream::{self, Stream, StreamExt};
use model::{Event, TenantId, limits};
use serde_json::{Value, json};
use std::{collections::VecDeque, convert::Infallible, sync::atomic::Ordering};
use telemetry::EventQuery;

pub fn routes() -> Router<State> {
    Router::new().route("/api/v1/events", routing::get(search)).route("/api/v1/events/stream", routing::get(follow))
}

async fn search(state: axum::extract::State<State>, Caller(who): Caller, form: Form) -> Result<Json<Value>> {
    let (start, end) = log::bounds(&form, state.now())?;
    let text = |name: &str| form.get(name).map(str::to_owned);
    let query = EventQuery {
        kind: text("type"),
        source: text("source"),
        subject: text("subject"),
        start,
        end,
        limit: log::limit(&form)?,
    };
    let items = state.telemetry.events.search(&who.tenant, &query).await?;
    Ok(Json(json!({ "items": items })))
}

/// Server-sent events: `id` is the bus's id, `event` the CloudEvent's type, `data` the CloudEvent.
/// `Last-Event-ID` (or `after`) resumes without a gap as long as the bus keeps its rows; without it, only what
/// comes from now on is sent. `type` keeps what begins with it.
async fn follow(
    state: axum::extract::State<State>,
    Caller(who): Caller,
    headers: HeaderMap,
    form: Form,
) -> Result<Sse<impl Stream<Item = std::result::Result<sse::Event, Infallible>>>> {
    let last = headers.get("last-event-id").and_then(|v| v.to_str().ok()).or_else(|| form.get("after"));
    // Subscribed before the first look, so that nothing falls between.
    let wake = state.db.subscribe(Topic::Event);
    let after = match last {
        Some(text) => text
            .parse::<i64>()
            .map_err(|_| Problem::new(Code::Parameter, format!("Last-Event-ID {text:?} is no id of this stream")))?,
        None => state.db.newest(Topic::Event).await?,
    };
    let follower = Follower {
        state: state.0.clone(),
        tenant: who.tenant,
        kind: form.get("type").unwrap_or("").to_owned(),
        after,
        wake,
        // Headers travel with the first bytes: without some, a client wouldn't know for 15 s whether it is connected.
        ready: VecDeque::from([sse::Event::default().comment("following")]),
    };
    Ok(Sse::new(stream::unfold(follower, Follower::next).map(Ok)).keep_alive(KeepAlive::default()))
}

struct Follower {
    state: State,
    tenant: TenantId,
    kind: String,
    after: i64,
    wake: db::Wake,
    ready: VecDeque<sse::Event>,
}

impl Follower {
    async fn next(mut self) -> Option<(sse::Event, Self)> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some((event, self));
            }
            // Clients reconnect with their last id; the doors must be able to close.
            if self.state.ready.is_draining.load(Ordering::SeqCst) {
                return None;
            }
            let rows = match self.state.db.handed::<Event>(Topic::Event, self.after, limits::HANDOFF_BATCH_ROWS).await {
                Ok(rows) => rows,
                Err(error) => {
                    tracing::warn!(error = %error, "an event stream ends early");
                    return None;
                }
            };
            if rows.is_empty() {
                self.wake.wait().await;
                continue;
            }
            for row in rows {
                self.after = row.id;
                if row.tenant == self.tenant && row.payload.kind.starts_with(&self.kind) {
                    self.ready.push_back(frame(&row));
                }
            }
        }
    }
}

fn frame(row: &Handed<Event>) -> sse::Event {
    let data = serde_json::to_string(&row.payload).expect("an event has text keys only");
    sse::Event::default().id(row.id.to_string()).event(&row.payload.kind).data(data)
}
