//! An operator stops a run between two steps, and lets it go on. What is under way ends and is kept.

use crate::interpret::Machine;
use crate::journal::Entry;
use crate::lifecycle;
use crate::state::Status;
use serde_json::json;

pub(super) fn pause(machine: &mut Machine<'_>, by: String) {
    if machine.state.is_paused {
        return;
    }
    machine.state.is_paused = true;
    machine.state.status = Status::Suspended;
    machine.journal.push(Entry::Run { status: Status::Suspended, by: Some(by), why: Some("paused".into()) });
    machine.event("workflow.suspended", json!({"suspendedAt": lifecycle::rfc3339(machine.now)}));
}

pub(super) fn resume(machine: &mut Machine<'_>, by: String) {
    if !machine.state.is_paused {
        return;
    }
    machine.state.is_paused = false;
    machine.journal.push(Entry::Run { status: Status::Running, by: Some(by), why: Some("resumed".into()) });
    machine.event("workflow.resumed", json!({"resumedAt": lifecycle::rfc3339(machine.now)}));
    machine.run();
}
