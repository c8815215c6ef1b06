//! What lives in a wasmtime store, and WASI as a guest finds it: no files, no environment, no arguments, no
//! sockets; stdio goes to the plugin's log, clock and randomness are the call's.

use crate::{
    call::{Call, Class},
    egress::Hooks,
    grant::Target,
    limiter::Limiter,
};
use bytes::Bytes;
use parking_lot::Mutex;
use rand::SeedableRng;
use sha2::{Digest, Sha256};
use std::{
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{
    HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxView, WasiView,
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamResult},
};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

/// Resources a guest may hold at a time.
const RESOURCES_MAX: usize = 1_000;
/// Random bytes in one call.
const RANDOM_BYTES_MAX: u64 = 1 << 20;
/// Headers of one request or response, as held in memory.
const FIELDS_BYTES_MAX: usize = 128 << 10;

pub(crate) struct State {
    pub call: Arc<Call>,
    pub table: ResourceTable,
    pub limiter: Limiter,
    /// Write ends of `net` connections, by which a secret may be sent: resource, liveness, address.
    pub sockets: Vec<(u32, Weak<()>, Target)>,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: Hooks,
    stdio: [Stdio; 2],
    now: Arc<AtomicI64>,
}

impl State {
    pub(crate) fn new(call: Arc<Call>, memory_bytes_max: usize) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES_MAX);
        let current = Arc::new(Mutex::new(call.clone()));
        let stdio = [("stdout", "info"), ("stderr", "warn")].map(|(name, level)| Stdio {
            name,
            level,
            current: current.clone(),
            line: Arc::new(Mutex::new(Vec::new())),
        });
        let now = Arc::new(AtomicI64::new(call.context.now.nanos()));
        let mut builder = WasiCtx::builder();
        builder
            .stdout(stdio[0].clone())
            .stderr(stdio[1].clone())
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .max_random_size(RANDOM_BYTES_MAX);
        if call.class == Class::Pure {
            let seed: [u8; 32] = Sha256::digest(call.context.invocation.to_string()).into();
            builder
                .wall_clock(FixedClock(now.clone()))
                .monotonic_clock(VirtualClock::default())
                .secure_random(rand::rngs::StdRng::from_seed(seed))
                .insecure_random(rand::rngs::StdRng::from_seed(seed))
                .insecure_random_seed(u128::from_le_bytes(seed[..16].try_into().expect("half of 32 bytes")));
        }
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(FIELDS_BYTES_MAX);
        Self {
            limiter: Limiter::new(memory_bytes_max),
            hooks: Hooks(call.clone()),
            wasi: builder.build(),
            sockets: Vec::new(),
            call,
            table,
            http,
            stdio,
            now,
        }
    }

    /// A warm instance's next call.
    pub(crate) fn begin(&mut self, call: Arc<Call>) {
        self.now.store(call.context.now.nanos(), Relaxed);
        *self.stdio[0].current.lock() = call.clone();
        self.hooks = Hooks(call.clone());
        self.call = call;
    }

    /// Lines without an end, when the call ends.
    pub(crate) fn flush_stdio(&self) {
        self.stdio.iter().for_each(Stdio::flush_line);
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.hooks }
    }
}

struct FixedClock(Arc<AtomicI64>);

impl HostWallClock for FixedClock {
    fn resolution(&self) -> Duration {
        Duration::from_nanos(1)
    }
    fn now(&self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.load(Relaxed)).unwrap_or(0))
    }
}

/// A microsecond a look, so that a guest that waits for time to pass sees it pass.
#[derive(Default)]
struct VirtualClock(AtomicU64);

impl HostMonotonicClock for VirtualClock {
    fn resolution(&self) -> u64 {
        1_000
    }
    fn now(&self) -> u64 {
        self.0.fetch_add(1_000, Relaxed)
    }
}

/// stdout or stderr: whole lines go to the plugin's log.
#[derive(Clone)]
struct Stdio {
    name: &'static str,
    level: &'static str,
    current: Arc<Mutex<Arc<Call>>>,
    line: Arc<Mutex<Vec<u8>>>,
}

impl Stdio {
    fn take_in(&self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|b| *b == b'\n') {
            {
                let mut line = self.line.lock();
                let room = model::limits::PLUGIN_LOG_LINE_BYTES_MAX.saturating_sub(line.len());
                line.extend_from_slice(&part[..part.len().min(room)]);
            }
            if part.ends_with(b"\n") {
                self.flush_line();
            }
        }
    }

    fn flush_line(&self) {
        let line = std::mem::take(&mut *self.line.lock());
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end_matches(['\r', '\n']);
        if !text.is_empty() {
            let call = self.current.lock().clone();
            call.log(self.level, text, vec![("stream".into(), self.name.into())]);
        }
    }
}

impl IsTerminal for Stdio {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Stdio {
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait::async_trait]
impl Pollable for Stdio {
    async fn ready(&mut self) {}
}

impl OutputStream for Stdio {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take_in(&bytes);
        Ok(())
    }
    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }
    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(64 << 10)
    }
}

impl tokio::io::AsyncWrite for Stdio {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.take_in(bytes);
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
