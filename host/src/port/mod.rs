//! What the sandbox needs from outside, over the database, the telemetry store and the query engine. One file a
//! port; `effects` is the action stage's own.

mod log;
mod recording;
mod secret;
mod state;
mod telemetry;

pub use log::Log;
pub use recording::Recordings;
pub use secret::Secrets;
pub use state::States;
pub use telemetry::Reader;

use model::{ErrorRecord, RetryAdvice};

/// A failure of the host itself, as a plugin sees it.
fn failed(error: &dyn std::error::Error) -> ErrorRecord {
    tracing::warn!(error = chain(error), "a plugin's call met a failure of the host");
    refusal("host.unavailable", "the host could not do it now, try again", RetryAdvice::AfterMs(1_000))
}

fn refusal(code: &str, message: impl Into<String>, retry: RetryAdvice) -> ErrorRecord {
    ErrorRecord { code: code.into(), message: message.into(), retry, details: serde_json::Value::Null }
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}
