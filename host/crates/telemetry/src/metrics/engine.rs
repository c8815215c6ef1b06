//! The engine's state and the way in: check, log, sync, apply in the log's order, answer.

use super::{
    MetricBatch, MetricHint, MetricsConfig, MetricsStats,
    batch::{Record, label_set, pairs},
    head::Head,
    metadata::MetadataTable,
    segment::{Loaded, Segment},
};
use crate::{
    Appended, Corruption, Error, Result,
    lock::FolderLock,
    subfolder,
    wal::{self, Lsn, Pending, Wal},
};
use cap_std::fs::Dir;
use model::{Clock, TenantId, Timestamp, limits};
use parking_lot::{Condvar, Mutex, RwLock};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst},
        mpsc,
    },
    thread::JoinHandle,
};
use tokio::sync::{broadcast, oneshot};

/// Owns the threads.
#[derive(Debug)]
pub struct Inner {
    pub shared: Arc<Shared>,
    /// Under its lock a record is given to the log and to the applier, so that both see one order. `None` when closed.
    entry: Mutex<Option<mpsc::Sender<Job>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What appends, reads and maintenance share.
#[derive(Debug)]
pub struct Shared {
    pub config: MetricsConfig,
    pub clock: Arc<dyn Clock>,
    pub dir: Dir,
    pub wal: Wal,
    pub hints: broadcast::Sender<Arc<MetricHint>>,
    pub metadata: RwLock<MetadataTable>,
    state: RwLock<Arc<State>>,
    /// Held while a record is applied; who holds it sees a head with whole records up to its `last_lsn`.
    pub gate: Mutex<()>,
    pub segment_seq: AtomicU64,
    pub loaded: Mutex<VecDeque<(u64, Arc<Loaded>)>>,
    pub maintenance: Mutex<super::maintain::Memory>,
    pub signal: Signal,
    pub counters: Counters,
    corruptions: Mutex<Vec<Corruption>>,
    pending_bytes: AtomicUsize,
    #[allow(dead_code, reason = "held, not read: the folder stays locked while anything of the engine lives")]
    lock: Option<Arc<FolderLock>>,
}

/// What a reader sees, swapped whole: a sample is in exactly one of the places.
#[derive(Clone, Debug)]
pub struct State {
    pub active: Arc<Head>,
    /// Being written out.
    pub frozen: Option<Arc<Head>>,
    /// By tenant, in the order of their numbers: later ones win.
    pub segments: Arc<BTreeMap<TenantId, Vec<Arc<Segment>>>>,
}

#[derive(Debug, Default)]
pub struct Counters {
    pub requests: AtomicU64,
    pub samples_stored: AtomicU64,
    pub samples_rejected: AtomicU64,
    pub requests_busy: AtomicU64,
    pub requests_disk_full: AtomicU64,
    pub queries: AtomicU64,
    pub samples_read: AtomicU64,
    pub wal_torn_bytes: AtomicU64,
    pub flushes: AtomicU64,
    pub maintenance_failures: AtomicU64,
    pub compactions: AtomicU64,
    pub segments_expired: AtomicU64,
    pub corruptions: AtomicU64,
}

/// Wakes and stops the maintenance thread.
#[derive(Debug, Default)]
pub struct Signal {
    pub state: Mutex<SignalState>,
    pub changed: Condvar,
}

#[derive(Debug, Default)]
pub struct SignalState {
    pub is_due: bool,
    pub is_closed: bool,
}

#[derive(Debug)]
struct Job {
    pending: Pending,
    record: Record,
    bytes: usize,
    appended: Appended,
    tell: oneshot::Sender<Result<Appended>>,
}

/// Hints kept for a slow receiver; what it misses costs it latency only.
const HINTS: usize = 1024;
/// Places of damage remembered; the counter goes on.
const CORRUPTIONS_MAX: usize = 1000;

impl Inner {
    pub fn open(dir: Dir, config: MetricsConfig, clock: Arc<dyn Clock>, lock: Option<Arc<FolderLock>>) -> Result<Self> {
        let mut found = Vec::new();
        let loaded = super::maintain::open_segments(&dir, &mut |c| found.push(c))?;
        let mut metadata = MetadataTable::load(&dir, &mut |c| found.push(c))?;
        let head = Head::new();
        let mut options = wal::Options::new("metrics");
        options.lsn_floor = Lsn(loaded.lsn_max);
        options.queue_bytes_max = config.pending_bytes_max;
        options.fault = config.fault.clone();
        let (log, recovery) = Wal::open(subfolder(&dir, "wal")?, options, |lsn, payload| {
            match Record::decode(payload) {
                Ok(record) => replay(&head, &mut metadata, &loaded.covered, config.block_ms, lsn, record, payload.len()),
                Err(e) => {
                    found.push(Corruption { file: format!("metrics/wal record {}", lsn.0), offset: 0, reason: e.to_string() })
                }
            }
            Ok(())
        })?;
        tracing::info!(records = recovery.records, samples = head.samples.load(Relaxed), "metrics log replayed");
        let shared = Arc::new(Shared {
            config,
            clock,
            dir,
            wal: log,
            hints: broadcast::Sender::new(HINTS),
            metadata: RwLock::new(metadata),
            state: RwLock::new(Arc::new(State { active: Arc::new(head), frozen: None, segments: Arc::new(loaded.segments) })),
            gate: Mutex::new(()),
            segment_seq: AtomicU64::new(loaded.seq_max + 1),
            loaded: Mutex::default(),
            maintenance: Mutex::default(),
            signal: Signal::default(),
            counters: Counters::default(),
            corruptions: Mutex::default(),
            pending_bytes: AtomicUsize::new(0),
            lock,
        });
        shared.counters.wal_torn_bytes.store(recovery.torn_bytes, Relaxed);
        recovery.corruptions.into_iter().chain(found).for_each(|c| shared.note(c));
        let (entry, jobs) = mpsc::channel();
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.into()).spawn(run).map_err(|e| Error::io(format!("starting {name}"), e))
        };
        let (applier, keeper) = (shared.clone(), shared.clone());
        let threads = vec![
            spawn("metrics-apply", Box::new(move || applier.apply_all(&jobs)))?,
            spawn("metrics-keep", Box::new(move || keeper.keep()))?,
        ];
        Ok(Self { shared, entry: Mutex::new(Some(entry)), threads: Mutex::new(threads) })
    }

    pub async fn append(&self, tenant: &TenantId, batch: MetricBatch) -> Result<Appended> {
        let counters = &self.shared.counters;
        let submitted = self.submit(tenant, batch);
        let result = match submitted {
            Ok(Submitted::Nothing(appended)) => Ok(appended),
            Ok(Submitted::Pending(done)) => done.await.unwrap_or(Err(Error::Closed)),
            Err(e) => Err(e),
        };
        counters.requests.fetch_add(1, Relaxed);
        match &result {
            Ok(appended) => {
                counters.samples_stored.fetch_add(appended.stored, Relaxed);
                counters.samples_rejected.fetch_add(appended.rejected, Relaxed);
            }
            Err(Error::Busy { .. }) => {
                counters.requests_busy.fetch_add(1, Relaxed);
            }
            Err(Error::DiskFull) => {
                counters.requests_disk_full.fetch_add(1, Relaxed);
            }
            Err(_) => {}
        }
        result
    }

    fn submit(&self, tenant: &TenantId, mut batch: MetricBatch) -> Result<Submitted> {
        let shared = &self.shared;
        shared.check_pressure()?;
        let arrival_ms = shared.clock.now().millis();
        let appended = shared.admit(tenant, &mut batch, arrival_ms)?;
        if batch.series.is_empty() && batch.metadata.is_empty() {
            return Ok(Submitted::Nothing(appended));
        }
        let record = Record { tenant: tenant.clone(), arrival_ms, batch };
        let payload = record.encode();
        let bytes = payload.len();
        let (tell, done) = oneshot::channel();
        let entry = self.entry.lock();
        let jobs = entry.as_ref().ok_or(Error::Closed)?;
        let pending = shared.wal.submit(payload)?;
        shared.pending_bytes.fetch_add(bytes, SeqCst);
        jobs.send(Job { pending, record, bytes, appended, tell }).map_err(|_| Error::Closed)?;
        drop(entry);
        Ok(Submitted::Pending(done))
    }

    /// Stops appends, writes the head out, ends the threads.
    pub fn close(&self) -> Result<()> {
        self.stop_appends();
        let flushed = self.shared.maintain(true);
        self.stop();
        self.shared.wal.close();
        flushed
    }

    fn stop_appends(&self) {
        drop(self.entry.lock().take());
        let mut threads = self.threads.lock();
        if !threads.is_empty() {
            // The applier comes first in the list and ends when its channel does.
            let _ = threads.remove(0).join();
        }
    }

    fn stop(&self) {
        self.shared.signal.state.lock().is_closed = true;
        self.shared.signal.changed.notify_one();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            // A panic was reported by its own thread.
            let _ = thread.join();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop_appends();
        self.stop();
    }
}

enum Submitted {
    /// All of it was refused, or there was nothing.
    Nothing(Appended),
    Pending(oneshot::Receiver<Result<Appended>>),
}

impl Shared {
    pub fn snapshot(&self) -> Arc<State> {
        self.state.read().clone()
    }

    /// Puts a changed state in place of the present one.
    pub fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.write();
        let mut new = State::clone(&state);
        change(&mut new);
        *state = Arc::new(new);
    }

    /// Takes note of damage: counted, logged, remembered; each place once.
    pub fn note(&self, corruption: Corruption) {
        let mut all = self.corruptions.lock();
        if all.contains(&corruption) || all.len() >= CORRUPTIONS_MAX {
            return;
        }
        let Corruption { file, offset, reason } = &corruption;
        tracing::error!(%file, offset, %reason, "metrics on disk are damaged");
        self.counters.corruptions.fetch_add(1, Relaxed);
        all.push(corruption);
    }

    pub fn corruptions(&self) -> Vec<Corruption> {
        self.corruptions.lock().clone()
    }

    pub fn wake_keeper(&self) {
        self.signal.state.lock().is_due = true;
        self.signal.changed.notify_one();
    }

    /// The oldest time that is kept.
    pub fn oldest_ms(&self) -> i64 {
        self.clock.now().millis().saturating_sub(self.config.retention_ms)
    }

    pub fn stats(&self) -> MetricsStats {
        let c = &self.counters;
        let get = |n: &AtomicU64| n.load(Relaxed);
        let state = self.snapshot();
        let heads = || std::iter::once(&state.active).chain(&state.frozen);
        let segments = || state.segments.values().flatten();
        MetricsStats {
            requests: get(&c.requests),
            samples_stored: get(&c.samples_stored),
            samples_rejected: get(&c.samples_rejected),
            requests_busy: get(&c.requests_busy),
            requests_disk_full: get(&c.requests_disk_full),
            queries: get(&c.queries),
            samples_read: get(&c.samples_read),
            wal_syncs: self.wal.syncs(),
            wal_bytes: self.wal.disk_bytes(),
            wal_torn_bytes: get(&c.wal_torn_bytes),
            flushes: get(&c.flushes),
            maintenance_failures: get(&c.maintenance_failures),
            compactions: get(&c.compactions),
            segments_expired: get(&c.segments_expired),
            corruptions: get(&c.corruptions),
            head_series: state.active.tenants().iter().map(|(_, t)| t.series_count() as u64).sum(),
            head_samples: heads().map(|h| get(&h.samples)).sum(),
            segments: segments().count() as u64,
            segment_bytes: segments().map(|s| s.file_bytes).sum(),
        }
    }

    fn check_pressure(&self) -> Result<()> {
        if self.pending_bytes.load(SeqCst) > self.config.pending_bytes_max {
            return Err(Error::Busy { retry_after_ms: 500 });
        }
        let state = self.snapshot();
        // Two heads' worth is the memory there is. While the older can't be written out, senders have to wait.
        if state.frozen.is_some() && state.active.log_bytes.load(Relaxed) > self.config.flush_bytes {
            let is_full = self.maintenance.try_lock().is_some_and(|m| m.is_disk_full);
            return Err(if is_full { Error::DiskFull } else { Error::Busy { retry_after_ms: 2_000 } });
        }
        Ok(())
    }

    /// Takes what breaks a limit out of the batch, with reasons.
    fn admit(&self, tenant: &TenantId, batch: &mut MetricBatch, now_ms: i64) -> Result<Appended> {
        if batch.len_samples() > limits::SAMPLES_PER_REQUEST_MAX {
            let (n, max) = (batch.len_samples(), limits::SAMPLES_PER_REQUEST_MAX);
            return Err(Error::TooLarge(format!("the request has {n} samples; send at most {max} at once")));
        }
        let mut appended = Appended::default();
        let (oldest, newest) = (self.oldest_ms(), now_ms.saturating_add(limits::FUTURE_MS_MAX));
        let mut room = Room::new(self, tenant, batch.series.len());
        let mut spans = std::mem::take(&mut batch.series);
        spans.retain_mut(|span| {
            let labels = &batch.labels[span.labels.clone()];
            let shown = || label_set(labels).to_string();
            let samples = span.samples.len() as u64;
            if samples == 0 {
                return false;
            }
            if let Some(reason) = refusal(labels, span.labels_count, span.has_repeated_name) {
                appended.refuse(samples, || cut(shown()), || reason);
                return false;
            }
            // Samples outside the time window are taken out; the others move together.
            let mut end = span.samples.start;
            for i in span.samples.clone() {
                let t = batch.times[i];
                if (oldest..=newest).contains(&t) {
                    batch.times.swap(end, i);
                    batch.values.swap(end, i);
                    end += 1;
                } else {
                    appended.refuse(1, || cut(shown()), || time_refusal(t, now_ms, t > newest));
                }
            }
            span.samples.end = end;
            if span.samples.is_empty() {
                return false;
            }
            if !room.takes(labels) {
                let max = self.config.series_per_tenant_max;
                let reason = format!("the tenant has {max} active series, as many as allowed; drop a label with many values");
                appended.refuse(span.samples.len() as u64, || cut(shown()), || reason);
                return false;
            }
            appended.stored += span.samples.len() as u64;
            true
        });
        batch.series = spans;
        let metadata = self.metadata.read();
        let mut known = 0;
        batch.metadata.retain(|m| {
            let is_kept =
                metadata.is_news(tenant, m) && metadata.has_room(tenant, &m.name) && known < limits::METADATA_PER_TENANT_MAX;
            let texts = [&m.name, &m.help, &m.unit];
            known += 1;
            is_kept && !m.name.is_empty() && texts.iter().all(|t| t.len() <= limits::METADATA_TEXT_BYTES_MAX)
        });
        Ok(appended)
    }

    /// The applier thread: takes records in the log's order, waits for each to be durable, applies it, answers.
    fn apply_all(&self, jobs: &mpsc::Receiver<Job>) {
        while let Ok(job) = jobs.recv() {
            let Job { pending, record, bytes, appended, tell } = job;
            let result = pending.durable_blocking().map(|lsn| {
                let names = self.apply(lsn, &record, bytes);
                (appended, names)
            });
            self.pending_bytes.fetch_sub(bytes, SeqCst);
            match result {
                Ok((appended, names)) => {
                    // The one who asked may have gone; the samples stay.
                    let _ = tell.send(Ok(appended));
                    if !names.is_empty() {
                        let appended_at = Timestamp::from_millis(record.arrival_ms);
                        let _ = self.hints.send(Arc::new(MetricHint { tenant: record.tenant, names, appended_at }));
                    }
                }
                Err(e) => drop(tell.send(Err(e))),
            }
        }
    }

    fn apply(&self, lsn: Lsn, record: &Record, bytes: usize) -> Vec<Arc<str>> {
        if !record.batch.metadata.is_empty() {
            let mut metadata = self.metadata.write();
            record.batch.metadata.iter().for_each(|m| metadata.insert(&record.tenant, m.clone()));
        }
        let _gate = self.gate.lock();
        let head = self.snapshot().active.clone();
        head.note_record(lsn.0, bytes, record.arrival_ms);
        let wants_names = self.hints.receiver_count() > 0;
        let names = head.append(&record.tenant, &record.batch, record.arrival_ms, wants_names, |_| true);
        if head.log_bytes.load(Relaxed) >= self.config.flush_bytes {
            self.wake_keeper();
        }
        names
    }
}

/// By tenant and block: the log records up to this number are in segments.
pub type Covered = ahash::HashMap<(TenantId, i64), u64>;

fn replay(head: &Head, metadata: &mut MetadataTable, covered: &Covered, block_ms: i64, lsn: Lsn, record: Record, bytes: usize) {
    head.note_record(lsn.0, bytes, record.arrival_ms);
    let Record { tenant, arrival_ms, mut batch } = record;
    for known in std::mem::take(&mut batch.metadata) {
        metadata.insert(&tenant, known);
    }
    // Asked for each sample, answered from the block before nearly always.
    let last = std::cell::Cell::new(None::<(i64, bool)>);
    head.append(&tenant, &batch, arrival_ms, false, |t| {
        let block = t.div_euclid(block_ms) * block_ms;
        match last.get() {
            Some((b, is_new)) if b == block => is_new,
            _ => {
                let is_new = covered.get(&(tenant.clone(), block)).is_none_or(|max| lsn.0 > *max);
                last.set(Some((block, is_new)));
                is_new
            }
        }
    });
}

/// How many new series the tenant may still begin. Counted before the log, so two requests at once may pass the bound
/// by what they hold; the next one is stopped.
struct Room {
    head: Option<Arc<super::head::TenantHead>>,
    left: usize,
    /// Far from the bound nothing is looked up.
    is_ample: bool,
}

impl Room {
    fn new(shared: &Shared, tenant: &TenantId, series: usize) -> Self {
        let head = shared.snapshot().active.tenant(tenant);
        let left = shared.config.series_per_tenant_max.saturating_sub(head.as_ref().map_or(0, |h| h.series_count()));
        Self { head, left, is_ample: series <= left }
    }

    fn takes(&mut self, labels: &[u8]) -> bool {
        if self.is_ample || self.head.as_ref().is_some_and(|h| h.has_series(labels)) {
            return true;
        }
        let has_room = self.left > 0;
        self.left = self.left.saturating_sub(1);
        has_room
    }
}

/// Why a series' labels can't be stored.
fn refusal(labels: &[u8], count: u32, has_repeated_name: bool) -> Option<String> {
    use limits::{LABEL_NAME_BYTES_MAX, LABEL_VALUE_BYTES_MAX, LABELS_MAX};
    if has_repeated_name {
        return Some("a label name appears twice".into());
    }
    if count as usize > LABELS_MAX {
        return Some(format!("{count} labels; at most {LABELS_MAX} are allowed"));
    }
    let mut has_metric_name = false;
    for (name, value) in pairs(labels) {
        has_metric_name |= name == "__name__";
        if name.is_empty() {
            return Some("a label has no name".into());
        }
        if name.len() > LABEL_NAME_BYTES_MAX {
            return Some(format!("a label name of {} bytes; at most {LABEL_NAME_BYTES_MAX} are allowed", name.len()));
        }
        if value.len() > LABEL_VALUE_BYTES_MAX {
            return Some(format!("label {name} has {} bytes; at most {LABEL_VALUE_BYTES_MAX} are allowed", value.len()));
        }
    }
    (!has_metric_name).then(|| "the metric has no name: the label __name__ is missing".into())
}

fn time_refusal(t: i64, now_ms: i64, is_future: bool) -> String {
    if is_future {
        let ahead = t.saturating_sub(now_ms) / 1000;
        format!("its time {t} is {ahead} s in the future; check the sender's clock")
    } else {
        format!("its time {t} is older than the retention")
    }
}

/// A name for an error message, short enough for one.
fn cut(mut text: String) -> String {
    const BYTES_MAX: usize = 300;
    if text.len() > BYTES_MAX {
        let end = (0..=BYTES_MAX).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}
