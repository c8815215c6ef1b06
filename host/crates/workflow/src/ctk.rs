//! The DSL's conformance features (Gherkin), run against the interpreter with a stand-in for the world.
//!
//! [`simulate`] runs one definition to its end without a database: time jumps to the next wait, actions are
//! answered by a closure. [`run_feature`] reads a feature file and runs its scenarios on it.

use crate::command::{Command, apply};
use crate::definition::{self, Definition};
use crate::expression::Engine;
use crate::journal::Entry;
use crate::state::{Cause, Sequence, State, Status};
use crate::yaml;
use model::{ActionOutcome, ActionRequest, ActionResult, RunId, TenantId, Timestamp};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};

/// Transitions of one simulation: a scenario takes a handful.
const TRANSITIONS_MAX: usize = 10_000;

/// How a simulated run ended.
#[derive(Debug)]
pub struct Simulated {
    pub state: State,
    pub journal: Vec<Entry>,
    pub events: Vec<model::Event>,
    pub requests: Vec<ActionRequest>,
}

/// The state of a run that has not begun.
pub fn fresh(definition: &Definition, run: RunId, input: Value, now: Timestamp) -> State {
    State {
        run,
        tenant: TenantId::default_tenant(),
        namespace: definition.document.namespace.clone(),
        name: definition.document.name.clone(),
        version: definition.document.version.clone(),
        revision: 1,
        status: Status::Running,
        cause: Cause::default(),
        parent: None,
        depth: 0,
        started: now,
        deadline: None,
        input,
        context: json!({}),
        root: Sequence::default(),
        frames: BTreeMap::new(),
        seq: 0,
        steps: 0,
        counter: 0,
        is_paused: false,
        is_ready: false,
        approval: None,
        output: Value::Null,
        error: None,
        ended: None,
    }
}

/// Runs until nothing moves any more: the run has ended, or waits for something the simulation doesn't give.
/// Each event of `events` is delivered when the run waits and has nothing else to do.
pub fn simulate(
    definition: &Definition,
    input: Value,
    events: Vec<Value>,
    act: &mut dyn FnMut(&ActionRequest) -> ActionOutcome,
) -> Simulated {
    let engine = Engine::default();
    let mut now = Timestamp::from_secs(1_700_000_000);
    let run = RunId::from_uuid(uuid::Uuid::from_u128(7));
    let mut simulated =
        Simulated { state: fresh(definition, run, input, now), journal: Vec::new(), events: Vec::new(), requests: Vec::new() };
    let mut events: VecDeque<Value> = events.into();
    let mut open: VecDeque<Command> = VecDeque::from([Command::Start]);
    for _ in 0..TRANSITIONS_MAX {
        let Some(command) = open.pop_front() else {
            if simulated.state.status.is_ended() {
                break;
            }
            if simulated.state.frames.values().any(|frame| matches!(frame.body, crate::state::Body::Listen { .. }))
                && let Some(event) = events.pop_front()
            {
                open.push_back(Command::Event(event));
            } else if let Some(due) = simulated.state.wake(now) {
                now = due.max(now);
                open.push_back(Command::Wake);
            } else {
                break;
            }
            continue;
        };
        let (writes, _) = apply(&simulated.state, command, definition, &engine, now);
        for request in &writes.requests {
            let outcome = act(request);
            open.push_back(Command::Result(ActionResult {
                request: request.id,
                run: request.run,
                step: request.step.clone(),
                outcome,
            }));
        }
        // As the database would give it back.
        let checkpoint = serde_json::to_string(&writes.state).expect("a state has text keys only");
        simulated.state = serde_json::from_str(&checkpoint).expect("a checkpoint is read as it was written");
        simulated.journal.extend(writes.journal);
        simulated.events.extend(writes.events);
        simulated.requests.extend(writes.requests);
    }
    simulated
}

/// One scenario and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    pub name: String,
    /// Why it failed.
    pub outcome: Result<(), String>,
}

/// Runs all scenarios of a feature file. `act` stands in for the actions.
pub fn run_feature(text: &str, act: &mut dyn FnMut(&ActionRequest) -> ActionOutcome) -> Vec<Scenario> {
    scenarios(text).into_iter().map(|(name, steps)| Scenario { name, outcome: run_scenario(&steps, act) }).collect()
}

struct GherkinStep {
    text: String,
    document: Option<String>,
}

fn scenarios(text: &str) -> Vec<(String, Vec<GherkinStep>)> {
    let mut found: Vec<(String, Vec<GherkinStep>)> = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let trimmed = line.trim();
        if let Some(name) = trimmed.strip_prefix("Scenario:") {
            found.push((name.trim().to_owned(), Vec::new()));
            continue;
        }
        let Some((_, steps)) = found.last_mut() else { continue };
        if trimmed.starts_with("\"\"\"") {
            let indent = line.len() - line.trim_start().len();
            let mut document = String::new();
            for line in lines.by_ref() {
                if line.trim().starts_with("\"\"\"") {
                    break;
                }
                document.push_str(line.get(indent.min(line.len() - line.trim_start().len())..).unwrap_or_default());
                document.push('\n');
            }
            if let Some(step) = steps.last_mut() {
                step.document = Some(document);
            }
            continue;
        }
        let words = ["Given ", "When ", "Then ", "And ", "But "];
        if let Some(text) = words.iter().find_map(|word| trimmed.strip_prefix(word)) {
            steps.push(GherkinStep { text: text.trim().to_owned(), document: None });
        }
    }
    found
}

fn run_scenario(steps: &[GherkinStep], act: &mut dyn FnMut(&ActionRequest) -> ActionOutcome) -> Result<(), String> {
    let mut definition = None;
    let mut input = json!({});
    let mut ran: Option<Simulated> = None;
    for step in steps {
        let text = step.text.strip_prefix("given ").unwrap_or(&step.text).trim_end_matches(':');
        let document = || -> Result<Value, String> {
            let text = step.document.as_deref().ok_or("the step has no document")?;
            Ok(yaml::parse(text).map_err(|e| e.to_string())?.to_json())
        };
        match text {
            "a workflow with definition" => {
                let text = step.document.as_deref().ok_or("the step has no document")?;
                let parsed = definition::parse(text).map_err(|d| d.first().map(ToString::to_string).unwrap_or_default())?;
                definition = Some(parsed);
            }
            "the workflow input is" => input = document()?,
            "the workflow is executed" => {
                let definition = definition.as_ref().ok_or("no definition was given")?;
                ran = Some(simulate(definition, input.clone(), Vec::new(), act));
            }
            _ => {
                let ran = ran.as_ref().ok_or("the workflow was not executed yet")?;
                judge(text, step, ran, &document)?;
            }
        }
    }
    Ok(())
}

fn judge(text: &str, step: &GherkinStep, ran: &Simulated, document: &dyn Fn() -> Result<Value, String>) -> Result<(), String> {
    let state = &ran.state;
    let ensure = |holds: bool, what: String| if holds { Ok(()) } else { Err(what) };
    let quoted: Vec<&str> = text.split('\'').skip(1).step_by(2).collect();
    let property = |path: &str| path.split('.').try_fold(&state.output, |value, key| value.get(key));
    if text.starts_with("the workflow should complete") || text.starts_with("the workflow should fault") {
        let expected = if text.contains("fault") { Status::Faulted } else { Status::Completed };
        ensure(
            state.status == expected,
            format!("the run is {}, not {}: {:?}", state.status.as_str(), expected.as_str(), state.error),
        )?;
        if text.ends_with("with output") {
            let expected = document()?;
            ensure(state.output == expected, format!("the output is {}, not {expected}", state.output))?;
        }
        if text.ends_with("with error") {
            let (expected, error) = (document()?, state.error.as_ref().map(|e| e.to_json()).unwrap_or_default());
            for (key, value) in expected.as_object().into_iter().flatten() {
                ensure(error[key] == *value, format!("the error's {key} is {}, not {value}", error[key]))?;
            }
        }
        return Ok(());
    }
    if text.contains("should have properties") {
        for path in quoted {
            ensure(property(path).is_some(), format!("the output has no {path:?}: {}", state.output))?;
        }
        return Ok(());
    }
    if text.contains("property with value") {
        let (path, expected) = (quoted.first().ok_or("no property is named")?, document()?);
        return ensure(property(path) == Some(&expected), format!("{path:?} is {:?}, not {expected}", property(path)));
    }
    if text.contains("property containing") {
        let path = quoted.first().ok_or("no property is named")?;
        let count = text.split_whitespace().find_map(|word| word.parse::<usize>().ok()).ok_or("no count is named")?;
        let len = property(path).and_then(Value::as_array).map(Vec::len);
        return ensure(len == Some(count), format!("{path:?} has {len:?} items, not {count}"));
    }
    let order = order(&ran.journal);
    let place = |name: &str| order.iter().position(|ran| ran == name).ok_or(format!("{name} did not run"));
    let words: Vec<&str> = text.split_whitespace().collect();
    match words[..] {
        [name, "should", "run", "first"] => ensure(place(name)? == 0, format!("{name} was not the first of {order:?}")),
        [name, "should", "run", "last"] => {
            ensure(place(name)? + 1 == order.len(), format!("{name} was not the last of {order:?}"))
        }
        [name, "should", "run", "after", other] => {
            ensure(place(name)? > place(other)?, format!("{name} did not run after {other}: {order:?}"))
        }
        _ => Err(format!("the step {:?} is not known", step.text)),
    }
}

/// Names of the tasks in the order they began.
fn order(journal: &[Entry]) -> Vec<String> {
    let mut began: Vec<(u64, String)> = journal
        .iter()
        .filter_map(|entry| match entry {
            Entry::Ended { step, n, status, .. } if status != "skipped" => {
                Some((*n, step.rsplit('/').next().unwrap_or_default().split('#').next().unwrap_or_default().to_owned()))
            }
            _ => None,
        })
        .collect();
    began.sort();
    began.into_iter().map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests;
