//! The fake host of unit tests: what [`crate::testing::World`] holds, reached through the thread.

use crate::{
    Effect, Error, LogBatch, Request, Response, Result,
    state::Entry,
    telemetry::{Series, TimeRange},
};
use serde_json::Value;
use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    io,
    rc::Rc,
    time::Duration,
};

pub(crate) type HttpHandler = Box<dyn FnMut(&Request) -> Result<Response>>;
pub(crate) type Prover = Box<dyn FnMut(&str, &[u8]) -> Result<Vec<u8>>>;
pub(crate) type MetricsHandler = Box<dyn FnMut(&str, TimeRange) -> Result<Vec<Series>>>;
pub(crate) type LogsHandler = Box<dyn FnMut(&str, TimeRange) -> Result<LogBatch>>;

#[derive(Default)]
pub(crate) struct Inner {
    pub http: Option<HttpHandler>,
    pub requests: Vec<Request>,
    pub effects: Vec<crate::testing::RecordedEffect>,
    pub refusal: Option<Error>,
    /// Permits held, by index into `effects`, and whether each has covered its one request.
    pub permits: BTreeMap<usize, bool>,
    pub logs: Vec<(String, String)>,
    pub counters: BTreeMap<String, f64>,
    pub state: BTreeMap<String, Entry>,
    pub revision: u64,
    pub secrets: BTreeMap<String, Rc<RefCell<Prover>>>,
    pub metrics: Option<MetricsHandler>,
    pub log_query: Option<LogsHandler>,
    pub sockets: BTreeMap<String, Box<dyn FnMut() -> Box<dyn Peer>>>,
    pub elapsed: Duration,
    pub is_cancelled: bool,
    pub checkpoint: Option<String>,
    pub randomness: u64,
}

/// The other end of a fake socket: gets what was written, answers with what is to be read.
pub trait Peer {
    fn exchange(&mut self, written: &[u8]) -> Vec<u8>;
}

impl<F: FnMut(&[u8]) -> Vec<u8>> Peer for F {
    fn exchange(&mut self, written: &[u8]) -> Vec<u8> {
        self(written)
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<RefCell<Inner>>>> = const { RefCell::new(None) };
}

pub(crate) fn install(world: Option<Rc<RefCell<Inner>>>) -> Option<Rc<RefCell<Inner>>> {
    CURRENT.replace(world)
}

fn with<T>(act: impl FnOnce(&mut Inner) -> T) -> T {
    let world = CURRENT.with_borrow(Clone::clone).expect("host imports are reached inside `testing::World::run` only");
    act(&mut world.borrow_mut())
}

pub(crate) fn log(level: &str, message: &str, _attributes: &[(&str, &str)]) {
    with(|w| w.logs.push((level.into(), message.into())));
}

pub(crate) fn counter_add(name: &str, value: f64, _attributes: &[(&str, &str)]) {
    with(|w| *w.counters.entry(name.into()).or_default() += value);
}

pub(crate) fn histogram_record(name: &str, _value: f64, _attributes: &[(&str, &str)]) {
    with(|w| *w.counters.entry(name.into()).or_default() += 1.0);
}

pub(crate) fn state_get(key: &str) -> Result<Option<Entry>> {
    Ok(with(|w| w.state.get(key).cloned()))
}

pub(crate) fn state_put(key: &str, value: &[u8], expect: Option<u64>, _ttl_ms: Option<u64>) -> Result<u64> {
    with(|w| {
        let found = w.state.get(key).map_or(0, |entry| entry.revision);
        if expect.is_some_and(|expected| expected != found) {
            return Err(Error::new("state.conflict", format!("{key:?} is at revision {found}")).retry_now());
        }
        w.revision += 1;
        w.state.insert(key.into(), Entry { value: value.into(), revision: w.revision });
        Ok(w.revision)
    })
}

pub(crate) fn state_delete(key: &str) -> Result<()> {
    with(|w| w.state.remove(key));
    Ok(())
}

pub(crate) fn state_list(prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<String>> {
    Ok(with(|w| {
        let keys = w.state.keys().filter(|key| key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after));
        keys.take(limit as usize).cloned().collect()
    }))
}

pub(crate) struct Secret {
    name: String,
    prover: Rc<RefCell<Prover>>,
}

pub(crate) fn secret(name: &str) -> Result<Secret> {
    let prover = with(|w| w.secrets.get(name).cloned());
    let prover = prover.ok_or_else(|| Error::new("config.secret_missing", format!("no secret is bound to {name:?}")))?;
    Ok(Secret { name: name.into(), prover })
}

impl Secret {
    pub fn placeholder(&self) -> String {
        format!("{{{{secret:{}}}}}", self.name)
    }
    pub fn sign(&self, algorithm: &str, data: &[u8]) -> Result<Vec<u8>> {
        (self.prover.borrow_mut())(algorithm, data)
    }
    pub fn prove(&self, mechanism: &str, challenge: &[u8]) -> Result<Vec<u8>> {
        (self.prover.borrow_mut())(mechanism, challenge)
    }
    pub fn send(&self, to: &mut Connection) -> Result<()> {
        let bytes = (self.prover.borrow_mut())("send", &[])?;
        to.write(&bytes)?;
        Ok(())
    }
    pub fn reveal(&self) -> Result<Vec<u8>> {
        (self.prover.borrow_mut())("reveal", &[])
    }
}

pub(crate) struct Permit(usize, bool);

pub(crate) fn begin(effect: Effect) -> Result<Permit> {
    with(|w| {
        if let Some(refusal) = &w.refusal {
            return Err(refusal.clone());
        }
        w.effects.push(crate::testing::RecordedEffect { effect, status: None, detail: None });
        let index = w.effects.len() - 1;
        w.permits.insert(index, false);
        Ok(Permit(index, false))
    })
}

impl Permit {
    pub fn settle(mut self, status: &str, detail: Option<Value>) {
        self.1 = true;
        with(|w| {
            w.permits.remove(&self.0);
            let row = &mut w.effects[self.0];
            row.status = Some(status.into());
            row.detail = detail;
        });
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.1 {
            with(|w| w.permits.remove(&self.0));
        }
    }
}

pub(crate) fn send(request: &Request) -> Result<Response> {
    let mut handler = with(|w| {
        if !request.is_safe() {
            let Some((_, used)) = w.permits.iter_mut().find(|(_, used)| !**used) else {
                return Err(Error::new(
                    "effect.permit_required",
                    format!(
                        "{} {} changes the world: announce it with `Effect` first, one permit a request",
                        request.method, request.url
                    ),
                ));
            };
            *used = true;
        }
        w.requests.push(request.clone());
        w.http.take().ok_or_else(|| Error::new("remote.unreachable", "the test's world answers no HTTP: call `on_http`"))
    })?;
    let outcome = handler(request);
    with(|w| w.http = Some(handler));
    outcome
}

pub(crate) struct Connection {
    peer: Box<dyn Peer>,
    incoming: VecDeque<u8>,
}

pub(crate) fn connect(host: &str, port: u16, _tls: bool) -> Result<Connection> {
    let address = format!("{host}:{port}");
    let peer = with(|w| w.sockets.get_mut(&address).map(|open| open()));
    let mut peer =
        peer.ok_or_else(|| Error::new("remote.unreachable", format!("{address}: connection refused")).retry_after_ms(1_000))?;
    let incoming = peer.exchange(&[]).into();
    Ok(Connection { peer, incoming })
}

impl Connection {
    pub fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        io::Read::read(&mut self.incoming, into)
    }
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.incoming.extend(self.peer.exchange(bytes));
        Ok(bytes.len())
    }
    pub fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) fn query_metrics(promql: &str, range: TimeRange) -> Result<Vec<Series>> {
    let handler = with(|w| w.metrics.take());
    let mut handler =
        handler.ok_or_else(|| Error::new("permission.denied", "the test's world has no metrics: call `on_metrics`"))?;
    let outcome = handler(promql, range);
    with(|w| w.metrics = Some(handler));
    outcome
}

pub(crate) fn query_logs(query: &str, range: TimeRange, _fields: &[&str], limit: u32) -> Result<LogBatch> {
    let handler = with(|w| w.log_query.take());
    let mut handler = handler.ok_or_else(|| Error::new("permission.denied", "the test's world has no logs: call `on_logs`"))?;
    let outcome = handler(query, range);
    with(|w| w.log_query = Some(handler));
    outcome.map(|mut batch| {
        batch.times.truncate(limit as usize);
        batch
    })
}

pub(crate) fn sleep(duration: Duration) {
    with(|w| w.elapsed += duration);
}

pub(crate) fn monotonic_ns() -> u64 {
    with(|w| u64::try_from(w.elapsed.as_nanos()).unwrap_or(u64::MAX))
}

/// A seeded sequence (SplitMix64): tests are the same each time.
pub(crate) fn random(count: usize) -> Vec<u8> {
    with(|w| {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            w.randomness = w.randomness.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = w.randomness;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            bytes.extend((z ^ (z >> 31)).to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    })
}

pub(crate) fn is_cancelled() -> bool {
    with(|w| w.is_cancelled)
}

pub(crate) fn heartbeat(_progress: Option<f32>, checkpoint: Option<String>) {
    with(|w| {
        if checkpoint.is_some() {
            w.checkpoint = checkpoint;
        }
    });
}

pub(crate) fn last_checkpoint() -> Option<String> {
    with(|w| w.checkpoint.clone())
}
