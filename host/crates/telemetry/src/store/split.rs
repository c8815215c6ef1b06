//! A split: an immutable piece of one tenant's records, ordered by time. Two files: `rows`
//! (originals, ground state) and `index` (derived, rebuilt from the rows when missing or damaged).

use super::block::{Block, Damage, RowsFile, RowsWriter};
use super::bloom::Bloom;
use super::index::{IndexReader, IndexWriter, StreamTable};
use super::{Kind, Plan};
use crate::wal::sync_dir;
use crate::{Error, Result};
use cap_std::fs::Dir;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// What the manifest says of a split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitMeta {
    pub id: u64,
    pub rows: u32,
    pub time_min: i64,
    pub time_max: i64,
    /// Newest arrival; retention counts from here, so that a late backfill is kept as long as the rest.
    pub arrival_max: i64,
    pub lsn_max: u64,
    pub raw_bytes: u64,
    pub rows_bytes: u64,
    pub rows_crc: u32,
}

impl SplitMeta {
    pub fn rows_name(&self) -> String {
        rows_name(self.id)
    }
    pub fn index_name(&self) -> String {
        index_name(self.id)
    }
}

pub fn rows_name(id: u64) -> String {
    format!("split-{id:016x}.rows")
}
pub fn index_name(id: u64) -> String {
    format!("split-{id:016x}.index")
}

/// Writes a split's files and syncs them; it is live once the manifest names it.
pub fn write<K: Kind>(dir: &Dir, id: u64, records: &[&K::Record], arrival_max: i64, lsn_max: u64) -> Result<SplitMeta> {
    let mut order: Vec<&K::Record> = records.to_vec();
    // Stable: records of one time keep the order in which they arrived, in the head and here.
    order.sort_by_key(|r| K::time(r));
    let mut rows = RowsWriter::new();
    let mut index = IndexWriter::new().map_err(index_error)?;
    let mut table = StreamTable::new();
    let mut bytes = Vec::new();
    let mut raw_bytes = 0;
    for record in order {
        bytes.clear();
        K::encode(record, &mut bytes);
        raw_bytes += bytes.len() as u64;
        let stream = table.number::<K>(record, |labels| rows.stream(labels));
        rows.push(K::time(record), stream, K::ids(record)[0], &bytes).map_err(|e| Error::io("packing rows", e))?;
        index.push::<K>(record, stream).map_err(index_error)?;
    }
    let (file, footer) = rows.finish().map_err(|e| Error::io("packing rows", e))?;
    save(dir, &rows_name(id), &file)?;
    save(dir, &index_name(id), &index.finish().map_err(index_error)?)?;
    sync_dir(dir)?;
    Ok(SplitMeta {
        id,
        rows: footer.rows,
        time_min: footer.time_min,
        time_max: footer.time_max,
        arrival_max,
        lsn_max,
        raw_bytes,
        rows_bytes: file.len() as u64,
        rows_crc: crc32fast::hash(&file),
    })
}

/// A live split. Opened on first use and closed again by [`Split::close`].
pub struct Split<K: Kind> {
    pub meta: SplitMeta,
    dir: Arc<Dir>,
    opened: Mutex<Option<Arc<OpenSplit>>>,
    traces: OnceLock<Bloom>,
    is_damaged: AtomicBool,
    is_removed: AtomicBool,
    kind: std::marker::PhantomData<fn() -> K>,
}

pub struct OpenSplit {
    pub rows: RowsFile,
    pub index: IndexReader,
}

impl<K: Kind> Split<K> {
    pub fn new(meta: SplitMeta, dir: Arc<Dir>) -> Self {
        Self {
            meta,
            dir,
            opened: Mutex::new(None),
            traces: OnceLock::new(),
            is_damaged: AtomicBool::new(false),
            is_removed: AtomicBool::new(false),
            kind: std::marker::PhantomData,
        }
    }

    /// True the first time only, so that a damage is reported once and not by each search.
    pub fn mark_damaged(&self) -> bool {
        !self.is_damaged.swap(true, Ordering::Relaxed)
    }

    pub fn is_damaged(&self) -> bool {
        self.is_damaged.load(Ordering::Relaxed)
    }

    pub fn overlaps(&self, start: i64, end: i64) -> bool {
        self.meta.time_min < end && self.meta.time_max >= start
    }

    pub fn close(&self) {
        *self.opened.lock() = None;
    }

    /// The second value tells that it was opened just now.
    pub fn open(&self) -> Result<(Arc<OpenSplit>, bool)> {
        let mut opened = self.opened.lock();
        if let Some(split) = &*opened {
            return Ok((split.clone(), false));
        }
        let split = Arc::new(self.open_files()?);
        *opened = Some(split.clone());
        Ok((split, true))
    }

    /// False: no record of this trace is here. Reads the footer once; a damaged file may hold anything.
    pub fn may_hold_trace(&self, id: &[u8]) -> bool {
        if let Some(traces) = self.traces.get() {
            return traces.may_hold(id);
        }
        match self.open_rows() {
            Ok(rows) => self.traces.get_or_init(|| rows.footer.traces).may_hold(id),
            Err(_) => true,
        }
    }

    fn open_rows(&self) -> Result<RowsFile> {
        let name = self.meta.rows_name();
        self.dir.open(&name).map_err(Damage::from).and_then(RowsFile::open).map_err(|d| damage(&name, d))
    }

    fn open_files(&self) -> Result<OpenSplit> {
        let name = self.meta.rows_name();
        let rows = self.open_rows()?;
        if (rows.footer.rows, rows.footer.time_min, rows.footer.time_max)
            != (self.meta.rows, self.meta.time_min, self.meta.time_max)
        {
            return Err(Error::corrupt(&name, 0, "the footer and the manifest differ"));
        }
        let index_name = self.meta.index_name();
        let open_index = || self.dir.open(&index_name).map_err(Damage::from).and_then(|f| IndexReader::open(f, self.meta.rows));
        let index = match open_index() {
            Ok(index) => index,
            Err(why) => {
                tracing::warn!(file = index_name, %why, "rebuilding a split's index from its rows");
                self.rebuild_index(&rows)?;
                open_index().map_err(|d| damage(&index_name, d))?
            }
        };
        Ok(OpenSplit { rows, index })
    }

    fn rebuild_index(&self, rows: &RowsFile) -> Result<()> {
        let mut index = IndexWriter::new().map_err(index_error)?;
        let mut table = StreamTable::new();
        let mut streams = 0;
        self.each_record(rows, |record| {
            // Streams are numbered by first appearance, as when the rows were written.
            let stream = table.number::<K>(record, |_| {
                streams += 1;
                streams - 1
            });
            index.push::<K>(record, stream).map_err(index_error)
        })?;
        let bytes = index.finish().map_err(index_error)?;
        let name = self.meta.index_name();
        let temporary = format!("{name}.tmp");
        // Leftovers of an earlier attempt; a missing file is the usual case.
        let _ = self.dir.remove_file(&temporary);
        save(&self.dir, &temporary, &bytes)?;
        self.dir.rename(&temporary, &self.dir, &name).map_err(|e| Error::io(format!("renaming {temporary}"), e))?;
        sync_dir(&self.dir)
    }

    fn each_record(&self, rows: &RowsFile, mut f: impl FnMut(&K::Record) -> Result<()>) -> Result<()> {
        let name = self.meta.rows_name();
        for entry in &rows.footer.blocks {
            let block = rows.block(entry).map_err(|d| damage(&name, d))?;
            for row in entry.first_row..entry.first_row + entry.rows {
                f(&K::decode(block.row(row)).map_err(|e| damage(&name, e.into()))?)?;
            }
        }
        Ok(())
    }

    /// All records in order, for merging.
    pub fn records(&self) -> Result<Vec<K::Record>> {
        let rows = self.open_rows()?;
        let mut out = Vec::with_capacity(self.meta.rows as usize);
        self.each_record(&rows, |record| {
            out.push(record.clone());
            Ok(())
        })?;
        Ok(out)
    }

    /// No manifest names it any more: its files go when the last search that holds it is done.
    pub fn remove(&self) {
        self.is_removed.store(true, Ordering::Relaxed);
    }

    pub fn rows<'a>(&'a self, open: &'a OpenSplit) -> RowReader<'a, K> {
        RowReader { split: self, rows: &open.rows, block: None }
    }

    /// Row numbers that the index leaves of a plan, ascending; the number's range is applied too.
    pub fn candidates(&self, open: &OpenSplit, plan: &Plan<K>) -> Result<Vec<u32>> {
        let range = open.index.rows_between(plan.start, plan.end);
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let narrowed = open.index.narrow(&plan.clauses, &open.rows.footer, range);
        let mut rows = narrowed.map_err(|e| Error::corrupt(self.meta.index_name(), 0, e.to_string()))?;
        if let Some(range) = &plan.number {
            rows.retain(|row| range.contains(&open.index.number(*row)));
        }
        Ok(rows)
    }
}

impl<K: Kind> Drop for Split<K> {
    fn drop(&mut self) {
        if !self.is_removed.load(Ordering::Relaxed) {
            return;
        }
        for name in [self.meta.rows_name(), self.meta.index_name()] {
            if let Err(error) = self.dir.remove_file(&name) {
                // The next start removes what no manifest names.
                tracing::warn!(file = name, %error, "could not remove a file of an old split");
            }
        }
    }
}

/// Reads records by row number and keeps the last block: neighbours are cheap.
pub struct RowReader<'a, K: Kind> {
    split: &'a Split<K>,
    rows: &'a RowsFile,
    block: Option<Block>,
}

impl<K: Kind> RowReader<'_, K> {
    pub fn record(&mut self, row: u32) -> Result<K::Record> {
        let fail = |d| damage(&self.split.meta.rows_name(), d);
        if !self.block.as_ref().is_some_and(|b| b.holds(row)) {
            self.block = Some(self.rows.block_of(row).map_err(fail)?);
        }
        let block = self.block.as_ref().expect("set just above");
        K::decode(block.row(row)).map_err(|e| damage(&self.split.meta.rows_name(), e.into()))
    }
}

pub fn damage(file: &str, damage: Damage) -> Error {
    match damage {
        Damage::Corrupt { what, offset } => Error::corrupt(file, offset, what),
        Damage::Record(malformed) => Error::corrupt(file, malformed.at as u64, malformed.to_string()),
        Damage::Io(e) if e.kind() == io::ErrorKind::NotFound => Error::corrupt(file, 0, "the file is missing"),
        Damage::Io(e) if e.kind() == io::ErrorKind::UnexpectedEof => Error::corrupt(file, 0, "file cut short"),
        Damage::Io(e) => Error::io(format!("reading {file}"), e),
    }
}

fn index_error(error: tantivy::TantivyError) -> Error {
    match error {
        tantivy::TantivyError::IoError(e) => Error::io("writing an index", io::Error::new(e.kind(), e.to_string())),
        other => Error::io("writing an index", io::Error::other(other)),
    }
}

/// Writes a new file and syncs it.
pub fn save(dir: &Dir, name: &str, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    let mut options = cap_std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    let write = || {
        let mut file = dir.open_with(name, &options)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|e| Error::io(format!("writing {name}"), e))
}
