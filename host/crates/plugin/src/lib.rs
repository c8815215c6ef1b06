//! The sandbox: WebAssembly components with no exit but the host's imports.
mod address;
mod cache;
mod compile;
mod component;
mod engine;
mod error;
mod grant;
mod limiter;
pub mod manifest;
mod port;
mod record;
mod schema;
pub use component::{digest, inspect};
pub use error::{CallError, Error, Owner};
pub use grant::HostPolicy;
pub use port::*;
pub use record::*;
