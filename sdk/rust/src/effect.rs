//! Effects: what the plugin is about to change in the world, said before it does it.

use crate::{Error, Result, host};
use serde::Serialize;
use serde_json::Value;

/// An announcement. The host opens egress for writing only while its [`Permit`] is held.
///
/// ```no_run
/// # use orchestrix_sdk::{Effect, Request, Result};
/// # fn main() -> Result<()> {
/// let status = Effect::new("http.post", "https://example.com/tickets")
///     .summary("open a ticket")
///     .perform(|| Ok(Request::post("https://example.com/tickets").send()?.success()?.status))?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Effect {
    pub kind: String,
    pub target: String,
    pub summary: String,
    pub before: Option<Value>,
    pub after: Option<Value>,
    pub undo: Option<Value>,
    pub is_idempotent: bool,
}

/// Leave to change. Settle it with what happened; dropped unsettled, the effect is marked in doubt.
#[must_use = "egress for writing is open only while the permit is held"]
pub struct Permit(host::Permit);

impl Effect {
    /// `kind` is a dotted verb (`kubernetes.deployment.scale`), `target` a stable path of what is changed.
    pub fn new(kind: impl Into<String>, target: impl Into<String>) -> Self {
        let (kind, target) = (kind.into(), target.into());
        let summary = format!("{kind} {target}");
        Self { kind, target, summary, before: None, after: None, undo: None, is_idempotent: false }
    }

    #[must_use]
    pub fn summary(mut self, summary: impl Into<String>) -> Self {
        self.summary = summary.into();
        self
    }

    #[must_use]
    pub fn before(mut self, before: Value) -> Self {
        self.before = Some(before);
        self
    }

    #[must_use]
    pub fn after(mut self, after: Value) -> Self {
        self.after = Some(after);
        self
    }

    /// The operation of this same plugin, with its input, that would undo the effect.
    #[must_use]
    pub fn undo(mut self, operation: &str, input: Value) -> Self {
        self.undo = Some(serde_json::json!({ "operation": operation, "input": input }));
        self
    }

    /// Doing it twice is the same as doing it once.
    #[must_use]
    pub fn idempotent(mut self) -> Self {
        self.is_idempotent = true;
        self
    }

    /// Asks for leave: guardrails and budgets are checked, and the ledger row is written.
    pub fn begin(self) -> Result<Permit> {
        host::begin(self).map(Permit)
    }

    /// Asks for leave, does it, and settles by the outcome: an answer is `done`, a refusal `failed`,
    /// a request that never left `not-done`; after anything else (a time-out, a broken connection) nobody
    /// knows, so the effect stays in doubt and the host has it probed.
    pub fn perform<T: Serialize>(self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let permit = self.begin()?;
        match act() {
            Ok(output) => {
                permit.done(serde_json::to_value(&output).ok());
                Ok(output)
            }
            Err(error) => {
                permit.settle_error(&error);
                Err(error)
            }
        }
    }
}

impl Permit {
    pub fn done(self, detail: Option<Value>) {
        self.0.settle("done", detail);
    }
    pub fn failed(self, detail: Option<Value>) {
        self.0.settle("failed", detail);
    }
    pub fn not_done(self, detail: Option<Value>) {
        self.0.settle("not-done", detail);
    }

    /// Settles as far as the error tells what happened.
    pub fn settle_error(self, error: &Error) {
        let detail = serde_json::json!({ "code": error.code, "message": error.message });
        if error.is_unsent() {
            self.not_done(Some(detail));
        } else if error.is_refusal() {
            self.failed(Some(detail));
        }
    }
}
