//! Workflow definitions of the Serverless Workflow DSL 1.0.3, read and proven.
//!
//! What [`parse`] answers needs no further check: references are resolved, expressions compile, schemas
//! are schemas, and nothing is in it that the engine can't do.

mod event;
mod field;
mod parse;
mod task;

pub use event::{EventFilter, Pattern, Strategy, Until};

use crate::duration;
use indexmap::IndexMap;
use serde::Serialize;
use serde_json::Value;
use std::{fmt, sync::Arc};

/// One mistake in a definition, with its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// From 1.
    pub line: usize,
    pub column: usize,
    /// JSON pointer of the node.
    pub pointer: String,
    pub message: String,
    /// What to write instead, where that can be guessed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)?;
        if !self.pointer.is_empty() {
            write!(f, " (at {})", self.pointer)?;
        }
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

#[derive(Debug)]
pub struct Definition {
    pub document: Document,
    pub input: Input,
    pub output: Output,
    pub tasks: Vec<Task>,
    /// Reusable tasks of `use.functions`.
    pub functions: IndexMap<String, Task>,
    pub secrets: Vec<String>,
    pub timeout: Option<Time>,
    pub schedule: Option<Schedule>,
    /// The whole document, for `$workflow.definition`.
    pub json: Arc<Value>,
    /// Whether any text mentions `$task` or `$workflow`: building them costs.
    pub(crate) mentions_task: bool,
    pub(crate) mentions_workflow: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    pub dsl: String,
    pub namespace: String,
    pub name: String,
    pub version: String,
    pub title: Option<String>,
    pub summary: Option<String>,
}

#[derive(Debug, Default)]
pub struct Input {
    pub schema: Option<Schema>,
    pub from: Option<Transform>,
}

/// Also the shape of `export`.
#[derive(Debug, Default)]
pub struct Output {
    pub schema: Option<Schema>,
    pub r#as: Option<Transform>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Transform {
    Expression(String),
    /// A mapping whose `${ }` texts are filled in.
    Template(Value),
}

/// A JSON schema and its compiled form.
pub struct Schema {
    pub(crate) validator: jsonschema::Validator,
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Schema")
    }
}

/// A duration, known now or when it is needed.
#[derive(Clone, Debug, PartialEq)]
pub enum Time {
    Ms(i64),
    Template(Value),
}

#[derive(Debug)]
pub struct Task {
    pub name: String,
    /// JSON pointer in the document.
    pub pointer: String,
    pub condition: Option<String>,
    pub input: Input,
    pub output: Output,
    pub export: Output,
    pub timeout: Option<Time>,
    pub then: Then,
    pub metadata: Value,
    pub kind: Kind,
}

/// Where the flow goes. A task is named by its index in its own list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Then {
    #[default]
    Continue,
    Exit,
    End,
    Task(usize),
}

#[derive(Debug)]
pub enum Kind {
    Do(Vec<Task>),
    Set(Value),
    Call(Call),
    Switch(Vec<Case>),
    For {
        each: String,
        at: String,
        over: String,
        condition: Option<String>,
        tasks: Vec<Task>,
    },
    Fork {
        branches: Vec<Task>,
        is_race: bool,
    },
    Try {
        tasks: Vec<Task>,
        catch: Catch,
    },
    Wait(Time),
    Emit(Value),
    Listen(Listen),
    /// The error as a template.
    Raise(Value),
    Run(Subflow),
}

impl Kind {
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Do(_) => "do",
            Self::Set(_) => "set",
            Self::Call(_) => "call",
            Self::Switch(_) => "switch",
            Self::For { .. } => "for",
            Self::Fork { .. } => "fork",
            Self::Try { .. } => "try",
            Self::Wait(_) => "wait",
            Self::Emit(_) => "emit",
            Self::Listen(_) => "listen",
            Self::Raise(_) => "raise",
            Self::Run(_) => "run",
        }
    }
}

#[derive(Debug)]
pub enum Call {
    /// `call: installation/operation`.
    Action { installation: String, operation: String, with: Value },
    /// `call: http`: the operation `request` of the installation `http`.
    Http(Http),
    /// `call: name` of `use.functions`.
    Function { name: String, with: Value },
}

#[derive(Debug)]
pub struct Http {
    pub method: String,
    /// A URI template, or an expression.
    pub uri: String,
    pub headers: Value,
    pub query: Value,
    pub body: Option<Value>,
    pub authentication: Option<Value>,
    pub output: HttpOutput,
    /// Whether answers 300 to 399 are results rather than errors.
    pub is_redirect_ok: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HttpOutput {
    Raw,
    #[default]
    Content,
    Response,
}

impl HttpOutput {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Content => "content",
            Self::Response => "response",
        }
    }
}

#[derive(Debug)]
pub struct Case {
    pub name: String,
    pub when: Option<String>,
    pub then: Then,
}

#[derive(Debug, Default)]
pub struct Catch {
    /// Attributes that a caught error has.
    pub with: serde_json::Map<String, Value>,
    pub r#as: String,
    pub when: Option<String>,
    pub except_when: Option<String>,
    pub retry: Option<Retry>,
    pub tasks: Option<Vec<Task>>,
}

#[derive(Clone, Debug, Default)]
pub struct Retry {
    pub when: Option<String>,
    pub except_when: Option<String>,
    pub delay: Option<Time>,
    pub backoff: Backoff,
    pub attempts_max: Option<u32>,
    pub attempt_time: Option<Time>,
    pub total_time: Option<Time>,
    pub jitter: Option<(Time, Time)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backoff {
    #[default]
    Constant,
    Linear,
    Exponential,
}

#[derive(Debug)]
pub struct Listen {
    pub to: Strategy,
    pub read: Read,
    pub foreach: Option<Foreach>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Read {
    #[default]
    Data,
    Envelope,
}

#[derive(Debug)]
pub struct Foreach {
    pub item: String,
    pub at: String,
    pub tasks: Vec<Task>,
    pub output: Output,
    pub export: Output,
}

#[derive(Debug)]
pub struct Subflow {
    pub namespace: String,
    pub name: String,
    /// `None`: the newest.
    pub version: Option<String>,
    pub input: Option<Value>,
    pub is_awaited: bool,
}

#[derive(Debug)]
pub enum Schedule {
    Every(i64),
    /// In UTC.
    Cron(Box<croner::Cron>),
    After(i64),
    On(Strategy),
}

impl Definition {
    /// `namespace/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.document.namespace, self.document.name)
    }

    /// All tasks, outer ones before those within, functions last.
    pub fn all_tasks(&self) -> Vec<&Task> {
        let mut found = Vec::new();
        let mut open: Vec<&Task> = self.functions.values().rev().chain(self.tasks.iter().rev()).collect();
        while let Some(task) = open.pop() {
            found.push(task);
            open.extend(task.children().into_iter().rev());
        }
        found
    }
}

impl Task {
    /// Tasks right within this one.
    pub fn children(&self) -> Vec<&Task> {
        match &self.kind {
            Kind::Do(tasks) | Kind::For { tasks, .. } | Kind::Fork { branches: tasks, .. } => tasks.iter().collect(),
            Kind::Try { tasks, catch } => tasks.iter().chain(catch.tasks.iter().flatten()).collect(),
            Kind::Listen(Listen { foreach: Some(foreach), .. }) => foreach.tasks.iter().collect(),
            _ => Vec::new(),
        }
    }
}

impl Time {
    pub(crate) fn literal(value: &Value) -> Result<Self, String> {
        duration::parse(value).map(Self::Ms)
    }
}

/// Reads a definition. All mistakes are answered, not only the first.
pub fn parse(text: &str) -> Result<Definition, Vec<Diagnostic>> {
    parse::parse(text)
}
