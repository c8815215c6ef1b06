//! The `index` file of a split: all files of one tantivy segment in one immutable file with
//! checksums, read through a directory handle of cap-std. Reads are `pread`s, not a memory map:
//! mapping a file is `unsafe` (another process may change it), and what tantivy keeps open
//! (dictionaries, fast columns) it reads once per open split.

use super::block::Damage;
use super::codec::{Reader, put_bytes, put_u64};
use cap_std::fs::{File, FileExt};
use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tantivy::HasLen;
use tantivy::directory::error::{DeleteError, LockError, OpenReadError, OpenWriteError};
use tantivy::directory::{Directory, DirectoryLock, FileHandle, Lock, OwnedBytes, WatchCallback, WatchHandle, WritePtr};

const MAGIC: &[u8; 8] = b"ORXIDX01";
const TRAILER_BYTES: usize = 16;
/// Files of a segment are about ten; a directory larger than this is not ours.
const DIRECTORY_BYTES_MAX: usize = 1 << 20;

/// Packs named files into one.
pub fn pack(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    let mut directory = Vec::new();
    put_u64(&mut directory, files.len() as u64);
    for (name, bytes) in files {
        put_bytes(&mut directory, name.as_bytes());
        for v in [out.len() as u64, bytes.len() as u64, u64::from(crc32fast::hash(bytes))] {
            put_u64(&mut directory, v);
        }
        out.extend_from_slice(bytes);
    }
    out.extend_from_slice(&directory);
    out.extend_from_slice(&(directory.len() as u32).to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(&directory).to_le_bytes());
    out.extend_from_slice(MAGIC);
    out
}

/// A packed file as tantivy's directory. Nothing can be written into it.
#[derive(Clone, Debug)]
pub struct Bundle {
    file: Arc<File>,
    entries: Arc<HashMap<PathBuf, Range<u64>>>,
}

impl Bundle {
    /// Verifies every byte, because a damaged index would answer with what isn't there.
    pub fn open(file: File) -> Result<Self, Damage> {
        let corrupt = |what, offset| Damage::Corrupt { what, offset };
        let len = file.metadata()?.len();
        let trailer_at = len.checked_sub(TRAILER_BYTES as u64).filter(|at| *at >= 8).ok_or(corrupt("file cut short", len))?;
        let mut trailer = [0; TRAILER_BYTES];
        file.read_exact_at(&mut trailer, trailer_at)?;
        let mut head = [0; 8];
        file.read_exact_at(&mut head, 0)?;
        if head != *MAGIC || trailer[8..] != *MAGIC {
            return Err(corrupt("missing magic", if head == *MAGIC { trailer_at } else { 0 }));
        }
        let word = |at: usize| u32::from_le_bytes(trailer[at..at + 4].try_into().expect("four bytes"));
        let directory_at = trailer_at.checked_sub(u64::from(word(0))).filter(|at| *at >= 8);
        let directory_at = directory_at.ok_or(corrupt("directory longer than the file", trailer_at))?;
        if word(0) as usize > DIRECTORY_BYTES_MAX {
            return Err(corrupt("directory too long", directory_at));
        }
        let mut directory = vec![0; word(0) as usize];
        file.read_exact_at(&mut directory, directory_at)?;
        if crc32fast::hash(&directory) != word(4) {
            return Err(corrupt("directory checksum differs", directory_at));
        }
        let mut reader = Reader::new(&directory);
        let mut entries = HashMap::new();
        for _ in 0..reader.count()? {
            let name = PathBuf::from(reader.string()?);
            let (from, bytes, crc) = (reader.u64()?, reader.u64()?, reader.u64()?);
            let to = from.checked_add(bytes).filter(|to| *to <= directory_at).ok_or(corrupt("entry outside the file", from))?;
            if u64::from(checksum(&file, from..to)?) != crc {
                return Err(corrupt("entry checksum differs", from));
            }
            entries.insert(name, from..to);
        }
        reader.done()?;
        Ok(Self { file: Arc::new(file), entries: Arc::new(entries) })
    }

    fn entry(&self, path: &Path) -> Result<Entry, OpenReadError> {
        let range = self.entries.get(path).ok_or_else(|| OpenReadError::FileDoesNotExist(path.to_owned()))?;
        Ok(Entry { file: self.file.clone(), range: range.clone() })
    }
}

fn checksum(file: &File, range: Range<u64>) -> io::Result<u32> {
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; 64 << 10];
    let mut at = range.start;
    while at < range.end {
        let n = buffer.len().min((range.end - at) as usize);
        file.read_exact_at(&mut buffer[..n], at)?;
        hasher.update(&buffer[..n]);
        at += n as u64;
    }
    Ok(hasher.finalize())
}

#[derive(Debug)]
struct Entry {
    file: Arc<File>,
    range: Range<u64>,
}

impl HasLen for Entry {
    fn len(&self) -> usize {
        (self.range.end - self.range.start) as usize
    }
}

impl FileHandle for Entry {
    fn read_bytes(&self, range: Range<usize>) -> io::Result<OwnedBytes> {
        if range.start > range.end || range.end > self.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "range outside the file"));
        }
        let mut buffer = vec![0; range.end - range.start];
        self.file.read_exact_at(&mut buffer, self.range.start + range.start as u64)?;
        Ok(OwnedBytes::new(buffer))
    }
}

fn read_only() -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, "a split is immutable")
}

impl Directory for Bundle {
    fn get_file_handle(&self, path: &Path) -> Result<Arc<dyn FileHandle>, OpenReadError> {
        Ok(Arc::new(self.entry(path)?))
    }
    fn delete(&self, path: &Path) -> Result<(), DeleteError> {
        Err(DeleteError::IoError { io_error: Arc::new(read_only()), filepath: path.to_owned() })
    }
    fn exists(&self, path: &Path) -> Result<bool, OpenReadError> {
        Ok(self.entries.contains_key(path))
    }
    fn open_write(&self, path: &Path) -> Result<WritePtr, OpenWriteError> {
        Err(OpenWriteError::IoError { io_error: Arc::new(read_only()), filepath: path.to_owned() })
    }
    fn atomic_read(&self, path: &Path) -> Result<Vec<u8>, OpenReadError> {
        let entry = self.entry(path)?;
        let bytes = entry.read_bytes(0..entry.len());
        let bytes = bytes.map_err(|e| OpenReadError::IoError { io_error: Arc::new(e), filepath: path.to_owned() })?;
        Ok(bytes.as_slice().to_vec())
    }
    fn atomic_write(&self, _path: &Path, _data: &[u8]) -> io::Result<()> {
        Err(read_only())
    }
    fn sync_directory(&self) -> io::Result<()> {
        Ok(())
    }
    /// Nobody writes, so nobody needs to be kept out.
    fn acquire_lock(&self, _lock: &Lock) -> Result<DirectoryLock, LockError> {
        Ok(DirectoryLock::from(Box::new(())))
    }
    fn watch(&self, _callback: WatchCallback) -> tantivy::Result<WatchHandle> {
        Ok(WatchHandle::empty())
    }
}
