//! Time has come for a wait, a timeout or a back-off, or a long stretch of pure steps goes on.

use crate::interpret::Machine;

pub(super) fn apply(machine: &mut Machine<'_>) {
    if machine.state.wake(machine.now).is_some_and(|due| due <= machine.now) {
        machine.run();
    }
}
