//! Query languages over the telemetry store: PromQL for metrics, a LogQL subset for logs.
//!
//! `promql` parses and evaluates; `logql` parses into the store's own log query. Neither touches a disk:
//! they read through `telemetry`'s traits.

mod error;
pub mod logql;
pub mod promql;
pub mod promqltest;

pub use error::{Error, Result};
