use super::*;
use proptest::prelude::*;
use std::{fs, path::Path};

fn dir(path: &Path) -> Dir {
    Dir::open_ambient_dir(path, cap_std::ambient_authority()).unwrap()
}

type Records = Vec<(u64, Vec<u8>)>;

fn open_with(path: &Path, options: Options) -> (Wal, Recovery, Records) {
    let mut seen = Records::new();
    let (wal, recovery) = Wal::open(dir(path), options, |lsn, payload| {
        seen.push((lsn.0, payload.to_vec()));
        Ok(())
    })
    .unwrap();
    (wal, recovery, seen)
}

fn open(path: &Path) -> (Wal, Recovery, Records) {
    open_with(path, Options::new("test"))
}

fn payload(i: u64) -> Vec<u8> {
    (0..i * 7 % 40).map(|b| (b * i).to_le_bytes()[0]).collect()
}

fn append(wal: &Wal, payload: Vec<u8>) -> Result<Lsn> {
    wal.submit(payload)?.durable_blocking()
}

/// A folder with a log of `count` acknowledged records, and the records.
fn log_of(count: u64) -> (tempfile::TempDir, Records) {
    let folder = tempfile::tempdir().unwrap();
    let (wal, ..) = open(folder.path());
    let records = (1..=count).map(|i| (append(&wal, payload(i)).unwrap().0, payload(i))).collect();
    (folder, records)
}

fn only_file(folder: &Path) -> std::path::PathBuf {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(files.len(), 1);
    files.remove(0)
}

#[test]
fn what_was_acknowledged_is_there_after_reopening_and_numbers_go_on() {
    let (folder, records) = log_of(20);
    let (wal, recovery, seen) = open(folder.path());
    assert_eq!(seen, records);
    assert_eq!((recovery.records, recovery.torn_bytes, recovery.corruptions.len()), (20, 0, 0));
    assert_eq!(append(&wal, payload(3)).unwrap(), Lsn(21));
    drop(wal);
    assert_eq!(open(folder.path()).2.len(), 21);
}

#[test]
fn a_log_cut_at_any_byte_keeps_what_was_whole_and_shows_nothing_else() {
    let (folder, records) = log_of(6);
    let file = only_file(folder.path());
    let bytes = fs::read(&file).unwrap();
    for cut in 0..=bytes.len() {
        let copy = tempfile::tempdir().unwrap();
        fs::write(copy.path().join(file.file_name().unwrap()), &bytes[..cut]).unwrap();
        let (wal, recovery, seen) = open(copy.path());
        let mut end = FILE_HEADER_BYTES;
        let whole = records.iter().take_while(|(_, p)| {
            end += RECORD_HEADER_BYTES + p.len();
            end <= cut
        });
        assert_eq!(seen, whole.cloned().collect::<Vec<_>>(), "cut at {cut}");
        assert!(recovery.corruptions.is_empty(), "a torn end is no damage (cut at {cut})");
        // And it takes records again, with numbers never used before.
        let next = append(&wal, b"next".to_vec()).unwrap();
        assert!(seen.last().is_none_or(|(lsn, _)| *lsn < next.0));
        drop(wal);
        assert_eq!(open(copy.path()).2.last().unwrap().1, b"next", "cut at {cut}");
    }
}

#[test]
fn a_flipped_byte_costs_at_most_its_record_and_is_told() {
    let (folder, records) = log_of(6);
    let file = only_file(folder.path());
    let bytes = fs::read(&file).unwrap();
    for i in 0..bytes.len() {
        let copy = tempfile::tempdir().unwrap();
        let mut bad = bytes.clone();
        bad[i] ^= 0x20;
        fs::write(copy.path().join(file.file_name().unwrap()), &bad).unwrap();
        let (_wal, recovery, seen) = open(copy.path());
        assert!(seen.iter().all(|r| records.contains(r)), "byte {i}: a record that was never written");
        assert!(recovery.torn_bytes > 0 || !recovery.corruptions.is_empty(), "byte {i}: nothing told");
        if i >= FILE_HEADER_BYTES {
            assert!(seen.len() >= records.len() - 1, "byte {i}: {} records left", seen.len());
        }
    }
}

#[test]
fn a_full_disk_refuses_the_record_and_writing_resumes_when_there_is_space() {
    let folder = tempfile::tempdir().unwrap();
    let fault = Arc::new(DiskFault::default());
    let options = Options { fault: Some(fault.clone()), ..Options::new("test") };
    let (wal, ..) = open_with(folder.path(), options);
    append(&wal, b"before".to_vec()).unwrap();
    for left in [0, 10, RECORD_HEADER_BYTES as i64 + 2] {
        fault.bytes_left.store(left, SeqCst);
        assert!(matches!(append(&wal, b"refused".to_vec()), Err(Error::DiskFull)), "{left} bytes left");
        assert_eq!(wal.read_from(Lsn(1), 10, 1000).unwrap().len(), 1, "what is there stays readable");
    }
    fault.bytes_left.store(1 << 20, SeqCst);
    append(&wal, b"after".to_vec()).unwrap();
    drop(wal);
    let (_, recovery, seen) = open(folder.path());
    assert_eq!(seen.iter().map(|(_, p)| &p[..]).collect::<Vec<_>>(), [&b"before"[..], b"after"]);
    assert_eq!((recovery.torn_bytes, recovery.corruptions.len()), (0, 0));
}

#[test]
fn a_failed_sync_stops_the_log_for_good() {
    let folder = tempfile::tempdir().unwrap();
    let fault = Arc::new(DiskFault::default());
    let (wal, ..) = open_with(folder.path(), Options { fault: Some(fault.clone()), ..Options::new("test") });
    append(&wal, b"before".to_vec()).unwrap();
    fault.fails_sync.store(true, SeqCst);
    assert!(matches!(append(&wal, b"lost".to_vec()), Err(Error::Poisoned { .. })));
    fault.fails_sync.store(false, SeqCst);
    assert!(matches!(wal.check_alive(), Err(Error::Poisoned { .. })));
    let again = append(&wal, b"again".to_vec()).unwrap_err();
    assert!(matches!(&again, Error::Poisoned { .. }) && again.to_string().contains("check the disk"), "{again}");
    assert_eq!(wal.read_from(Lsn(0), 10, 1000).unwrap(), [(Lsn(1), Bytes::from_static(b"before"))]);
}

#[test]
fn old_files_are_removed_and_the_numbers_never_start_again() {
    let folder = tempfile::tempdir().unwrap();
    let options = || Options { file_bytes_max: 100, ..Options::new("test") };
    let (wal, ..) = open_with(folder.path(), options());
    for i in 1..=10 {
        append(&wal, vec![0; 60 + i]).unwrap();
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 10);
    wal.truncate_before(Lsn(8)).unwrap();
    assert_eq!(wal.oldest(), Lsn(8));
    assert_eq!(wal.read_from(Lsn(0), 2, 1000).unwrap().iter().map(|r| r.0.0).collect::<Vec<_>>(), [8, 9]);
    wal.truncate_before(Lsn(99)).unwrap();
    assert_eq!(wal.oldest(), Lsn(10), "the newest file stays");
    drop(wal);
    let (wal, ..) = open_with(folder.path(), Options { lsn_floor: Lsn(50), ..options() });
    assert_eq!(append(&wal, vec![]).unwrap(), Lsn(51));
    drop(wal);
    assert_eq!(open(folder.path()).2.len(), 2);
}

#[test]
fn a_cursor_reads_on_where_it_was_and_is_woken() {
    let (folder, records) = log_of(5);
    let (wal, ..) = open(folder.path());
    let mut wake = wal.wake();
    assert_eq!(*wake.borrow_and_update(), 5);
    append(&wal, b"six".to_vec()).unwrap();
    assert!(wake.has_changed().unwrap());
    let read =
        |from, max, bytes| wal.read_from(Lsn(from), max, bytes).unwrap().into_iter().map(|(lsn, _)| lsn.0).collect::<Vec<_>>();
    assert_eq!(read(5, 10, 1000), [5, 6]);
    assert_eq!(read(2, 3, 1000), [2, 3, 4]);
    assert_eq!(read(1, 10, 1), [1, 2][..1 + usize::from(records[0].1.is_empty())]);
    assert!(read(7, 10, 1000).is_empty());
}

#[test]
fn records_of_many_threads_share_syncs_and_none_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let (wal, ..) = open(folder.path());
    let waiting: Vec<_> = (0..500u64).map(|i| wal.submit(i.to_le_bytes().to_vec()).unwrap()).collect();
    for pending in waiting {
        pending.durable_blocking().unwrap();
    }
    assert!(wal.syncs() < 500, "{} syncs", wal.syncs());
    drop(wal);
    let seen = open(folder.path()).2;
    assert_eq!(seen, (0..500u64).map(|i| (i + 1, i.to_le_bytes().to_vec())).collect::<Vec<_>>());
}

#[test]
fn a_closed_log_refuses_records() {
    let (folder, _) = log_of(1);
    let (wal, ..) = open(folder.path());
    wal.close();
    assert!(matches!(wal.submit(vec![]), Err(Error::Closed)));
}

#[test]
fn bytes_of_a_client_never_pass_for_a_record() {
    // A payload that is itself a log with sound records of another file: damage makes the reader search through it.
    let (inner, _) = log_of(5);
    let hostile = fs::read(only_file(inner.path())).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (wal, ..) = open(folder.path());
    append(&wal, hostile).unwrap();
    append(&wal, b"sound".to_vec()).unwrap();
    drop(wal);
    let file = only_file(folder.path());
    let mut bytes = fs::read(&file).unwrap();
    bytes[FILE_HEADER_BYTES + 5] ^= 1; // the hostile record's length
    fs::write(&file, bytes).unwrap();
    let (_, recovery, seen) = open(folder.path());
    assert_eq!(seen, [(2, b"sound".to_vec())]);
    assert_eq!(recovery.corruptions.len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn random_bytes_never_panic_the_reader(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        has_header: bool,
        magic_at in proptest::collection::vec(0usize..400, 0..4),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let header = FileHeader::new(1);
        let mut all = if has_header { header.encode().to_vec() } else { Vec::new() };
        all.extend(bytes);
        for at in magic_at {
            if let Some(place) = all.get_mut(at.max(FILE_HEADER_BYTES)..at.max(FILE_HEADER_BYTES) + 4) {
                place.copy_from_slice(b"\xf5ORX");
            }
        }
        fs::write(folder.path().join(header.file_name()), &all).unwrap();
        let (wal, _, seen) = open(folder.path());
        prop_assert!(seen.is_empty());
        prop_assert!(append(&wal, b"works".to_vec()).is_ok());
    }
}
