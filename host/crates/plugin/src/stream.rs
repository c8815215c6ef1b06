//! Warm stream detectors: one instance with one owner, whose `state` import is a buffer in memory, so that the
//! owner commits snapshot, findings and cursor in one transaction. After any error the instance is gone and the
//! buffer is as it was before the failed call; the owner starts a new one from its last snapshot.

use crate::{
    bindings::export::stream_detector as export,
    call::{CallContext, Class},
    convert,
    error::{CallError, refuse},
    grant::expand,
    host::{Host, Package, guest_context},
    port::{StateEntry, StateWrite},
    run::{self, Budget, CpuMeter},
    store::State,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use model::{ErrorRecord, Finding, Installation, LogRecord, Series, Span, Timestamp};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};
use wasmtime::{Store, component::Instance};

/// A snapshot is read whole into memory.
const SNAPSHOT_BYTES_MAX: usize = 64 << 20;

/// What arrived, as the WAL has it.
#[derive(Clone, Copy, Debug)]
pub enum Batch<'a> {
    Logs(&'a [LogRecord]),
    Metrics(&'a [Series]),
    Spans(&'a [Span]),
}

/// A running stream detector. Not shared: its owner calls it one batch at a time.
pub struct StreamInstance {
    host: Host,
    package: Arc<Package>,
    installation: Arc<Installation>,
    params: String,
    fields: Vec<String>,
    state: Arc<Mutex<StateBuffer>>,
    meter: Arc<CpuMeter>,
    budget: Budget,
    /// Gone after an error.
    warm: Option<(Store<State>, Instance)>,
}

impl StreamInstance {
    pub(crate) async fn start(
        host: Host,
        package: Arc<Package>,
        installation: Arc<Installation>,
        params: Value,
        state: StateBuffer,
    ) -> Result<Self, CallError> {
        let fields = package
            .manifest
            .detector
            .fields
            .iter()
            .flat_map(|field| expand(&field.replace("{params.", "{config."), &params))
            .filter(|field| !field.is_empty())
            .collect();
        let mut this = Self {
            budget: Budget::of(&package, Class::Pure, None),
            params: params.to_string(),
            state: Arc::new(Mutex::new(state)),
            meter: Arc::default(),
            warm: None,
            host,
            package,
            installation,
            fields,
        };
        let context = this.host.own_context(&this.installation, "start");
        let running = this.begin(context, "stream-detector.start")?;
        let package = this.package.clone();
        let mut store = run::store(package.ready_for_long().pre.engine(), running.call.clone(), &this.budget, &this.meter);
        let started = run::drive(&running.call, &mut store, &this.budget, &this.meter, move |store| {
            Box::pin(async move { package.ready_for_long().pre.instantiate_async(&mut *store).await.map(Ok) })
        })
        .await;
        let memory = store.data().limiter.bytes_peak();
        let outcome = started.as_ref().map(|_| Value::Null).map_err(Clone::clone);
        running.end(params, outcome, &this.meter, memory).await;
        this.warm = Some((store, started?));
        Ok(this)
    }

    /// Findings don't depend on where batches are cut: that is the detector's promise, checked by its tests.
    pub async fn observe(&mut self, context: CallContext, batch: Batch<'_>) -> Result<Vec<Finding>, CallError> {
        let (shown, batch) = match batch {
            Batch::Logs(records) => {
                (json!({ "logs": records.len() }), export::Batch::Logs(convert::log_batch(records, &self.fields)))
            }
            Batch::Metrics(series) => (json!({ "series": series.len() }), export::Batch::Metrics(convert::series(series))),
            Batch::Spans(spans) => {
                (json!({ "spans": spans.len() }), export::Batch::Spans(convert::span_batch(spans, &self.fields)))
            }
        };
        self.call(context, "stream-detector.observe", shown, Some(batch)).await
    }

    /// At least once per second of the call's clock, so that windows close without traffic.
    pub async fn tick(&mut self, context: CallContext) -> Result<Vec<Finding>, CallError> {
        self.call(context, "stream-detector.tick", Value::Null, None).await
    }

    /// All of its state, after the last call that succeeded.
    pub fn snapshot(&self) -> Vec<u8> {
        self.state.lock().snapshot()
    }

    /// False after an error: start another from the snapshot.
    pub fn is_alive(&self) -> bool {
        self.warm.is_some()
    }

    fn begin(&self, context: CallContext, function: &str) -> Result<crate::host::Running, CallError> {
        self.host.begin(
            self.package.clone(),
            self.installation.clone(),
            context,
            Class::Pure,
            function.into(),
            Some(self.state.clone()),
        )
    }

    async fn call(
        &mut self,
        context: CallContext,
        function: &str,
        request: Value,
        batch: Option<export::Batch>,
    ) -> Result<Vec<Finding>, CallError> {
        let Some((mut store, instance)) = self.warm.take() else {
            return Err(CallError::Trap { message: "this instance has ended: start another from its snapshot".into() });
        };
        let guest_context = guest_context(&context);
        let running = match self.begin(context, function) {
            Ok(running) => running,
            Err(error) => {
                self.warm = Some((store, instance));
                return Err(error);
            }
        };
        self.state.lock().begin();
        self.meter.reset();
        store.data_mut().begin(running.call.clone());
        let params = self.params.clone();
        let package = self.package.clone();
        let answer = run::drive(&running.call, &mut store, &self.budget, &self.meter, move |store| {
            Box::pin(async move {
                let indices = package.ready_for_long().stream_detector.as_ref().expect("checked when the stream was started");
                let guest = indices.load(&mut *store, &instance)?;
                match batch {
                    Some(batch) => guest.call_observe(&mut *store, &guest_context, &params, &batch).await,
                    None => guest.call_tick(&mut *store, &guest_context, &params).await,
                }
            })
        })
        .await;
        let answer = answer.and_then(|found| convert::findings(function, found));
        let memory = store.data().limiter.bytes_peak();
        store.data().flush_stdio();
        // An error that the guest returned leaves the instance usable, but half a batch in its memory.
        self.state.lock().end(answer.is_ok());
        if answer.is_ok() {
            self.warm = Some((store, instance));
        }
        running.end(request, answer.as_ref().map(|f| json!(f)).map_err(Clone::clone), &self.meter, memory).await;
        answer
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    value: String,
    revision: u64,
    expires: Option<Timestamp>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Stored {
    version: u32,
    entries: BTreeMap<String, Entry>,
}

/// The `state` import of a stream detector.
#[derive(Debug, Default)]
pub(crate) struct StateBuffer {
    entries: BTreeMap<String, Entry>,
    /// What each key was before the running call, oldest first.
    undo: Vec<(String, Option<Entry>)>,
}

impl StateBuffer {
    pub(crate) fn restore(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > SNAPSHOT_BYTES_MAX {
            return Err(format!("a snapshot is over {SNAPSHOT_BYTES_MAX} bytes"));
        }
        let stored: Stored = serde_json::from_slice(bytes).map_err(|e| format!("a snapshot is unreadable: {e}"))?;
        if stored.version != 1 {
            return Err(format!("a snapshot has version {}, this host reads 1", stored.version));
        }
        Ok(Self { entries: stored.entries, undo: Vec::new() })
    }

    fn snapshot(&self) -> Vec<u8> {
        let stored = Stored { version: 1, entries: self.entries.clone() };
        serde_json::to_vec(&stored).expect("a snapshot has string keys only")
    }

    fn begin(&mut self) {
        self.undo.clear();
    }

    fn end(&mut self, is_kept: bool) {
        for (key, before) in std::mem::take(&mut self.undo).into_iter().rev() {
            if !is_kept {
                match before {
                    Some(entry) => drop(self.entries.insert(key, entry)),
                    None => drop(self.entries.remove(&key)),
                }
            }
        }
    }

    pub(crate) fn get(&self, key: &str, now: Timestamp) -> Option<StateEntry> {
        let entry = self.entries.get(key).filter(|e| e.expires.is_none_or(|at| at > now))?;
        Some(StateEntry { value: STANDARD.decode(&entry.value).ok()?, revision: entry.revision })
    }

    pub(crate) fn put(&mut self, write: StateWrite, now: Timestamp) -> Result<u64, ErrorRecord> {
        let current = self.get(&write.key, now).map_or(0, |e| e.revision);
        if write.expect.is_some_and(|expected| expected != current) {
            return Err(conflict(&write.key, current));
        }
        let others: usize =
            self.entries.iter().filter(|(k, _)| **k != write.key).map(|(k, e)| k.len() + e.value.len() / 4 * 3).sum();
        if (others + write.key.len() + write.value.len()) as u64 > write.bytes_max {
            return Err(refuse(
                "state.quota",
                format!("the state's {} bytes are full: delete keys or ask for more state_bytes", write.bytes_max),
            ));
        }
        let last = self.entries.get(&write.key).map_or(0, |e| e.revision);
        let entry = Entry { value: STANDARD.encode(&write.value), revision: last + 1, expires: write.expires };
        let before = self.entries.insert(write.key.clone(), entry);
        self.undo.push((write.key, before));
        Ok(last + 1)
    }

    pub(crate) fn delete(&mut self, key: &str, expect: Option<u64>) -> Result<(), ErrorRecord> {
        let current = self.entries.get(key).map_or(0, |e| e.revision);
        if expect.is_some_and(|expected| expected != current) {
            return Err(conflict(key, current));
        }
        if let Some(before) = self.entries.remove(key) {
            self.undo.push((key.into(), Some(before)));
        }
        Ok(())
    }

    pub(crate) fn list(&self, prefix: &str, after: Option<&str>, limit: u32, now: Timestamp) -> Vec<String> {
        self.entries
            .iter()
            .filter(|(key, entry)| {
                key.starts_with(prefix) && after.is_none_or(|a| key.as_str() > a) && entry.expires.is_none_or(|at| at > now)
            })
            .take(limit as usize)
            .map(|(key, _)| key.clone())
            .collect()
    }
}

fn conflict(key: &str, current: u64) -> ErrorRecord {
    refuse("state.conflict", format!("key {key:?} is at revision {current}: read it again"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(key: &str, value: &[u8], expect: Option<u64>) -> StateWrite {
        StateWrite { key: key.into(), value: value.to_vec(), expect, expires: None, bytes_max: 20 }
    }

    #[test]
    fn a_failed_call_leaves_the_state_as_it_was() {
        let now = Timestamp(0);
        let mut buffer = StateBuffer::default();
        assert_eq!(buffer.put(write("a", b"1", Some(0)), now), Ok(1));
        buffer.begin();
        assert_eq!(buffer.put(write("a", b"2", Some(1)), now), Ok(2));
        buffer.put(write("b", b"x", None), now).unwrap();
        buffer.delete("a", None).unwrap();
        buffer.end(false);
        assert_eq!(buffer.get("a", now), Some(StateEntry { value: b"1".to_vec(), revision: 1 }));
        assert_eq!(buffer.get("b", now), None);
        assert_eq!(buffer.put(write("a", b"2", Some(0)), now).unwrap_err().code, "state.conflict");
        assert_eq!(buffer.put(write("c", &[0; 30], None), now).unwrap_err().code, "state.quota");
    }

    #[test]
    fn a_snapshot_comes_back_whole_and_a_damaged_one_is_refused() {
        let now = Timestamp(5);
        let mut buffer = StateBuffer::default();
        buffer.put(write("w/1", &[0xff, 0], None), now).unwrap();
        buffer.put(StateWrite { expires: Some(Timestamp(6)), ..write("w/2", b"", None) }, now).unwrap();
        let back = StateBuffer::restore(&buffer.snapshot()).unwrap();
        assert_eq!(back.get("w/1", now).unwrap().value, [0xff, 0]);
        assert_eq!(back.list("w/", None, 10, now), ["w/1", "w/2"]);
        assert_eq!(back.list("w/", Some("w/1"), 10, Timestamp(6)), [""; 0]);
        for bad in [&b""[..], b"{", b"{\"version\":2,\"entries\":{}}", b"{\"version\":1,\"entries\":[]}"] {
            assert!(StateBuffer::restore(bad).is_err());
        }
    }
}
