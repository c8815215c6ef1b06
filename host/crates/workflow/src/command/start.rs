//! A run begins: its input is judged and shaped, then it goes as far as it can.

use crate::interpret::{Local, Machine, bounded};
use crate::journal::Entry;
use crate::lifecycle;
use crate::state::{RunError, Sequence};
use model::limits;
use serde_json::{Value, json};

pub(super) fn apply(machine: &mut Machine<'_>) {
    if machine.state.seq > 0 {
        return;
    }
    machine.journal.push(Entry::Run {
        status: machine.state.status,
        by: machine.state.cause.principal.clone(),
        why: Some(machine.state.cause.kind.clone()),
    });
    let document = &machine.definition.document;
    let data = json!({
        "definition": {"namespace": document.namespace, "name": document.name, "version": document.version},
        "startedAt": lifecycle::rfc3339(machine.now),
    });
    machine.event("workflow.started", data);
    match shaped_input(machine) {
        Ok(input) => {
            machine.state.root = Sequence::new(input);
            machine.run();
        }
        Err(error) => machine.fault(error),
    }
}

fn shaped_input(machine: &mut Machine<'_>) -> Result<Value, RunError> {
    if machine.state.depth > limits::RUN_DEPTH_MAX {
        return Err(RunError::runtime(format!("workflows run workflows deeper than {} levels", limits::RUN_DEPTH_MAX)));
    }
    let definition = machine.definition;
    let raw = machine.state.input.clone();
    bounded(&raw, "the input")?;
    if let Some(schema) = &definition.input.schema {
        schema.check(&raw)?;
    }
    let local = Local { task: None, input: &raw, output: None, started: machine.state.started };
    if let Some(timeout) = &definition.timeout {
        let ms = machine.milliseconds(timeout, local)?;
        machine.state.deadline = Some(machine.now.plus_millis(ms));
    }
    let input = match &definition.input.from {
        Some(from) => machine.transformed(from, &raw, local)?,
        None => raw.clone(),
    };
    bounded(&input, "the input")?;
    Ok(input)
}
