//! The interpreter: moves a run as far as it goes without the outside. Pure: no await, clock, disk or randomness.
//!
//! Tasks in progress are frames, keyed by their step path. Each pass begins at the root and descends to every
//! frame in progress; a frame that has what it waits for ends, and its list goes on with the next task.

mod attempt;
mod call;
mod emit;
mod fork;
mod listen;
mod repeat;

pub use listen::APPROVAL_ANSWERED;

use crate::definition::{Definition, Kind, Output, Task, Then, Time, Transform};
use crate::expression::{Engine, Scope};
use crate::journal::Entry;
use crate::state::{Body, Frame, RunError, Sequence, Signal, State, Status};
use crate::{duration, lifecycle};
use model::{ActionRequest, Event, RunId, Timestamp, limits};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Tasks entered in one transaction; then it is committed and another begun, so that a long loop of pure
/// steps neither blocks other runs nor loses much.
const STEPS_PER_TRANSITION: u32 = 1_000;
/// Frames within frames: each costs stack.
const FRAMES_DEEP_MAX: usize = 64;

/// What a transition stores, all in one transaction.
#[derive(Debug)]
pub struct Writes {
    pub state: State,
    /// The journal row of this transition; none when nothing happened.
    pub journal: Vec<Entry>,
    pub requests: Vec<ActionRequest>,
    pub events: Vec<Event>,
}

/// What a transition asks of other runs.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    Start { child: RunId, step: String, is_awaited: bool, namespace: String, name: String, version: Option<String>, input: Value },
    Ended { parent: crate::state::Parent, outcome: Result<Value, RunError> },
    Cancel { child: RunId },
}

pub(crate) enum Progress {
    Blocked,
    Done(Value, Flow),
    Failed(RunError),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    Next,
    Goto(usize),
    Exit,
    End,
}

impl From<Then> for Flow {
    fn from(then: Then) -> Self {
        match then {
            Then::Continue => Self::Next,
            Then::Exit => Self::Exit,
            Then::End => Self::End,
            Then::Task(index) => Self::Goto(index),
        }
    }
}

pub(crate) struct Machine<'d> {
    pub definition: &'d Definition,
    pub engine: &'d Engine,
    pub state: State,
    pub now: Timestamp,
    pub signal: Option<Signal>,
    pub journal: Vec<Entry>,
    pub requests: Vec<ActionRequest>,
    pub events: Vec<Event>,
    pub effects: Vec<Effect>,
    /// Variables of the loops and catches around the task at hand.
    pub variables: Vec<(String, Value)>,
    /// Deadlines of the frames around the task at hand.
    pub deadlines: Vec<Timestamp>,
    budget: u32,
    depth: usize,
    workflow: Value,
    runtime: Value,
    secrets: Value,
}

/// What an expression sees of the task it stands in.
#[derive(Clone, Copy)]
pub(crate) struct Local<'l> {
    pub task: Option<&'l Task>,
    pub input: &'l Value,
    pub output: Option<&'l Value>,
    pub started: Timestamp,
}

impl<'d> Machine<'d> {
    pub fn new(definition: &'d Definition, engine: &'d Engine, state: State, now: Timestamp) -> Self {
        let workflow = if definition.mentions_workflow {
            json!({
                "id": state.run.to_string(),
                "definition": *definition.json,
                "input": state.input,
                "startedAt": lifecycle::instant(state.started),
            })
        } else {
            Value::Null
        };
        // The engine knows secrets by name only; the host puts them in where a request leaves it.
        let secrets = definition.secrets.iter().map(|name| (name.clone(), Value::String(secret_reference(name)))).collect();
        Self {
            definition,
            engine,
            state,
            now,
            signal: None,
            journal: Vec::new(),
            requests: Vec::new(),
            events: Vec::new(),
            effects: Vec::new(),
            variables: Vec::new(),
            deadlines: Vec::new(),
            budget: STEPS_PER_TRANSITION,
            depth: 0,
            workflow,
            runtime: json!({"name": "orchestrix", "version": env!("CARGO_PKG_VERSION"), "metadata": {}}),
            secrets: Value::Object(secrets),
        }
    }

    /// Ends the transition.
    pub fn finish(mut self) -> (Writes, Vec<Effect>) {
        if !self.journal.is_empty() {
            self.state.seq += 1;
        }
        (Writes { state: self.state, journal: self.journal, requests: self.requests, events: self.events }, self.effects)
    }

    /// Moves the run as far as it goes.
    pub fn run(&mut self) {
        if self.state.status.is_ended() {
            return;
        }
        self.state.is_ready = false;
        if !self.state.is_paused && self.state.deadline.is_some_and(|deadline| deadline <= self.now) {
            self.fault(RunError::timeout("the workflow took longer than its timeout"));
            return;
        }
        let mut root = std::mem::take(&mut self.state.root);
        let definition = self.definition;
        let progress = self.sequence(&mut root, &definition.tasks, "/do");
        self.state.root = root;
        match progress {
            Progress::Blocked => {
                self.tell_blocked();
                let before = self.state.status;
                self.state.status = self.blocked_status();
                if self.state.status == Status::Suspended && before != Status::Suspended {
                    self.event("workflow.suspended", json!({"suspendedAt": lifecycle::rfc3339(self.now)}));
                }
            }
            Progress::Done(output, _) => match self.final_output(output) {
                Ok(output) => self.complete(output),
                Err(error) => self.fault(error),
            },
            Progress::Failed(error) => self.fault(error),
        }
    }

    fn final_output(&mut self, output: Value) -> Result<Value, RunError> {
        let definition = self.definition;
        let input = self.state.input.clone();
        let local = Local { task: None, input: &input, output: Some(&output), started: self.state.started };
        let output = self.shaped(&definition.output, &output, local)?;
        bounded(&output, "the output")?;
        Ok(output)
    }

    fn blocked_status(&self) -> Status {
        let mut calls = self.state.frames.values().filter_map(|frame| match &frame.body {
            Body::Call { in_doubt, .. } => Some(in_doubt.is_some()),
            _ => None,
        });
        if self.state.is_paused || self.state.asks() {
            Status::Suspended
        } else if self.state.is_ready || calls.any(|is_in_doubt| !is_in_doubt) {
            Status::Running
        } else {
            Status::Waiting
        }
    }

    pub fn complete(&mut self, output: Value) {
        self.end(Status::Completed);
        self.event("workflow.completed", json!({"completedAt": lifecycle::rfc3339(self.now), "output": output}));
        if let Some(parent) = self.state.parent.clone() {
            self.effects.push(Effect::Ended { parent, outcome: Ok(output.clone()) });
        }
        self.state.output = output;
    }

    pub fn fault(&mut self, error: RunError) {
        self.end(Status::Faulted);
        self.event("workflow.faulted", json!({"faultedAt": lifecycle::rfc3339(self.now), "error": error.to_json()}));
        if let Some(parent) = self.state.parent.clone() {
            self.effects.push(Effect::Ended { parent, outcome: Err(error.clone()) });
        }
        self.state.error = Some(error);
    }

    pub fn end(&mut self, status: Status) {
        self.drop_frames("");
        self.state.root = Sequence::default();
        self.state.status = status;
        self.state.ended = Some(self.now);
        self.state.is_ready = false;
        self.journal.push(Entry::Run { status, by: None, why: None });
    }

    /// Whether another task may begin in this transition.
    fn may_enter(&mut self) -> bool {
        if self.state.is_paused {
            return false;
        }
        if self.budget == 0 {
            self.state.is_ready = true;
            return false;
        }
        true
    }

    pub fn sequence(&mut self, sequence: &mut Sequence, tasks: &'d [Task], base: &str) -> Progress {
        loop {
            let Some(task) = tasks.get(sequence.index) else {
                return Progress::Done(std::mem::take(&mut sequence.data), Flow::Next);
            };
            let progress = match &sequence.child {
                Some(path) => {
                    let path = path.clone();
                    self.resume(&path, task)
                }
                None => {
                    if !self.may_enter() {
                        return Progress::Blocked;
                    }
                    // A second visit needs paths of its own.
                    if sequence.visits.len() <= sequence.index {
                        sequence.visits.resize(sequence.index + 1, 0);
                    }
                    let visits = &mut sequence.visits[sequence.index];
                    let path = child_path(base, sequence.index, &task.name, *visits);
                    *visits += 1;
                    let data = sequence.data.clone();
                    let progress = self.enter(&path, task, data);
                    sequence.child = Some(path);
                    progress
                }
            };
            match progress {
                Progress::Blocked => return Progress::Blocked,
                Progress::Failed(error) => return Progress::Failed(error),
                Progress::Done(output, flow) => {
                    sequence.child = None;
                    sequence.data = output;
                    match flow {
                        Flow::Next => sequence.index += 1,
                        Flow::Goto(index) => sequence.index = index,
                        Flow::Exit | Flow::End => return Progress::Done(std::mem::take(&mut sequence.data), flow),
                    }
                }
            }
        }
    }

    /// Begins a task with its raw input.
    pub fn enter(&mut self, path: &str, task: &'d Task, raw: Value) -> Progress {
        self.budget = self.budget.saturating_sub(1);
        self.state.steps += 1;
        let n = self.state.steps;
        let mut frame = Frame {
            n,
            started: self.now,
            deadline: None,
            input: raw,
            pointer: task.pointer.clone(),
            note: Value::Null,
            is_told: false,
            body: Body::Do { sequence: Sequence::default() },
        };
        match self.prepare(task, &mut frame) {
            Ok(true) => {}
            Ok(false) => {
                self.journal.push(Entry::ended(path, task, &frame, "skipped", None, None));
                return Progress::Done(frame.input, Flow::Next);
            }
            Err(error) => return self.failed(path, task, &frame, error),
        }
        match self.begin(path, task, &mut frame) {
            Ok(Some((output, flow))) => self.leave(path, task, frame, output, flow),
            Ok(None) => {
                self.state.frames.insert(path.to_owned(), frame);
                self.resume(path, task)
            }
            Err(error) => self.failed(path, task, &frame, error),
        }
    }

    /// Condition, input and deadline. Answers whether the task is to run at all.
    fn prepare(&mut self, task: &'d Task, frame: &mut Frame) -> Result<bool, RunError> {
        if frame.n > limits::RUN_STEPS_MAX {
            return Err(RunError::runtime(format!("the run took more than {} steps", limits::RUN_STEPS_MAX)));
        }
        if self.depth > FRAMES_DEEP_MAX {
            return Err(RunError::runtime(format!("tasks are nested deeper than {FRAMES_DEEP_MAX} levels")));
        }
        let local = Local { task: Some(task), input: &frame.input, output: None, started: frame.started };
        if let Some(condition) = &task.condition
            && !self.is_true(condition, &frame.input, local)?
        {
            return Ok(false);
        }
        if let Some(schema) = &task.input.schema {
            schema.check(&frame.input)?;
        }
        if let Some(from) = &task.input.from {
            let input = self.transformed(from, &frame.input, local)?;
            frame.input = input;
        }
        bounded(&frame.input, "the task's input")?;
        if let Some(timeout) = &task.timeout {
            let local = Local { task: Some(task), input: &frame.input, output: None, started: frame.started };
            let ms = self.milliseconds(timeout, local)?;
            frame.deadline = Some(self.now.plus_millis(ms));
        }
        Ok(true)
    }

    /// Does what needs no waiting and answers its output, or gives the frame its body.
    fn begin(&mut self, path: &str, task: &'d Task, frame: &mut Frame) -> Result<Option<(Value, Flow)>, RunError> {
        let input = frame.input.clone();
        let local = Local { task: Some(task), input: &input, output: None, started: frame.started };
        let then = Flow::from(task.then);
        frame.body = match &task.kind {
            Kind::Set(template) => return Ok(Some((self.filled(template, &input, local)?, then))),
            Kind::Switch(cases) => {
                for case in cases {
                    let is_match = match &case.when {
                        Some(when) => self.is_true(when, &input, local)?,
                        None => true,
                    };
                    if is_match {
                        return Ok(Some((input.clone(), case.then.into())));
                    }
                }
                return Ok(Some((input.clone(), then)));
            }
            Kind::Raise(template) => return Err(self.raised(template, local)?),
            Kind::Emit(template) => return Ok(Some((self.emitted(template, local)?, then))),
            Kind::Do(_) => Body::Do { sequence: Sequence::new(input.clone()) },
            Kind::For { over, .. } => {
                let Value::Array(items) = self.value(over, &input, local)? else {
                    return Err(RunError::expression(format!("{over:?} gives no list to go through")));
                };
                Body::For { items, index: 0, is_open: false, sequence: Sequence::new(input.clone()) }
            }
            Kind::Fork { branches, .. } => Body::Fork { branches: vec![Default::default(); branches.len()] },
            Kind::Try { .. } => self.first_attempt(frame)?,
            Kind::Wait(time) => {
                let ms = self.milliseconds(time, local)?;
                if ms == 0 {
                    return Ok(Some((input.clone(), then)));
                }
                Body::Wait { until: self.now.plus_millis(ms) }
            }
            Kind::Listen(_) => {
                frame.note = self.filled(&task.metadata, &input, local)?;
                Body::Listen {
                    consumed: Vec::new(),
                    matched: Vec::new(),
                    keys: Default::default(),
                    until_matched: Vec::new(),
                    is_done: false,
                    handled: Vec::new(),
                    sequence: None,
                }
            }
            Kind::Call(call) => self.call(path, call, local)?,
            Kind::Run(subflow) => {
                let input_of_child = match &subflow.input {
                    Some(template) => self.filled(template, &input, local)?,
                    None => json!({}),
                };
                let child = RunId::from_uuid(self.derived_uuid("run"));
                self.effects.push(Effect::Start {
                    child,
                    step: path.to_owned(),
                    is_awaited: subflow.is_awaited,
                    namespace: subflow.namespace.clone(),
                    name: subflow.name.clone(),
                    version: subflow.version.clone(),
                    input: input_of_child,
                });
                if !subflow.is_awaited {
                    return Ok(Some((input.clone(), then)));
                }
                Body::Run { child }
            }
        };
        Ok(None)
    }

    /// Goes on with a task in progress.
    pub fn resume(&mut self, path: &str, task: &'d Task) -> Progress {
        let Some(mut frame) = self.state.frames.remove(path) else {
            return Progress::Failed(RunError::runtime(format!("the checkpoint has no frame for {path}")));
        };
        let progress = if !self.state.is_paused && frame.deadline.is_some_and(|deadline| deadline <= self.now) {
            Progress::Failed(RunError::timeout(format!("task {:?} took longer than its timeout", task.name)))
        } else {
            self.deadlines.extend(frame.deadline);
            self.depth += 1;
            let progress = self.body(path, task, &mut frame);
            self.depth -= 1;
            if frame.deadline.is_some() {
                self.deadlines.pop();
            }
            progress
        };
        match progress {
            Progress::Blocked => {
                self.state.frames.insert(path.to_owned(), frame);
                Progress::Blocked
            }
            Progress::Done(output, flow) => {
                let flow = match (flow, &task.kind) {
                    (Flow::End, _) => Flow::End,
                    _ => task.then.into(),
                };
                self.leave(path, task, frame, output, flow)
            }
            Progress::Failed(error) => {
                self.abandon(&frame.body);
                self.drop_frames(&format!("{path}/"));
                self.failed(path, task, &frame, error)
            }
        }
    }

    fn body(&mut self, path: &str, task: &'d Task, frame: &mut Frame) -> Progress {
        let Frame { input, started, body, .. } = frame;
        match (&task.kind, body) {
            (Kind::Do(tasks), Body::Do { sequence }) => self.sequence(sequence, tasks, &format!("{path}/do")),
            (Kind::For { each, at, condition, tasks, .. }, Body::For { items, index, is_open, sequence }) => {
                let local = Local { task: Some(task), input, output: None, started: *started };
                self.repeat(path, (each, at, condition.as_deref(), tasks), (items, index, is_open, sequence), local)
            }
            (Kind::Fork { branches, is_race }, Body::Fork { branches: progress }) => {
                self.fork(path, branches, *is_race, progress, input)
            }
            (Kind::Try { tasks, catch }, Body::Try { .. }) => self.attempt(path, task, tasks, catch, frame),
            (Kind::Wait(_), Body::Wait { until }) => {
                if *until <= self.now && !self.state.is_paused {
                    Progress::Done(std::mem::take(input), Flow::Next)
                } else {
                    Progress::Blocked
                }
            }
            (Kind::Listen(listen), Body::Listen { .. }) => self.listen(path, task, listen, frame),
            (Kind::Call(call), Body::Call { .. } | Body::Function { .. }) => self.calling(path, task, call, frame),
            (Kind::Run(_), Body::Run { child }) => match self.signal.take() {
                Some(Signal::Child { step, child: ended, outcome }) if step == path && ended == *child => match outcome {
                    Ok(output) => Progress::Done(output, Flow::Next),
                    Err(error) => Progress::Failed(RunError { instance: None, ..error }),
                },
                signal => {
                    self.signal = signal;
                    Progress::Blocked
                }
            },
            _ => Progress::Failed(RunError::runtime(format!("the checkpoint of {path} does not fit its definition"))),
        }
    }

    /// Output, export and journal of a task that is done.
    fn leave(&mut self, path: &str, task: &'d Task, frame: Frame, output: Value, flow: Flow) -> Progress {
        match self.output(task, &frame, output) {
            Ok(output) => {
                self.journal.push(Entry::ended(path, task, &frame, "completed", Some(&output), None));
                if frame.is_told {
                    self.task_event("completed", path, json!({"completedAt": lifecycle::rfc3339(self.now)}));
                }
                Progress::Done(output, flow)
            }
            Err(error) => self.failed(path, task, &frame, error),
        }
    }

    fn output(&mut self, task: &'d Task, frame: &Frame, raw: Value) -> Result<Value, RunError> {
        let local = Local { task: Some(task), input: &frame.input, output: Some(&raw), started: frame.started };
        let output = self.shaped(&task.output, &raw, local)?;
        bounded(&output, "the task's output")?;
        if task.export.r#as.is_some() {
            let local = Local { output: Some(&output), ..local };
            let context = self.shaped(&task.export, &output, local)?;
            bounded(&context, "the context")?;
            self.state.context = context;
        }
        Ok(output)
    }

    fn failed(&mut self, path: &str, task: &Task, frame: &Frame, mut error: RunError) -> Progress {
        if error.instance.is_none() {
            error.instance = Some(task.pointer.clone());
        }
        self.journal.push(Entry::ended(path, task, frame, "faulted", None, Some(&error)));
        self.task_event("faulted", path, json!({"faultedAt": lifecycle::rfc3339(self.now), "error": error.to_json()}));
        Progress::Failed(error)
    }

    /// Gives up all tasks in progress whose path begins with `prefix`.
    pub fn drop_frames(&mut self, prefix: &str) {
        let paths: Vec<String> = self
            .state
            .frames
            .range(prefix.to_owned()..)
            .map(|(path, _)| path)
            .take_while(|path| path.starts_with(prefix))
            .cloned()
            .collect();
        for path in paths {
            if let Some(frame) = self.state.frames.remove(&path) {
                self.abandon(&frame.body);
                if frame.is_told {
                    self.journal.push(Entry::Cancelled { step: path.clone(), n: frame.n });
                    self.task_event("cancelled", &path, json!({"cancelledAt": lifecycle::rfc3339(self.now)}));
                }
            }
        }
    }

    /// Nobody waits for it any more.
    fn abandon(&mut self, body: &Body) {
        if let Body::Run { child } = body {
            self.effects.push(Effect::Cancel { child: *child });
        }
    }

    /// Journals the start of each task that could not end within the transition it began in.
    fn tell_blocked(&mut self) {
        let mut told: Vec<(u64, String)> =
            self.state.frames.iter().filter(|(_, frame)| !frame.is_told).map(|(path, frame)| (frame.n, path.clone())).collect();
        told.sort();
        for (_, path) in told {
            let frame = self.state.frames.get_mut(&path).expect("the path was just read");
            frame.is_told = true;
            self.journal.push(Entry::started(&path, frame));
            self.task_event("started", &path, json!({"startedAt": lifecycle::rfc3339(self.now)}));
        }
    }

    // Values

    pub fn scope<'s>(&'s self, local: &'s Local<'_>, task: &'s Value) -> Scope<'s> {
        let mut scope = Scope::default();
        scope.set("context", &self.state.context);
        scope.set("input", local.input);
        if let Some(output) = local.output {
            scope.set("output", output);
        }
        scope.set("workflow", &self.workflow);
        scope.set("runtime", &self.runtime);
        scope.set("secrets", &self.secrets);
        scope.set("task", task);
        for (name, value) in &self.variables {
            scope.set(name, value);
        }
        scope
    }

    /// `$task`, when anything mentions it.
    pub fn task_value(&self, local: &Local<'_>) -> Value {
        match local.task {
            Some(task) if self.definition.mentions_task => json!({
                "name": task.name,
                "reference": task.pointer,
                "definition": self.definition.json.pointer(&task.pointer),
                "input": local.input,
                "output": local.output,
                "startedAt": lifecycle::instant(local.started),
            }),
            _ => Value::Null,
        }
    }

    pub fn value(&self, text: &str, dot: &Value, local: Local<'_>) -> Result<Value, RunError> {
        let task = self.task_value(&local);
        self.engine.evaluate(text, dot, &self.scope(&local, &task)).map_err(|why| RunError::expression(format!("{text}: {why}")))
    }

    pub fn is_true(&self, text: &str, dot: &Value, local: Local<'_>) -> Result<bool, RunError> {
        Ok(!matches!(self.value(text, dot, local)?, Value::Null | Value::Bool(false)))
    }

    pub fn filled(&self, template: &Value, dot: &Value, local: Local<'_>) -> Result<Value, RunError> {
        let task = self.task_value(&local);
        self.engine.fill(template, dot, &self.scope(&local, &task)).map_err(RunError::expression)
    }

    pub fn transformed(&self, transform: &Transform, dot: &Value, local: Local<'_>) -> Result<Value, RunError> {
        match transform {
            same if same.is_identity() => Ok(dot.clone()),
            Transform::Expression(text) => self.value(text, dot, local),
            Transform::Template(template) => self.filled(template, dot, local),
        }
    }

    /// `as`, then the schema.
    pub fn shaped(&self, output: &Output, value: &Value, local: Local<'_>) -> Result<Value, RunError> {
        let shaped = match &output.r#as {
            Some(transform) => self.transformed(transform, value, local)?,
            None => value.clone(),
        };
        if let Some(schema) = &output.schema {
            schema.check(&shaped)?;
        }
        Ok(shaped)
    }

    pub fn milliseconds(&self, time: &Time, local: Local<'_>) -> Result<i64, RunError> {
        match time {
            Time::Ms(ms) => Ok(*ms),
            Time::Template(template) => {
                let value = self.filled(template, local.input, local)?;
                duration::parse(&value).map_err(RunError::expression)
            }
        }
    }

    /// The earliest deadline around the task at hand.
    pub fn deadline(&self) -> Option<Timestamp> {
        self.deadlines.iter().copied().chain(self.state.deadline).min()
    }

    /// 16 bytes that the same transition of the same run gives again.
    pub fn derived(&mut self, what: &str) -> [u8; 16] {
        self.state.counter += 1;
        derived(&[self.state.run.to_string().as_bytes(), what.as_bytes(), &self.state.counter.to_be_bytes()])
    }

    pub fn derived_uuid(&mut self, what: &str) -> uuid::Uuid {
        uuid::Builder::from_custom_bytes(self.derived(what)).into_uuid()
    }

    // Lifecycle events

    pub fn event(&mut self, what: &str, mut data: Value) {
        data["name"] = json!(self.state.run.to_string());
        let id = uuid::Builder::from_custom_bytes(self.derived("event")).into_uuid();
        self.events.push(lifecycle::event(&self.state, &id.to_string(), what, data, self.now));
    }

    pub fn task_event(&mut self, what: &str, path: &str, mut data: Value) {
        data["workflow"] = json!(self.state.run.to_string());
        data["task"] = json!(path);
        let id = uuid::Builder::from_custom_bytes(self.derived("event")).into_uuid();
        self.events.push(lifecycle::event(&self.state, &id.to_string(), &format!("task.{what}"), data, self.now));
    }
}

impl crate::definition::Schema {
    pub(crate) fn check(&self, value: &Value) -> Result<(), RunError> {
        match self.validator.validate(value) {
            Ok(()) => Ok(()),
            Err(error) => {
                let place = error.instance_path().to_string();
                let place = if place.is_empty() { String::new() } else { format!(" at {place}") };
                Err(RunError::validation(format!("{error}{place}")))
            }
        }
    }
}

/// What the text of a secret looks like in a request before the host puts the secret in.
pub(crate) fn secret_reference(name: &str) -> String {
    format!("orx-secret:{name}")
}

pub(crate) fn derived(parts: &[&[u8]]) -> [u8; 16] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let digest = hash.finalize();
    std::array::from_fn(|index| digest[index])
}

pub(crate) fn child_path(base: &str, index: usize, name: &str, visits: u32) -> String {
    let name = name.replace('~', "~0").replace('/', "~1");
    match visits {
        0 => format!("{base}/{index}/{name}"),
        visits => format!("{base}/{index}/{name}#{visits}"),
    }
}

/// Refuses values over the limit, counting without writing them out.
pub(crate) fn bounded(value: &Value, what: &str) -> Result<(), RunError> {
    let size = size(value, limits::STEP_PAYLOAD_BYTES_MAX);
    if size > limits::STEP_PAYLOAD_BYTES_MAX {
        return Err(RunError::runtime(format!("{what} is larger than {} bytes", limits::STEP_PAYLOAD_BYTES_MAX)));
    }
    Ok(())
}

/// About the length as JSON; stops counting beyond `max`.
pub(crate) fn size(value: &Value, max: usize) -> usize {
    let mut total = 0;
    let mut open = vec![value];
    while let Some(value) = open.pop() {
        total += match value {
            Value::Null | Value::Bool(_) => 5,
            Value::Number(_) => 8,
            Value::String(text) => text.len() + 2,
            Value::Array(items) => {
                open.extend(items);
                2 + items.len()
            }
            Value::Object(entries) => {
                open.extend(entries.values());
                2 + entries.keys().map(|key| key.len() + 4).sum::<usize>()
            }
        };
        if total > max {
            return total;
        }
    }
    total
}
