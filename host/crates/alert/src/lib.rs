//! The alert state machine: findings in, living alerts and their changes out.
//!
//! [`state::apply`] decides, purely; [`Service`] reads [`model::FindingReport`] hand-offs, applies them, and
//! commits the alerts' rows, their timelines, the bus events and its cursor in one transaction.

mod error;
pub mod group;
pub mod matching;
mod service;
pub mod state;

pub use error::Error;
pub use service::{Service, Stats};
