//! What a run did: entries as they are stored, and the step tree that is read back from them.

use crate::definition::Task;
use crate::interpret::size;
use crate::state::{Body, Frame, RunError, Status};
use model::{RequestId, Timestamp, limits};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::HashMap;

/// One entry of a journal row. docs/formats/journal.md
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "e", rename_all = "kebab-case")]
pub enum Entry {
    /// The run itself: started, paused, ended, …
    Run {
        status: Status,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    /// A task that could not end within the transition it began in.
    Started {
        step: String,
        n: u64,
        kind: String,
        started: Timestamp,
        input: Value,
    },
    Ended {
        step: String,
        n: u64,
        kind: String,
        status: String,
        started: Timestamp,
        input: Value,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        output: Option<Value>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<Value>,
    },
    Cancelled {
        step: String,
        n: u64,
    },
    /// An action was asked; the request was handed off in the same transaction.
    Requested {
        step: String,
        request: RequestId,
        installation: String,
        operation: String,
        input: Value,
        key: String,
    },
    Result {
        step: String,
        request: RequestId,
        status: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    Retried {
        step: String,
        attempt: u32,
        delay_ms: i64,
        error: Value,
    },
    /// An event was consumed.
    Consumed {
        step: String,
        id: String,
        kind: String,
    },
    Decided {
        step: String,
        decision: String,
        by: String,
    },
}

/// A step of a run, as its graph shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// Step path: the JSON pointer of the task, with counters of iterations and visits.
    pub path: String,
    /// Path of the step around it.
    pub parent: Option<String>,
    pub name: String,
    /// `do`, `call`, `wait`, …
    pub kind: String,
    /// `running`, `waiting`, `retrying`, `in-doubt`, `completed`, `faulted`, `skipped` or `cancelled`.
    pub status: String,
    pub input: Value,
    pub output: Value,
    pub error: Value,
    pub started: Timestamp,
    pub ended: Option<Timestamp>,
    /// How often it was begun.
    pub attempts: u32,
    /// What was asked of an action: `{installation, operation, input, key}`.
    pub request: Value,
}

impl Entry {
    pub(crate) fn started(step: &str, frame: &Frame) -> Self {
        Self::Started {
            step: step.into(),
            n: frame.n,
            kind: kind_of(&frame.body).into(),
            started: frame.started,
            input: shown(&frame.input),
        }
    }

    pub(crate) fn ended(
        step: &str,
        task: &Task,
        frame: &Frame,
        status: &str,
        output: Option<&Value>,
        error: Option<&RunError>,
    ) -> Self {
        Self::Ended {
            step: step.into(),
            n: frame.n,
            kind: task.kind.as_str().into(),
            status: status.into(),
            started: frame.started,
            input: shown(&frame.input),
            output: output.map(shown),
            error: error.map(RunError::to_json),
        }
    }
}

fn kind_of(body: &Body) -> &'static str {
    match body {
        Body::Do { .. } => "do",
        Body::For { .. } => "for",
        Body::Fork { .. } => "fork",
        Body::Try { .. } => "try",
        Body::Call { .. } | Body::Function { .. } => "call",
        Body::Wait { .. } => "wait",
        Body::Listen { .. } => "listen",
        Body::Run { .. } => "run",
    }
}

/// A value as the journal keeps it: what is very long is in the checkpoint only.
pub(crate) fn shown(value: &Value) -> Value {
    let bytes = size(value, limits::RECORDED_VALUE_BYTES_MAX);
    if bytes > limits::RECORDED_VALUE_BYTES_MAX { json!({"$omitted": "longer than the journal keeps"}) } else { value.clone() }
}

/// Steps in the order they began, from all journal rows of a run.
pub fn steps(rows: &[db::journal::JournalRow]) -> Vec<Step> {
    let mut steps: Vec<(u64, Step)> = Vec::new();
    let mut by_path: HashMap<String, usize> = HashMap::new();
    for row in rows {
        let Ok(entries) = serde_json::from_value::<Vec<Entry>>(row.body.clone()) else { continue };
        for entry in entries {
            match entry {
                Entry::Started { step, n, kind, started, input } => {
                    let status = if matches!(kind.as_str(), "wait" | "listen" | "run") { "waiting" } else { "running" };
                    let index = place(&mut steps, &mut by_path, &step, n, &kind, started);
                    let (_, found) = &mut steps[index];
                    (found.status, found.input) = (status.into(), input);
                }
                Entry::Ended { step, n, kind, status, started, input, output, error } => {
                    let index = place(&mut steps, &mut by_path, &step, n, &kind, started);
                    let (_, found) = &mut steps[index];
                    found.status = status;
                    found.input = input;
                    found.output = output.unwrap_or_default();
                    found.error = error.unwrap_or_default();
                    found.ended = Some(row.at);
                }
                Entry::Cancelled { step, .. } => {
                    if let Some(index) = by_path.get(&step) {
                        let (_, found) = &mut steps[*index];
                        (found.status, found.ended) = ("cancelled".into(), Some(row.at));
                    }
                }
                Entry::Requested { step, request, installation, operation, input, key } => {
                    let value =
                        json!({"id": request, "installation": installation, "operation": operation, "input": input, "key": key});
                    // The request stands before the start of its own step within a row.
                    let index = match by_path.get(&step) {
                        Some(index) => *index,
                        None => place(&mut steps, &mut by_path, &step, 0, "call", row.at),
                    };
                    let (_, found) = &mut steps[index];
                    (found.request, found.status) = (value, "running".into());
                }
                Entry::Result { step, status, error, .. } => {
                    if status == "in-doubt"
                        && let Some(index) = by_path.get(&step)
                    {
                        let (_, found) = &mut steps[*index];
                        (found.status, found.error) = (status, json!(error));
                    }
                }
                Entry::Retried { step, error, .. } => {
                    if let Some(index) = by_path.get(&step) {
                        let (_, found) = &mut steps[*index];
                        (found.status, found.error) = ("retrying".into(), error);
                    }
                }
                Entry::Run { .. } | Entry::Consumed { .. } | Entry::Decided { .. } => {}
            }
        }
    }
    steps.sort_by_key(|(n, _)| *n);
    let paths: std::collections::HashSet<String> = steps.iter().map(|(_, step)| step.path.clone()).collect();
    steps
        .into_iter()
        .map(|(_, mut step)| {
            step.parent = ancestors(&step.path).find(|path| paths.contains(*path)).map(str::to_owned);
            step
        })
        .collect()
}

fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at]).filter(|path| !path.is_empty()).collect::<Vec<_>>().into_iter().rev()
}

/// The step's entry, made when it is new; a new `n` is another attempt.
fn place(
    steps: &mut Vec<(u64, Step)>,
    by_path: &mut HashMap<String, usize>,
    path: &str,
    n: u64,
    kind: &str,
    started: Timestamp,
) -> usize {
    if let Some(index) = by_path.get(path) {
        let (known, step) = &mut steps[*index];
        if *known == 0 {
            *known = n;
        } else if n > *known {
            step.attempts += 1;
            *known = n;
            (step.ended, step.error, step.output) = (None, Value::Null, Value::Null);
        }
        (step.started, step.kind) = (started, kind.to_owned());
        return *index;
    }
    let name =
        path.rsplit('/').next().unwrap_or_default().split('#').next().unwrap_or_default().replace("~1", "/").replace("~0", "~");
    steps.push((
        n,
        Step {
            path: path.to_owned(),
            parent: None,
            name,
            kind: kind.to_owned(),
            status: "running".into(),
            input: Value::Null,
            output: Value::Null,
            error: Value::Null,
            started,
            ended: None,
            attempts: 1,
            request: Value::Null,
        },
    ));
    by_path.insert(path.to_owned(), steps.len() - 1);
    steps.len() - 1
}
