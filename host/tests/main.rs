//! Black-box tests: the real binary, real protocol clients, real components, a folder a scenario.

mod auto_scaling;
mod bad_input;
mod clients;
mod harness;
mod hostile_plugins;
mod log_remediation;
mod page;
mod postgres;
mod storage_faults;
mod tenancy;
