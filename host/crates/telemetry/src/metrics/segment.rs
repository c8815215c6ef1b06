//! An immutable file with one tenant's samples of one time block. Bytes and recovery: `docs/formats/metrics.md`.
//!
//! Every byte is under a checksum. Header and footer exist twice; a flipped byte elsewhere costs one chunk, or the
//! entries of one page of series. The label index is a file of its own beside, derived, rebuilt when missing or bad.

mod write;

pub use write::SegmentWriter;

use super::{
    batch::{is_canonical, put_text, take_text},
    columns::Columns,
    index::LabelIndex,
    varint,
};
use crate::{Corruption, Error, Result};
use cap_std::fs::Dir;
use model::TenantId;
use std::{
    fs::File,
    os::unix::fs::FileExt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

const MAGIC: &[u8; 8] = b"ORXMSEG\x01";
const INDEX_MAGIC: &[u8; 8] = b"ORXMIDX\x01";
const HEADER_BYTES: usize = 64;
/// Series entries are gathered into pages of about this size; damage costs a page.
const PAGE_BYTES: usize = if cfg!(test) { 256 } else { 8 << 10 };
/// A footer is a page list: this is millions of pages.
const FOOTER_BYTES_MAX: u64 = 256 << 20;
const PAGE_BYTES_MAX: u32 = 64 << 20;

/// What a segment says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footer {
    pub tenant: TenantId,
    /// Samples lie in `block_start..block_end`, milliseconds.
    pub block_start: i64,
    pub block_end: i64,
    /// Later segments win over earlier ones where times are equal.
    pub seq: u64,
    /// All log records up to this one that concern tenant and block are in this segment or an earlier one.
    pub lsn_max: u64,
    /// When what is in here arrived, milliseconds: first and last.
    pub arrival: (i64, i64),
    pub samples: u64,
    pub series: u32,
    /// Segments this one was merged from; whichever of them still exists is void.
    pub replaces: Vec<u64>,
    pages: Vec<Page>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Page {
    offset: u64,
    length: u32,
    crc: u32,
    series: u32,
}

/// An open segment. The file is opened for each read, so that many segments don't hold many descriptors.
#[derive(Debug)]
pub struct Segment {
    dir: Arc<Dir>,
    pub footer: Footer,
    pub file_bytes: u64,
    /// Set when merged or expired: the last one who reads it removes the file.
    is_obsolete: AtomicBool,
}

/// A segment's series and their index, in memory while it is being queried.
#[derive(Debug)]
pub struct Loaded {
    /// By number; `None` where a page is damaged.
    pub series: Vec<Option<SegmentSeries>>,
    pub index: LabelIndex,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentSeries {
    pub labels: Box<[u8]>,
    pub t_min: i64,
    pub t_max: i64,
    chunks: Vec<Chunk>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Chunk {
    offset: u64,
    length: u32,
    t_min: i64,
    t_max: i64,
}

impl Segment {
    /// `<start>-<seq>`, with the sign of the start spelt so that names sort and parse.
    pub fn stem(block_start: i64, seq: u64) -> String {
        format!("{block_start}_{seq:016}")
    }

    fn name(&self) -> String {
        format!("{}.seg", Self::stem(self.footer.block_start, self.footer.seq))
    }
    fn index_name(&self) -> String {
        format!("{}.idx", Self::stem(self.footer.block_start, self.footer.seq))
    }
    /// For messages.
    pub fn path(&self) -> String {
        format!("metrics/segments/{}/{}", self.footer.tenant, self.name())
    }

    /// Opens `name` in the tenant's folder. Damage that a second copy mends is told to `note`.
    pub fn open(dir: Arc<Dir>, tenant: &TenantId, name: &str, note: &mut dyn FnMut(Corruption)) -> Result<Self> {
        let path = format!("metrics/segments/{tenant}/{name}");
        let file = open(&dir, name)?;
        let file_bytes = file.metadata().map_err(|e| Error::io(format!("reading {path}"), e))?.len();
        let footer = read_footer(&file, file_bytes, &path, note)?;
        if footer.tenant != *tenant {
            return Err(Error::corrupt(
                path,
                0,
                format!("it belongs to tenant {} but lies in the folder of {tenant}", footer.tenant),
            ));
        }
        if format!("{}.seg", Self::stem(footer.block_start, footer.seq)) != name {
            return Err(Error::corrupt(path, 0, "the file was renamed: name and content differ"));
        }
        Ok(Self { dir, footer, file_bytes, is_obsolete: AtomicBool::new(false) })
    }

    pub fn overlaps(&self, start: i64, end: i64) -> bool {
        self.footer.block_start <= end && self.footer.block_end > start
    }

    /// Reads the series and the index; a missing or bad index is rebuilt and written again.
    pub fn load(&self, note: &mut dyn FnMut(Corruption)) -> Result<Loaded> {
        let (series, is_whole) = self.read_pages(note)?;
        if let Some(index) = self.read_index() {
            return Ok(Loaded { series, index });
        }
        let mut index = LabelIndex::default();
        for (id, series) in (0u32..).zip(&series) {
            if let Some(series) = series {
                index.insert(id, &series.labels);
            }
        }
        if is_whole {
            tracing::info!(segment = %self.path(), "rebuilt the label index");
            // Without it every load rebuilds: slower, nothing worse.
            if let Err(error) = write::write_index(&self.dir, &self.index_name(), &index, &self.footer) {
                tracing::warn!(segment = %self.path(), %error, "could not write the label index");
            }
        }
        Ok(Loaded { series, index })
    }

    /// A reader with the file open.
    pub fn reader(&self) -> Result<SegmentReader<'_>> {
        Ok(SegmentReader { file: open(&self.dir, &self.name())?, segment: self, frame: Vec::new() })
    }

    /// Reads every byte and tells all damage.
    pub fn verify(&self, note: &mut dyn FnMut(Corruption)) -> Result<()> {
        let mut reader = self.reader()?;
        read_footer(&reader.file, self.file_bytes, &self.path(), note)?;
        let (series, _) = self.read_pages(note)?;
        let mut columns = Columns::default();
        for series in series.iter().flatten() {
            columns.clear();
            reader.read_into(series, i64::MIN, i64::MAX, &mut columns, note)?;
        }
        Ok(())
    }

    /// The file goes when the last reader has.
    pub fn retire(&self) {
        self.is_obsolete.store(true, Relaxed);
    }

    fn read_pages(&self, note: &mut dyn FnMut(Corruption)) -> Result<(Vec<Option<SegmentSeries>>, bool)> {
        let file = open(&self.dir, &self.name())?;
        let mut all = Vec::with_capacity(self.footer.series as usize);
        let mut is_whole = true;
        for page in &self.footer.pages {
            let mut bytes = vec![0; page.length as usize];
            let is_read = file.read_exact_at(&mut bytes, page.offset).is_ok() && crc32fast::hash(&bytes) == page.crc;
            match is_read.then(|| decode_page(&bytes, page.series)).flatten() {
                Some(series) => all.extend(series.into_iter().map(Some)),
                None => {
                    let reason = format!("a page with {} series doesn't check out; they are missing in this block", page.series);
                    note(Corruption { file: self.path(), offset: page.offset, reason });
                    all.resize(all.len() + page.series as usize, None);
                    is_whole = false;
                }
            }
        }
        Ok((all, is_whole))
    }

    fn read_index(&self) -> Option<LabelIndex> {
        let bytes = self.dir.read(self.index_name()).ok()?;
        let (head, body) = bytes.split_at_checked(16)?;
        let crc = u32::from_le_bytes(head[8..12].try_into().ok()?);
        let series = u32::from_le_bytes(head[12..16].try_into().ok()?);
        if head[..8] != *INDEX_MAGIC || series != self.footer.series || crc != crc32fast::hash(body) {
            return None;
        }
        LabelIndex::decode(body)
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        if self.is_obsolete.load(Relaxed) {
            // What can't be removed now is void and is removed at the next start.
            let _ = self.dir.remove_file(self.index_name());
            let _ = self.dir.remove_file(self.name());
        }
    }
}

/// Reads chunks of one segment.
#[derive(Debug)]
pub struct SegmentReader<'a> {
    file: File,
    segment: &'a Segment,
    frame: Vec<u8>,
}

impl SegmentReader<'_> {
    /// Adds a series' samples between `start` and `end` to `out`. A damaged chunk is told to `note` and left out.
    pub fn read_into(
        &mut self,
        series: &SegmentSeries,
        start: i64,
        end: i64,
        out: &mut Columns,
        note: &mut dyn FnMut(Corruption),
    ) -> Result<()> {
        for chunk in series.chunks.iter().filter(|c| c.t_min <= end && c.t_max >= start) {
            self.frame.resize(chunk.length as usize + 4, 0);
            let is_sound = self.file.read_exact_at(&mut self.frame, chunk.offset).is_ok() && {
                let (crc, bytes) = self.frame.split_at(4);
                crc == crc32fast::hash(bytes).to_le_bytes() && out.push_chunk(bytes, start, end).is_some()
            };
            if !is_sound {
                let reason =
                    format!("a chunk of {} doesn't check out; its samples are missing", super::batch::label_set(&series.labels));
                note(Corruption { file: self.segment.path(), offset: chunk.offset, reason });
            }
        }
        Ok(())
    }
}

fn open(dir: &Dir, name: &str) -> Result<File> {
    dir.open(name).map(cap_std::fs::File::into_std).map_err(|e| Error::io(format!("opening segment {name}"), e))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    footer_offset: u64,
    footer_length: u64,
    footer_crc: u32,
    file_bytes: u64,
}

impl Header {
    fn encode(self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..8].copy_from_slice(MAGIC);
        out[8..16].copy_from_slice(&self.footer_offset.to_le_bytes());
        out[16..24].copy_from_slice(&self.footer_length.to_le_bytes());
        out[24..32].copy_from_slice(&self.file_bytes.to_le_bytes());
        out[32..36].copy_from_slice(&self.footer_crc.to_le_bytes());
        let crc = crc32fast::hash(&out[..HEADER_BYTES - 4]);
        out[HEADER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let half = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        if bytes[..8] != *MAGIC || half(HEADER_BYTES - 4) != crc32fast::hash(&bytes[..HEADER_BYTES - 4]) {
            return None;
        }
        Some(Self { footer_offset: word(8), footer_length: word(16), file_bytes: word(24), footer_crc: half(32) })
    }
}

/// Of two headers and two footers, the first sound ones count; a bad one is told.
fn read_footer(file: &File, file_bytes: u64, path: &str, note: &mut dyn FnMut(Corruption)) -> Result<Footer> {
    let mut found: Option<Header> = None;
    let mut bad = Vec::new();
    for offset in [0, file_bytes.saturating_sub(HEADER_BYTES as u64)] {
        let mut bytes = [0; HEADER_BYTES];
        let header = file.read_exact_at(&mut bytes, offset).ok().and_then(|()| Header::decode(&bytes));
        match header.filter(|h| h.file_bytes == file_bytes) {
            Some(header) => found = found.or(Some(header)),
            None => bad.push((offset, "a copy of the header doesn't check out")),
        }
    }
    let header = found.ok_or_else(|| Error::corrupt(path, 0, "neither copy of the header checks out"))?;
    if header.footer_length > FOOTER_BYTES_MAX {
        return Err(Error::corrupt(path, 0, "the footer is larger than any footer"));
    }
    let mut footer = None;
    for copy in 0..2 {
        let offset = header.footer_offset.saturating_add(copy * header.footer_length);
        let mut bytes = vec![0; usize::try_from(header.footer_length).expect("bounded above")];
        let is_read = file.read_exact_at(&mut bytes, offset).is_ok() && crc32fast::hash(&bytes) == header.footer_crc;
        match is_read.then(|| Footer::decode(&bytes)).flatten() {
            Some(f) => footer = footer.or(Some(f)),
            None => bad.push((offset, "a copy of the footer doesn't check out")),
        }
    }
    let footer = footer.ok_or_else(|| Error::corrupt(path, header.footer_offset, "neither copy of the footer checks out"))?;
    for (offset, reason) in bad {
        note(Corruption { file: path.into(), offset, reason: reason.into() });
    }
    Ok(footer)
}

impl Footer {
    pub fn new(tenant: TenantId, block: std::ops::Range<i64>, seq: u64, lsn_max: u64, arrival: (i64, i64)) -> Self {
        let (block_start, block_end) = (block.start, block.end);
        Self {
            tenant,
            block_start,
            block_end,
            seq,
            lsn_max,
            arrival,
            samples: 0,
            series: 0,
            replaces: Vec::new(),
            pages: Vec::new(),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_text(&mut out, self.tenant.as_str());
        for n in [self.block_start, self.block_end, self.arrival.0, self.arrival.1] {
            varint::write_signed(&mut out, n);
        }
        for n in [self.seq, self.lsn_max, self.samples, u64::from(self.series), self.replaces.len() as u64] {
            varint::write(&mut out, n);
        }
        self.replaces.iter().for_each(|seq| varint::write(&mut out, *seq));
        varint::write(&mut out, self.pages.len() as u64);
        for page in &self.pages {
            for n in [page.offset, u64::from(page.length), u64::from(page.crc), u64::from(page.series)] {
                varint::write(&mut out, n);
            }
        }
        out
    }

    fn decode(mut bytes: &[u8]) -> Option<Self> {
        let bytes = &mut bytes;
        let tenant = TenantId::new(take_text(bytes)?).ok()?;
        let [block_start, block_end, first, last] = std::array::from_fn(|_| varint::read_signed(bytes));
        let [seq, lsn_max, samples, series, replaces] = std::array::from_fn(|_| varint::read(bytes));
        let replaces = (0..replaces?).map(|_| varint::read(bytes)).collect::<Option<Vec<u64>>>()?;
        let mut pages = Vec::new();
        let mut in_pages = 0u64;
        for _ in 0..varint::read(bytes)? {
            let offset = varint::read(bytes)?;
            let [length, crc, series] = std::array::from_fn(|_| varint::read(bytes).and_then(|n| u32::try_from(n).ok()));
            let page = Page { offset, length: length.filter(|l| *l <= PAGE_BYTES_MAX)?, crc: crc?, series: series? };
            // An entry takes more than a byte; a page that claims more series than bytes lies.
            if page.series > page.length {
                return None;
            }
            in_pages += u64::from(page.series);
            pages.push(page);
        }
        let footer = Self {
            tenant,
            block_start: block_start?,
            block_end: block_end?,
            seq: seq?,
            lsn_max: lsn_max?,
            arrival: (first?, last?),
            samples: samples?,
            series: u32::try_from(series?).ok()?,
            replaces,
            pages,
        };
        (bytes.is_empty() && in_pages == u64::from(footer.series)).then_some(footer)
    }
}

impl SegmentSeries {
    fn encode(&self, out: &mut Vec<u8>) {
        varint::write(out, self.labels.len() as u64);
        out.extend_from_slice(&self.labels);
        varint::write(out, self.chunks.len() as u64);
        for chunk in &self.chunks {
            varint::write(out, chunk.offset);
            varint::write(out, u64::from(chunk.length));
            varint::write_signed(out, chunk.t_min);
            varint::write(out, chunk.t_max.wrapping_sub(chunk.t_min).cast_unsigned());
        }
    }

    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let length = usize::try_from(varint::read(bytes)?).ok()?;
        let labels = bytes.split_off(..length)?;
        if !is_canonical(labels) {
            return None;
        }
        let mut chunks = Vec::new();
        for _ in 0..varint::read(bytes)? {
            let offset = varint::read(bytes)?;
            let length = u32::try_from(varint::read(bytes)?).ok().filter(|l| *l <= PAGE_BYTES_MAX)?;
            let t_min = varint::read_signed(bytes)?;
            let t_max = t_min.wrapping_add(varint::read(bytes)?.cast_signed());
            chunks.push(Chunk { offset, length, t_min, t_max });
        }
        let t_min = chunks.iter().map(|c| c.t_min).min()?;
        let t_max = chunks.iter().map(|c| c.t_max).max()?;
        Some(Self { labels: labels.into(), t_min, t_max, chunks })
    }
}

fn decode_page(mut bytes: &[u8], count: u32) -> Option<Vec<SegmentSeries>> {
    let series = (0..count).map(|_| SegmentSeries::decode(&mut bytes)).collect::<Option<Vec<_>>>()?;
    bytes.is_empty().then_some(series)
}

#[cfg(test)]
mod tests;
