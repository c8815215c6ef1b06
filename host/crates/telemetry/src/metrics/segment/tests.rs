use super::*;
use crate::{MetricBatch, metrics::matching::Compiled};
use model::{LabelSet, Matcher};
use proptest::prelude::*;
use std::{collections::BTreeMap, fs, path::Path};

const SERIES: usize = 12;
const SAMPLES: usize = 150;
type Content = BTreeMap<Box<[u8]>, Vec<(i64, u64)>>;

fn dir(path: &Path) -> Arc<Dir> {
    Arc::new(Dir::open_ambient_dir(path, cap_std::ambient_authority()).unwrap())
}

fn content() -> Content {
    (0..SERIES)
        .map(|i| {
            let mut batch = MetricBatch::new();
            batch.series(&LabelSet::from_pairs([("__name__", "m".to_owned()), ("i", format!("{i:02}"))]), []);
            let value = |j: usize| ((i * 31 + j * 7) % 50) as f64 / 10.0;
            (batch.labels[..].into(), (0..SAMPLES).map(|j| (j as i64 * 10, value(j).to_bits())).collect())
        })
        .collect()
}

fn write(path: &Path) -> Segment {
    let footer = Footer::new(TenantId::default_tenant(), 0..10_000, 7, 42, (1, 2));
    let mut writer = SegmentWriter::create(dir(path), footer).unwrap();
    for (labels, samples) in content() {
        let (times, values): (Vec<_>, Vec<_>) = samples.iter().map(|(t, v)| (*t, f64::from_bits(*v))).unzip();
        writer.add(&labels, &times, &values).unwrap();
    }
    writer.finish().unwrap()
}

fn reopen(path: &Path, note: &mut dyn FnMut(Corruption)) -> Result<Segment> {
    Segment::open(dir(path), &TenantId::default_tenant(), "0_0000000000000007.seg", note)
}

fn read(segment: &Segment, note: &mut dyn FnMut(Corruption)) -> Content {
    let loaded = segment.load(note).unwrap();
    let mut reader = segment.reader().unwrap();
    let mut all = Content::new();
    for id in loaded.index.select(&[]) {
        let Some(series) = &loaded.series[id as usize] else { continue };
        let mut columns = Columns::default();
        reader.read_into(series, i64::MIN, i64::MAX, &mut columns, note).unwrap();
        all.insert(series.labels.clone(), columns.times.into_iter().zip(columns.values.iter().map(|v| v.to_bits())).collect());
    }
    all
}

fn quiet(c: Corruption) {
    panic!("unexpected damage: {c:?}");
}

#[test]
fn a_segment_reads_back_with_all_it_says_of_itself() {
    let folder = tempfile::tempdir().unwrap();
    let written = write(folder.path()).footer.clone();
    let segment = reopen(folder.path(), &mut quiet).unwrap();
    assert_eq!(segment.footer, written);
    assert_eq!((written.samples, written.series, written.lsn_max), ((SERIES * SAMPLES) as u64, SERIES as u32, 42));
    assert!(written.pages.len() > 1, "several pages");
    assert_eq!(read(&segment, &mut quiet), content());
    segment.verify(&mut quiet).unwrap();
    let one = segment.load(&mut quiet).unwrap().index.select(&Compiled::all(&[Matcher::equal("i", "03")]).unwrap());
    assert_eq!(one.iter().collect::<Vec<_>>(), [3]);
}

#[test]
fn each_flipped_byte_is_told_by_file_and_costs_at_most_its_block() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let path = folder.path().join("0_0000000000000007.seg");
    let bytes = fs::read(&path).unwrap();
    let whole = content();
    let page_series_max =
        reopen(folder.path(), &mut quiet).unwrap().footer.pages.iter().map(|p| p.series).max().unwrap() as usize;
    for i in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[i] ^= 0x40;
        fs::write(&path, &bad).unwrap();
        let mut notes = Vec::new();
        let segment = reopen(folder.path(), &mut |c| notes.push(c)).unwrap();
        segment.verify(&mut |c| notes.push(c)).unwrap();
        assert!(!notes.is_empty(), "byte {i} of {} was not noticed", bytes.len());
        for note in &notes {
            assert_eq!(note.file, "metrics/segments/default/0_0000000000000007.seg");
            assert!(note.offset <= bytes.len() as u64);
        }
        let left = read(&segment, &mut |_| {});
        let mut lost = Vec::new();
        for (labels, samples) in &whole {
            let left = left.get(labels).map_or(&[][..], |s| s);
            assert!(left.iter().all(|s| samples.contains(s)), "byte {i}: a sample that was never written");
            if left.len() < samples.len() {
                lost.push(samples.len() - left.len());
            }
        }
        let is_chunk = lost.len() <= 1 && lost.iter().all(|n| *n <= super::super::chunk::SAMPLES);
        assert!(is_chunk || lost.len() <= page_series_max, "byte {i} cost {lost:?}");
    }
}

#[test]
fn a_segment_cut_anywhere_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let path = folder.path().join("0_0000000000000007.seg");
    let bytes = fs::read(&path).unwrap();
    for cut in (0..bytes.len()).step_by(17) {
        fs::write(&path, &bytes[..cut]).unwrap();
        let error = reopen(folder.path(), &mut |_| {}).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "cut at {cut}: {error}");
    }
}

#[test]
fn a_missing_or_bad_index_is_rebuilt() {
    let folder = tempfile::tempdir().unwrap();
    let segment = write(folder.path());
    let path = folder.path().join("0_0000000000000007.idx");
    let good = fs::read(&path).unwrap();
    let mut bad = good.clone();
    bad[20] ^= 1;
    for damage in [None, Some(bad), Some(Vec::new())] {
        match damage {
            Some(bytes) => fs::write(&path, bytes).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        assert_eq!(read(&segment, &mut quiet), content());
        assert_eq!(fs::read(&path).unwrap(), good);
    }
}

#[test]
fn a_segment_in_a_strangers_folder_or_under_another_name_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let stranger = TenantId::new("stranger").unwrap();
    let error = Segment::open(dir(folder.path()), &stranger, "0_0000000000000007.seg", &mut quiet).unwrap_err().to_string();
    assert!(error.contains("belongs to tenant default"), "{error}");
    fs::rename(folder.path().join("0_0000000000000007.seg"), folder.path().join("0_0000000000000008.seg")).unwrap();
    let error = Segment::open(dir(folder.path()), &TenantId::default_tenant(), "0_0000000000000008.seg", &mut quiet).unwrap_err();
    assert!(error.to_string().contains("renamed"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn random_bytes_never_panic_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..300), count in 0u32..5) {
        let _ = decode_page(&bytes, count);
        let _ = Footer::decode(&bytes);
        // A header that checks out before garbage.
        let header = Header {
            footer_offset: HEADER_BYTES as u64,
            footer_length: bytes.len() as u64 / 2,
            footer_crc: crc32fast::hash(&bytes[..bytes.len() / 2]),
            file_bytes: (HEADER_BYTES + bytes.len()) as u64,
        };
        let mut file = header.encode().to_vec();
        file.extend(bytes);
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("0_0000000000000007.seg"), file).unwrap();
        let opened = reopen(folder.path(), &mut |_| {});
        prop_assert!(opened.is_err());
    }
}
