//! Deterministic load for `cargo xtask bench`: metrics as remote write, logs as JSON lines and OTLP, and a minimal
//! blocking HTTP/1.1 client. Same seed and arguments give the same stream, byte for byte.

pub mod http;
pub mod log;
pub mod metric;
pub mod push;
pub mod question;
pub mod remote_write;
pub mod stats;
