//! Somebody ends the run. What its steps asked of the world is not taken back; answers still to come are ignored.

use crate::interpret::Effect;
use crate::interpret::Machine;
use crate::journal::Entry;
use crate::lifecycle;
use crate::state::{RunError, Status};
use serde_json::json;

pub(super) fn apply(machine: &mut Machine<'_>, by: String) {
    machine.end(Status::Cancelled);
    if let Some(Entry::Run { by: who, .. }) = machine.journal.last_mut() {
        *who = Some(by);
    }
    machine.event("workflow.cancelled", json!({"cancelledAt": lifecycle::rfc3339(machine.now)}));
    if let Some(parent) = machine.state.parent.clone() {
        let error = RunError::runtime(format!("run {} of {} was cancelled", machine.state.run, machine.state.full_name()));
        machine.effects.push(Effect::Ended { parent, outcome: Err(error) });
    }
}
