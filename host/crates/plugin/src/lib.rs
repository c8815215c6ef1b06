//! The sandbox: WebAssembly components with no exit but the host's imports.
//!
//! A [`Host`] loads components ([`Package`]) and calls them for an installation of a tenant. Effective rights are
//! manifest ∩ grant ∩ host policy, judged at each use. Everything from outside comes through [`Ports`], which the
//! binary implements; this crate knows neither SQL nor the telemetry store. See `docs/guide/plugin-host.md`.

mod address;
mod bindings;
mod cache;
mod call;
mod capability;
mod compile;
mod component;
mod connect;
mod convert;
mod effect_rule;
mod egress;
mod engine;
mod error;
mod grant;
mod host;
mod limiter;
pub mod manifest;
mod meter;
mod port;
mod record;
mod redact;
mod run;
mod schema;
mod store;
mod stream;

pub use call::CallContext;
pub use compile::{Compiler, compile_child_main};
pub use component::{digest, inspect};
pub use egress::check_secret_host;
pub use error::{CallError, Error, Owner};
pub use grant::HostPolicy;
pub use host::{ActionCall, Evaluation, Host, HostConfig, Package, Verdict};
pub use manifest::{Kind, Manifest};
pub use meter::{Meter, MeterKey, SelfMetric};
pub use port::{
    Caller, Cause, Effect, EffectPort, LogPort, PermitId, PluginLog, Ports, RecordPort, SecretPort, SecretValue, StateEntry,
    StatePort, StateWrite, TelemetryPort, TimeRange,
};
pub use record::{HostCall, Outcome, Recording};
pub use schema::FieldError;
pub use stream::{Batch, StreamInstance};
