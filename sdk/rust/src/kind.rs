//! The kinds of plugin, and how a call of the host reaches the author's code.

use crate::{
    Context, Error, Result,
    telemetry::{Batch, Series},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::cell::RefCell;

/// Judges telemetry at intervals. `Self` is the monitor's typed parameters.
///
/// A detector has no network, no secrets and no clock but the call's: the same input gives the same findings,
/// which is what makes backtests exact.
pub trait Detector: DeserializeOwned {
    fn evaluate(&self, ctx: &Context, input: &[Series]) -> Result<Vec<Finding>>;
}

/// Judges telemetry as it arrives. `Self` is the monitor's typed parameters; what must last between
/// calls goes to [`crate::state`].
pub trait StreamDetector: DeserializeOwned {
    fn observe(&self, ctx: &Context, batch: &Batch) -> Result<Vec<Finding>>;

    /// At least once a second of the call's clock, so that windows close without traffic.
    fn tick(&self, ctx: &Context) -> Result<Vec<Finding>>;
}

/// Operations that change the world or read it on purpose. `Self` is the installation's typed configuration.
/// The attribute [`crate::action`] writes this for an `impl` block.
pub trait Action: DeserializeOwned {
    fn execute(&self, ctx: &Context, operation: &str, input: Value) -> Result<Value>;

    /// After a crash between effect and answer: did it happen?
    fn probe(&self, ctx: &Context, operation: &str, input: Value) -> Result<Verdict<Value>>;

    /// "Test connection".
    fn check(&self, ctx: &Context) -> Result<Value>;
}

/// What a detector claims of one thing.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Name the thing that is wrong; the alert's identity comes from them.
    pub labels: Vec<(String, String)>,
    pub status: Status,
    /// 0.0 to 1.0
    pub score: f64,
    pub severity: String,
    pub summary: String,
    pub value: Option<f64>,
    pub evidence: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Firing,
    /// Not bad enough to start an alert, not good enough to end one.
    Holding,
    Ok,
    NoData,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Firing => "firing",
            Self::Holding => "holding",
            Self::Ok => "ok",
            Self::NoData => "no-data",
        }
    }
}

/// What a probe found out.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict<T> {
    Done(T),
    NotDone,
    Unknown,
}

/// Where in the configuration something is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// JSON pointer.
    pub pointer: String,
    pub message: String,
}

// What follows is called by generated code, on every target.

thread_local! {
    static TRACEPARENT: RefCell<String> = const { RefCell::new(String::new()) };
}

pub(crate) fn current_traceparent() -> String {
    TRACEPARENT.with_borrow(Clone::clone)
}

#[doc(hidden)]
pub fn enter(ctx: &Context) {
    TRACEPARENT.with_borrow_mut(|current| current.clone_from(&ctx.traceparent));
}

#[doc(hidden)]
pub fn params<T: DeserializeOwned>(json: &str) -> Result<T> {
    serde_json::from_str(json).map_err(|e| Error::new("params.invalid", format!("the monitor's params: {e}")))
}

#[doc(hidden)]
pub fn config<T: DeserializeOwned>(json: &str) -> Result<T> {
    serde_json::from_str(json).map_err(|e| Error::config(format!("the installation's config: {e}")))
}

#[doc(hidden)]
pub fn input<T: DeserializeOwned>(operation: &str, input: Value) -> Result<T> {
    serde_json::from_value(input).map_err(|e| Error::input(format!("the input of {operation}: {e}")))
}

#[doc(hidden)]
pub fn output<T: Serialize>(output: &T) -> Result<Value> {
    serde_json::to_value(output).map_err(|e| Error::new("plugin.output", format!("the output is no JSON: {e}")))
}

#[doc(hidden)]
pub fn unknown_operation(operation: &str, known: &[&str]) -> Error {
    Error::input(format!("there is no operation {operation:?}; there are {}", known.join(", ")))
}
