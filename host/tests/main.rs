//! Black-box tests: the real binary, real protocol clients, real components, a folder a scenario.

mod auto_scaling;
mod harness;
mod log_remediation;
