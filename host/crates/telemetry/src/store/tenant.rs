//! The store of one signal: appending, moving heads into splits, merging, retention, and the
//! snapshots that searches run on.
//!
//! The hand-over from head to split is one assignment under one lock, after the manifest is on
//! disk: a snapshot is taken under the same lock, so it sees a record in the head or in the split,
//! never in both nor in neither. After a crash the manifest decides: records of the log up to its
//! `flushed_lsn` are in splits, the others are replayed into the head.

use super::codec::Malformed;
use super::head::{Batch, Head, Payload, Sealed};
use super::manifest::Manifest;
use super::search::{Found, Snapshot};
use super::split::{self, Split, SplitMeta};
use super::{Kind, Plan, SignalConfig};
use crate::lock::FolderLock;
use crate::wal::{self, Lsn, Wal};
use crate::{Appended, Corruption, Error, Result, blocking, subfolder};
use cap_std::fs::Dir;
use model::{Clock, LabelSet, TenantId, Timestamp, limits};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, watch};

/// This many neighbours are merged into one, so that a quiet tenant doesn't gather a split a minute.
const MERGE_SPLITS: usize = 8;
/// Searches that use CPU at the same time; more would only slow each other and ingestion.
const SEARCHES_MAX: usize = 4;
/// Bytes one read of the log takes at most.
const TAIL_BYTES_MAX: usize = 16 << 20;
/// Log positions remembered for the age of cursors: one a second for the default ten minutes, and some.
const MARKS_MAX: usize = 4_096;

/// One request as the log has it, for readers that follow by cursor.
#[derive(Clone, Debug, PartialEq)]
pub struct TailBatch<R> {
    pub lsn: Lsn,
    pub tenant: TenantId,
    pub arrival: Timestamp,
    pub records: Vec<R>,
}

/// Counters of one signal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SignalStats {
    pub records_stored: u64,
    pub records_rejected: u64,
    pub bytes_stored: u64,
    pub requests_busy: u64,
    pub head_bytes: u64,
    pub splits: u64,
    pub splits_written: u64,
    pub splits_merged: u64,
    pub splits_removed: u64,
    pub split_bytes: u64,
    pub damages: u64,
    pub log_bytes: u64,
    pub searches: u64,
}

#[derive(Debug, Default)]
struct Counters {
    records_stored: AtomicU64,
    records_rejected: AtomicU64,
    bytes_stored: AtomicU64,
    requests_busy: AtomicU64,
    splits_written: AtomicU64,
    splits_merged: AtomicU64,
    splits_removed: AtomicU64,
    damages: AtomicU64,
    searches: AtomicU64,
}

struct Tenant<K: Kind> {
    dir: Arc<Dir>,
    head: Head<K>,
    splits: Vec<Arc<Split<K>>>,
    next_split: u64,
    flushed_lsn: u64,
}

impl<K: Kind> Tenant<K> {
    fn manifest(&self, splits: &[Arc<Split<K>>]) -> Manifest {
        let splits = splits.iter().map(|s| s.meta.clone()).collect();
        Manifest { version: 1, next_split: self.next_split, flushed_lsn: self.flushed_lsn, splits }
    }
}

/// The store. Clones share it.
pub struct Store<K: Kind>(Arc<Inner<K>>);

impl<K: Kind> Clone for Store<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Kind> std::fmt::Debug for Store<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("signal", &K::NAME).finish_non_exhaustive()
    }
}

struct Inner<K: Kind> {
    root: Dir,
    config: SignalConfig,
    clock: Arc<dyn Clock>,
    wal: Wal,
    /// Held from numbering a batch until it is in its head, so that heads are in the log's order; never while waiting.
    tenants: Mutex<BTreeMap<TenantId, Tenant<K>>>,
    heads_bytes: AtomicUsize,
    opened: Mutex<VecDeque<Weak<Split<K>>>>,
    marks: Mutex<VecDeque<(u64, Timestamp)>>,
    /// Records up to this number were in the log once and are gone.
    trimmed: AtomicU64,
    maintaining: tokio::sync::Mutex<()>,
    cut_now: Notify,
    searching: Semaphore,
    counters: Counters,
    _lock: Option<Arc<FolderLock>>,
}

impl<K: Kind> Store<K> {
    /// Loads manifests, replays the log into heads and starts the background work. Blocks; must run inside a
    /// tokio runtime's blocking pool when `tick_ms` is set.
    pub fn open(root: Dir, config: SignalConfig, clock: Arc<dyn Clock>, lock: Option<Arc<FolderLock>>) -> Result<Self> {
        let mut tenants: BTreeMap<TenantId, Tenant<K>> = BTreeMap::new();
        let folder = subfolder(&root, "tenants")?;
        for entry in folder.entries().map_err(|e| Error::io("listing tenants", e))? {
            let entry = entry.map_err(|e| Error::io("listing tenants", e))?;
            let Some(tenant) = entry.file_name().to_str().and_then(|n| TenantId::new(n).ok()) else { continue };
            let loaded = load_tenant(&folder, &tenant)?;
            tenants.insert(tenant, loaded);
        }
        let mut heads_bytes = 0;
        let mut marks = VecDeque::new();
        let floor = tenants.values().map(|t| t.flushed_lsn).max().unwrap_or(0);
        let options = wal::Options { lsn_floor: Lsn(floor), fault: config.fault.clone(), ..wal::Options::new(K::NAME) };
        let mut failed = Vec::new();
        let (wal, recovery) = Wal::open(subfolder(&root, "log")?, options, |lsn, payload| {
            let mut damaged = |e: Malformed| {
                failed.push(Corruption { file: format!("{}/log", K::NAME), offset: e.at as u64, reason: e.to_string() });
                Ok(())
            };
            let sealed = match Sealed::open(payload) {
                Ok(sealed) => sealed,
                Err(e) => return damaged(e),
            };
            let (tenant, arrival) = (sealed.tenant.clone(), sealed.arrival);
            mark(&mut marks, lsn.0, arrival);
            if !tenants.contains_key(&tenant) {
                tenants.insert(tenant.clone(), load_tenant(&folder, &tenant)?);
            }
            let state = tenants.get_mut(&tenant).expect("inserted just above");
            // What is in splits already is in the log for readers by cursor only: not worth decoding here.
            if lsn.0 > state.flushed_lsn {
                match sealed.records::<K>() {
                    Ok(records) => state.head.push(lsn.0, Arc::new(Batch::new(arrival, records, payload.len())), true),
                    Err(e) => return damaged(e),
                }
                heads_bytes += payload.len();
            }
            Ok(())
        })?;
        failed.extend(recovery.corruptions);
        for damage in &failed {
            tracing::error!(signal = K::NAME, file = damage.file, offset = damage.offset, reason = damage.reason, "log damaged");
        }
        let damages = failed.len() + tenants.values().flat_map(|t| &t.splits).filter(|s| s.is_damaged()).count();
        let counters = Counters { damages: AtomicU64::new(damages as u64), ..Counters::default() };
        let inner = Arc::new(Inner {
            root: folder,
            clock,
            tenants: Mutex::new(tenants),
            heads_bytes: AtomicUsize::new(heads_bytes),
            opened: Mutex::new(VecDeque::new()),
            marks: Mutex::new(marks),
            trimmed: AtomicU64::new(wal.oldest().0.saturating_sub(1)),
            maintaining: tokio::sync::Mutex::new(()),
            cut_now: Notify::new(),
            searching: Semaphore::new(SEARCHES_MAX),
            counters,
            config,
            wal,
            _lock: lock,
        });
        if let Some(tick_ms) = inner.config.tick_ms {
            tokio::spawn(maintain_forever(Arc::downgrade(&inner), Duration::from_millis(tick_ms.max(10))));
        }
        Ok(Self(inner))
    }

    /// Stores records and returns once they are synced and searchable. What is refused is told with reasons; the rest is stored.
    pub async fn append(&self, tenant: &TenantId, records: Vec<K::Record>) -> Result<Appended> {
        let arrival = self.0.clock.now();
        // Admission and encoding of a large request take milliseconds of CPU: not on the runtime's threads.
        const INLINE_RECORDS_MAX: usize = 64;
        let (mut answer, batch, payload) = if records.len() <= INLINE_RECORDS_MAX {
            prepare::<K>(tenant, records, arrival)
        } else {
            let tenant = tenant.clone();
            blocking(move || Ok(prepare::<K>(&tenant, records, arrival))).await?
        };
        let counters = &self.0.counters;
        counters.records_rejected.fetch_add(answer.rejected, SeqCst);
        if batch.records.is_empty() {
            return Ok(answer);
        }
        answer.stored = batch.records.len() as u64;
        let bytes = payload.len() as u64;
        self.commit(tenant, batch, payload).await?;
        counters.records_stored.fetch_add(answer.stored, SeqCst);
        counters.bytes_stored.fetch_add(bytes, SeqCst);
        Ok(answer)
    }

    async fn commit(&self, tenant: &TenantId, batch: Batch<K>, payload: Vec<u8>) -> Result<()> {
        let inner = self.0.clone();
        let bytes = batch.bytes;
        let (pending, is_full) = {
            let mut tenants = inner.tenants.lock();
            if !tenants.contains_key(tenant) {
                let loaded = load_tenant(&inner.root, tenant)?;
                tenants.insert(tenant.clone(), loaded);
            }
            let state = tenants.get_mut(tenant).expect("inserted just above");
            let would_overflow = |held: usize, max: usize| held > 0 && held + bytes > max;
            if would_overflow(state.head.bytes, inner.config.head_bytes_max)
                || would_overflow(inner.heads_bytes.load(SeqCst), inner.config.heads_bytes_max)
            {
                inner.counters.requests_busy.fetch_add(1, SeqCst);
                inner.cut_now.notify_one();
                return Err(Error::Busy { retry_after_ms: 1_000 });
            }
            let pending = inner.wal.submit(payload)?;
            state.head.push(pending.lsn.0, Arc::new(batch), false);
            inner.heads_bytes.fetch_add(bytes, SeqCst);
            (pending, state.head.bytes >= inner.config.split_bytes)
        };
        if is_full {
            inner.cut_now.notify_one();
        }
        let tenant = tenant.clone();
        // A task of its own: when the client hangs up, the record still gets settled.
        let settled = tokio::spawn(async move {
            let lsn = pending.lsn.0;
            let result = pending.durable().await;
            if let Some(state) = inner.tenants.lock().get_mut(&tenant) {
                state.head.settle(lsn, result.is_ok());
            }
            if result.is_err() {
                inner.heads_bytes.fetch_sub(bytes, SeqCst);
            }
            result
        });
        settled.await.unwrap_or(Err(Error::Closed)).map(drop)
    }

    pub async fn search(&self, tenant: &TenantId, plan: Plan<K>) -> Result<Found<K::Record>> {
        let Some(snapshot) = self.snapshot(tenant, plan.start, plan.end) else {
            return Ok(Found { records: Vec::new(), is_truncated: false, warnings: Vec::new() });
        };
        self.run(move || snapshot.search(&plan, query_wall())).await
    }

    /// Counts matches by what `bucket` makes of time and number. The second value are warnings.
    pub async fn count_by<B: Ord + Send + 'static>(
        &self,
        tenant: &TenantId,
        plan: Plan<K>,
        bucket: impl Fn(i64, u64) -> B + Send + 'static,
    ) -> Result<(BTreeMap<B, u64>, Vec<String>)> {
        let Some(snapshot) = self.snapshot(tenant, plan.start, plan.end) else { return Ok(Default::default()) };
        self.run(move || {
            let mut counts = BTreeMap::new();
            let warnings =
                snapshot.for_each(&plan, query_wall(), |time, number| *counts.entry(bucket(time, number)).or_default() += 1)?;
            Ok((counts, warnings))
        })
        .await
    }

    /// Distinct streams of the splits and batches that overlap `[start, end)`.
    pub async fn streams(&self, tenant: &TenantId, start: i64, end: i64) -> Result<BTreeSet<LabelSet>> {
        let Some(snapshot) = self.snapshot(tenant, start, end) else { return Ok(BTreeSet::new()) };
        self.run(move || snapshot.streams()).await
    }

    /// Requests after `after`, of all tenants, from the log. A cursor that fell out of the log is an error that names the oldest.
    pub async fn tail(&self, after: Lsn, records_max: usize) -> Result<Vec<TailBatch<K::Record>>> {
        let inner = self.0.clone();
        blocking(move || {
            let trimmed = inner.trimmed.load(SeqCst);
            if after.0 < trimmed {
                return Err(Error::CursorLost { log: K::NAME, after: after.0, oldest: trimmed + 1 });
            }
            let mut out: Vec<TailBatch<K::Record>> = Vec::new();
            let mut count = 0;
            // A request holds one record at least, so this many requests are enough.
            for (lsn, payload) in inner.wal.read_from(Lsn(after.0 + 1), records_max.max(1), TAIL_BYTES_MAX)? {
                let fail = |e: Malformed| Error::corrupt(format!("{}/log", K::NAME), e.at as u64, e.to_string());
                let sealed = Sealed::open(&payload).map_err(fail)?;
                let (tenant, arrival) = (sealed.tenant.clone(), sealed.arrival);
                let records = sealed.records::<K>().map_err(fail)?;
                count += records.len();
                out.push(TailBatch { lsn, tenant, arrival, records });
                if count >= records_max {
                    break;
                }
            }
            Ok(out)
        })
        .await
    }

    /// Changes to the newest number with each commit.
    pub fn tail_wake(&self) -> watch::Receiver<u64> {
        self.0.wal.wake()
    }

    pub fn check_alive(&self) -> Result<()> {
        self.0.wal.check_alive()
    }

    /// The newest durable number: where a new reader begins.
    pub fn newest(&self) -> Lsn {
        self.0.wal.durable()
    }

    /// Cuts what is due, merges, applies retention and trims the log. Runs by itself on `tick_ms`.
    pub async fn maintain(&self) -> Result<()> {
        maintain(&self.0, false).await
    }

    /// Cuts all heads into splits now.
    pub async fn flush(&self) -> Result<()> {
        maintain(&self.0, true).await
    }

    /// Writes heads out and closes the log. Appends fail from here on; searches work.
    pub async fn close(&self) {
        if let Err(error) = self.flush().await {
            tracing::warn!(signal = K::NAME, %error, "heads were not written out; the log has them");
        }
        let inner = self.0.clone();
        let _: Result<()> = blocking(move || {
            inner.wal.close();
            Ok(())
        })
        .await;
    }

    /// Reads every block and index of every split, and tells what is damaged.
    pub async fn verify(&self) -> Result<Vec<Corruption>> {
        let splits: Vec<_> = self.0.tenants.lock().values().flat_map(|t| t.splits.clone()).collect();
        blocking(move || {
            let check = |split: &Arc<Split<K>>| match split.open().and_then(|_| split.records()) {
                Ok(_) => None,
                Err(Error::Corrupt { file, offset, reason }) => Some(Corruption { file, offset, reason }),
                Err(other) => Some(Corruption { file: split.meta.rows_name(), offset: 0, reason: other.to_string() }),
            };
            let damaged = splits.iter().filter_map(check).collect();
            splits.iter().for_each(|s| s.close());
            Ok(damaged)
        })
        .await
    }

    pub fn stats(&self) -> SignalStats {
        let inner = &self.0;
        let c = &inner.counters;
        let (splits, split_bytes) = {
            let tenants = inner.tenants.lock();
            let all = tenants.values().flat_map(|t| &t.splits);
            all.fold((0, 0), |(n, bytes), s| (n + 1, bytes + s.meta.rows_bytes))
        };
        SignalStats {
            records_stored: c.records_stored.load(SeqCst),
            records_rejected: c.records_rejected.load(SeqCst),
            bytes_stored: c.bytes_stored.load(SeqCst),
            requests_busy: c.requests_busy.load(SeqCst),
            head_bytes: inner.heads_bytes.load(SeqCst) as u64,
            splits,
            splits_written: c.splits_written.load(SeqCst),
            splits_merged: c.splits_merged.load(SeqCst),
            splits_removed: c.splits_removed.load(SeqCst),
            split_bytes,
            damages: c.damages.load(SeqCst),
            log_bytes: inner.wal.disk_bytes(),
            searches: c.searches.load(SeqCst),
        }
    }

    fn snapshot(&self, tenant: &TenantId, start: i64, end: i64) -> Option<Snapshot<K>> {
        let tenants = self.0.tenants.lock();
        let state = tenants.get(tenant)?;
        let splits = (0u32..).zip(&state.splits).filter(|(_, s)| s.overlaps(start, end)).map(|(i, s)| (i, s.clone())).collect();
        let head = state.head.durable().filter(|b| b.overlaps(start, end)).cloned().collect();
        let inner = self.0.clone();
        Some(Snapshot { splits, head, on_open: Box::new(move |split| inner.opened(split)) })
    }

    /// Queries are CPU and disk: on the blocking pool, a few at a time.
    async fn run<T: Send + 'static>(&self, f: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        self.0.counters.searches.fetch_add(1, SeqCst);
        let _permit = self.0.searching.acquire().await.map_err(|_| Error::Closed)?;
        blocking(f).await
    }
}

impl<K: Kind> Inner<K> {
    /// Bounds the files kept open, oldest first.
    fn opened(&self, split: &Arc<Split<K>>) {
        let mut opened = self.opened.lock();
        opened.push_back(Arc::downgrade(split));
        while opened.len() > self.config.open_splits_max.max(1) {
            if let Some(split) = opened.pop_front().and_then(|s| s.upgrade()) {
                split.close();
            }
        }
    }
}

fn query_wall() -> Duration {
    Duration::from_millis(limits::QUERY_WALL_MS_MAX)
}

fn prepare<K: Kind>(tenant: &TenantId, records: Vec<K::Record>, arrival: Timestamp) -> (Appended, Batch<K>, Vec<u8>) {
    let mut answer = Appended::default();
    let mut admitted = Vec::with_capacity(records.len());
    let mut payload = Payload::new(tenant, arrival);
    for (i, mut record) in records.into_iter().enumerate() {
        match K::admit(&mut record, arrival).and_then(|()| payload.push::<K>(&record)) {
            Ok(()) => admitted.push(record),
            Err(reason) => answer.refuse(1, || format!("record {i} ({})", K::describe(&record)), || reason),
        }
    }
    let payload = payload.finish();
    let batch = Batch::new(arrival, admitted, payload.len());
    (answer, batch, payload)
}

fn mark(marks: &mut VecDeque<(u64, Timestamp)>, lsn: u64, arrival: Timestamp) {
    if marks.back().is_none_or(|(_, last)| arrival.millis_since(*last) >= 1_000) {
        marks.push_back((lsn, arrival));
        if marks.len() > MARKS_MAX {
            marks.pop_front();
        }
    }
}

/// Reads a tenant's manifest and removes what it doesn't name: files of a cut or merge that a crash ended.
fn load_tenant<K: Kind>(folder: &Dir, tenant: &TenantId) -> Result<Tenant<K>> {
    let dir = Arc::new(subfolder(folder, tenant.as_str())?);
    let manifest = Manifest::load(&dir, &format!("{}/{tenant}", K::NAME))?;
    let named: BTreeSet<String> = manifest.splits.iter().flat_map(|s| [s.rows_name(), s.index_name()]).collect();
    let listing = |e| Error::io(format!("listing the folder of {tenant}"), e);
    for entry in dir.entries().map_err(listing)? {
        let name = entry.map_err(listing)?.file_name();
        let Some(name) = name.to_str() else { continue };
        let is_ours = name.starts_with("split-") || name.ends_with(".tmp");
        if is_ours && !named.contains(name) {
            dir.remove_file(name).map_err(|e| Error::io(format!("removing the unfinished {name}"), e))?;
        }
    }
    let open = |meta: SplitMeta| {
        let split = Arc::new(Split::new(meta, dir.clone()));
        let bytes = dir.metadata(split.meta.rows_name()).map(|m| m.len()).unwrap_or(0);
        if bytes != split.meta.rows_bytes && split.mark_damaged() {
            let (file, wanted) = (split.meta.rows_name(), split.meta.rows_bytes);
            tracing::error!(signal = K::NAME, %tenant, file, bytes, wanted, "a split is torn; its records can't be searched");
        }
        split
    };
    Ok(Tenant {
        head: Head::default(),
        splits: manifest.splits.into_iter().map(open).collect(),
        next_split: manifest.next_split,
        flushed_lsn: manifest.flushed_lsn,
        dir,
    })
}

async fn maintain_forever<K: Kind>(inner: Weak<Inner<K>>, tick: Duration) {
    loop {
        let Some(strong) = inner.upgrade() else { return };
        if let Err(error) = maintain(&strong, false).await {
            // Heads stay as they are, the log has them; the next tick tries again.
            tracing::warn!(signal = K::NAME, %error, "could not write heads out");
        }
        let wake = strong.clone();
        drop(strong);
        // The store may be dropped while this waits at most one tick.
        let _ = tokio::time::timeout(tick, wake.cut_now.notified()).await;
    }
}

async fn maintain<K: Kind>(inner: &Arc<Inner<K>>, cuts_all: bool) -> Result<()> {
    let _one = inner.maintaining.lock().await;
    let inner = inner.clone();
    blocking(move || {
        let now = inner.clock.now();
        let names: Vec<TenantId> = inner.tenants.lock().keys().cloned().collect();
        let mut result = Ok(());
        for tenant in names {
            // One tenant's trouble must not keep the others' heads in memory.
            let done =
                inner.cut(&tenant, now, cuts_all).and_then(|()| inner.expire(&tenant, now)).and_then(|()| inner.merge(&tenant));
            result = result.and(done);
        }
        result.and_then(|()| inner.trim_log(now))
    })
    .await
}

impl<K: Kind> Inner<K> {
    /// Moves the settled front of a head into a split, if it is due.
    fn cut(&self, tenant: &TenantId, now: Timestamp, is_forced: bool) -> Result<()> {
        let (batches, lsn_max, id, dir) = {
            let mut tenants = self.tenants.lock();
            let Some(state) = tenants.get_mut(tenant) else { return Ok(()) };
            let Some(oldest) = state.head.oldest_arrival() else { return Ok(()) };
            let is_due = state.head.bytes >= self.config.split_bytes || now.millis_since(oldest) >= self.config.split_age_ms;
            let (batches, lsn_max) = state.head.settled_front();
            if batches.is_empty() || !(is_due || is_forced) {
                return Ok(());
            }
            state.next_split += 1;
            (batches, lsn_max, state.next_split - 1, state.dir.clone())
        };
        let records: Vec<&K::Record> = batches.iter().flat_map(|b| &b.records).collect();
        let arrival_max = batches.iter().map(|b| b.arrival.0).max().unwrap_or(now.0);
        let meta = self.write_split(&dir, id, &records, arrival_max, lsn_max)?;
        let split = Arc::new(Split::new(meta, dir.clone()));
        self.replace(tenant, |state, splits| {
            splits.push(split);
            state.flushed_lsn = lsn_max;
        })?;
        let bytes = batches.iter().map(|b| b.bytes).sum();
        self.heads_bytes.fetch_sub(bytes, SeqCst);
        self.counters.splits_written.fetch_add(1, SeqCst);
        Ok(())
    }

    fn write_split(&self, dir: &Dir, id: u64, records: &[&K::Record], arrival_max: i64, lsn_max: u64) -> Result<SplitMeta> {
        split::write::<K>(dir, id, records, arrival_max, lsn_max).inspect_err(|_| {
            for name in [split::rows_name(id), split::index_name(id)] {
                // On a full disk, half a split would only take the place it needs.
                let _ = dir.remove_file(name);
            }
        })
    }

    /// Changes the list of live splits: first on disk, then for searches, in one step each. Only `maintain` calls it,
    /// one at a time; between the two steps appends may add to the head, which neither step touches.
    fn replace(&self, tenant: &TenantId, change: impl FnOnce(&mut Tenant<K>, &mut Vec<Arc<Split<K>>>)) -> Result<()> {
        let (dir, manifest, splits, flushed_lsn) = {
            let mut tenants = self.tenants.lock();
            let state = tenants.get_mut(tenant).expect("tenants are never taken out");
            let before = state.flushed_lsn;
            let mut splits = state.splits.clone();
            change(state, &mut splits);
            let manifest = state.manifest(&splits);
            let flushed_lsn = std::mem::replace(&mut state.flushed_lsn, before);
            (state.dir.clone(), manifest, splits, flushed_lsn)
        };
        manifest.save(&dir)?;
        let mut tenants = self.tenants.lock();
        let state = tenants.get_mut(tenant).expect("tenants are never taken out");
        state.flushed_lsn = flushed_lsn;
        state.head.remove_through(flushed_lsn);
        state.splits = splits;
        Ok(())
    }

    fn expire(&self, tenant: &TenantId, now: Timestamp) -> Result<()> {
        let oldest = now.plus_millis(-self.config.retention_ms);
        let is_old = |s: &Arc<Split<K>>| s.meta.arrival_max < oldest.0;
        let old: Vec<_> = self.splits(tenant).into_iter().filter(is_old).collect();
        if old.is_empty() {
            return Ok(());
        }
        self.replace(tenant, |_, splits| splits.retain(|s| !is_old(s)))?;
        self.counters.splits_removed.fetch_add(old.len() as u64, SeqCst);
        old.iter().for_each(|s| s.remove());
        Ok(())
    }

    /// Makes one split of a run of small neighbours. They stay neighbours, so that records of one time keep their order.
    fn merge(&self, tenant: &TenantId) -> Result<()> {
        let splits = self.splits(tenant);
        let bytes_max = self.config.split_bytes as u64 * 2;
        let fits = |run: &&[Arc<Split<K>>]| {
            run.iter().all(|s| !s.is_damaged()) && run.iter().map(|s| s.meta.raw_bytes).sum::<u64>() <= bytes_max
        };
        let Some(run) = splits.windows(MERGE_SPLITS).find(fits) else { return Ok(()) };
        let mut records = Vec::new();
        for split in run {
            match split.records() {
                Ok(mut of_split) => records.append(&mut of_split),
                Err(error) => {
                    if split.mark_damaged() {
                        tracing::error!(signal = K::NAME, %tenant, split = split.meta.id, %error, "a split can't be read; left as it is");
                    }
                    self.counters.damages.fetch_add(1, SeqCst);
                    return Ok(());
                }
            }
        }
        let (id, dir) = {
            let mut tenants = self.tenants.lock();
            let state = tenants.get_mut(tenant).expect("tenants are never taken out");
            state.next_split += 1;
            (state.next_split - 1, state.dir.clone())
        };
        let arrival_max = run.iter().map(|s| s.meta.arrival_max).max().unwrap_or(0);
        let lsn_max = run.iter().map(|s| s.meta.lsn_max).max().unwrap_or(0);
        let records: Vec<&K::Record> = records.iter().collect();
        let meta = self.write_split(&dir, id, &records, arrival_max, lsn_max)?;
        let merged = Arc::new(Split::new(meta, dir));
        let gone: BTreeSet<u64> = run.iter().map(|s| s.meta.id).collect();
        self.replace(tenant, |_, splits| {
            let at = splits.iter().position(|s| gone.contains(&s.meta.id)).unwrap_or(splits.len());
            splits.retain(|s| !gone.contains(&s.meta.id));
            splits.insert(at, merged);
        })?;
        run.iter().for_each(|s| s.remove());
        self.counters.splits_merged.fetch_add(run.len() as u64, SeqCst);
        Ok(())
    }

    fn splits(&self, tenant: &TenantId) -> Vec<Arc<Split<K>>> {
        self.tenants.lock().get(tenant).map(|t| t.splits.clone()).unwrap_or_default()
    }

    /// Removes log files that neither a head nor a reader by cursor needs.
    fn trim_log(&self, now: Timestamp) -> Result<()> {
        let needed = {
            let tenants = self.tenants.lock();
            let oldest = tenants.values().filter_map(|t| t.head.oldest_lsn()).min();
            // Under the lock all numbered batches are in heads, so with empty heads all that is durable is in splits.
            oldest.unwrap_or(self.wal.durable().0 + 1)
        };
        let kept = {
            let mut marks = self.marks.lock();
            mark(&mut marks, self.wal.durable().0 + 1, now);
            let old = marks.partition_point(|(_, at)| now.millis_since(*at) > self.config.log_keep_ms);
            marks.drain(..old.saturating_sub(1));
            if old > 0 { marks.front().map_or(0, |(lsn, _)| *lsn) } else { 0 }
        };
        let is_large = self.wal.disk_bytes() > self.config.log_keep_bytes;
        let oldest = self.wal.oldest();
        self.wal.truncate_before(Lsn(if is_large { needed } else { needed.min(kept) }))?;
        if self.wal.oldest() > oldest {
            self.trimmed.store(self.wal.oldest().0 - 1, SeqCst);
        }
        Ok(())
    }
}
