//! A run's row from its state: what lists show, and the checkpoint.

use crate::definition::{Definition, Kind, Task};
use crate::interpret::APPROVAL_ANSWERED;
use crate::lifecycle;
use crate::state::{Body, Phase, State};
use db::run::RunRow;
use model::Timestamp;
use serde_json::{Value, json};

pub(crate) fn row(state: &State, definition: Option<&Definition>, now: Timestamp) -> RunRow {
    let waits = waits(state, definition);
    let asks = waits.iter().any(|wait| wait["for"] == "approval" || wait["for"] == "decision");
    RunRow {
        id: state.run,
        tenant: state.tenant.clone(),
        namespace: state.namespace.clone(),
        name: state.name.clone(),
        version: state.version.clone(),
        revision: state.revision,
        status: state.status.as_str().to_owned(),
        flight: flight(state).unwrap_or_default(),
        parent: state.parent.as_ref().map(|parent| parent.run),
        alert: state.cause.alert.map(|alert| alert.to_string()),
        cause: serde_json::to_value(&state.cause).expect("a cause has text keys only"),
        waits: Value::Array(waits),
        asks,
        started: state.started,
        updated: now,
        ended: state.ended,
        input: state.input.clone(),
        output: state.output.clone(),
        error: state.error.as_ref().map_or(Value::Null, |error| error.to_json()),
        steps: i64::try_from(state.steps).unwrap_or(i64::MAX),
    }
}

/// Names the alert that the run is about within its definition.
pub(crate) fn flight(state: &State) -> Option<String> {
    state.cause.fingerprint.as_ref().map(|fingerprint| format!("{}:{fingerprint}", state.full_name()))
}

/// Types of events that the run's listeners may consume.
pub(crate) fn listens(state: &State, definition: &Definition) -> Vec<String> {
    let mut kinds: Vec<String> = state
        .frames
        .values()
        .filter(|frame| matches!(frame.body, Body::Listen { .. }))
        .filter_map(|frame| match task(definition, &frame.pointer).map(|task| &task.kind) {
            Some(Kind::Listen(listen)) => Some(listen.to.kinds()),
            _ => None,
        })
        .flatten()
        .collect();
    kinds.sort();
    kinds.dedup();
    kinds
}

fn task<'d>(definition: &'d Definition, pointer: &str) -> Option<&'d Task> {
    definition.all_tasks().into_iter().find(|task| task.pointer == pointer)
}

fn waits(state: &State, definition: Option<&Definition>) -> Vec<Value> {
    let mut waits: Vec<Value> = Vec::new();
    for (path, frame) in &state.frames {
        let what = match &frame.body {
            Body::Call { in_doubt: Some(error), installation, operation, .. } => {
                json!({"for": "decision", "installation": installation, "operation": operation, "error": error})
            }
            Body::Call { installation, operation, request, .. } => {
                json!({"for": "action", "installation": installation, "operation": operation, "request": request})
            }
            Body::Wait { until } => json!({"for": "timer", "until": lifecycle::rfc3339(*until)}),
            Body::Try { phase: Phase::Backoff { until }, attempt, .. } => {
                json!({"for": "retry", "until": lifecycle::rfc3339(*until), "attempt": attempt})
            }
            Body::Listen { .. } => {
                let kinds = match definition.and_then(|d| task(d, &frame.pointer)).map(|task| &task.kind) {
                    Some(Kind::Listen(listen)) => listen.to.kinds(),
                    _ => Vec::new(),
                };
                let what = if kinds.iter().any(|kind| kind == APPROVAL_ANSWERED) { "approval" } else { "event" };
                json!({"for": what, "kinds": kinds, "note": frame.note})
            }
            Body::Run { child } => json!({"for": "run", "run": child.to_string()}),
            _ => continue,
        };
        let mut wait = json!({"step": path, "since": lifecycle::rfc3339(frame.started)});
        if let (Value::Object(wait), Value::Object(what)) = (&mut wait, what) {
            wait.extend(what);
        }
        if let Some(deadline) = frame.deadline {
            wait["deadline"] = json!(lifecycle::rfc3339(deadline));
        }
        waits.push(wait);
    }
    if state.is_paused {
        waits.push(json!({"for": "resume"}));
    }
    waits
}
