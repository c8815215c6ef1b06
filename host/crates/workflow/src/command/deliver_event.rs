//! An event came by. Every listener of the run hears it.

use crate::interpret::Machine;
use crate::state::{Body, Signal};
use serde_json::Value;

pub(super) fn apply(machine: &mut Machine<'_>, event: Value) {
    if machine.state.frames.values().any(|frame| matches!(frame.body, Body::Listen { .. })) {
        machine.signal = Some(Signal::Event(event));
        machine.run();
    }
}
