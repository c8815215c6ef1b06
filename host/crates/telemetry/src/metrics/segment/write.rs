//! Writes a segment: chunks as they come, then pages of series, footer twice, header at both ends; synced, then renamed
//! to its name, so that a segment is whole or not there.

use super::{Chunk, Footer, HEADER_BYTES, Header, INDEX_MAGIC, LabelIndex, PAGE_BYTES, Page, Segment, SegmentSeries};
use crate::{Error, Result, metrics::chunk, wal::sync_dir};
use cap_std::fs::{Dir, OpenOptions};
use std::{
    fs::File,
    io::{self, BufWriter, Write},
    os::unix::fs::FileExt,
    sync::{Arc, atomic::AtomicBool},
};

#[derive(Debug)]
pub struct SegmentWriter {
    dir: Arc<Dir>,
    stem: String,
    file: BufWriter<File>,
    at: u64,
    footer: Footer,
    series: Vec<SegmentSeries>,
    index: LabelIndex,
}

impl SegmentWriter {
    pub fn create(dir: Arc<Dir>, footer: Footer) -> Result<Self> {
        let stem = Segment::stem(footer.block_start, footer.seq);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        let file =
            dir.open_with(format!("{stem}.tmp"), &options).map_err(|e| Error::io(format!("creating segment {stem}"), e))?;
        // Many blocks may be open at once when old data is imported: small buffers.
        let mut writer = Self {
            dir,
            stem,
            file: BufWriter::with_capacity(32 << 10, file.into_std()),
            at: 0,
            footer,
            series: Vec::new(),
            index: LabelIndex::default(),
        };
        writer.put(&[0; HEADER_BYTES])?;
        Ok(writer)
    }

    /// Adds a series, in the order of canonical labels, with its samples in order, inside the block.
    pub fn add(&mut self, labels: &[u8], times: &[i64], values: &[f64]) -> Result<()> {
        debug_assert!(self.series.last().is_none_or(|s| *s.labels < *labels), "series come sorted");
        debug_assert!(
            times.iter().all(|t| (self.footer.block_start..self.footer.block_end).contains(t)),
            "samples lie in the block"
        );
        let (Some(first), Some(last)) = (times.first(), times.last()) else { return Ok(()) };
        let mut series = SegmentSeries { labels: labels.into(), t_min: *first, t_max: *last, chunks: Vec::new() };
        for (times, values) in times.chunks(chunk::SAMPLES).zip(values.chunks(chunk::SAMPLES)) {
            let bytes = chunk::encode(times, values);
            series.chunks.push(Chunk {
                offset: self.at,
                length: u32::try_from(bytes.len()).expect("a chunk has few kilobytes"),
                t_min: times[0],
                t_max: times[times.len() - 1],
            });
            self.put(&crc32fast::hash(&bytes).to_le_bytes())?;
            self.put(&bytes)?;
        }
        self.footer.samples += times.len() as u64;
        self.footer.series += 1;
        self.index.push(labels);
        self.series.push(series);
        Ok(())
    }

    /// Makes the segment durable and visible.
    pub fn finish(mut self) -> Result<Segment> {
        self.put_pages()?;
        let footer = self.footer.encode();
        let header = Header {
            footer_offset: self.at,
            footer_length: footer.len() as u64,
            footer_crc: crc32fast::hash(&footer),
            file_bytes: self.at + 2 * footer.len() as u64 + HEADER_BYTES as u64,
        };
        self.put(&footer)?;
        self.put(&footer)?;
        self.put(&header.encode())?;
        let Self { dir, stem, file, footer, index, .. } = self;
        let fail = |e: io::Error| Error::io(format!("writing segment {stem}"), e);
        let file = file.into_inner().map_err(|e| fail(e.into_error()))?;
        file.write_all_at(&header.encode(), 0).and_then(|()| file.sync_all()).map_err(fail)?;
        // Derived, so it needs no sync; the checksum tells a half-written one.
        write_index(&dir, &format!("{stem}.idx"), &index, &footer)?;
        dir.rename(format!("{stem}.tmp"), &dir, format!("{stem}.seg")).map_err(fail)?;
        sync_dir(&dir)?;
        Ok(Segment { dir, footer, file_bytes: header.file_bytes, is_obsolete: AtomicBool::new(false) })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| Error::io(format!("writing segment {}", self.stem), e))?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn put_pages(&mut self) -> Result<()> {
        let all = std::mem::take(&mut self.series);
        let mut page = Vec::with_capacity(PAGE_BYTES * 2);
        let mut count = 0;
        let mut all = all.iter().peekable();
        while let Some(series) = all.next() {
            series.encode(&mut page);
            count += 1;
            if page.len() >= PAGE_BYTES || all.peek().is_none() {
                self.footer.pages.push(Page {
                    offset: self.at,
                    length: u32::try_from(page.len()).expect("a page has few kilobytes"),
                    crc: crc32fast::hash(&page),
                    series: count,
                });
                self.put(&page)?;
                page.clear();
                count = 0;
            }
        }
        Ok(())
    }
}

pub fn write_index(dir: &Dir, name: &str, index: &LabelIndex, footer: &Footer) -> Result<()> {
    let body = index.encode();
    let mut bytes = Vec::with_capacity(body.len() + 16);
    bytes.extend_from_slice(INDEX_MAGIC);
    bytes.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
    bytes.extend_from_slice(&footer.series.to_le_bytes());
    bytes.extend_from_slice(&body);
    dir.write(name, &bytes).map_err(|e| Error::io(format!("writing the index {name}"), e))
}
