use super::*;
use crate::Error;
use model::{ManualClock, MatchOp, MetricKind, STALE_NAN_BITS};
use proptest::prelude::*;
use std::{collections::BTreeMap, fs, path::Path, sync::atomic::Ordering::SeqCst};

/// Within a block, ten minutes after its begin.
const T0: i64 = 7_200_000 * 236_111 + 600_000;
const HOUR: i64 = 3_600_000;

struct Store {
    metrics: Metrics,
    clock: Arc<ManualClock>,
}

fn open_with(path: &Path, config: MetricsConfig) -> Store {
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(T0)));
    let dir = Dir::open_ambient_dir(path, cap_std::ambient_authority()).unwrap();
    Store { metrics: Metrics::open(dir, config, clock.clone(), None).unwrap(), clock }
}

fn open(path: &Path) -> Store {
    open_with(path, MetricsConfig::default())
}

fn tenant() -> TenantId {
    TenantId::default_tenant()
}

fn batch(series: &[(&str, &[(i64, f64)])]) -> MetricBatch {
    let mut batch = MetricBatch::new();
    for (labels, samples) in series {
        batch.label("__name__", "m");
        labels.split(',').filter_map(|l| l.split_once('=')).for_each(|(n, v)| batch.label(n, v));
        samples.iter().for_each(|(t, v)| batch.sample(T0 + t, *v));
        batch.end_series();
    }
    batch
}

type Content = Vec<(String, Vec<(i64, u64)>)>;

impl Store {
    async fn append(&self, series: &[(&str, &[(i64, f64)])]) -> Appended {
        self.metrics.append(&tenant(), batch(series)).await.unwrap()
    }

    async fn read_of(&self, tenant: &TenantId, matchers: &[Matcher]) -> Content {
        let all = self.metrics.select(tenant, matchers, i64::MIN, i64::MAX).await.unwrap();
        let samples = |s: &SeriesData| s.times.iter().map(|t| t - T0).zip(s.values.iter().map(|v| v.to_bits())).collect();
        all.iter().map(|s| (s.labels.to_string(), samples(s))).collect()
    }

    async fn read(&self) -> Content {
        self.read_of(&tenant(), &[]).await
    }
}

fn expect(series: &[(&str, &[(i64, f64)])]) -> Content {
    series.iter().map(|(l, s)| ((*l).to_owned(), s.iter().map(|(t, v)| (*t, v.to_bits())).collect())).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn files(path: &Path, extension: &str) -> Vec<std::path::PathBuf> {
    let mut all: Vec<_> = fs::read_dir(path)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == extension))
        .collect();
    all.sort();
    all
}

#[tokio::test]
async fn acknowledged_samples_survive_a_kill_a_flush_and_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let appended = store.append(&[("a=1", &[(0, 1.0), (10, 2.0)]), ("a=2", &[(0, 3.0)])]).await;
    assert_eq!((appended.stored, appended.rejected), (3, 0));
    let all = expect(&[(r#"m{a="1"}"#, &[(0, 1.0), (10, 2.0)]), (r#"m{a="2"}"#, &[(0, 3.0)])]);
    assert_eq!(store.read().await, all);

    // The folder as a kill would leave it.
    let killed = tempfile::tempdir().unwrap();
    copy(folder.path(), killed.path());
    assert_eq!(open(killed.path()).read().await, all);

    store.metrics.flush().await.unwrap();
    assert_eq!(store.read().await, all);
    assert_eq!((store.metrics.stats().segments, store.metrics.stats().head_samples), (1, 0));
    drop(store);
    let store = open(folder.path());
    assert_eq!(store.metrics.stats().head_samples, 0, "the log's records are known to be in the segment");
    assert_eq!(store.read().await, all);
    store.append(&[("a=1", &[(20, 5.0)])]).await;
    assert_eq!(store.read().await[0].1.len(), 3);
    store.metrics.close().await;
    assert!(matches!(store.metrics.append(&tenant(), batch(&[("a=1", &[(30, 1.0)])])).await, Err(Error::Closed)));
}

#[tokio::test]
async fn a_log_cut_at_any_byte_loses_nothing_acknowledged_before_the_cut() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let mut ends = vec![0];
    for i in 0..4i64 {
        store.append(&[("a=1", &[(i, i as f64)]), ("a=2", &[(i, -1.0)])]).await;
        ends.push(fs::metadata(&files(&folder.path().join("wal"), "wal")[0]).unwrap().len());
    }
    let killed = tempfile::tempdir().unwrap();
    copy(folder.path(), killed.path());
    let file = files(&killed.path().join("wal"), "wal").remove(0);
    let bytes = fs::read(&file).unwrap();
    for cut in (0..=bytes.len()).rev().step_by(3) {
        fs::write(&file, &bytes[..cut]).unwrap();
        let store = open(killed.path());
        let acknowledged = ends.iter().filter(|end| **end > 0 && **end <= cut as u64).count();
        let read = store.read().await;
        assert_eq!(read.len(), if acknowledged > 0 { 2 } else { 0 }, "cut at {cut}");
        for (_, samples) in read {
            assert_eq!(
                samples.iter().map(|s| s.0).collect::<Vec<_>>(),
                (0..acknowledged as i64).collect::<Vec<_>>(),
                "cut at {cut}"
            );
        }
        drop(store);
    }
}

#[tokio::test]
async fn late_samples_are_merged_and_the_last_write_of_a_time_counts() {
    let folder = tempfile::tempdir().unwrap();
    let stale = f64::from_bits(STALE_NAN_BITS);
    let store = open(folder.path());
    store.append(&[("a=1", &[(100, 1.0), (50, 0.5), (100, 1.5)])]).await;
    let all = |last: f64| expect(&[(r#"m{a="1"}"#, &[(-3 * HOUR, 9.0), (20, 0.2), (50, 0.5), (100, last), (200, stale)])]);
    store.metrics.flush().await.unwrap();
    store.append(&[("a=1", &[(20, 0.2), (100, 2.0), (200, stale), (-3 * HOUR, 9.0)])]).await;
    assert_eq!(store.read().await, all(2.0), "head over segment");
    store.metrics.flush().await.unwrap();
    assert_eq!(store.read().await, all(2.0), "later segment over earlier");
    store.append(&[("a=1", &[(100, 3.0)])]).await;
    drop(store);
    let store = open(folder.path());
    assert_eq!(store.read().await, all(3.0), "replayed head over segments");
    store.clock.advance_millis(5 * HOUR);
    store.metrics.flush().await.unwrap();
    let stats = store.metrics.stats();
    assert_eq!((stats.segments, stats.compactions), (2, 1), "one segment a block is left");
    assert_eq!(store.read().await, all(3.0), "merged");
    drop(store);
    assert_eq!(open(folder.path()).read().await, all(3.0));
}

#[tokio::test]
async fn a_crash_between_merging_and_removing_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    for i in 0..3 {
        store.append(&[("a=1", &[(i, i as f64), (100, i as f64)])]).await;
        store.metrics.flush().await.unwrap();
    }
    let all = store.read().await;
    let aside = tempfile::tempdir().unwrap();
    copy(&folder.path().join("segments"), aside.path());
    store.clock.advance_millis(5 * HOUR);
    store.metrics.flush().await.unwrap();
    assert_eq!(store.read().await, all);
    drop(store);
    copy(aside.path(), &folder.path().join("segments"));
    let segments = folder.path().join("segments/default");
    fs::write(segments.join("123_0000000000000099.tmp"), b"half").unwrap();
    assert_eq!(files(&segments, "seg").len(), 4);
    let store = open(folder.path());
    assert_eq!(store.read().await, all);
    drop(store);
    assert_eq!(files(&segments, "seg").len(), 1, "the merged ones are removed");
    assert!(files(&segments, "tmp").is_empty());
}

#[tokio::test]
async fn what_breaks_a_limit_is_refused_with_the_reason_and_the_rest_is_stored() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let mut bad = batch(&[("a=ok", &[(0, 1.0)])]);
    let long_value = "v".repeat(limits::LABEL_VALUE_BYTES_MAX + 1);
    let long_name = "n".repeat(limits::LABEL_NAME_BYTES_MAX + 1);
    let many: Vec<_> = (0..=limits::LABELS_MAX).map(|i| (format!("l{i}"), "x".to_owned())).collect();
    let pair = |n: &str, v: &str| vec![("__name__".to_owned(), "m".to_owned()), (n.to_owned(), v.to_owned())];
    for labels in [
        vec![("a".into(), "x".into())],
        pair("l", &long_value),
        pair(&long_name, "x"),
        pair("", "x"),
        pair("__name__", "twice"),
        many,
    ] {
        labels.iter().for_each(|(n, v): &(String, String)| bad.label(n, v));
        bad.sample(T0, 1.0);
        bad.end_series();
    }
    bad.label("__name__", "times");
    for t in [T0 + limits::FUTURE_MS_MAX + 1, T0 + 1, T0 - MetricsConfig::default().retention_ms - 1] {
        bad.sample(t, 2.0);
    }
    bad.end_series();
    let appended = store.metrics.append(&tenant(), bad).await.unwrap();
    assert_eq!((appended.stored, appended.rejected), (2, 8));
    let reasons: Vec<_> = appended.refusals.iter().map(|r| r.reason.as_str()).collect();
    for (reason, part) in reasons.iter().zip([
        "__name__ is missing",
        "label l has 4097 bytes; at most 4096",
        "a label name of 1025 bytes",
        "has no name",
        "appears twice",
        "65 labels; at most 64",
        "in the future; check the sender's clock",
        "older than the retention",
    ]) {
        assert!(reason.contains(part), "{reason:?} must say {part:?}");
    }
    assert!(appended.refusals.iter().all(|r| r.item.len() < 310));
    assert_eq!(store.read().await, expect(&[(r#"m{a="ok"}"#, &[(0, 1.0)]), ("times", &[(1, 2.0)])]));
}

#[tokio::test]
async fn a_label_explosion_is_stopped_at_the_series_limit_and_known_series_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_with(folder.path(), MetricsConfig { series_per_tenant_max: 2, ..MetricsConfig::default() });
    store.append(&[("a=1", &[(0, 1.0)])]).await;
    let appended = store.append(&[("a=1", &[(1, 1.0)]), ("a=2", &[(1, 1.0)]), ("a=3", &[(1, 1.0)])]).await;
    assert_eq!((appended.stored, appended.rejected), (2, 1));
    assert!(appended.refusals[0].reason.contains("2 active series"), "{:?}", appended.refusals);
    assert_eq!(appended.refusals[0].item, r#"m{a="3"}"#);
    let other = TenantId::new("other").unwrap();
    assert_eq!(store.metrics.append(&other, batch(&[("a=3", &[(1, 1.0)])])).await.unwrap().stored, 1);
}

#[tokio::test]
async fn two_tenants_never_see_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (a, b) = (TenantId::new("a").unwrap(), TenantId::new("b").unwrap());
    let info = |help: &str| MetricMetadata { name: "m".into(), help: help.into(), ..MetricMetadata::default() };
    for (tenant, label) in [(&a, "who=a"), (&b, "who=b")] {
        let mut batch = batch(&[(label, &[(0, 1.0)])]);
        batch.metadata(info(tenant.as_str()));
        store.metrics.append(tenant, batch).await.unwrap();
    }
    for is_flushed in [false, true] {
        if is_flushed {
            store.metrics.flush().await.unwrap();
        }
        for tenant in [&a, &b] {
            let me = tenant.as_str();
            assert_eq!(store.read_of(tenant, &[]).await, expect(&[(&format!("m{{who={me:?}}}"), &[(0, 1.0)])]));
            let values = store.metrics.label_values(tenant, "who", &[], i64::MIN, i64::MAX).await.unwrap();
            assert_eq!(values, [me]);
            assert_eq!(store.metrics.series(tenant, &[], i64::MIN, i64::MAX).await.unwrap().len(), 1);
            assert_eq!(store.metrics.metadata(tenant, None).await.unwrap(), [info(me)]);
        }
        assert!(store.read().await.is_empty());
    }
}

#[tokio::test]
async fn names_and_values_follow_matchers_and_time() {
    use MatchOp::{NotEqual, Regex};
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    store.append(&[("env=prod,host=a", &[(0, 1.0)]), ("env=dev", &[(0, 1.0)])]).await;
    store.metrics.flush().await.unwrap();
    store.append(&[("env=prod,host=b", &[(5000, 1.0)])]).await;
    let m = &store.metrics;
    let prod = [Matcher::new("env", Regex, "pr.*")];
    assert_eq!(m.label_names(&tenant(), &[], T0, T0 + 9000).await.unwrap(), ["__name__", "env", "host"]);
    assert_eq!(m.label_names(&tenant(), &[Matcher::equal("host", "")], T0, T0 + 9000).await.unwrap(), ["__name__", "env"]);
    assert_eq!(m.label_values(&tenant(), "host", &prod, T0, T0 + 9000).await.unwrap(), ["a", "b"]);
    assert_eq!(m.label_values(&tenant(), "host", &prod, T0 + 1, T0 + 9000).await.unwrap(), ["b"]);
    assert_eq!(
        m.label_values(&tenant(), "host", &[Matcher::new("env", NotEqual, "prod")], T0, T0 + 9000).await.unwrap(),
        [""; 0]
    );
    let series = m.series(&tenant(), &prod, T0, T0 + 4999).await.unwrap();
    assert_eq!(series.iter().map(|s| s.to_string()).collect::<Vec<_>>(), [r#"m{env="prod", host="a"}"#]);
    let bad = m.select(&tenant(), &[Matcher::new("env", Regex, "(")], T0, T0).await.unwrap_err();
    assert!(matches!(bad, Error::Invalid(_)));
}

#[tokio::test]
async fn a_deleted_index_is_rebuilt_and_a_damaged_chunk_costs_itself_only() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    store.append(&[("a=1", &[(0, 1.0)]), ("a=2", &[(0, 2.0)])]).await;
    store.metrics.flush().await.unwrap();
    drop(store);
    let segments = folder.path().join("segments/default");
    files(&segments, "idx").iter().for_each(|f| fs::remove_file(f).unwrap());
    let store = open(folder.path());
    assert_eq!(store.read_of(&tenant(), &[Matcher::equal("a", "2")]).await, expect(&[(r#"m{a="2"}"#, &[(0, 2.0)])]));
    assert_eq!(files(&segments, "idx").len(), 1);
    drop(store);
    let file = files(&segments, "seg").remove(0);
    let mut bytes = fs::read(&file).unwrap();
    bytes[64 + 5] ^= 1; // in the first chunk
    fs::write(&file, bytes).unwrap();
    let store = open(folder.path());
    assert_eq!(store.read().await, expect(&[(r#"m{a="2"}"#, &[(0, 2.0)])]));
    let [corruption] = &store.metrics.corruptions()[..] else { panic!("one place") };
    assert_eq!((corruption.offset, store.metrics.stats().corruptions), (64, 1));
    assert!(
        corruption.file.starts_with("metrics/segments/default/") && corruption.reason.contains(r#"m{a="1"}"#),
        "{corruption:?}"
    );
    assert_eq!(store.metrics.verify().await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_unreadable_segment_is_told_and_does_not_stop_the_host() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    store.append(&[("a=1", &[(0, 1.0), (-3 * HOUR, 2.0)])]).await;
    store.metrics.flush().await.unwrap();
    drop(store);
    let file = files(&folder.path().join("segments/default"), "seg").remove(0);
    fs::write(&file, b"not a segment").unwrap();
    let killed = tempfile::tempdir().unwrap();
    copy(folder.path(), killed.path());
    assert_eq!(open(killed.path()).read().await[0].1.len(), 2, "what the log still has comes back");
    files(&folder.path().join("wal"), "wal").iter().for_each(|f| fs::remove_file(f).unwrap());
    let store = open(folder.path());
    assert_eq!(store.read().await[0].1.len(), 1, "the other block is there");
    assert_eq!(store.metrics.corruptions().len(), 1);
    assert!(file.exists(), "the evidence stays");
}

#[tokio::test]
async fn blocks_older_than_the_retention_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_with(folder.path(), MetricsConfig { retention_ms: 10 * HOUR, ..MetricsConfig::default() });
    store.append(&[("a=1", &[(0, 1.0)])]).await;
    store.metrics.flush().await.unwrap();
    store.clock.advance_millis(8 * HOUR);
    store.append(&[("a=1", &[(8 * HOUR, 2.0)])]).await;
    store.metrics.flush().await.unwrap();
    assert_eq!(store.metrics.stats().segments, 2);
    store.clock.advance_millis(5 * HOUR);
    assert_eq!(store.read().await[0].1.len(), 1, "what is too old is not read even before it is removed");
    store.metrics.flush().await.unwrap();
    assert_eq!((store.metrics.stats().segments, store.metrics.stats().segments_expired), (1, 1));
    assert_eq!(files(&folder.path().join("segments/default"), "seg").len(), 1);
}

#[tokio::test]
async fn a_full_disk_acknowledges_nothing_keeps_all_readable_and_recovers() {
    let folder = tempfile::tempdir().unwrap();
    let fault = Arc::new(DiskFault::default());
    let store = open_with(folder.path(), MetricsConfig { fault: Some(fault.clone()), ..MetricsConfig::default() });
    store.append(&[("a=1", &[(0, 1.0)])]).await;
    fault.bytes_left.store(20, SeqCst);
    let refused = store.metrics.append(&tenant(), batch(&[("a=1", &[(1, 2.0)])])).await;
    assert!(matches!(refused, Err(Error::DiskFull)));
    assert_eq!(store.read().await, expect(&[(r#"m{a="1"}"#, &[(0, 1.0)])]));
    fault.bytes_left.store(1 << 20, SeqCst);
    store.append(&[("a=1", &[(2, 3.0)])]).await;
    let all = expect(&[(r#"m{a="1"}"#, &[(0, 1.0), (2, 3.0)])]);
    assert_eq!(store.read().await, all);
    assert_eq!(store.metrics.stats().requests_disk_full, 1);
    drop(store);
    assert_eq!(open(folder.path()).read().await, all);
}

#[tokio::test]
async fn pressure_is_busy_and_a_head_that_can_not_be_written_out_stops_senders_not_readers() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_with(folder.path(), MetricsConfig { flush_bytes: 1, ..MetricsConfig::default() });
    // A file where the tenant's folder must be: segments can't be written.
    fs::write(folder.path().join("segments/default"), b"").unwrap();
    let mut stored = 0;
    let mut busy = None;
    for i in 0..1000 {
        match store.metrics.append(&tenant(), batch(&[("a=1", &[(i, 1.0)])])).await {
            Ok(_) => stored += 1,
            Err(e) => {
                busy = Some(e);
                break;
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert!(matches!(busy, Some(Error::Busy { retry_after_ms: 1.. })), "{busy:?}");
    assert_eq!(store.read().await[0].1.len(), stored);
    fs::remove_file(folder.path().join("segments/default")).unwrap();
    store.metrics.flush().await.unwrap();
    store.append(&[("a=1", &[(5000, 1.0)])]).await;
    assert_eq!(store.read().await[0].1.len(), stored + 1);
}

#[tokio::test]
async fn a_commit_is_hinted_with_the_metrics_it_touched() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let mut hints = store.metrics.hints();
    store.append(&[("a=1", &[(0, 1.0)]), ("a=2", &[(0, 1.0)])]).await;
    let hint = hints.recv().await.unwrap();
    assert_eq!((hint.tenant.clone(), hint.names.iter().map(|n| &**n).collect::<Vec<_>>()), (tenant(), vec!["m"]));
    assert_eq!(hint.appended_at, Timestamp::from_millis(T0));
}

#[tokio::test]
async fn metadata_is_durable_before_and_after_a_flush() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let info = MetricMetadata { name: "m".into(), kind: MetricKind::Counter, help: "how many".into(), unit: String::new() };
    for is_flushed in [false, true] {
        let mut batch = MetricBatch::new();
        batch.metadata(info.clone());
        store.metrics.append(&tenant(), batch).await.unwrap();
        if is_flushed {
            store.metrics.flush().await.unwrap();
        }
        let killed = tempfile::tempdir().unwrap();
        copy(folder.path(), killed.path());
        assert_eq!(open(killed.path()).metrics.metadata(&tenant(), Some("m")).await.unwrap(), std::slice::from_ref(&info));
    }
    assert_eq!(store.metrics.stats().wal_syncs, 1, "what is known already isn't logged again");
    assert!(store.metrics.metadata(&tenant(), Some("other")).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_query_for_everything_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_with(folder.path(), MetricsConfig { query_samples_max: 3, ..MetricsConfig::default() });
    store.append(&[("a=1", &[(0, 1.0), (1, 1.0)]), ("a=2", &[(0, 1.0), (1, 1.0)])]).await;
    let error = store.metrics.select(&tenant(), &[], T0, T0 + 9).await.unwrap_err();
    assert!(matches!(&error, Error::TooLarge(m) if m.contains("more than 3 samples")), "{error}");
    assert_eq!(store.metrics.select(&tenant(), &[Matcher::equal("a", "1")], T0, T0 + 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_second_host_on_the_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(Timestamp::from_millis(T0)));
    let first = crate::Telemetry::open(folder.path(), crate::Config::default(), clock.clone()).await.unwrap();
    let second = crate::Telemetry::open(folder.path(), crate::Config::default(), clock.clone()).await.unwrap_err();
    assert!(matches!(second, Error::Locked { .. }), "{second}");
    first.close().await;
    drop(first);
    crate::Telemetry::open(folder.path(), crate::Config::default(), clock).await.unwrap();
}

#[derive(Clone, Debug)]
enum Step {
    /// Series, time in seconds, value.
    Append(Vec<(u8, i16, u8)>),
    Flush,
    Reopen,
    Kill,
    Later,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => proptest::collection::vec((0u8..5, -20_000i16..500, any::<u8>()), 1..200).prop_map(Step::Append),
        1 => Just(Step::Flush),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
        1 => Just(Step::Later),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn the_store_equals_a_map_whatever_happens_between(steps in proptest::collection::vec(step(), 1..12)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut model: BTreeMap<String, BTreeMap<i64, u64>> = BTreeMap::new();
            let mut folder = tempfile::tempdir().unwrap();
            let mut store = open(folder.path());
            for step in steps {
                match step {
                    Step::Append(samples) => {
                        let mut all = MetricBatch::new();
                        for (series, seconds, value) in samples {
                            let (t, v) = (i64::from(seconds) * 1000, f64::from(value) / 8.0);
                            all.series(&LabelSet::from_pairs([("__name__", "m".to_owned()), ("s", series.to_string())]), [(T0 + t, v)]);
                            model.entry(format!("m{{s=\"{series}\"}}")).or_default().insert(t, v.to_bits());
                        }
                        let sent = all.len_samples() as u64;
                        let appended = store.metrics.append(&tenant(), all).await.unwrap();
                        assert_eq!(appended.stored, sent, "{:?}", appended.refusals);
                    }
                    Step::Flush => store.metrics.flush().await.unwrap(),
                    Step::Reopen => {
                        store.metrics.close().await;
                        drop(store);
                        store = open(folder.path());
                    }
                    Step::Kill => {
                        let killed = tempfile::tempdir().unwrap();
                        copy(folder.path(), killed.path());
                        drop(store);
                        folder = killed;
                        store = open(folder.path());
                    }
                    Step::Later => store.clock.advance_millis(3 * HOUR),
                }
                let expect: Content = model.iter().map(|(l, s)| (l.clone(), s.iter().map(|(t, v)| (*t, *v)).collect())).collect();
                assert_eq!(store.read().await, expect);
            }
            assert_eq!(store.metrics.stats().corruptions, 0);
        });
    }
}
