//! Telemetry and events coming in: one file a protocol.
//!
//! Each protocol decodes, checks limits, and answers only after `telemetry`'s WAL (or the database's
//! commit) holds what it accepted. A refusal says which item, why, and how to mend it; the rest of the
//! request is kept wherever the protocol can say so.
//!
//! | file | what comes in |
//! |---|---|
//! | `remote_write` | Prometheus remote write 1.0 and 2.0 |
//! | `exposition`, `openmetrics`, `push` | text exposition: its parser, its strict rules, and the endpoints that take it |
//! | `scrape` | the same text, fetched from targets |
//! | `otlp` | metrics, logs and traces over HTTP and gRPC |
//! | `loki` | Loki's push |
//! | `json_lines` | one JSON object a log line |
//! | `webhook`, `cloud_event` | events for the bus |
//! | `alertmanager` | alerts from Prometheus and from another Alertmanager |

pub mod alertmanager;
mod auth;
mod body;
pub mod cloud_event;
pub mod exposition;
pub mod json_lines;
pub mod loki;
mod openmetrics;
pub mod otlp;
mod protobuf;
mod push;
mod refusal;
pub mod remote_write;
pub mod scrape;
mod series;
mod state;
#[cfg(test)]
mod tests;
pub mod webhook;

pub use auth::{AuthError, Authenticate};
pub use refusal::{Item, Refusal, Report};
pub use state::{Secrets, State, Stats};

use axum::Router;

/// Everything that comes in on the main port.
pub fn routes(state: State) -> Router {
    Router::new()
        .merge(remote_write::routes())
        .merge(push::routes())
        .merge(loki::routes())
        .merge(json_lines::routes())
        .merge(webhook::routes())
        .merge(cloud_event::routes())
        .merge(alertmanager::routes())
        .with_state(state)
}
