//! The write-ahead log: numbered records in files of one folder, group commit, an append resolves after fdatasync.
//!
//! Bytes and recovery: `docs/formats/wal.md`. In short: a file is a 32-byte header (with a salt) and records, each
//! `magic, length, lsn, crc` and the payload. What can't be read at the end of the newest file is a torn write, was
//! never acknowledged and is cut off. What can't be read elsewhere is damage: it is reported, and reading goes on at
//! the next record that checks out. After a failed sync the log stops for good: the kernel may have dropped the pages
//! and would report the next sync as a success.

mod record;

use crate::{Corruption, Error, Result};
use bytes::Bytes;
use cap_std::fs::{Dir, OpenOptions};
use parking_lot::{Condvar, Mutex, RwLock};
use record::{FILE_HEADER_BYTES, FileHeader, RECORD_HEADER_BYTES};
use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    thread::JoinHandle,
};
use tokio::sync::{oneshot, watch};

/// A record's number in its log, from 1. Later records have higher numbers; a gap means nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lsn(pub u64);

/// A record larger than this is refused: one request, after limits, is far smaller.
pub const RECORD_BYTES_MAX: usize = 256 << 20;

#[derive(Clone, Debug)]
pub struct Options {
    /// For messages: `metrics`, `logs`.
    pub name: &'static str,
    /// A new file is begun beyond this, so that old ones can be removed.
    pub file_bytes_max: u64,
    /// Payload bytes waiting for the disk; beyond it appends are [`Error::Busy`].
    pub queue_bytes_max: usize,
    /// Numbers start above this, even if the folder was emptied: segments remember numbers.
    pub lsn_floor: Lsn,
    /// Makes the disk fail, for tests.
    pub fault: Option<Arc<DiskFault>>,
}

impl Options {
    pub fn new(name: &'static str) -> Self {
        Self { name, file_bytes_max: 32 << 20, queue_bytes_max: 64 << 20, lsn_floor: Lsn(0), fault: None }
    }
}

/// A disk that fails on demand: full after so many bytes, or unable to sync.
#[derive(Debug)]
pub struct DiskFault {
    pub bytes_left: AtomicI64,
    pub fails_sync: AtomicBool,
}

impl Default for DiskFault {
    fn default() -> Self {
        Self { bytes_left: AtomicI64::new(i64::MAX), fails_sync: AtomicBool::new(false) }
    }
}

/// What opening a log found.
#[derive(Clone, Debug, Default)]
pub struct Recovery {
    pub records: u64,
    pub last: Lsn,
    /// Bytes of an unfinished, never acknowledged write that were cut off.
    pub torn_bytes: u64,
    /// Damage inside the log; the records there are lost.
    pub corruptions: Vec<Corruption>,
}

/// The log. Clones share it.
#[derive(Clone, Debug)]
pub struct Wal(Arc<Owner>);

/// An append that is on its way to the disk.
#[derive(Debug)]
pub struct Pending {
    pub lsn: Lsn,
    done: oneshot::Receiver<Result<()>>,
}

impl Pending {
    /// Waits for the sync.
    pub async fn durable(self) -> Result<Lsn> {
        self.done.await.unwrap_or(Err(Error::Closed)).map(|()| self.lsn)
    }
    /// The same for a plain thread.
    pub fn durable_blocking(self) -> Result<Lsn> {
        self.done.blocking_recv().unwrap_or(Err(Error::Closed)).map(|()| self.lsn)
    }
}

impl Wal {
    /// Opens or creates the log in `dir` and shows each record to `visit`, in order. Blocks.
    pub fn open(dir: Dir, options: Options, mut visit: impl FnMut(Lsn, &[u8]) -> Result<()>) -> Result<(Self, Recovery)> {
        let (files, recovery) = recover(&dir, &options, &mut visit)?;
        let next = recovery.last.0.max(options.lsn_floor.0) + 1;
        let durable = next - 1;
        let shared = Arc::new(Shared {
            dir,
            queue: Mutex::new(Queue { next, jobs: VecDeque::new(), is_closed: false }),
            wake: Condvar::new(),
            queued_bytes: AtomicUsize::new(0),
            disk_bytes: AtomicU64::new(files.iter().map(|f| f.bytes).sum()),
            syncs: AtomicU64::new(0),
            files: RwLock::new(files),
            poisoned: Mutex::new(None),
            durable: watch::Sender::new(durable),
            options,
        });
        let writer = Writer { shared: shared.clone(), current: None };
        let thread = std::thread::Builder::new()
            .name(format!("wal-{}", shared.options.name))
            .spawn(move || writer.run())
            .map_err(|e| Error::io("starting the log's thread", e))?;
        Ok((Self(Arc::new(Owner { shared, thread: Mutex::new(Some(thread)) })), recovery))
    }

    /// Queues a record; the order of calls is the order of numbers. Never blocks on the disk.
    pub fn submit(&self, payload: Vec<u8>) -> Result<Pending> {
        let shared = &self.0.shared;
        if payload.len() > RECORD_BYTES_MAX {
            return Err(Error::TooLarge(format!("a record of {} bytes; at most {RECORD_BYTES_MAX} fit", payload.len())));
        }
        shared.check_alive()?;
        let mut queue = shared.queue.lock();
        if queue.is_closed {
            return Err(Error::Closed);
        }
        // One record always passes an empty queue, whatever its size.
        if shared.queued_bytes.load(SeqCst) > 0
            && shared.queued_bytes.load(SeqCst) + payload.len() > shared.options.queue_bytes_max
        {
            return Err(Error::Busy { retry_after_ms: 500 });
        }
        shared.queued_bytes.fetch_add(payload.len(), SeqCst);
        let lsn = Lsn(queue.next);
        queue.next += 1;
        let (tell, done) = oneshot::channel();
        queue.jobs.push_back(Job { lsn, payload, tell });
        shared.wake.notify_one();
        Ok(Pending { lsn, done })
    }

    /// Appends a record and resolves once it is synced. Dropping the future doesn't take the record back.
    pub async fn append(&self, payload: Vec<u8>) -> Result<Lsn> {
        self.submit(payload)?.durable().await
    }

    /// Durable records from `from` on: at most `records_max`, and no more after `bytes_max` is passed. Blocks.
    pub fn read_from(&self, from: Lsn, records_max: usize, bytes_max: usize) -> Result<Vec<(Lsn, Bytes)>> {
        let shared = &self.0.shared;
        let durable = *shared.durable.borrow();
        let mut out = Vec::new();
        let mut bytes = 0;
        let files = shared.files.read();
        for file in files.iter() {
            let begin = file.records.partition_point(|(lsn, _)| *lsn < from.0);
            let wanted: Vec<_> = file.records[begin..].iter().take_while(|(lsn, _)| *lsn <= durable).collect();
            if wanted.is_empty() {
                continue;
            }
            let handle = shared.open_file(&file.header.file_name())?;
            for (lsn, offset) in wanted {
                if out.len() >= records_max || bytes >= bytes_max {
                    return Ok(out);
                }
                let payload = record::read_at(&handle, &file.header, *lsn, u64::from(*offset))?;
                bytes += payload.len();
                out.push((Lsn(*lsn), payload));
            }
        }
        Ok(out)
    }

    /// Removes files whose records all lie before `lsn`. The newest file stays. Blocks.
    pub fn truncate_before(&self, lsn: Lsn) -> Result<()> {
        let shared = &self.0.shared;
        let mut files = shared.files.write();
        let mut removed = false;
        while files.len() > 1 && files[1].header.first_lsn <= lsn.0 {
            let name = files[0].header.file_name();
            shared.dir.remove_file(&name).map_err(|e| Error::io(format!("removing {name}"), e))?;
            shared.disk_bytes.fetch_sub(files[0].bytes, SeqCst);
            files.remove(0);
            removed = true;
        }
        drop(files);
        if removed { shared.sync_dir() } else { Ok(()) }
    }

    /// Fails once the log has stopped for good: a failed sync is never tried again.
    pub fn check_alive(&self) -> Result<()> {
        self.0.shared.check_alive()
    }

    /// The newest synced record.
    pub fn durable(&self) -> Lsn {
        Lsn(*self.0.shared.durable.borrow())
    }
    /// The oldest record still in the log, or the next one if there is none.
    pub fn oldest(&self) -> Lsn {
        let first = self.0.shared.files.read().iter().find_map(|f| f.records.first().map(|(lsn, _)| *lsn));
        Lsn(first.unwrap_or_else(|| self.durable().0 + 1))
    }
    /// Changes with each commit, to the newest synced number.
    pub fn wake(&self) -> watch::Receiver<u64> {
        self.0.shared.durable.subscribe()
    }
    pub fn disk_bytes(&self) -> u64 {
        self.0.shared.disk_bytes.load(SeqCst)
    }
    pub fn syncs(&self) -> u64 {
        self.0.shared.syncs.load(SeqCst)
    }

    /// Writes out what is queued, then refuses further records. Blocks.
    pub fn close(&self) {
        self.0.close();
    }
}

#[derive(Debug)]
struct Owner {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Owner {
    fn close(&self) {
        self.shared.queue.lock().is_closed = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.lock().take() {
            // A panic of the writer was reported by its own thread; whoever waited got `Closed`.
            let _ = thread.join();
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.close();
    }
}

#[derive(Debug)]
struct Shared {
    dir: Dir,
    options: Options,
    queue: Mutex<Queue>,
    wake: Condvar,
    queued_bytes: AtomicUsize,
    disk_bytes: AtomicU64,
    syncs: AtomicU64,
    files: RwLock<Vec<LogFile>>,
    poisoned: Mutex<Option<String>>,
    durable: watch::Sender<u64>,
}

#[derive(Debug)]
struct Queue {
    next: u64,
    jobs: VecDeque<Job>,
    is_closed: bool,
}

#[derive(Debug)]
struct Job {
    lsn: Lsn,
    payload: Vec<u8>,
    tell: oneshot::Sender<Result<()>>,
}

/// One file, with where each of its records begins.
#[derive(Debug)]
struct LogFile {
    header: FileHeader,
    bytes: u64,
    records: Vec<(u64, u32)>,
}

impl Shared {
    fn check_alive(&self) -> Result<()> {
        match &*self.poisoned.lock() {
            Some(reason) => Err(Error::Poisoned { log: self.options.name.into(), reason: reason.clone() }),
            None => Ok(()),
        }
    }

    fn open_file(&self, name: &str) -> Result<File> {
        self.dir.open(name).map(cap_std::fs::File::into_std).map_err(|e| Error::io(format!("opening {name}"), e))
    }

    fn sync_dir(&self) -> Result<()> {
        sync_dir(&self.dir)
    }

    fn poison(&self, reason: &io::Error) -> Error {
        tracing::error!(log = self.options.name, %reason, "log stopped: what it acknowledged is safe, nothing more is taken");
        let reason = reason.to_string();
        self.poisoned.lock().get_or_insert_with(|| reason.clone());
        Error::Poisoned { log: self.options.name.into(), reason }
    }

    fn write(&self, mut file: &File, bytes: &[u8]) -> io::Result<()> {
        if let Some(fault) = &self.options.fault {
            let left = fault.bytes_left.load(SeqCst);
            let written = i64::try_from(bytes.len()).unwrap_or(i64::MAX).min(left.max(0));
            fault.bytes_left.fetch_sub(written, SeqCst);
            let written = usize::try_from(written).unwrap_or(0);
            file.write_all(&bytes[..written])?;
            return if written < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) };
        }
        file.write_all(bytes)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        self.syncs.fetch_add(1, SeqCst);
        if self.options.fault.as_ref().is_some_and(|f| f.fails_sync.load(SeqCst)) {
            return Err(io::Error::other("injected sync failure"));
        }
        file.sync_data()
    }
}

/// Makes creations, renames and removals in `dir` durable.
pub(crate) fn sync_dir(dir: &Dir) -> Result<()> {
    let handle = dir.open(".").map_err(|e| Error::io("opening a folder to sync it", e))?;
    handle.sync_all().map_err(|e| Error::io("syncing a folder", e))
}

/// The thread that alone writes.
struct Writer {
    shared: Arc<Shared>,
    current: Option<Current>,
}

struct Current {
    file: File,
    header: FileHeader,
    bytes: u64,
}

/// Payload bytes committed with one sync at most; a bigger group only makes the first wait longer.
const GROUP_BYTES_MAX: usize = 8 << 20;

impl Writer {
    fn run(mut self) {
        loop {
            let mut group = Vec::new();
            {
                let mut queue = self.shared.queue.lock();
                while queue.jobs.is_empty() {
                    if queue.is_closed {
                        return;
                    }
                    self.shared.wake.wait(&mut queue);
                }
                let mut bytes = 0;
                while bytes < GROUP_BYTES_MAX
                    && let Some(job) = queue.jobs.pop_front()
                {
                    bytes += job.payload.len();
                    group.push(job);
                }
            }
            let result = self.commit(&group);
            for job in group {
                self.shared.queued_bytes.fetch_sub(job.payload.len(), SeqCst);
                let answer = match &result {
                    Ok(()) => Ok(()),
                    Err(Error::DiskFull) => Err(Error::DiskFull),
                    Err(e) => Err(Error::Poisoned { log: self.shared.options.name.into(), reason: e.to_string() }),
                };
                // The one who asked may have gone; the record stays.
                let _ = job.tell.send(answer);
            }
        }
    }

    /// All of the group or nothing of it.
    fn commit(&mut self, group: &[Job]) -> Result<()> {
        self.shared.check_alive()?;
        if self.current.as_ref().is_some_and(|c| c.bytes >= self.shared.options.file_bytes_max) {
            self.current = None;
        }
        let first = group.first().map_or(0, |job| job.lsn.0);
        let current = match &mut self.current {
            Some(current) => current,
            none => none.insert(begin_file(&self.shared, first)?),
        };
        let mut buffer = Vec::with_capacity(group.iter().map(|j| j.payload.len() + RECORD_HEADER_BYTES).sum());
        let mut records = Vec::with_capacity(group.len());
        for job in group {
            let offset = current.bytes + buffer.len() as u64;
            records.push((job.lsn.0, u32::try_from(offset).expect("a file ends at most a group and a record after its bound")));
            record::encode(&mut buffer, &current.header, job.lsn.0, &job.payload);
        }
        if let Err(e) = self.shared.write(&current.file, &buffer) {
            // Nothing of the group was synced or acknowledged: cut it off and go on as before.
            if let Err(e) = current.file.set_len(current.bytes).and_then(|()| seek_to(&current.file, current.bytes)) {
                return Err(self.shared.poison(&e));
            }
            let error = Error::io(format!("writing {}", current.header.file_name()), e);
            return match error {
                Error::DiskFull => Err(error),
                Error::Io { source, .. } => Err(self.shared.poison(&source)),
                other => Err(other),
            };
        }
        if let Err(e) = self.shared.sync(&current.file) {
            return Err(self.shared.poison(&e));
        }
        current.bytes += buffer.len() as u64;
        self.shared.disk_bytes.fetch_add(buffer.len() as u64, SeqCst);
        {
            let mut files = self.shared.files.write();
            let file = files.last_mut().expect("the current file is in the list until a newer one is");
            file.bytes = current.bytes;
            file.records.extend(records);
        }
        let last = group.last().map_or(first, |job| job.lsn.0);
        self.shared.durable.send_replace(last);
        Ok(())
    }
}

fn seek_to(mut file: &File, offset: u64) -> io::Result<()> {
    io::Seek::seek(&mut file, io::SeekFrom::Start(offset)).map(drop)
}

fn begin_file(shared: &Shared, first_lsn: u64) -> Result<Current> {
    let header = FileHeader::new(first_lsn);
    let name = header.file_name();
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    let fail = |e| Error::io(format!("creating {name}"), e);
    let file = shared.dir.open_with(&name, &options).map_err(fail)?.into_std();
    if let Err(e) = shared.write(&file, &header.encode()) {
        // A file without a whole header is dropped at the next start too; this is only tidier.
        let _ = shared.dir.remove_file(&name);
        return Err(match fail(e) {
            Error::Io { source, .. } => shared.poison(&source),
            other => other,
        });
    }
    shared.sync_dir()?;
    shared.disk_bytes.fetch_add(FILE_HEADER_BYTES as u64, SeqCst);
    let bytes = FILE_HEADER_BYTES as u64;
    let mut files = shared.files.write();
    // A file that was begun and never got a record has the same name; it was just overwritten.
    files.retain(|f| f.header.first_lsn != first_lsn);
    files.push(LogFile { header: header.clone(), bytes, records: Vec::new() });
    drop(files);
    Ok(Current { file, header, bytes })
}

/// Reads all files in order; cuts the torn end off the newest.
fn recover(dir: &Dir, options: &Options, visit: &mut impl FnMut(Lsn, &[u8]) -> Result<()>) -> Result<(Vec<LogFile>, Recovery)> {
    let listing = |e| Error::io(format!("listing the log {}", options.name), e);
    let mut names = Vec::new();
    for entry in dir.entries().map_err(listing)? {
        let name = entry.map_err(listing)?.file_name().to_string_lossy().into_owned();
        if let Some(first) = FileHeader::first_lsn_of(&name) {
            names.push((first, name));
        }
    }
    names.sort();
    let mut recovery = Recovery::default();
    let mut files = Vec::new();
    let newest = names.len().saturating_sub(1);
    for (i, (_, name)) in names.iter().enumerate() {
        let bytes = dir.read(name).map_err(|e| Error::io(format!("reading {name}"), e))?;
        let Some(header) = FileHeader::decode(&bytes).filter(|h| h.file_name() == *name) else {
            if i == newest && bytes.len() < FILE_HEADER_BYTES {
                // The host died while it began this file; nothing in it was acknowledged.
                recovery.torn_bytes += bytes.len() as u64;
                dir.remove_file(name).map_err(|e| Error::io(format!("removing {name}"), e))?;
            } else {
                note(&mut recovery, options, name, 0, "the file's header doesn't check out; its records are lost");
                // Set aside, not removed: someone may want to look.
                dir.rename(name, dir, format!("{name}.corrupt")).map_err(|e| Error::io(format!("renaming {name}"), e))?;
            }
            continue;
        };
        let mut file = LogFile { header, bytes: bytes.len() as u64, records: Vec::new() };
        // Also an empty file says how far the numbers had come.
        recovery.last = recovery.last.max(Lsn(file.header.first_lsn.saturating_sub(1)));
        let mut at = FILE_HEADER_BYTES;
        while at < bytes.len() {
            match record::decode(&bytes, at, &file.header, recovery.last.0) {
                Some((lsn, payload, end)) => {
                    visit(Lsn(lsn), payload)?;
                    recovery.records += 1;
                    recovery.last = Lsn(lsn);
                    file.records.push((lsn, u32::try_from(at).expect("files are far smaller than 4 GiB")));
                    at = end;
                }
                None => match record::find_next(&bytes, at + 1, &file.header, recovery.last.0) {
                    Some(next) => {
                        note(&mut recovery, options, name, at as u64, &format!("{} bytes of records lost", next - at));
                        at = next;
                    }
                    None if i == newest => {
                        recovery.torn_bytes += (bytes.len() - at) as u64;
                        file.bytes = at as u64;
                        break;
                    }
                    None => {
                        note(&mut recovery, options, name, at as u64, "the rest of the file is unreadable");
                        break;
                    }
                },
            }
        }
        if i == newest {
            // A killed host leaves records that were written but never synced. They were just replayed, so make them last.
            let handle =
                dir.open_with(name, OpenOptions::new().write(true)).map_err(|e| Error::io(format!("opening {name}"), e))?;
            handle.set_len(file.bytes).and_then(|()| handle.sync_all()).map_err(|e| Error::io(format!("cutting {name}"), e))?;
        }
        files.push(file);
    }
    if recovery.torn_bytes > 0 {
        tracing::warn!(
            log = options.name,
            bytes = recovery.torn_bytes,
            "cut off an unfinished write that was never acknowledged"
        );
    }
    sync_dir(dir)?;
    Ok((files, recovery))
}

fn note(recovery: &mut Recovery, options: &Options, file: &str, offset: u64, reason: &str) {
    tracing::error!(log = options.name, file, offset, reason, "log is damaged");
    recovery.corruptions.push(Corruption { file: format!("{}/wal/{file}", options.name), offset, reason: reason.into() });
}

#[cfg(test)]
mod tests;
