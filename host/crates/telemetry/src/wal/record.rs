//! The bytes of a log file: its header and its records.

use crate::{Error, Result};
use bytes::Bytes;
use std::{
    fs::File,
    hash::{BuildHasher, Hasher},
    os::unix::fs::FileExt,
};

const FILE_MAGIC: &[u8; 8] = b"ORXWAL\x00\x01";
const RECORD_MAGIC: [u8; 4] = *b"\xf5ORX";
pub const FILE_HEADER_BYTES: usize = 32;
/// magic 4, length 4, lsn 8, crc of these 4, crc of the payload 4.
pub const RECORD_HEADER_BYTES: usize = 24;

/// Which file this is. The salt is part of every record's checksum, so that bytes sent by a client can't pass for a
/// record when damage makes the reader search, nor bytes of an older file for the end of a newer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileHeader {
    pub first_lsn: u64,
    salt: u64,
}

impl FileHeader {
    pub fn new(first_lsn: u64) -> Self {
        // The standard library seeds its hasher from the system; unguessable is all that's asked.
        let salt = std::collections::hash_map::RandomState::new().build_hasher().finish();
        Self { first_lsn, salt }
    }

    pub fn file_name(&self) -> String {
        format!("{:020}.wal", self.first_lsn)
    }

    /// The number in a file's name; `None` for foreign files.
    pub fn first_lsn_of(name: &str) -> Option<u64> {
        name.strip_suffix(".wal").filter(|n| n.len() == 20).and_then(|n| n.parse().ok())
    }

    pub fn encode(&self) -> [u8; FILE_HEADER_BYTES] {
        let mut out = [0; FILE_HEADER_BYTES];
        out[..8].copy_from_slice(FILE_MAGIC);
        out[8..16].copy_from_slice(&self.first_lsn.to_le_bytes());
        out[16..24].copy_from_slice(&self.salt.to_le_bytes());
        let crc = crc32fast::hash(&out[..24]);
        out[24..28].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..FILE_HEADER_BYTES)?;
        let is_valid = &bytes[..8] == FILE_MAGIC && u32_at(bytes, 24) == crc32fast::hash(&bytes[..24]) && bytes[28..] == [0; 4];
        is_valid.then(|| Self { first_lsn: u64_at(bytes, 8), salt: u64_at(bytes, 16) })
    }
}

pub fn encode(out: &mut Vec<u8>, header: &FileHeader, lsn: u64, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("submit refuses records over RECORD_BYTES_MAX");
    let begin = out.len();
    out.extend_from_slice(&RECORD_MAGIC);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&lsn.to_le_bytes());
    let head = checksum(header, &out[begin..]);
    out.extend_from_slice(&head.to_le_bytes());
    out.extend_from_slice(&checksum(header, payload).to_le_bytes());
    out.extend_from_slice(payload);
}

/// The record at `at`: its number, its payload and where it ends. `None` if there is no whole, sound record with a
/// number above `after`.
pub fn decode<'a>(bytes: &'a [u8], at: usize, header: &FileHeader, after: u64) -> Option<(u64, &'a [u8], usize)> {
    let head = bytes.get(at..at.checked_add(RECORD_HEADER_BYTES)?)?;
    // The head has a checksum of its own, so that searching through hostile bytes never sums a payload in vain.
    if head[..4] != RECORD_MAGIC || u32_at(head, 16) != checksum(header, &head[..16]) {
        return None;
    }
    let (length, lsn, crc) = (u32_at(head, 4), u64_at(head, 8), u32_at(head, 20));
    let begin = at + RECORD_HEADER_BYTES;
    let end = begin.checked_add(length as usize)?;
    let payload = bytes.get(begin..end)?;
    (lsn > after && lsn >= header.first_lsn && crc == checksum(header, payload)).then_some((lsn, payload, end))
}

/// Where the next sound record begins at or after `from`.
pub fn find_next(bytes: &[u8], from: usize, header: &FileHeader, after: u64) -> Option<usize> {
    let rest = bytes.get(from..)?;
    rest.windows(4)
        .enumerate()
        .filter(|(_, window)| **window == RECORD_MAGIC)
        .map(|(i, _)| from + i)
        .find(|at| decode(bytes, *at, header, after).is_some())
}

/// Reads one record whose place is known.
pub fn read_at(file: &File, header: &FileHeader, lsn: u64, offset: u64) -> Result<Bytes> {
    let fail = |e| Error::io(format!("reading {}", header.file_name()), e);
    let corrupt = || Error::corrupt(header.file_name(), offset, "the record no longer checks out");
    let mut bytes = vec![0; RECORD_HEADER_BYTES];
    file.read_exact_at(&mut bytes, offset).map_err(fail)?;
    let length = u32_at(&bytes, 4) as usize;
    if length > super::RECORD_BYTES_MAX {
        return Err(corrupt());
    }
    bytes.resize(RECORD_HEADER_BYTES + length, 0);
    file.read_exact_at(&mut bytes[RECORD_HEADER_BYTES..], offset + RECORD_HEADER_BYTES as u64).map_err(fail)?;
    match decode(&bytes, 0, header, lsn - 1) {
        Some((found, ..)) if found == lsn => Ok(Bytes::from(bytes).slice(RECORD_HEADER_BYTES..)),
        _ => Err(corrupt()),
    }
}

fn checksum(header: &FileHeader, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header.salt.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
