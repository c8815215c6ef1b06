//! Durable workflows in the Serverless Workflow DSL 1.0.3.
//!
//! [`definition::parse`] proves a text; [`command::apply`] moves a run by one command, purely; the
//! [`Service`] gathers commands from the bus, timers and people, applies them, commits journal, checkpoint
//! and hand-offs in one transaction, and begins anew. See `docs/guide/workflows.md`, `docs/formats/journal.md`.

pub mod command;
pub mod ctk;
pub mod definition;
mod duration;
mod error;
pub mod expression;
mod handle;
mod interpret;
pub mod journal;
mod lifecycle;
mod row;
mod service;
mod state;
mod trigger;
mod yaml;

pub use command::Command;
pub use definition::{Definition, Diagnostic};
pub use error::{Error, Result};
pub use handle::{Handle, PutDefinition, RunPage};
pub use interpret::{APPROVAL_ANSWERED, Effect, Writes};
pub use journal::Step;
pub use service::{Config, Service, Stats};
pub use state::{Cause, Decision, RunError, State, Status};
