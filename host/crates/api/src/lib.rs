//! The window for people and programs: HTTP, one file a noun, all but ingest.
//!
//! [`access`] says who may call what; a route without a line there answers nobody. [`error`] is the one place
//! where failures become answers.

pub mod access;
mod alert;
mod alertmanager;
mod approval;
mod audit;
pub mod auth;
pub mod error;
mod event;
mod extract;
mod guard;
mod health;
mod host;
mod ledger;
mod log;
mod loki;
pub mod openapi;
mod packages;
pub mod plugin;
mod prometheus;
mod resource;
mod run;
mod secret;
mod silence;
mod state;
mod time;
mod token;
mod trace;
mod ui;
mod vault;
mod workflow;

#[cfg(test)]
mod tests;

pub use auth::Authenticator;
pub use host::Metric;
pub use packages::Packages;
pub use state::{Parts, Readiness, State};
pub use time::{parse_duration_ms, parse_time, rfc3339};
pub use vault::{Vault, VaultError};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{HeaderName, HeaderValue, header},
    middleware,
};
use tower_http::set_header::SetResponseHeaderLayer;

/// Bodies of the API: specs and definitions. Components have a limit of their own.
const BODY_BYTES_MAX: usize = 2 << 20;

/// The whole API and the page. `more` are routes of other rooms on the same port (ingest), which check
/// credentials themselves.
pub fn router(state: State, more: Router) -> Router {
    let api = Router::new()
        .merge(health::routes())
        .merge(openapi::routes())
        .merge(token::routes())
        .merge(audit::routes())
        .merge(secret::routes())
        .merge(plugin::routes())
        .merge(resource::routes())
        .merge(silence::routes())
        .merge(alert::routes())
        .merge(alertmanager::routes())
        .merge(workflow::routes())
        .merge(run::routes())
        .merge(approval::routes())
        .merge(ledger::routes())
        .merge(event::routes())
        .merge(prometheus::routes())
        .merge(loki::routes())
        .merge(log::routes())
        .merge(trace::routes())
        .merge(host::routes())
        .route("/api/v2/alerts", alertmanager::alerts_route())
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .route_layer(middleware::from_fn_with_state(state.clone(), guard::check))
        .method_not_allowed_fallback(guard::wrong_method)
        .with_state(state);
    api.merge(more)
        .fallback(ui::serve)
        .layer(SetResponseHeaderLayer::if_not_present(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")))
        .layer(SetResponseHeaderLayer::if_not_present(
            HeaderName::from_static("referrer-policy"),
            HeaderValue::from_static("no-referrer"),
        ))
        .layer(tower_http::catch_panic::CatchPanicLayer::custom(guard::panicked))
}
