//! An action answered. An answer to a request that no step waits for any more changes nothing: it was
//! consumed before, or its step was given up.

use crate::interpret::Machine;
use crate::state::{Body, Signal};
use model::ActionResult;

pub(super) fn apply(machine: &mut Machine<'_>, result: ActionResult) {
    let is_awaited = matches!(
        machine.state.frames.get(&result.step).map(|frame| &frame.body),
        Some(Body::Call { request, .. }) if *request == result.request
    );
    if is_awaited {
        machine.signal = Some(Signal::Result { step: result.step, request: result.request, outcome: result.outcome });
        machine.run();
    }
}
