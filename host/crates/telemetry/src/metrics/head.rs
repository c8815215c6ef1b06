//! The newest samples, in memory: per tenant a few shards by series hash, per series contiguous columns that are sealed
//! into a chunk at [`chunk::SAMPLES`]. All of it is in the log too.

use super::{batch::MetricBatch, batch::label_set, chunk, columns::Columns, index::LabelIndex, matching::Compiled};
use ahash::{HashMap, RandomState};
use model::{LabelSet, TenantId};
use parking_lot::{Mutex, RwLock};
use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
};

/// A power of two. Readers take one shard's lock at a time; appends of different shards can go to different threads.
const SHARDS: usize = 4;
/// "No series" among predictions and collision chains.
const NONE: u32 = u32::MAX;

/// A head takes samples until it is frozen; then it is written out and dropped.
#[derive(Debug, Default)]
pub struct Head {
    tenants: RwLock<HashMap<TenantId, Arc<TenantHead>>>,
    pub samples: AtomicU64,
    /// The newest log record in here.
    pub last_lsn: AtomicU64,
    /// Bytes of the log records in here.
    pub log_bytes: AtomicU64,
    /// When the first record came, or `i64::MAX`.
    arrival_first_ms: AtomicI64,
}

/// One tenant's part.
#[derive(Debug)]
pub struct TenantHead {
    shards: [Mutex<Shard>; SHARDS],
    series: AtomicUsize,
    arrival: Mutex<Option<(i64, i64)>>,
}

#[derive(Debug, Default)]
struct Shard {
    series: Vec<HeadSeries>,
    by_hash: HashMap<u64, u32>,
    names: HashMap<Box<str>, Arc<str>>,
    index: LabelIndex,
    /// The series appended to last: senders repeat their order.
    last: Option<u32>,
}

#[derive(Debug)]
struct HeadSeries {
    hash: u64,
    labels: Box<[u8]>,
    set: OnceLock<Arc<LabelSet>>,
    name: Arc<str>,
    sealed: Vec<Sealed>,
    open: Columns,
    t_min: i64,
    t_max: i64,
    /// The series that followed this one last time.
    successor: u32,
    /// The next series with the same hash.
    collision: u32,
}

#[derive(Debug)]
struct Sealed {
    t_min: i64,
    t_max: i64,
    bytes: Box<[u8]>,
}

/// Names seen in one append.
pub type Names = Vec<Arc<str>>;

impl Head {
    pub fn new() -> Self {
        Self { arrival_first_ms: AtomicI64::new(i64::MAX), ..Self::default() }
    }

    pub fn tenant(&self, tenant: &TenantId) -> Option<Arc<TenantHead>> {
        self.tenants.read().get(tenant).cloned()
    }

    /// In the order of their names.
    pub fn tenants(&self) -> Vec<(TenantId, Arc<TenantHead>)> {
        let mut all: Vec<_> = self.tenants.read().iter().map(|(id, head)| (id.clone(), head.clone())).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    pub fn is_empty(&self) -> bool {
        self.log_bytes.load(Relaxed) == 0
    }

    /// How long ago the first record came.
    pub fn age_ms(&self, now_ms: i64) -> i64 {
        match self.arrival_first_ms.load(Relaxed) {
            i64::MAX => 0,
            first => now_ms.saturating_sub(first),
        }
    }

    /// Notes a log record as being in this head. `append` calls come between it and the next.
    pub fn note_record(&self, lsn: u64, bytes: usize, arrival_ms: i64) {
        self.last_lsn.fetch_max(lsn, Relaxed);
        self.log_bytes.fetch_add(bytes as u64, Relaxed);
        self.arrival_first_ms.fetch_min(arrival_ms, Relaxed);
    }

    /// Adds a batch; `keep` says which samples, by time (on replay some are in segments already). Returns the metric
    /// names touched, each once, if they are wanted.
    pub fn append(
        &self,
        tenant: &TenantId,
        batch: &MetricBatch,
        arrival_ms: i64,
        wants_names: bool,
        keep: impl Fn(i64) -> bool,
    ) -> Names {
        let head = self.tenant(tenant).unwrap_or_else(|| self.tenants.write().entry(tenant.clone()).or_default().clone());
        {
            let mut arrival = head.arrival.lock();
            let (first, last) = arrival.unwrap_or((arrival_ms, arrival_ms));
            *arrival = Some((first.min(arrival_ms), last.max(arrival_ms)));
        }
        // Series are dealt to their shards first, so that each lock is taken once.
        let hasher = hasher();
        let mut dealt: [Vec<(u64, usize)>; SHARDS] = Default::default();
        for (i, span) in batch.series.iter().enumerate() {
            let hash = hasher.hash_one(batch.labels_of(span));
            dealt[shard_of(hash)].push((hash, i));
        }
        let mut names = Names::new();
        let mut samples = 0;
        for (shard, mine) in head.shards.iter().zip(dealt) {
            if mine.is_empty() {
                continue;
            }
            let mut shard = shard.lock();
            for (hash, i) in mine {
                let span = &batch.series[i];
                let range = span.samples.clone();
                if range.is_empty() || !batch.times[range.clone()].iter().any(|t| keep(*t)) {
                    continue;
                }
                let (id, is_new) = shard.find_or_add(hash, batch.labels_of(span));
                head.series.fetch_add(usize::from(is_new), Relaxed);
                let series = &mut shard.series[id as usize];
                for (t, v) in batch.times[range.clone()].iter().zip(&batch.values[range]) {
                    if keep(*t) {
                        series.append(*t, *v);
                        samples += 1;
                    }
                }
                if wants_names && names.last().is_none_or(|n| !Arc::ptr_eq(n, &series.name)) {
                    names.push(series.name.clone());
                }
            }
        }
        self.samples.fetch_add(samples, Relaxed);
        names.sort();
        names.dedup();
        names
    }
}

impl Default for TenantHead {
    fn default() -> Self {
        Self { shards: Default::default(), series: AtomicUsize::new(0), arrival: Mutex::new(None) }
    }
}

/// One series of a head, read.
pub struct HeadRead<'a> {
    /// Canonical.
    pub labels: &'a [u8],
    pub set: &'a Arc<LabelSet>,
    series: &'a HeadSeries,
}

impl HeadRead<'_> {
    /// Adds the samples between `start` and `end` to `out`, oldest write first.
    pub fn read_into(&self, start: i64, end: i64, out: &mut Columns) {
        for sealed in self.series.sealed.iter().filter(|s| s.t_min <= end && s.t_max >= start) {
            out.push_chunk(&sealed.bytes, start, end).expect("a chunk encoded by this process decodes");
        }
        out.push_range(&self.series.open.times, &self.series.open.values, start, end);
    }
}

impl TenantHead {
    pub fn series_count(&self) -> usize {
        self.series.load(Relaxed)
    }

    /// First and last arrival of what is in here.
    pub fn arrival(&self) -> Option<(i64, i64)> {
        *self.arrival.lock()
    }

    pub fn has_series(&self, canonical: &[u8]) -> bool {
        let hash = hasher().hash_one(canonical);
        self.shards[shard_of(hash)].lock().find(hash, canonical).is_some()
    }

    /// Shows each series that the matchers select and that has a sample between `start` and `end`.
    pub fn visit<E>(
        &self,
        matchers: &[Compiled],
        start: i64,
        end: i64,
        mut visit: impl FnMut(HeadRead<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        for shard in &self.shards {
            let shard = shard.lock();
            for id in shard.index.select(matchers) {
                let series = &shard.series[id as usize];
                if series.t_min <= end && series.t_max >= start {
                    let set = series.set.get_or_init(|| Arc::new(label_set(&series.labels)));
                    visit(HeadRead { labels: &series.labels, set, series })?;
                }
            }
        }
        Ok(())
    }

    /// The labels of all series, sorted: the order a segment is written in.
    pub fn sorted_labels(&self) -> Vec<Box<[u8]>> {
        let mut all: Vec<_> =
            self.shards.iter().flat_map(|s| s.lock().series.iter().map(|s| s.labels.clone()).collect::<Vec<_>>()).collect();
        all.sort();
        all
    }

    /// All samples of one series, settled.
    pub fn read_series(&self, canonical: &[u8], out: &mut Columns) {
        let hash = hasher().hash_one(canonical);
        let shard = self.shards[shard_of(hash)].lock();
        if let Some(id) = shard.find(hash, canonical) {
            let series = &shard.series[id as usize];
            let set = series.set.get_or_init(|| Arc::new(label_set(&series.labels)));
            HeadRead { labels: &series.labels, set, series }.read_into(i64::MIN, i64::MAX, out);
        }
        out.settle();
    }
}

impl Shard {
    fn find(&self, hash: u64, labels: &[u8]) -> Option<u32> {
        let mut id = *self.by_hash.get(&hash)?;
        loop {
            let series = &self.series[id as usize];
            if *series.labels == *labels {
                return Some(id);
            }
            if series.collision == NONE {
                return None;
            }
            id = series.collision;
        }
    }

    fn find_or_add(&mut self, hash: u64, labels: &[u8]) -> (u32, bool) {
        let predicted = match self.last {
            Some(last) => self.series[last as usize].successor,
            None => NONE,
        };
        let (id, is_new) = match self.series.get(predicted as usize) {
            Some(series) if series.hash == hash && *series.labels == *labels => (predicted, false),
            _ => match self.find(hash, labels) {
                Some(id) => (id, false),
                None => (self.add(hash, labels), true),
            },
        };
        if let Some(last) = self.last {
            self.series[last as usize].successor = id;
        }
        self.last = Some(id);
        (id, is_new)
    }

    fn add(&mut self, hash: u64, labels: &[u8]) -> u32 {
        let id = u32::try_from(self.series.len()).expect("SERIES_PER_TENANT_MAX is below u32::MAX");
        let metric = super::batch::pairs(labels).find(|(name, _)| *name == "__name__").map_or("", |(_, value)| value);
        let name = match self.names.get(metric) {
            Some(name) => name.clone(),
            None => {
                let name: Arc<str> = metric.into();
                self.names.insert(metric.into(), name.clone());
                name
            }
        };
        let collision = self.by_hash.insert(hash, id).unwrap_or(NONE);
        self.series.push(HeadSeries {
            hash,
            labels: labels.into(),
            set: OnceLock::new(),
            name,
            sealed: Vec::new(),
            open: Columns::default(),
            t_min: i64::MAX,
            t_max: i64::MIN,
            successor: NONE,
            collision,
        });
        self.index.push(labels);
        id
    }
}

impl HeadSeries {
    fn append(&mut self, t: i64, v: f64) {
        self.t_min = self.t_min.min(t);
        self.t_max = self.t_max.max(t);
        self.open.push(t, v);
        if self.open.len() >= chunk::SAMPLES {
            self.open.settle();
            // Repeats of one time fold; seal only what is worth a chunk.
            if self.open.len() >= chunk::SAMPLES / 2 {
                let (times, values) = (&self.open.times, &self.open.values);
                self.sealed.push(Sealed {
                    t_min: times[0],
                    t_max: times[times.len() - 1],
                    bytes: chunk::encode(times, values).into(),
                });
                self.open.clear();
            }
        }
    }
}

/// One hash for the process. Its seeds come from the system, so that no sender can aim at one shard.
fn hasher() -> &'static RandomState {
    static HASHER: OnceLock<RandomState> = OnceLock::new();
    HASHER.get_or_init(RandomState::new)
}

fn shard_of(hash: u64) -> usize {
    // The map inside uses the low bits; take high ones.
    usize::try_from(hash >> 56).expect("eight bits") % SHARDS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(series: usize, t: i64) -> MetricBatch {
        let mut batch = MetricBatch::new();
        for i in 0..series {
            batch.series(&LabelSet::from_pairs([("__name__", format!("m{}", i % 3)), ("i", i.to_string())]), [(t, t as f64)]);
        }
        batch
    }

    fn read(head: &Head, tenant: &TenantId) -> Vec<(String, Vec<i64>)> {
        let mut all = Vec::new();
        let Some(head) = head.tenant(tenant) else { return all };
        head.visit::<()>(&[], i64::MIN, i64::MAX, |series| {
            let mut columns = Columns::default();
            series.read_into(i64::MIN, i64::MAX, &mut columns);
            columns.settle();
            all.push((series.set.to_string(), columns.times));
            Ok(())
        })
        .unwrap();
        all.sort();
        all
    }

    #[test]
    fn series_keep_their_samples_across_sealed_chunks_and_disorder() {
        let (head, tenant) = (Head::new(), TenantId::default_tenant());
        let mut times: Vec<i64> = (0..500).collect();
        times.swap(3, 300);
        for t in &times {
            head.append(&tenant, &batch(7, *t), 0, false, |_| true);
        }
        let all = read(&head, &tenant);
        assert_eq!(all.len(), 7);
        assert!(all.iter().all(|(_, t)| *t == (0..500).collect::<Vec<_>>()));
        assert_eq!(head.samples.load(Relaxed), 3_500);
        assert_eq!(head.tenant(&tenant).unwrap().series_count(), 7);
    }

    #[test]
    fn names_touched_are_told_once_each() {
        let (head, tenant) = (Head::new(), TenantId::default_tenant());
        let names = head.append(&tenant, &batch(9, 1), 0, true, |_| true);
        assert_eq!(names.iter().map(|n| &**n).collect::<Vec<_>>(), ["m0", "m1", "m2"]);
    }

    #[test]
    fn another_order_of_series_defeats_the_prediction_but_not_the_look_up() {
        let (head, tenant) = (Head::new(), TenantId::default_tenant());
        for (t, skip) in [(1, 0), (2, 3), (3, 1)] {
            let mut some = batch(9, t);
            some.series.rotate_left(skip);
            head.append(&tenant, &some, 0, false, |_| true);
        }
        assert_eq!(read(&head, &tenant).len(), 9);
        assert!(read(&head, &tenant).iter().all(|(_, t)| *t == [1, 2, 3]));
    }

    #[test]
    fn a_tenant_sees_only_its_own_series() {
        let (a, b) = (TenantId::new("a").unwrap(), TenantId::new("b").unwrap());
        let head = Head::new();
        head.append(&a, &batch(2, 1), 0, false, |_| true);
        assert_eq!((read(&head, &a).len(), read(&head, &b).len()), (2, 0));
    }

    #[test]
    fn samples_not_kept_leave_no_series_behind() {
        let (head, tenant) = (Head::new(), TenantId::default_tenant());
        head.append(&tenant, &batch(2, 1), 0, false, |t| t > 1);
        assert_eq!(read(&head, &tenant).len(), 0);
    }
}
