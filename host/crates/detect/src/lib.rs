//! Monitors: when which detector judges what, and what becomes of its findings.
//!
//! *Scheduled* monitors ask a query and a detector: each `every`, and early when a sample of a metric that the
//! query reads has arrived. *Stream* monitors feed log records to a warm detector by cursor. Both write
//! `FindingReport`s on `Topic::Finding`; a failing detector is a status and an event, never a crash.

mod agenda;
mod detector;
mod error;
mod evaluate;
mod filter;
mod host;
mod judge;
mod service;
mod spec;
mod stream;
#[cfg(test)]
mod tests;

pub use detector::{Detectors, Question, Stream};
pub use error::{Error, Result};
pub use host::Plugins;
pub use service::{Config, Handle, Service, Stats, Status};
pub use spec::{Source, Spec};
