//! One search over one snapshot: head batches by scan, splits by index, merged in order of time.

use super::head::Batch;
use super::split::{OpenSplit, Split};
use super::{Clause, Kind, Plan};
use crate::{Error, Result};
use model::LabelSet;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A page of whole records never outgrows what a client or the host's memory takes.
const PAGE_BYTES_MAX: usize = 32 << 20;
/// Distinct streams or values a listing returns.
const LISTING_MAX: usize = 10_000;

/// What a search gives.
#[derive(Debug)]
pub struct Found<R> {
    pub records: Vec<R>,
    /// There is more than the limit (of rows or of bytes) let through.
    pub is_truncated: bool,
    /// Splits that could not be read; what they held is missing here.
    pub warnings: Vec<String>,
}

/// What a tenant had at one moment. Nothing is missing from it nor twice in it.
pub struct Snapshot<K: Kind> {
    pub splits: Vec<(u32, Arc<Split<K>>)>,
    pub head: Vec<Arc<Batch<K>>>,
    /// Called for a split whose files were opened just now.
    pub on_open: Box<dyn Fn(&Arc<Split<K>>) + Send + Sync>,
}

/// A place in the order: records of one time are in order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    time: i64,
    source: u32,
    row: u32,
}

/// Sources above this are head batches: they came later than all splits.
const HEAD_SOURCE: u32 = 1 << 31;

struct Top {
    keys: BTreeSet<Key>,
    limit: usize,
    is_backward: bool,
}

impl Top {
    fn worst(&self) -> Option<&Key> {
        if self.is_backward { self.keys.first() } else { self.keys.last() }
    }
    /// One more than the limit is kept, to know whether there is more.
    fn takes(&self, key: &Key) -> bool {
        self.keys.len() <= self.limit || self.worst().is_none_or(|worst| if self.is_backward { key > worst } else { key < worst })
    }
    fn push(&mut self, key: Key) {
        self.keys.insert(key);
        if self.keys.len() > self.limit + 1 {
            if self.is_backward {
                self.keys.pop_first()
            } else {
                self.keys.pop_last()
            };
        }
    }
}

impl<K: Kind> Snapshot<K> {
    pub fn search(&self, plan: &Plan<K>, wall: Duration) -> Result<Found<K::Record>> {
        let deadline = Deadline::new(wall);
        let mut warnings = Vec::new();
        let mut top = Top { keys: BTreeSet::new(), limit: plan.limit, is_backward: plan.is_backward };
        for (i, batch) in self.head.iter().enumerate() {
            for (row, record) in batch.matching(plan) {
                top.push(Key { time: K::time(record), source: HEAD_SOURCE + i as u32, row });
            }
            deadline.check()?;
        }
        let mut splits: Vec<_> = self.splits.iter().collect();
        if plan.is_backward {
            splits.sort_by_key(|(_, s)| std::cmp::Reverse(s.meta.time_max));
        } else {
            splits.sort_by_key(|(_, s)| s.meta.time_min);
        }
        let mut opened = BTreeMap::new();
        for (source, split) in splits {
            // Whatever the split holds lies between these; its best can't beat the worst kept.
            let best = if plan.is_backward {
                Key { time: split.meta.time_max, source: u32::MAX, row: u32::MAX }
            } else {
                Key { time: split.meta.time_min, source: 0, row: 0 }
            };
            if !top.takes(&best) {
                break;
            }
            if !may_hold(split, plan) {
                continue;
            }
            let mut collected = Vec::new();
            let result = self.open(split).and_then(|open| {
                self.search_split(*source, split, &open, plan, &top, &mut collected, &deadline)?;
                Ok(open)
            });
            match result {
                Ok(open) => {
                    collected.into_iter().for_each(|key| top.push(key));
                    opened.insert(*source, (split.clone(), open));
                }
                Err(error) => warnings.push(skip_damaged(split, error)?),
            }
        }
        self.page(plan, top, &opened, warnings, &deadline)
    }

    #[expect(clippy::too_many_arguments, reason = "one loop's state, used once")]
    fn search_split(
        &self,
        source: u32,
        split: &Split<K>,
        open: &OpenSplit,
        plan: &Plan<K>,
        top: &Top,
        out: &mut Vec<Key>,
        deadline: &Deadline,
    ) -> Result<()> {
        let candidates = split.candidates(open, plan)?;
        let mut reader = split.rows(open);
        let in_order: Box<dyn Iterator<Item = u32>> =
            if plan.is_backward { Box::new(candidates.into_iter().rev()) } else { Box::new(candidates.into_iter()) };
        for row in in_order {
            let key = Key { time: open.index.time(row), source, row };
            // Rows come best first, so the first that isn't wanted ends the split.
            if !top.takes(&key) || out.len() > plan.limit {
                break;
            }
            if plan.is_exact || self.verify(open, plan, row, &reader.record(row)?) {
                out.push(key);
            }
            deadline.check()?;
        }
        Ok(())
    }

    fn verify(&self, open: &OpenSplit, plan: &Plan<K>, row: u32, record: &K::Record) -> bool {
        let stream = open.rows.footer.streams.get(open.index.stream(row) as usize);
        stream.is_some_and(|s| (plan.streams)(&s.labels) && (plan.record)(record, &s.labels))
    }

    fn page(
        &self,
        plan: &Plan<K>,
        top: Top,
        opened: &BTreeMap<u32, (Arc<Split<K>>, Arc<OpenSplit>)>,
        mut warnings: Vec<String>,
        deadline: &Deadline,
    ) -> Result<Found<K::Record>> {
        let mut is_truncated = top.keys.len() > plan.limit;
        let mut readers: BTreeMap<u32, _> = opened.iter().map(|(source, (split, open))| (*source, split.rows(open))).collect();
        let keys: Box<dyn Iterator<Item = &Key>> =
            if plan.is_backward { Box::new(top.keys.iter().rev()) } else { Box::new(top.keys.iter()) };
        let mut records = Vec::new();
        let (mut bytes, mut scratch) = (0, Vec::new());
        for key in keys.take(plan.limit) {
            deadline.check()?;
            let record = if key.source >= HEAD_SOURCE {
                self.head[(key.source - HEAD_SOURCE) as usize].records[key.row as usize].clone()
            } else {
                let reader = readers.get_mut(&key.source).expect("a hit's split was opened");
                match reader.record(key.row) {
                    Ok(record) => record,
                    Err(error) => {
                        let warning = skip_damaged(&opened[&key.source].0, error)?;
                        if !warnings.contains(&warning) {
                            warnings.push(warning);
                        }
                        continue;
                    }
                }
            };
            scratch.clear();
            K::encode(&record, &mut scratch);
            bytes += scratch.len();
            if bytes > PAGE_BYTES_MAX && !records.is_empty() {
                is_truncated = true;
                break;
            }
            records.push(record);
        }
        Ok(Found { records, is_truncated, warnings })
    }

    /// Calls `each` with time and number of every match, in no order.
    pub fn for_each(&self, plan: &Plan<K>, wall: Duration, mut each: impl FnMut(i64, u64)) -> Result<Vec<String>> {
        let deadline = Deadline::new(wall);
        let mut warnings = Vec::new();
        for batch in &self.head {
            batch.matching(plan).for_each(|(_, record)| each(K::time(record), K::number(record)));
            deadline.check()?;
        }
        for (_, split) in self.splits.iter().filter(|(_, split)| may_hold(split, plan)) {
            let count = || {
                let open = self.open(split)?;
                let mut reader = split.rows(&open);
                let mut hits = Vec::new();
                for row in split.candidates(&open, plan)? {
                    if plan.is_exact || self.verify(&open, plan, row, &reader.record(row)?) {
                        hits.push((open.index.time(row), open.index.number(row)));
                    }
                    deadline.check()?;
                }
                Ok(hits)
            };
            match count() {
                Ok(hits) => hits.into_iter().for_each(|(time, number)| each(time, number)),
                Err(error) => warnings.push(skip_damaged(split, error)?),
            }
        }
        Ok(warnings)
    }

    /// Distinct streams of what overlaps the snapshot's range: whole splits, so possibly a little more.
    pub fn streams(&self) -> Result<BTreeSet<LabelSet>> {
        let mut out: BTreeSet<LabelSet> = BTreeSet::new();
        let mut add = |labels: &LabelSet| {
            if out.len() < LISTING_MAX && !out.contains(labels) {
                out.insert(labels.clone());
            }
        };
        for batch in &self.head {
            batch.streams().iter().for_each(&mut add);
        }
        for (_, split) in self.splits.iter().rev() {
            match self.open(split) {
                Ok(open) => open.rows.footer.streams.iter().for_each(|s| add(&s.labels)),
                Err(error) => drop(skip_damaged(split, error)?),
            }
        }
        Ok(out)
    }

    fn open(&self, split: &Arc<Split<K>>) -> Result<Arc<OpenSplit>> {
        let (open, is_new) = split.open()?;
        if is_new {
            (self.on_open)(split);
        }
        Ok(open)
    }
}

/// A look at the traces in a split's footer spares opening its index.
fn may_hold<K: Kind>(split: &Split<K>, plan: &Plan<K>) -> bool {
    plan.clauses.iter().all(|clause| !matches!(clause, Clause::Trace(id) if !split.may_hold_trace(id)))
}

/// One bad split must not take the others from the user: it becomes a warning, and is logged once.
fn skip_damaged<K: Kind>(split: &Split<K>, error: Error) -> Result<String> {
    match error {
        Error::Corrupt { .. } | Error::Io { .. } => {
            if split.mark_damaged() {
                tracing::error!(signal = K::NAME, split = split.meta.id, rows = split.meta.rows, %error, "a split can't be read");
            }
            Ok(error.to_string())
        }
        other => Err(other),
    }
}

struct Deadline {
    at: Instant,
    wall: Duration,
}

impl Deadline {
    fn new(wall: Duration) -> Self {
        Self { at: Instant::now() + wall, wall }
    }
    fn check(&self) -> Result<()> {
        if Instant::now() < self.at {
            return Ok(());
        }
        let seconds = self.wall.as_secs();
        Err(Error::TooLarge(format!("the query ran longer than {seconds} s; narrow its time range or its filters")))
    }
}
