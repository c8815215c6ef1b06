//! The checkpoint of a run: everything needed to go on, and nothing that can be had from the definition.

use model::{ActionOutcome, AlertId, ErrorRecord, RequestId, RunId, TenantId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Running,
    /// For time to pass, an event, a person's approval, another run.
    Waiting,
    /// Paused by an operator, or a call is in doubt.
    Suspended,
    Completed,
    Faulted,
    Cancelled,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Suspended => "suspended",
            Self::Completed => "completed",
            Self::Faulted => "faulted",
            Self::Cancelled => "cancelled",
        }
    }

    pub fn is_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Faulted | Self::Cancelled)
    }
}

/// What started a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cause {
    /// `manual`, `event`, `schedule` or `workflow`.
    pub kind: String,
    /// The token's name of who started it by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// The consumed event without its data: id, type, source, subject.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub event: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alert: Option<AlertId>,
    /// The alert's fingerprint, by which runs are single-flight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
}

impl Cause {
    pub fn manual(principal: &str) -> Self {
        Self { kind: "manual".into(), principal: Some(principal.into()), ..Self::default() }
    }
}

/// The awaiting step of the run that started this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    pub run: RunId,
    pub step: String,
}

/// An error as the DSL has it (RFC 9457), with what an action told besides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunError {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// JSON pointer of the task that raised it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The action's own code: `guardrail.budget`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub details: Value,
    /// What the world advised to wait before a retry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    pub run: RunId,
    pub tenant: TenantId,
    pub namespace: String,
    pub name: String,
    pub version: String,
    pub revision: i64,
    pub status: Status,
    pub cause: Cause,
    pub parent: Option<Parent>,
    /// How many runs are above this one.
    pub depth: u32,
    pub started: Timestamp,
    pub deadline: Option<Timestamp>,
    pub input: Value,
    pub context: Value,
    pub root: Sequence,
    /// Tasks in progress by their step path.
    pub frames: BTreeMap<String, Frame>,
    /// Transitions so far: the number of the last journal row.
    pub seq: i64,
    /// Tasks entered so far.
    pub steps: u64,
    /// Numbers requests, events and child runs.
    pub counter: u64,
    pub is_paused: bool,
    /// Stopped in the middle of pure work, to go on in the next transaction.
    pub is_ready: bool,
    /// The newest approval, for the ledger: who and at which step.
    pub approval: Option<String>,
    pub output: Value,
    pub error: Option<RunError>,
    pub ended: Option<Timestamp>,
}

/// Progress through a list of tasks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sequence {
    pub index: usize,
    /// What goes into the next task.
    pub data: Value,
    /// Step path of the task in progress.
    pub child: Option<String>,
    /// How often each task was begun, by its index: directives may lead to one again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub visits: Vec<u32>,
}

impl Sequence {
    pub fn new(data: Value) -> Self {
        Self { data, ..Self::default() }
    }
}

/// A task in progress.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Frame {
    /// The how-manieth task of the run it was.
    pub n: u64,
    pub started: Timestamp,
    pub deadline: Option<Timestamp>,
    pub input: Value,
    /// JSON pointer of its task in the definition.
    pub pointer: String,
    /// The task's metadata with its expressions filled in, where people read it (an approval's question).
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub note: Value,
    /// Whether the journal has its start.
    pub is_told: bool,
    pub body: Body,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Body {
    Do {
        sequence: Sequence,
    },
    For {
        items: Vec<Value>,
        index: usize,
        is_open: bool,
        sequence: Sequence,
    },
    Fork {
        branches: Vec<Branch>,
    },
    Try {
        attempt: u32,
        first: Timestamp,
        attempt_deadline: Option<Timestamp>,
        phase: Phase,
        sequence: Sequence,
        error: Option<RunError>,
    },
    Call {
        request: RequestId,
        installation: String,
        operation: String,
        with: Value,
        in_doubt: Option<ErrorRecord>,
    },
    Function {
        child: String,
        args: Value,
        is_entered: bool,
    },
    Wait {
        until: Timestamp,
    },
    Listen {
        consumed: Vec<Value>,
        matched: Vec<usize>,
        keys: BTreeMap<String, Value>,
        until_matched: Vec<usize>,
        is_done: bool,
        handled: Vec<Value>,
        sequence: Option<Sequence>,
    },
    Run {
        child: RunId,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "lowercase")]
pub enum Phase {
    Trying,
    Backoff { until: Timestamp },
    Catching,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Branch {
    pub child: Option<String>,
    /// Whether it succeeded; its output may be null.
    pub is_done: bool,
    pub output: Value,
    pub error: Option<RunError>,
}

/// What a person decides about a call in doubt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "decision", rename_all = "lowercase")]
pub enum Decision {
    /// Ask the action again, with the same idempotency key.
    Retry,
    /// Go on as if it had answered this.
    Skip { output: Value },
    /// Let the task fail; the workflow may catch it.
    Fail,
}

/// What an input brings to a step in progress.
#[derive(Clone, Debug)]
pub(crate) enum Signal {
    Result { step: String, request: RequestId, outcome: ActionOutcome },
    Event(Value),
    Child { step: String, child: RunId, outcome: Result<Value, RunError> },
    Decided { step: String, decision: Decision },
}

impl State {
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// When time alone would move the run.
    pub fn wake(&self, now: Timestamp) -> Option<Timestamp> {
        if self.status.is_ended() || self.is_paused {
            return None;
        }
        if self.is_ready {
            return Some(now);
        }
        let frames = self.frames.values().flat_map(|frame| {
            let own = match &frame.body {
                Body::Wait { until } => Some(*until),
                Body::Try { phase: Phase::Backoff { until }, .. } => Some(*until),
                Body::Try { phase: Phase::Trying, attempt_deadline, .. } => *attempt_deadline,
                _ => None,
            };
            [own, frame.deadline]
        });
        frames.chain([self.deadline]).flatten().min()
    }

    /// Which frame asks a person something.
    pub fn asks(&self) -> bool {
        self.frames.values().any(|frame| matches!(&frame.body, Body::Call { in_doubt: Some(_), .. }))
    }
}

impl RunError {
    pub fn new(kind: &str, status: i64, title: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("{STANDARD_ERRORS}{kind}"),
            status,
            title: Some(title.into()),
            detail: Some(detail.into()),
            instance: None,
            code: None,
            details: Value::Null,
            retry_after_ms: None,
        }
    }

    pub fn expression(detail: impl Into<String>) -> Self {
        Self::new("expression", 400, "Expression Error", detail)
    }

    pub fn validation(detail: impl Into<String>) -> Self {
        Self::new("validation", 400, "Validation Error", detail)
    }

    pub fn timeout(detail: impl Into<String>) -> Self {
        Self::new("timeout", 408, "Timeout", detail)
    }

    pub fn runtime(detail: impl Into<String>) -> Self {
        Self::new("runtime", 500, "Runtime Error", detail)
    }

    pub fn communication(status: i64, detail: impl Into<String>) -> Self {
        Self::new("communication", status, "Communication Error", detail)
    }

    /// An action's failure in the DSL's terms.
    pub fn from_record(record: &ErrorRecord) -> Self {
        let (kind, status, title) = match record.code.split('.').next().unwrap_or_default() {
            "remote" | "network" | "http" | "egress" => ("communication", 502, "Communication Error"),
            "guardrail" | "denied" | "grant" | "permission" => ("authorization", 403, "Authorization Error"),
            "auth" | "secret" => ("authentication", 401, "Authentication Error"),
            "timeout" | "time" => ("timeout", 408, "Timeout"),
            "input" | "invalid" | "validation" => ("validation", 400, "Validation Error"),
            "config" | "configuration" | "installation" | "operation" => ("configuration", 400, "Configuration Error"),
            _ => ("runtime", 500, "Runtime Error"),
        };
        let status = record.details["status"].as_i64().unwrap_or(status);
        let mut error = Self::new(kind, status, title, record.message.clone());
        error.code = Some(record.code.clone());
        error.details = record.details.clone();
        error.retry_after_ms = match record.retry {
            model::RetryAdvice::AfterMs(ms) => Some(ms),
            _ => None,
        };
        error
    }

    pub fn to_json(&self) -> Value {
        serde_json::to_value(self).expect("an error has text keys only")
    }

    /// Whether the error has all attributes that a `catch` asks for.
    pub fn has(&self, with: &Map<String, Value>) -> bool {
        let own = self.to_json();
        with.iter().all(|(key, expected)| match key.as_str() {
            "type" => expected.as_str().is_some_and(|expected| canonical(expected) == canonical(&self.kind)),
            "details" => own["details"] == *expected || own["detail"] == *expected,
            key => own[key] == *expected,
        })
    }
}

const STANDARD_ERRORS: &str = "https://serverlessworkflow.io/spec/1.0.0/errors/";

/// The specification and its conformance tests write the standard types in two ways.
fn canonical(kind: &str) -> &str {
    kind.strip_prefix(STANDARD_ERRORS)
        .or_else(|| kind.strip_prefix("https://serverlessworkflow.io/dsl/errors/types/"))
        .unwrap_or(kind)
}
