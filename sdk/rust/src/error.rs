//! The one error of a plugin. It crosses to the host as a record: a dotted code, a message for people,
//! and whether trying again may help.

use serde_json::Value;
use std::{borrow::Cow, fmt};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed. `code` is from an open, documented set (`docs/guide/writing-a-plugin.md`).
#[derive(Clone, Debug, PartialEq)]
pub struct Error {
    pub code: Cow<'static, str>,
    pub message: String,
    pub retry: Retry,
    pub details: Option<Value>,
}

/// Advice to whoever decides on a retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    Never,
    Now,
    AfterMs(u64),
}

impl Error {
    /// An error that no retry mends.
    pub fn new(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), retry: Retry::Never, details: None }
    }

    /// The caller's input is wrong.
    pub fn input(message: impl Into<String>) -> Self {
        Self::new("input.invalid", message)
    }

    /// The installation's configuration is wrong.
    pub fn config(message: impl Into<String>) -> Self {
        Self::new("config.invalid", message)
    }

    /// The other side answered with something that it should not have.
    pub fn protocol(message: impl Into<String>) -> Self {
        Self::new("remote.protocol", message)
    }

    #[must_use]
    pub fn retry_now(mut self) -> Self {
        self.retry = Retry::Now;
        self
    }

    #[must_use]
    pub fn retry_after_ms(mut self, ms: u64) -> Self {
        self.retry = Retry::AfterMs(ms);
        self
    }

    #[must_use]
    pub fn details(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }

    /// Whether the request certainly never reached the other side, so that nothing can have happened there.
    pub fn is_unsent(&self) -> bool {
        let is_ours =
            ["guardrail.", "permission.", "effect.", "config.", "input."].iter().any(|kind| self.code.starts_with(kind));
        is_ours || matches!(self.code.as_ref(), "remote.unreachable" | "remote.name_unresolved" | "remote.tls_failed")
    }

    /// Whether the other side answered, and refused.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self.code.as_ref(),
            "remote.unauthorized" | "remote.not_found" | "remote.conflict" | "remote.rate_limited" | "remote.refused"
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}
impl std::error::Error for Error {}

impl From<serde_json::Error> for Error {
    fn from(e: serde_json::Error) -> Self {
        Self::protocol(format!("unexpected JSON: {e}"))
    }
}

/// A stream to a socket failed. What had been sent may have arrived: in doubt, not unsent.
impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        Self::new("remote.disconnected", e.to_string()).retry_after_ms(1_000)
    }
}
