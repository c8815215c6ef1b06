//! `net`: TCP to a granted host and port, TLS ended by the host. A socket is a write unless the grant trusts
//! the plugin to only read there.

use crate::{
    bindings::import::{net, types::PluginError},
    call::Call,
    connect::{self, Connection, TlsExtras},
    convert::plugin_error,
    effect_rule::socket_target,
    grant::Target,
    store::State,
};
use model::ErrorRecord;
use serde_json::json;
use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};
use wasmtime::{Result, component::Resource};
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, OutputStream, Pollable, StreamResult,
    pipe::{AsyncReadStream, AsyncWriteStream},
};

/// Bytes written and not yet sent.
const WRITE_BYTES_MAX: usize = 64 << 10;

type Streams = (Resource<DynInputStream>, Resource<DynOutputStream>);

impl net::Host for State {
    async fn connect(&mut self, host: String, port: u16, tls: bool) -> Result<Result<Streams, PluginError>> {
        let (call, began) = (self.call.clone(), Instant::now());
        let target = Target::tcp(&host, port);
        let result = open(&call, &target, tls).await;
        let shown = result.as_ref().map(|_| json!("connected")).map_err(Clone::clone);
        call.record("net.connect", began, json!({ "host": host, "port": port, "tls": tls }), shown);
        let connection = match result {
            Ok(connection) => connection,
            Err(error) => return Ok(Err(plugin_error(&error))),
        };
        let (read, write) = tokio::io::split(connection);
        let alive = Arc::new(());
        let weak = Arc::downgrade(&alive);
        let input: DynInputStream = Box::new(AsyncReadStream::new(read));
        let output: DynOutputStream =
            Box::new(SocketOutput { inner: AsyncWriteStream::new(WRITE_BYTES_MAX, write), _alive: alive });
        let (input, output) = (self.table.push(input)?, self.table.push(output)?);
        self.sockets.retain(|(_, alive, _)| alive.strong_count() > 0);
        self.sockets.push((output.rep(), weak, target));
        Ok(Ok((input, output)))
    }
}

async fn open(call: &Arc<Call>, target: &Target, tls: bool) -> Result<Box<dyn Connection>, ErrorRecord> {
    call.must_be_live("network")?;
    let pass = call.rights().socket(target).map_err(|why| call.deny("permission.denied", why))?;
    let secret_pem = async |name: &Option<String>| match name {
        Some(name) if call.installation.secrets.contains_key(name) => {
            call.secret(name).await.map(|s| Some(s.value.bytes.clone()))
        }
        _ => Ok(None),
    };
    let extras = if tls {
        Some(TlsExtras {
            ca_pem: secret_pem(&pass.ca).await?,
            client_pem: secret_pem(&pass.client_cert).await?,
            starttls: pass.starttls,
        })
    } else {
        None
    };
    let permit = if pass.is_read_only { None } else { Some(use_permit(call, target)?) };
    connect::open(&call.shared.policy, &call.shared.tls, target, extras, Duration::from_millis(connect::CONNECT_MS_MAX))
        .await
        .inspect_err(|error| {
            if let Some(index) = permit {
                call.permits.lock()[index].used_for = None;
            }
            if error.code.starts_with("permission.") {
                call.denials.fetch_add(1, Relaxed);
            }
        })
}

fn use_permit(call: &Call, target: &Target) -> Result<usize, ErrorRecord> {
    let address = socket_target(target);
    let rules = call.package.manifest.effect_rules();
    let mut permits = call.permits.lock();
    let is_for_sockets = |kind: &str| rules.get(kind).into_iter().flatten().any(|rule| rule.path.is_none());
    let found = permits
        .iter_mut()
        .enumerate()
        .find(|(_, p)| !p.is_settled && p.used_for.is_none() && p.target == address && is_for_sockets(&p.kind));
    if let Some((index, permit)) = found {
        permit.used_for = Some(address);
        return Ok(index);
    }
    drop(permits);
    Err(call.deny(
        "effect.permit_required",
        format!("a socket may write: call effects.begin with target {address:?} first, or let the admin grant \"{address}?read-only=trusted\""),
    ))
}

/// Dropped at once with the resource that holds it, so a later resource of the same number is never taken
/// for this connection.
struct SocketOutput {
    inner: AsyncWriteStream,
    _alive: Arc<()>,
}

#[async_trait::async_trait]
impl Pollable for SocketOutput {
    async fn ready(&mut self) {
        self.inner.ready().await;
    }
}

#[async_trait::async_trait]
impl OutputStream for SocketOutput {
    fn write(&mut self, bytes: bytes::Bytes) -> StreamResult<()> {
        self.inner.write(bytes)
    }
    fn flush(&mut self) -> StreamResult<()> {
        self.inner.flush()
    }
    fn check_write(&mut self) -> StreamResult<usize> {
        self.inner.check_write()
    }
    async fn cancel(&mut self) {
        self.inner.cancel().await;
    }
}
