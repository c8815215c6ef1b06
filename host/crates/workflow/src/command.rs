//! Commands: what may happen to a run, one file each. Each is pure: the state before, the command and the
//! time give the writes and the effects.

mod answer_result;
mod cancel;
mod child_ended;
mod decide;
mod deliver_event;
mod pause;
mod start;
mod wake;

use crate::definition::Definition;
use crate::expression::Engine;
use crate::interpret::{Effect, Machine, Writes};
use crate::state::{Decision, RunError, State};
use model::{ActionResult, RunId, Timestamp};
use serde_json::Value;

#[derive(Clone, Debug)]
pub enum Command {
    Start,
    /// An action answered.
    Result(ActionResult),
    /// An event, as JSON, that a listener may consume.
    Event(Value),
    /// Time has come, or the run stopped in the middle of pure work.
    Wake,
    ChildEnded {
        step: String,
        child: RunId,
        outcome: Result<Value, RunError>,
    },
    Cancel {
        by: String,
    },
    Pause {
        by: String,
    },
    Resume {
        by: String,
    },
    Decide {
        step: String,
        decision: Decision,
        by: String,
    },
}

/// One transition. A command that fits nothing in the run (an answer given twice, an event nobody waits for)
/// leaves it as it is, with an empty journal.
pub fn apply(state: &State, command: Command, definition: &Definition, engine: &Engine, now: Timestamp) -> (Writes, Vec<Effect>) {
    let mut machine = Machine::new(definition, engine, state.clone(), now);
    if !machine.state.status.is_ended() {
        match command {
            Command::Start => start::apply(&mut machine),
            Command::Result(result) => answer_result::apply(&mut machine, result),
            Command::Event(event) => deliver_event::apply(&mut machine, event),
            Command::Wake => wake::apply(&mut machine),
            Command::ChildEnded { step, child, outcome } => child_ended::apply(&mut machine, step, child, outcome),
            Command::Cancel { by } => cancel::apply(&mut machine, by),
            Command::Pause { by } => pause::pause(&mut machine, by),
            Command::Resume { by } => pause::resume(&mut machine, by),
            Command::Decide { step, decision, by } => decide::apply(&mut machine, step, decision, by),
        }
    }
    machine.finish()
}
