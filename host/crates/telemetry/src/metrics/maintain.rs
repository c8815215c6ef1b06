//! The background's work: write frozen heads out, cut the log, merge segments of one block, expire old ones.

use super::{
    columns::Columns,
    engine::{Covered, Shared},
    head::Head,
    segment::{Footer, Segment, SegmentSeries, SegmentWriter},
};
use crate::{Corruption, Error, Result, subfolder, wal::Lsn};
use cap_std::fs::Dir;
use model::TenantId;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

/// How often the keeper looks without being woken.
const TICK: Duration = Duration::from_secs(1);
/// A block that still grows is merged at this many segments, so that a query opens few.
const SEGMENTS_PER_BLOCK_MAX: usize = 6;

/// What maintenance remembers from pass to pass; its lock lets one pass run at a time.
#[derive(Debug, Default)]
pub struct Memory {
    pub is_disk_full: bool,
    /// Blocks with damage are not merged: the merge would make the loss final and remove the evidence.
    damaged: BTreeSet<(TenantId, i64)>,
}

impl Shared {
    /// The keeper thread.
    pub fn keep(&self) {
        loop {
            {
                let mut signal = self.signal.state.lock();
                if !signal.is_due && !signal.is_closed {
                    self.signal.changed.wait_for(&mut signal, TICK);
                }
                if signal.is_closed {
                    return;
                }
                signal.is_due = false;
            }
            if let Err(error) = self.maintain(false) {
                tracing::warn!(%error, "metrics maintenance failed; the log keeps everything, trying again");
            }
        }
    }

    /// One pass. `is_forced` writes the head out whatever its size.
    pub fn maintain(&self, is_forced: bool) -> Result<()> {
        let mut memory = self.maintenance.lock();
        let result = self.maintain_locked(&mut memory, is_forced);
        if result.is_err() {
            self.counters.maintenance_failures.fetch_add(1, Relaxed);
        }
        memory.is_disk_full = matches!(result, Err(Error::DiskFull));
        result
    }

    fn maintain_locked(&self, memory: &mut Memory, is_forced: bool) -> Result<()> {
        // First what could not be written in an earlier pass.
        self.write_out()?;
        if self.freeze(is_forced) {
            self.write_out()?;
        }
        self.expire();
        self.compact(memory)
    }

    /// Begins a new head if the present one is due. No record is ever split between two.
    fn freeze(&self, is_forced: bool) -> bool {
        let _gate = self.gate.lock();
        let active = self.snapshot().active.clone();
        let is_due = active.log_bytes.load(Relaxed) >= self.config.flush_bytes
            || active.age_ms(self.clock.now().millis()) >= self.config.flush_age_ms;
        if active.is_empty() || !(is_due || is_forced) {
            return false;
        }
        self.change(|state| {
            state.frozen = Some(active);
            state.active = Arc::new(Head::new());
        });
        true
    }

    /// Writes the frozen head into segments, shows them to readers in the same step as it hides the head, cuts the log.
    fn write_out(&self) -> Result<()> {
        let Some(frozen) = self.snapshot().frozen.clone() else { return Ok(()) };
        // The metadata's records are in the log that is about to be cut.
        self.metadata.read().save(&self.dir)?;
        let lsn = frozen.last_lsn.load(Relaxed);
        let mut written = Vec::new();
        if let Err(e) = self.write_segments(&frozen, lsn, &mut written) {
            // The next try writes them again.
            written.iter().for_each(Segment::retire);
            return Err(e);
        }
        self.change(|state| {
            state.frozen = None;
            let all = Arc::make_mut(&mut state.segments);
            for segment in written {
                all.entry(segment.footer.tenant.clone()).or_default().push(Arc::new(segment));
            }
        });
        self.counters.flushes.fetch_add(1, Relaxed);
        self.wal.truncate_before(Lsn(lsn + 1))
    }

    fn write_segments(&self, head: &Head, lsn: u64, written: &mut Vec<Segment>) -> Result<()> {
        for (tenant, head) in head.tenants() {
            let dir = self.tenant_dir(&tenant)?;
            let arrival = head.arrival().unwrap_or_default();
            let mut blocks = Blocks { shared: self, dir, tenant, lsn, arrival, open: BTreeMap::new() };
            let mut columns = Columns::default();
            for labels in head.sorted_labels() {
                columns.clear();
                head.read_series(&labels, &mut columns);
                blocks.add(&labels, &columns)?;
            }
            for writer in blocks.open.into_values() {
                written.push(writer.finish()?);
            }
        }
        Ok(())
    }

    fn expire(&self) {
        let oldest = self.oldest_ms();
        let is_old = |s: &Arc<Segment>| s.footer.block_end <= oldest;
        if !self.snapshot().segments.values().flatten().any(is_old) {
            return;
        }
        self.change(|state| {
            let all = Arc::make_mut(&mut state.segments);
            for segments in all.values_mut() {
                for old in segments.extract_if(.., |s| is_old(s)) {
                    old.retire();
                    self.counters.segments_expired.fetch_add(1, Relaxed);
                }
            }
            all.retain(|_, segments| !segments.is_empty());
        });
    }

    /// Merges the segments of each block that has several and is past, or has many.
    fn compact(&self, memory: &mut Memory) -> Result<()> {
        let now = self.clock.now().millis();
        let mut blocks: BTreeMap<(TenantId, i64), Vec<Arc<Segment>>> = BTreeMap::new();
        for (tenant, segments) in self.snapshot().segments.iter() {
            for segment in segments {
                blocks.entry((tenant.clone(), segment.footer.block_start)).or_default().push(segment.clone());
            }
        }
        for ((tenant, start), sources) in blocks {
            let is_past = sources[0].footer.block_end < now;
            let is_due = sources.len() >= SEGMENTS_PER_BLOCK_MAX || (sources.len() > 1 && is_past);
            if !is_due || memory.damaged.contains(&(tenant.clone(), start)) {
                continue;
            }
            let Some(merged) = self.merge(&tenant, &sources)? else {
                memory.damaged.insert((tenant, start));
                continue;
            };
            let merged = Arc::new(merged);
            self.change(|state| {
                let segments = Arc::make_mut(&mut state.segments).entry(tenant.clone()).or_default();
                segments.retain(|s| !merged.footer.replaces.contains(&s.footer.seq));
                segments.push(merged.clone());
                segments.sort_by_key(|s| s.footer.seq);
            });
            sources.iter().for_each(|s| s.retire());
            self.counters.compactions.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    /// `None` if a source is damaged.
    fn merge(&self, tenant: &TenantId, sources: &[Arc<Segment>]) -> Result<Option<Segment>> {
        let damage = std::cell::Cell::new(false);
        let mut note = |c: Corruption| {
            damage.set(true);
            self.note(c);
        };
        let mut inputs = Vec::new();
        for segment in sources {
            inputs.push((segment.load(&mut note)?.series, segment.reader()?));
        }
        if damage.get() {
            return Ok(None);
        }
        let newest = &sources[sources.len() - 1].footer;
        let arrival = sources.iter().map(|s| s.footer.arrival).fold(newest.arrival, |a, b| (a.0.min(b.0), a.1.max(b.1)));
        let lsn = sources.iter().map(|s| s.footer.lsn_max).max().unwrap_or_default();
        let block = newest.block_start..newest.block_end;
        let mut footer = Footer::new(tenant.clone(), block, self.segment_seq.fetch_add(1, Relaxed), lsn, arrival);
        footer.replaces = sources.iter().map(|s| s.footer.seq).collect();
        let mut writer = SegmentWriter::create(self.tenant_dir(tenant)?, footer)?;
        // All sources are sorted by labels: walk them together.
        let mut at = vec![0; inputs.len()];
        let mut columns = Columns::default();
        loop {
            fn current(series: &[Option<SegmentSeries>], at: usize) -> Option<&SegmentSeries> {
                series.get(at).and_then(Option::as_ref)
            }
            let least = inputs.iter().zip(&at).filter_map(|((series, _), at)| current(series, *at)).map(|s| &s.labels).min();
            let Some(labels) = least.cloned() else { break };
            columns.clear();
            for ((series, reader), at) in inputs.iter_mut().zip(&mut at) {
                if let Some(series) = current(series, *at).filter(|s| s.labels == labels) {
                    reader.read_into(series, i64::MIN, i64::MAX, &mut columns, &mut note)?;
                    *at += 1;
                }
            }
            columns.settle();
            writer.add(&labels, &columns.times, &columns.values)?;
        }
        if damage.get() {
            // The half-written file is overwritten or removed at the next start.
            return Ok(None);
        }
        writer.finish().map(Some)
    }

    fn tenant_dir(&self, tenant: &TenantId) -> Result<Arc<Dir>> {
        subfolder(&subfolder(&self.dir, "segments")?, tenant.as_str()).map(Arc::new)
    }
}

/// The segments a head is being written to, one a block.
struct Blocks<'a> {
    shared: &'a Shared,
    dir: Arc<Dir>,
    tenant: TenantId,
    lsn: u64,
    arrival: (i64, i64),
    open: BTreeMap<i64, SegmentWriter>,
}

impl Blocks<'_> {
    fn add(&mut self, labels: &[u8], columns: &Columns) -> Result<()> {
        let length = self.shared.config.block_ms;
        let oldest = self.shared.oldest_ms();
        let mut begin = 0;
        while begin < columns.len() {
            let block = columns.times[begin].div_euclid(length) * length;
            let end = begin + columns.times[begin..].partition_point(|t| *t < block + length);
            if block + length > oldest {
                let writer = match self.open.entry(block) {
                    std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                    std::collections::btree_map::Entry::Vacant(entry) => {
                        let seq = self.shared.segment_seq.fetch_add(1, Relaxed);
                        let footer = Footer::new(self.tenant.clone(), block..block + length, seq, self.lsn, self.arrival);
                        entry.insert(SegmentWriter::create(self.dir.clone(), footer)?)
                    }
                };
                writer.add(labels, &columns.times[begin..end], &columns.values[begin..end])?;
            }
            begin = end;
        }
        Ok(())
    }
}

/// What the folder holds.
#[derive(Debug, Default)]
pub struct Opened {
    pub segments: BTreeMap<TenantId, Vec<Arc<Segment>>>,
    pub covered: Covered,
    pub lsn_max: u64,
    pub seq_max: u64,
}

/// Opens all segments; removes half-written files and those a merged segment replaces. An unreadable segment is told
/// to `note` and left where it is.
pub fn open_segments(dir: &Dir, note: &mut dyn FnMut(Corruption)) -> Result<Opened> {
    let mut opened = Opened::default();
    let root = subfolder(dir, "segments")?;
    for (folder, is_dir) in list(&root)? {
        let Some(tenant) = TenantId::new(&folder).ok().filter(|_| is_dir) else {
            tracing::warn!(folder, "ignoring a stranger in the segments folder");
            continue;
        };
        let dir = Arc::new(subfolder(&root, &folder)?);
        let mut segments = Vec::new();
        for (name, _) in list(&dir)? {
            let Some((stem, kind)) = name.rsplit_once('.') else { continue };
            // Numbers are never used twice, also not that of an unreadable file.
            let seq = stem.rsplit_once('_').and_then(|(_, seq)| seq.parse().ok()).unwrap_or(0);
            opened.seq_max = opened.seq_max.max(seq);
            match kind {
                "tmp" => dir.remove_file(&name).map_err(|e| Error::io(format!("removing {name}"), e))?,
                "seg" => match Segment::open(dir.clone(), &tenant, &name, note) {
                    Ok(segment) => segments.push(Arc::new(segment)),
                    Err(Error::Corrupt { file, offset, reason }) => note(Corruption { file, offset, reason }),
                    Err(e) => return Err(e),
                },
                _ => {}
            }
        }
        let void: BTreeSet<u64> = segments.iter().flat_map(|s| s.footer.replaces.clone()).collect();
        for segment in &segments {
            opened.lsn_max = opened.lsn_max.max(segment.footer.lsn_max);
            let covered = opened.covered.entry((tenant.clone(), segment.footer.block_start)).or_default();
            *covered = segment.footer.lsn_max.max(*covered);
        }
        segments.retain(|s| {
            let is_void = void.contains(&s.footer.seq);
            if is_void {
                s.retire();
            }
            !is_void
        });
        segments.sort_by_key(|s| s.footer.seq);
        if !segments.is_empty() {
            opened.segments.insert(tenant, segments);
        }
    }
    Ok(opened)
}

/// Names in a folder, and which are folders.
fn list(dir: &Dir) -> Result<Vec<(String, bool)>> {
    let fail = |e| Error::io("listing the segments", e);
    let mut all = Vec::new();
    for entry in dir.entries().map_err(fail)? {
        let entry = entry.map_err(fail)?;
        all.push((entry.file_name().to_string_lossy().into_owned(), entry.file_type().map_err(fail)?.is_dir()));
    }
    all.sort();
    Ok(all)
}
