//! A person decides about a call of which nobody can tell whether it happened.

use crate::interpret::Machine;
use crate::journal::Entry;
use crate::state::{Body, Decision, Signal};

pub(super) fn apply(machine: &mut Machine<'_>, step: String, decision: Decision, by: String) {
    let is_in_doubt =
        matches!(machine.state.frames.get(&step).map(|frame| &frame.body), Some(Body::Call { in_doubt: Some(_), .. }));
    if !is_in_doubt {
        return;
    }
    let word = match &decision {
        Decision::Retry => "retry",
        Decision::Skip { .. } => "skip",
        Decision::Fail => "fail",
    };
    machine.journal.push(Entry::Decided { step: step.clone(), decision: word.into(), by });
    machine.signal = Some(Signal::Decided { step, decision });
    machine.run();
}
