//! Performs what runs ask of plugins: takes action requests over, calls the component, answers.
//!
//! [`Effects`] is the only way a plugin changes the world: guardrails and budgets are checked in the transaction
//! that writes the ledger's begun row. After a crash, [`doubt`] tells from the ledger what may have happened.

pub mod doubt;
mod effects;
mod error;
mod executor;
pub mod guardrail;
mod service;

pub use effects::Effects;
pub use error::Error;
pub use executor::{Executor, Facts};
pub use service::{Config, Service, Stats};
