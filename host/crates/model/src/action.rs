//! What a run asks of a plugin, and the answer.

use crate::{RequestId, RunId, Timestamp};
use serde::{Deserialize, Serialize};

/// The hand-off row from `workflow` to `action`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActionRequest {
    pub id: RequestId,
    /// Absent when a person called the action by hand.
    pub run: Option<RunId>,
    /// JSON pointer of the task in its definition, with iteration counters: `/do/2/scale#1`.
    pub step: String,
    pub alert: Option<crate::AlertId>,
    /// Who or what approved it, when an approval step did.
    pub approval: Option<String>,
    /// Name of the installation, such as `kubernetes` or `kubernetes-prod`.
    pub installation: String,
    pub operation: String,
    pub input: serde_json::Value,
    /// Same for every retry of this step.
    pub idempotency_key: String,
    pub deadline: Option<Timestamp>,
    pub traceparent: String,
}

/// The hand-off row from `action` back to `workflow`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActionResult {
    pub request: RequestId,
    pub run: Option<RunId>,
    pub step: String,
    pub outcome: ActionOutcome,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "kebab-case")]
pub enum ActionOutcome {
    Done {
        output: serde_json::Value,
    },
    Failed {
        error: ErrorRecord,
    },
    /// After a crash nobody can tell whether the effect happened, and it may not be repeated: a human decides.
    InDoubt {
        error: ErrorRecord,
    },
}

/// A failure as plugins and the API tell it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorRecord {
    /// Dotted, from an open, documented set: `remote.rate_limited`, `guardrail.budget`, `plugin.trap`.
    pub code: String,
    pub message: String,
    pub retry: RetryAdvice,
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub details: serde_json::Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "when", content = "ms", rename_all = "kebab-case")]
pub enum RetryAdvice {
    Never,
    Now,
    AfterMs(u64),
}
