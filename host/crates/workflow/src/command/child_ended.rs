//! A run that this one started and waits for has ended.

use crate::interpret::Machine;
use crate::state::{RunError, Signal};
use model::RunId;
use serde_json::Value;

pub(super) fn apply(machine: &mut Machine<'_>, step: String, child: RunId, outcome: Result<Value, RunError>) {
    if machine.state.frames.contains_key(&step) {
        machine.signal = Some(Signal::Child { step, child, outcome });
        machine.run();
    }
}
