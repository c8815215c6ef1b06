//! The `rows` file of a split: originals in zstd blocks, ordered by time, and a footer that says
//! where each block lies and which streams occur. This file is ground state; the index beside it
//! is derived and can be rebuilt from here. Bytes: `docs/formats/logs.md`.

use super::bloom::Bloom;
use super::codec::{Malformed, Reader, put_bytes, put_i64, put_u64};
use cap_std::fs::{File, FileExt};
use model::LabelSet;
use std::collections::BTreeSet;
use std::io;

const MAGIC: &[u8; 8] = b"ORXROWS1";
/// footer length, footer CRC, magic.
const TRAILER_BYTES: usize = 16;
/// A block is closed at this many bytes: reading one row inflates this much, and zstd has enough to learn from.
const BLOCK_RAW_BYTES: usize = 128 << 10;
/// A footer larger than this is no footer of ours.
const FOOTER_BYTES_MAX: usize = 256 << 20;
/// What one block may inflate to: a block in the making plus one largest record.
const INFLATED_BYTES_MAX: usize = 64 << 20;
/// zstd -3: 0.14 of raw on log lines, and about 300 MB a second.
const ZSTD_LEVEL: i32 = 3;

/// Why a file can't be read.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    #[error("{what} at byte {offset}")]
    Corrupt { what: &'static str, offset: u64 },
    #[error(transparent)]
    Record(#[from] Malformed),
    #[error(transparent)]
    Io(#[from] io::Error),
}

#[derive(Clone, Debug, PartialEq)]
pub struct StreamEntry {
    pub labels: LabelSet,
    pub rows: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct BlockEntry {
    pub offset: u64,
    pub bytes: u32,
    pub raw_bytes: u32,
    pub crc: u32,
    pub first_row: u32,
    pub rows: u32,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Footer {
    pub rows: u32,
    pub time_min: i64,
    pub time_max: i64,
    pub streams: Vec<StreamEntry>,
    pub blocks: Vec<BlockEntry>,
    /// Which trace ids may be here.
    pub traces: Bloom,
}

/// Writes the file's bytes in memory; a split is small enough.
pub struct RowsWriter {
    out: Vec<u8>,
    raw: Vec<u8>,
    rows_in_block: u32,
    traces: BTreeSet<Vec<u8>>,
    footer: Footer,
}

impl RowsWriter {
    pub fn new() -> Self {
        Self { out: MAGIC.to_vec(), raw: Vec::new(), rows_in_block: 0, traces: BTreeSet::new(), footer: Footer::default() }
    }

    /// Rows come in order of time. `stream` is a number that [`Self::stream`] gave.
    pub fn push(&mut self, time: i64, stream: u32, trace_id: &[u8], record: &[u8]) -> io::Result<()> {
        if self.footer.rows == 0 {
            (self.footer.time_min, self.footer.time_max) = (time, time);
        }
        self.footer.time_min = self.footer.time_min.min(time);
        self.footer.time_max = self.footer.time_max.max(time);
        self.footer.rows += 1;
        self.footer.streams[stream as usize].rows += 1;
        if !trace_id.is_empty() && !self.traces.contains(trace_id) {
            self.traces.insert(trace_id.to_vec());
        }
        put_bytes(&mut self.raw, record);
        self.rows_in_block += 1;
        if self.raw.len() >= BLOCK_RAW_BYTES { self.close_block() } else { Ok(()) }
    }

    /// A new entry in the table of streams.
    pub fn stream(&mut self, labels: LabelSet) -> u32 {
        self.footer.streams.push(StreamEntry { labels, rows: 0 });
        self.footer.streams.len() as u32 - 1
    }

    pub fn finish(mut self) -> io::Result<(Vec<u8>, Footer)> {
        if self.rows_in_block > 0 {
            self.close_block()?;
        }
        self.footer.traces = Bloom::of(self.traces.iter().map(Vec::as_slice));
        let footer = zstd::bulk::compress(&encode_footer(&self.footer), ZSTD_LEVEL)?;
        self.out.extend_from_slice(&footer);
        self.out.extend_from_slice(&(footer.len() as u32).to_le_bytes());
        self.out.extend_from_slice(&crc32fast::hash(&footer).to_le_bytes());
        self.out.extend_from_slice(MAGIC);
        Ok((self.out, self.footer))
    }

    fn close_block(&mut self) -> io::Result<()> {
        let packed = zstd::bulk::compress(&self.raw, ZSTD_LEVEL)?;
        self.footer.blocks.push(BlockEntry {
            offset: self.out.len() as u64,
            bytes: packed.len() as u32,
            raw_bytes: self.raw.len() as u32,
            crc: crc32fast::hash(&packed),
            first_row: self.footer.rows - self.rows_in_block,
            rows: self.rows_in_block,
        });
        self.out.extend_from_slice(&packed);
        self.raw.clear();
        self.rows_in_block = 0;
        Ok(())
    }
}

/// An open `rows` file whose footer was verified. Blocks are verified as they are read.
#[derive(Debug)]
pub struct RowsFile {
    file: File,
    pub footer: Footer,
}

/// One inflated block.
pub struct Block {
    pub first_row: u32,
    raw: Vec<u8>,
    starts: Vec<(u32, u32)>,
}

impl Block {
    pub fn holds(&self, row: u32) -> bool {
        row.checked_sub(self.first_row).is_some_and(|i| (i as usize) < self.starts.len())
    }
    /// The record's bytes; `row` must be one this block [`holds`](Self::holds).
    pub fn row(&self, row: u32) -> &[u8] {
        let (from, to) = self.starts[(row - self.first_row) as usize];
        &self.raw[from as usize..to as usize]
    }
}

impl RowsFile {
    pub fn open(file: File) -> Result<Self, Damage> {
        let len = file.metadata()?.len();
        let corrupt = |what, offset| Damage::Corrupt { what, offset };
        if len < (MAGIC.len() + TRAILER_BYTES) as u64 {
            return Err(corrupt("file cut short", len));
        }
        let mut head = [0; 8];
        file.read_exact_at(&mut head, 0)?;
        let trailer_at = len - TRAILER_BYTES as u64;
        let mut trailer = [0; TRAILER_BYTES];
        file.read_exact_at(&mut trailer, trailer_at)?;
        if head != *MAGIC || trailer[8..] != *MAGIC {
            return Err(corrupt("missing magic", if head == *MAGIC { trailer_at } else { 0 }));
        }
        let word = |at: usize| u32::from_le_bytes(trailer[at..at + 4].try_into().expect("four bytes"));
        let (footer_bytes, crc) = (word(0) as usize, word(4));
        let footer_at = trailer_at.checked_sub(footer_bytes as u64).filter(|at| *at >= MAGIC.len() as u64);
        let footer_at = footer_at.ok_or(corrupt("footer longer than the file", trailer_at))?;
        let mut packed = vec![0; footer_bytes];
        file.read_exact_at(&mut packed, footer_at)?;
        if crc32fast::hash(&packed) != crc {
            return Err(corrupt("footer checksum differs", footer_at));
        }
        let raw = inflate(&packed, FOOTER_BYTES_MAX).map_err(|_| corrupt("footer does not inflate", footer_at))?;
        let footer = decode_footer(&raw)?;
        for block in &footer.blocks {
            if block.offset.checked_add(u64::from(block.bytes)).is_none_or(|end| end > footer_at) {
                return Err(corrupt("block lies outside the file", block.offset));
            }
        }
        Ok(Self { file, footer })
    }

    /// The block that holds a row.
    pub fn block_of(&self, row: u32) -> Result<Block, Damage> {
        let i = self.footer.blocks.partition_point(|b| b.first_row <= row);
        let entry = i.checked_sub(1).map(|i| &self.footer.blocks[i]);
        match entry {
            Some(entry) if row - entry.first_row < entry.rows => self.block(entry),
            _ => Err(Damage::Corrupt { what: "no block holds a row of the index", offset: u64::from(row) }),
        }
    }

    pub fn block(&self, entry: &BlockEntry) -> Result<Block, Damage> {
        let corrupt = |what| Damage::Corrupt { what, offset: entry.offset };
        let mut packed = vec![0; entry.bytes as usize];
        self.file.read_exact_at(&mut packed, entry.offset)?;
        if crc32fast::hash(&packed) != entry.crc {
            return Err(corrupt("block checksum differs"));
        }
        let raw = inflate(&packed, (entry.raw_bytes as usize).min(INFLATED_BYTES_MAX))
            .map_err(|_| corrupt("block does not inflate"))?;
        let mut starts = Vec::with_capacity((entry.rows as usize).min(raw.len()));
        let mut reader = Reader::new(&raw);
        for _ in 0..entry.rows {
            let bytes = reader.bytes()?;
            let to = reader.at();
            starts.push(((to - bytes.len()) as u32, to as u32));
        }
        reader.done()?;
        Ok(Block { first_row: entry.first_row, raw, starts })
    }
}

fn inflate(packed: &[u8], bytes_max: usize) -> io::Result<Vec<u8>> {
    use std::io::Read;
    let mut out = Vec::new();
    zstd::stream::read::Decoder::new(packed)?.take(bytes_max as u64 + 1).read_to_end(&mut out)?;
    if out.len() > bytes_max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "larger than it claims"));
    }
    Ok(out)
}

fn encode_footer(footer: &Footer) -> Vec<u8> {
    let mut out = Vec::new();
    put_u64(&mut out, u64::from(footer.rows));
    put_i64(&mut out, footer.time_min);
    put_i64(&mut out, footer.time_max);
    put_u64(&mut out, footer.streams.len() as u64);
    for stream in &footer.streams {
        put_u64(&mut out, stream.rows);
        put_u64(&mut out, stream.labels.len() as u64);
        for (name, value) in stream.labels.iter() {
            put_bytes(&mut out, name.as_bytes());
            put_bytes(&mut out, value.as_bytes());
        }
    }
    put_u64(&mut out, footer.blocks.len() as u64);
    for b in &footer.blocks {
        put_u64(&mut out, b.offset);
        for v in [b.bytes, b.raw_bytes, b.crc, b.first_row, b.rows] {
            put_u64(&mut out, u64::from(v));
        }
    }
    put_bytes(&mut out, footer.traces.bytes());
    out
}

fn decode_footer(bytes: &[u8]) -> Result<Footer, Malformed> {
    let mut r = Reader::new(bytes);
    let u32_of = |r: &mut Reader<'_>| {
        let v = r.u64()?;
        u32::try_from(v).map_err(|_| r.fail("number too large"))
    };
    let mut footer = Footer { rows: u32_of(&mut r)?, time_min: r.i64()?, time_max: r.i64()?, ..Footer::default() };
    for _ in 0..r.count()? {
        let rows = r.u64()?;
        let pairs = (0..r.count()?).map(|_| Ok((r.string()?, r.string()?))).collect::<Result<Vec<_>, Malformed>>()?;
        footer.streams.push(StreamEntry { labels: LabelSet::from_pairs(pairs), rows });
    }
    for _ in 0..r.count()? {
        footer.blocks.push(BlockEntry {
            offset: r.u64()?,
            bytes: u32_of(&mut r)?,
            raw_bytes: u32_of(&mut r)?,
            crc: u32_of(&mut r)?,
            first_row: u32_of(&mut r)?,
            rows: u32_of(&mut r)?,
        });
    }
    footer.traces = Bloom::from_bytes(r.bytes()?);
    r.done()?;
    let covered = footer.blocks.iter().try_fold(0u32, |row, b| (b.first_row == row).then(|| row.checked_add(b.rows)).flatten());
    if covered != Some(footer.rows) {
        return Err(r.fail("blocks do not cover the rows"));
    }
    Ok(footer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Vec<u8>, Footer) {
        let mut writer = RowsWriter::new();
        let a = writer.stream(LabelSet::from_pairs([("app", "a")]));
        let b = writer.stream(LabelSet::from_pairs([("app", "b"), ("zone", "ü")]));
        for i in 0..3000i64 {
            writer
                .push(
                    i * 7 - 50,
                    if i % 3 == 0 { b } else { a },
                    &(i + 1).to_le_bytes(),
                    format!("record {i} {}", "x".repeat(100)).as_bytes(),
                )
                .unwrap();
        }
        writer.finish().unwrap()
    }

    fn open(bytes: &[u8]) -> Result<RowsFile, Damage> {
        let folder = tempfile::tempdir().unwrap();
        let dir = cap_std::fs::Dir::open_ambient_dir(folder.path(), cap_std::ambient_authority()).unwrap();
        dir.write("rows", bytes).unwrap();
        RowsFile::open(dir.open("rows").unwrap())
    }

    #[test]
    fn rows_come_back_by_number_and_the_footer_tells_times_and_streams() {
        let (bytes, footer) = sample();
        let file = open(&bytes).unwrap();
        assert_eq!(file.footer, footer);
        assert_eq!((footer.rows, footer.time_min, footer.time_max), (3000, -50, 2999 * 7 - 50));
        assert_eq!(footer.streams.iter().map(|s| s.rows).collect::<Vec<_>>(), [2000, 1000]);
        assert!(footer.blocks.len() > 1);
        assert!((1..=3000i64).all(|id| file.footer.traces.may_hold(&id.to_le_bytes())));
        for row in [0, 1, 1234, 2999] {
            let block = file.block_of(row).unwrap();
            assert!(block.holds(row) && block.row(row).starts_with(format!("record {row} ").as_bytes()));
        }
        assert!(file.block_of(3000).is_err());
    }

    #[test]
    fn a_torn_file_is_refused_at_every_length() {
        let (bytes, _) = sample();
        for cut in (0..bytes.len()).step_by(97).chain(bytes.len() - 20..bytes.len()) {
            assert!(open(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_flipped_byte_is_noticed_wherever_it_is() {
        let (bytes, footer) = sample();
        for at in (0..bytes.len()).step_by(61) {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            let noticed = match open(&bad) {
                Err(_) => true,
                Ok(file) => footer.blocks.iter().any(|b| file.block(b).is_err()),
            };
            assert!(noticed, "byte {at}");
        }
    }
}
