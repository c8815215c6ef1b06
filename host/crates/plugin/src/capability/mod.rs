//! The contract's imports, one file each. Every function judges first (class, manifest ∩ grant ∩ policy), then
//! acts through a port, and writes itself into the call's recording.

pub(crate) mod effect;
mod invocation;
mod log;
mod net;
pub(crate) mod secret;
mod state;
pub(crate) mod telemetry;

use crate::{bindings::import, store::State};
use wasmtime::component::{HasSelf, Linker};

/// Adds all of WASI 0.2, wasi:http and the contract. Imports are not permissions: a JavaScript component
/// imports everything its world names.
pub(crate) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
    import::log::add_to_linker::<State, HasSelf<State>>(linker, |s| s)?;
    import::config::add_to_linker::<State, HasSelf<State>>(linker, |s| s)?;
    import::self_metrics::add_to_linker::<State, HasSelf<State>>(linker, |s| s)?;
    import::state::add_to_linker::<State, HasSelf<State>>(linker, |s| s)?;
    import::credentials::add_to_linker::<State, HasSelf<State>>(linker, |s| s)?;
    import::effects::add_to_linker::<State, HasSelf<State>>(linker, |s| s)?;
    import::telemetry::add_to_linker::<State, HasSelf<State>>(linker, |s| s)?;
    import::invocation::add_to_linker::<State, HasSelf<State>>(linker, |s| s)?;
    import::net::add_to_linker::<State, HasSelf<State>>(linker, |s| s)
}

impl import::types::Host for State {}
