//! Write Orchestrix plugins in Rust: a plugin is one file of ordinary Rust and a `plugin.toml`.
//!
//! ```
//! use orchestrix_sdk::prelude::*;
//!
//! /// The installation's configuration; its JSON Schema comes from this type.
//! #[derive(Deserialize, JsonSchema)]
//! pub struct Tickets {
//!     base_url: String,
//! }
//!
//! #[derive(Deserialize, JsonSchema)]
//! pub struct Open {
//!     title: String,
//! }
//!
//! #[derive(Serialize, Deserialize, JsonSchema)]
//! pub struct Ticket {
//!     id: u64,
//! }
//!
//! #[orchestrix_sdk::action]
//! impl Tickets {
//!     #[operation]
//!     fn open(&self, _ctx: &Context, input: Open) -> Result<Ticket> {
//!         let url = format!("{}/tickets", self.base_url);
//!         Effect::new("http.post", &url)
//!             .perform(|| Request::post(&url).json(&serde_json::json!({ "title": input.title }))?.send()?.success()?.json())
//!     }
//! }
//!
//! # #[cfg(not(target_arch = "wasm32"))]
//! # fn main() {
//! // In a unit test the host is an in-memory fake.
//! let world = orchestrix_sdk::testing::World::new();
//! world.on_http(|_| Ok(Response { status: 201, body: br#"{"id":7}"#.to_vec(), ..Response::default() }));
//! let tickets = Tickets { base_url: "https://tickets.example".into() };
//! let ticket = world.run(|| tickets.open(&Context::default(), Open { title: "disk full".into() })).unwrap();
//! assert_eq!(ticket.id, 7);
//! assert_eq!(world.effects()[0].effect.kind, "http.post");
//! # }
//! ```

mod context;
mod duration;
mod effect;
mod error;
mod host;
pub mod http;
#[doc(hidden)]
pub mod kind;
pub mod log;
pub mod net;
pub mod secret;
pub mod state;
pub mod telemetry;

#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod bindings;
#[cfg(not(target_arch = "wasm32"))]
#[doc(hidden)]
pub mod schema;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;

pub use context::{Context, random_bytes};
pub use duration::Millis;
pub use effect::{Effect, Permit};
pub use error::{Error, Result, Retry};
pub use http::{Request, Response};
pub use kind::{Action, Detector, FieldError, Finding, Status, StreamDetector, Verdict};
pub use orchestrix_sdk_macros::{action, detector, stream_detector};
pub use telemetry::{Batch, LogBatch, Series};

#[doc(hidden)]
pub use schemars;
#[doc(hidden)]
pub use serde_json;

/// What nearly every plugin uses.
pub mod prelude {
    pub use crate::{
        Action, Batch, Context, Detector, Effect, Error, Finding, LogBatch, Millis, Request, Response, Result, Retry, Series,
        Status, StreamDetector, Verdict, http, log, secret, state,
    };
    pub use schemars::{self, JsonSchema};
    pub use serde::{Deserialize, Serialize};
    pub use serde_json::{Value, json};
}
