use super::*;
use crate::wal::RECORD_BYTES_MAX;
use model::{AttributeValue, ManualClock, MatchOp};
use proptest::prelude::*;
use std::path::Path;

const T0: i64 = 1_700_000_000_000;

fn config() -> SignalConfig {
    SignalConfig { tick_ms: None, ..SignalConfig::default() }
}

struct Fixture {
    folder: tempfile::TempDir,
    clock: Arc<ManualClock>,
    logs: Option<Logs>,
    config: SignalConfig,
}

impl Fixture {
    async fn new() -> Self {
        Self::with(config()).await
    }

    async fn with(config: SignalConfig) -> Self {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(T0)));
        let mut fixture = Self { folder: tempfile::tempdir().unwrap(), clock, logs: None, config };
        fixture.reopen().await;
        fixture
    }

    /// As after a kill: nothing is written out.
    async fn reopen(&mut self) {
        self.logs = None;
        self.logs = Some(open(self.folder.path(), self.config.clone(), self.clock.clone()).await.unwrap());
    }

    fn logs(&self) -> &Logs {
        self.logs.as_ref().unwrap()
    }

    async fn store(&self, tenant: &TenantId, records: Vec<LogRecord>) -> u64 {
        let count = records.len() as u64;
        let answer = self.logs().append(tenant, records).await.unwrap();
        assert_eq!((answer.stored, answer.rejected), (count, 0), "{:?}", answer.refusals);
        count
    }

    async fn bodies(&self, tenant: &TenantId, query: &LogQuery) -> Vec<String> {
        let page = self.logs().search(tenant, query).await.unwrap();
        assert_eq!(page.warnings, Vec::<String>::new());
        page.records.into_iter().map(|r| r.body).collect()
    }

    fn tenant_folder(&self, tenant: &TenantId) -> std::path::PathBuf {
        self.folder.path().join("tenants").join(tenant.as_str())
    }

    fn files(&self, tenant: &TenantId, ending: &str) -> Vec<std::path::PathBuf> {
        let mut files: Vec<_> = std::fs::read_dir(self.tenant_folder(tenant)).unwrap().map(|e| e.unwrap().path()).collect();
        files.retain(|f| f.to_string_lossy().ends_with(ending));
        files.sort();
        files
    }
}

async fn open(path: &Path, config: SignalConfig, clock: Arc<ManualClock>) -> Result<Logs> {
    let dir = Dir::open_ambient_dir(path, cap_std::ambient_authority()).unwrap();
    Logs::open(dir, config, clock, None).await
}

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

fn record(ms: i64, service: &str, severity_number: u8, body: &str) -> LogRecord {
    LogRecord {
        time: Timestamp::from_millis(T0 + ms),
        severity_number,
        body: body.into(),
        resource: [("service.name".to_owned(), service.into())].into_iter().collect(),
        ..LogRecord::default()
    }
}

fn with(mut record: LogRecord, name: &str, value: impl Into<AttributeValue>) -> LogRecord {
    record.attributes.insert(name.into(), value.into());
    record
}

fn all() -> LogQuery {
    LogQuery { end: Timestamp::from_millis(T0 + 1_000_000), ..LogQuery::default() }
}

fn line(op: LineOp, text: &str) -> LogQuery {
    LogQuery { lines: vec![LineFilter { op, text: text.into() }], ..all() }
}

fn field(name: &str, op: MatchOp, value: &str) -> LogQuery {
    LogQuery { fields: vec![Matcher::new(name, op, value)], ..all() }
}

fn stream(name: &str, op: MatchOp, value: &str) -> LogQuery {
    LogQuery { streams: vec![Matcher::new(name, op, value)], ..all() }
}

fn words(text: &str) -> LogQuery {
    LogQuery { text: Some(text.into()), ..all() }
}

/// Runs the checks on the head, on splits, and after a restart: where a record lies must not be seen.
async fn everywhere(records: Vec<LogRecord>, cases: &[(LogQuery, &[&str])]) {
    let t = tenant("acme");
    let mut fixture = Fixture::new().await;
    fixture.store(&t, records).await;
    for place in ["head", "replayed head", "split", "reopened split"] {
        for (query, wanted) in cases {
            assert_eq!(fixture.bodies(&t, query).await, *wanted, "in the {place}: {query:?}");
        }
        match place {
            "head" => fixture.reopen().await,
            "replayed head" => fixture.logs().flush().await.unwrap(),
            _ => fixture.reopen().await,
        }
    }
    assert_eq!(fixture.logs().stats().splits, 1);
}

#[tokio::test]
async fn words_lines_streams_and_fields_find_the_same_in_head_and_split() {
    let mut traced = record(40, "db", 17, "traced");
    traced.trace_id = vec![7; 16];
    traced.span_id = vec![9; 8];
    let records = vec![
        record(10, "web", 9, "GET /cart 200"),
        with(record(20, "web", 17, "ERROR: Database connection timeout"), "http.status", AttributeValue::Int(504)),
        with(record(30, "db", 13, "slow query: select 1"), "query.kind", "select"),
        traced,
    ];
    let timeout: &[&str] = &["ERROR: Database connection timeout"];
    everywhere(
        records,
        &[
            (all(), &["traced", "slow query: select 1", "ERROR: Database connection timeout", "GET /cart 200"]),
            (
                LogQuery { direction: Direction::Forward, limit: 2, ..all() },
                &["GET /cart 200", "ERROR: Database connection timeout"],
            ),
            (LogQuery { limit: 1, ..all() }, &["traced"]),
            (words("timeout DATABASE"), timeout),
            (words("\"connection timeout\""), timeout),
            (words("\"database timeout\""), &[]),
            (line(LineOp::Contains, "tabase connection time"), timeout),
            (line(LineOp::Contains, "TABASE"), &[]),
            (line(LineOp::Contains, "o"), &["slow query: select 1", "ERROR: Database connection timeout"]),
            (line(LineOp::Contains, ": "), &["slow query: select 1", "ERROR: Database connection timeout"]),
            (line(LineOp::NotContains, "e"), &["GET /cart 200"]),
            (line(LineOp::Regex, r"^(GET|POST) /\w+ 2\d\d$"), &["GET /cart 200"]),
            (line(LineOp::NotRegex, "[EQq]"), &["traced"]),
            (stream("service_name", MatchOp::Equal, "web"), &["ERROR: Database connection timeout", "GET /cart 200"]),
            (stream("service_name", MatchOp::NotEqual, "web"), &["traced", "slow query: select 1"]),
            (
                stream("level", MatchOp::Regex, "error|warn"),
                &["traced", "slow query: select 1", "ERROR: Database connection timeout"],
            ),
            (stream("service_name", MatchOp::NotRegex, ".*b"), &[]),
            (
                stream("absent", MatchOp::Equal, ""),
                &["traced", "slow query: select 1", "ERROR: Database connection timeout", "GET /cart 200"],
            ),
            (field("http_status", MatchOp::Equal, "504"), timeout),
            (field("http.status", MatchOp::Regex, "5.."), timeout),
            (field("http_status", MatchOp::NotEqual, "504"), &["traced", "slow query: select 1", "GET /cart 200"]),
            (field("query_kind", MatchOp::NotRegex, ".+"), &["traced", "ERROR: Database connection timeout", "GET /cart 200"]),
            (field("service_name", MatchOp::Equal, "db"), &["traced", "slow query: select 1"]),
            (field("trace_id", MatchOp::Equal, "07070707070707070707070707070707"), &["traced"]),
            (
                field("span_id", MatchOp::NotEqual, "0909090909090909"),
                &["slow query: select 1", "ERROR: Database connection timeout", "GET /cart 200"],
            ),
            (field("trace_id", MatchOp::Regex, "07.*"), &["traced"]),
            (LogQuery { trace_id: Some(vec![7; 16]), ..all() }, &["traced"]),
            (LogQuery { trace_id: Some(vec![8; 16]), ..all() }, &[]),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_time_range_excludes_its_end_and_equal_times_keep_the_order_of_arrival() {
    let records = vec![record(5, "a", 0, "first"), record(5, "b", 0, "second"), record(6, "a", 0, "third")];
    let at = |ms| Timestamp::from_millis(T0 + ms);
    everywhere(
        records,
        &[
            (LogQuery { start: at(5), end: at(6), ..LogQuery::default() }, &["second", "first"]),
            (LogQuery { start: at(5), end: at(6), direction: Direction::Forward, ..LogQuery::default() }, &["first", "second"]),
            (LogQuery { start: at(6), end: at(6), ..LogQuery::default() }, &[]),
            (LogQuery { start: at(6), end: at(5), ..LogQuery::default() }, &[]),
            (LogQuery { start: at(6), end: Timestamp(at(6).0 + 1), ..LogQuery::default() }, &["third"]),
        ],
    )
    .await;
}

#[tokio::test]
async fn odd_fields_and_long_tokens_are_found_in_head_and_split() {
    let long = "x".repeat(300);
    let wide = "v".repeat(2000);
    let mut inner = model::Attributes::new();
    inner.insert("deep.er".into(), AttributeValue::List(vec![AttributeValue::Bool(true)]));
    let records = vec![
        record(1, "a", 0, &format!("prefix {long} tail")),
        with(record(2, "a", 0, "wide"), "wide", wide.as_str()),
        with(record(3, "a", 0, "nested"), "map", AttributeValue::Map(inner)),
        with(record(4, "a", 0, "odd name"), "9-ü", ""),
    ];
    let body: &str = &format!("prefix {long} tail");
    everywhere(
        records,
        &[
            (words(&long), &[body]),
            (words(&"y".repeat(300)), &[]),
            (words(&format!("\"prefix {long}\"")), &[body]),
            (line(LineOp::Contains, &long[..200]), &[body]),
            (line(LineOp::Contains, "xx"), &[body]),
            (field("wide", MatchOp::Equal, &wide), &["wide"]),
            (field("wide", MatchOp::Regex, "v+"), &["wide"]),
            (field("wide", MatchOp::Equal, "v"), &[]),
            (field("wide", MatchOp::NotEqual, &wide), &["odd name", "nested", body]),
            (field("map_deep_er", MatchOp::Equal, "[true]"), &["nested"]),
            (field("_9__", MatchOp::Equal, ""), &["odd name", "nested", "wide", body]),
        ],
    )
    .await;
}

#[tokio::test]
async fn two_tenants_never_see_each_other() {
    let (a, b) = (tenant("a"), tenant("b"));
    let mut fixture = Fixture::new().await;
    fixture.store(&a, vec![record(1, "shared", 17, "of a")]).await;
    fixture.store(&b, vec![record(1, "shared", 17, "of b")]).await;
    for _ in 0..2 {
        assert_eq!(fixture.bodies(&a, &all()).await, ["of a"]);
        assert_eq!(fixture.bodies(&b, &words("of")).await, ["of b"]);
        assert_eq!(fixture.bodies(&tenant("c"), &all()).await, Vec::<String>::new());
        fixture.logs().flush().await.unwrap();
        fixture.reopen().await;
    }
    assert_eq!(fixture.logs().stats().splits, 2);
}

#[tokio::test]
async fn what_cannot_be_stored_is_refused_with_its_reason_and_the_rest_is_stored() {
    let fixture = Fixture::new().await;
    let t = tenant("t");
    let mut too_many = record(1, "a", 0, "too many");
    (0..300).for_each(|i| drop(too_many.attributes.insert(format!("k{i}"), AttributeValue::Int(i))));
    let nested = (0..40).fold(AttributeValue::Int(1), |v, _| AttributeValue::List(vec![v]));
    let mut bad_trace = record(1, "a", 0, "bad trace");
    bad_trace.trace_id = vec![1; 5];
    let mut high = record(1, "a", 25, "severity");
    high.span_id = vec![0; 8];
    let records = vec![
        record(1, "a", 0, "good"),
        too_many,
        with(record(1, "a", 0, "deep"), "n", nested),
        bad_trace,
        high,
        record(3_600_000, "a", 0, "future"),
        with(record(1, "a", 0, "big"), "blob", "b".repeat(70 << 10)),
        with(record(1, "a", 0, "nameless"), "", "x"),
        LogRecord { time: Timestamp(-1), ..record(0, "a", 0, "before 1970") },
    ];
    let answer = fixture.logs().append(&t, records).await.unwrap();
    assert_eq!((answer.stored, answer.rejected), (1, 8));
    let reasons: Vec<_> = answer.refusals.iter().map(|r| format!("{}: {}", r.item, r.reason)).collect();
    for (reason, wanted) in reasons.iter().zip([
        "record 1 (a: \"too many\"): 301 attributes",
        "record 2 (a: \"deep\"): record attributes nest deeper than 16",
        "trace id has 5 bytes instead of 16",
        "severity number 25",
        "3600 s in the future",
        "attribute \"blob\" has",
        "attribute name \"\"",
        "before 1970",
    ]) {
        assert!(reason.contains(wanted), "{reason}");
    }
    assert_eq!(fixture.bodies(&t, &all()).await, ["good"]);
    assert_eq!(fixture.logs().stats().records_rejected, 8);
}

#[tokio::test]
async fn an_over_long_line_is_kept_cut_at_a_character_and_marked() {
    let fixture = Fixture::new().await;
    let t = tenant("t");
    fixture.store(&t, vec![record(1, "a", 0, &"ü".repeat(limits::LOG_LINE_BYTES_MAX)), record(2, "a", 0, "short")]).await;
    fixture.logs().flush().await.unwrap();
    let page = fixture.logs().search(&t, &field("log_truncated", MatchOp::Equal, "true")).await.unwrap();
    let [cut] = &page.records[..] else { panic!("{} records", page.records.len()) };
    assert_eq!(cut.body, "ü".repeat(limits::LOG_LINE_BYTES_MAX / 2));
    assert_eq!(cut.attributes.get(TRUNCATED_ATTRIBUTE), Some(&AttributeValue::Bool(true)));
}

#[tokio::test]
async fn a_record_without_times_gets_the_time_of_its_arrival() {
    let fixture = Fixture::new().await;
    let t = tenant("t");
    fixture.store(&t, vec![LogRecord { body: "now".into(), ..LogRecord::default() }]).await;
    let page = fixture.logs().search(&t, &all()).await.unwrap();
    assert_eq!((page.records[0].time, page.records[0].observed), (Timestamp::from_millis(T0), Timestamp::from_millis(T0)));
}

#[tokio::test]
async fn hostile_expressions_are_refused_with_what_is_wrong() {
    let fixture = Fixture::new().await;
    let t = tenant("t");
    fixture.store(&t, vec![record(1, "a", 0, &"a".repeat(10_000))]).await;
    for (pattern, wanted) in [("(", "unclosed group"), (r"(?:a{1000}){1000}", "too large"), (r"(a)\1", "backreferences")] {
        let error = fixture.logs().search(&t, &line(LineOp::Regex, pattern)).await.unwrap_err().to_string();
        assert!(error.contains(wanted), "{pattern}: {error}");
    }
    // Exponential for a backtracking engine.
    assert_eq!(fixture.bodies(&t, &line(LineOp::Regex, "(a*)*b")).await, Vec::<String>::new());
    let many = LogQuery { lines: vec![LineFilter { op: LineOp::Contains, text: "a".into() }; 100], ..all() };
    assert!(fixture.logs().search(&t, &many).await.unwrap_err().to_string().contains("64 filters"));
}

#[tokio::test]
async fn a_histogram_counts_by_step_and_severity_band_and_its_sum_is_the_number_of_records() {
    let fixture = Fixture::new().await;
    let t = tenant("t");
    let old: Vec<_> = (0..100).map(|i| record(i * 100, "a", if i % 4 == 0 { 18 } else { 9 }, &format!("line {i}"))).collect();
    fixture.store(&t, old).await;
    fixture.logs().flush().await.unwrap();
    fixture.store(&t, vec![record(9_950, "a", 0, "fresh"), record(9_999, "a", 24, "fresh")]).await;
    let query = LogQuery { start: Timestamp::from_millis(T0), end: Timestamp::from_millis(T0 + 10_000), ..LogQuery::default() };
    let buckets = fixture.logs().histogram(&t, &query, 5_000).await.unwrap();
    let seen: Vec<_> = buckets.iter().map(|b| (b.start.millis() - T0, b.severity, b.count)).collect();
    assert_eq!(seen, [(0, 9, 37), (0, 17, 13), (5_000, 0, 1), (5_000, 9, 38), (5_000, 17, 12), (5_000, 21, 1)]);
    let filtered = LogQuery { lines: vec![LineFilter { op: LineOp::Contains, text: "line 1".into() }], ..query.clone() };
    let filtered = fixture.logs().histogram(&t, &filtered, 100_000).await.unwrap();
    assert_eq!(filtered.iter().map(|b| b.count).sum::<u64>(), 11);
    for step in [0, -1, 1, i64::MAX] {
        let too_many = LogQuery { end: Timestamp::from_millis(T0 + 100_000_000), ..query.clone() };
        assert!(fixture.logs().histogram(&t, &too_many, step).await.is_err(), "step {step}");
    }
}

#[tokio::test]
async fn labels_list_what_streams_there_are() {
    let fixture = Fixture::new().await;
    let t = tenant("t");
    fixture.store(&t, vec![record(1, "web", 9, "a")]).await;
    fixture.logs().flush().await.unwrap();
    fixture.store(&t, vec![record(2, "db", 17, "b")]).await;
    let (logs, from, to) = (fixture.logs(), Timestamp(0), all().end);
    assert_eq!(logs.label_names(&t, &[], from, to).await.unwrap(), ["level", "service_name"]);
    assert_eq!(logs.label_values(&t, "service_name", &[], from, to).await.unwrap(), ["db", "web"]);
    assert_eq!(logs.label_values(&t, "service_name", &[Matcher::equal("level", "info")], from, to).await.unwrap(), ["web"]);
    assert_eq!(logs.label_values(&t, "service_name", &[], Timestamp(0), Timestamp(5)).await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn whatever_was_acknowledged_is_found_after_a_kill_at_any_byte_of_the_log() {
    let t = tenant("t");
    let fixture = Fixture::new().await;
    let log = || std::fs::read_dir(fixture.folder.path().join("log")).unwrap().next().unwrap().unwrap().path();
    let mut acknowledged = Vec::new();
    for i in 0..6 {
        fixture.store(&t, vec![record(i, "a", 0, &format!("line {i}"))]).await;
        acknowledged.push(std::fs::metadata(log()).unwrap().len());
    }
    let whole = std::fs::read(log()).unwrap();
    let first = acknowledged[0] as usize;
    for cut in (first..=whole.len()).step_by(3).chain(acknowledged.iter().map(|n| *n as usize)) {
        let copy = tempfile::tempdir().unwrap();
        std::fs::create_dir(copy.path().join("log")).unwrap();
        std::fs::write(copy.path().join("log").join(log().file_name().unwrap()), &whole[..cut]).unwrap();
        let logs = open(copy.path(), config(), fixture.clock.clone()).await.unwrap();
        let found = logs.search(&t, &all()).await.unwrap().records.len();
        let wanted = acknowledged.iter().filter(|n| **n as usize <= cut).count();
        assert_eq!(found, wanted, "cut at {cut} of {}", whole.len());
        logs.append(&t, vec![record(99, "a", 0, "after")]).await.unwrap();
        assert_eq!(logs.search(&t, &all()).await.unwrap().records.len(), wanted + 1);
    }
}

#[tokio::test]
async fn a_crash_between_split_and_manifest_neither_loses_nor_doubles() {
    let t = tenant("t");
    let mut fixture = Fixture::new().await;
    fixture.store(&t, vec![record(1, "a", 0, "once")]).await;
    fixture.logs().flush().await.unwrap();
    let manifest = fixture.tenant_folder(&t).join("manifest");
    // The split's files are there, the manifest that names them never came.
    std::fs::remove_file(&manifest).unwrap();
    std::fs::write(fixture.tenant_folder(&t).join("manifest.tmp"), "half").unwrap();
    fixture.reopen().await;
    assert_eq!(fixture.bodies(&t, &all()).await, ["once"]);
    assert_eq!(fixture.files(&t, ".rows").len(), 0, "what no manifest names is removed");
    fixture.logs().flush().await.unwrap();
    fixture.reopen().await;
    assert_eq!(fixture.bodies(&t, &all()).await, ["once"]);
}

#[tokio::test]
async fn a_torn_or_corrupt_split_is_reported_and_the_others_still_answer() {
    let t = tenant("t");
    let mut fixture = Fixture::new().await;
    for i in 0..3 {
        fixture.store(&t, vec![record(i, "a", 0, &format!("split {i}"))]).await;
        fixture.logs().flush().await.unwrap();
    }
    let files = fixture.files(&t, ".rows");
    let torn = std::fs::read(&files[0]).unwrap();
    std::fs::write(&files[0], &torn[..torn.len() / 2]).unwrap();
    let mut flipped = std::fs::read(&files[1]).unwrap();
    flipped[20] ^= 1;
    std::fs::write(&files[1], flipped).unwrap();
    fixture.reopen().await;
    assert_eq!(fixture.logs().stats().damages, 1, "the size alone tells that the first is torn");
    let page = fixture.logs().search(&t, &all()).await.unwrap();
    assert_eq!(page.records.iter().map(|r| &*r.body).collect::<Vec<_>>(), ["split 2"]);
    assert_eq!(page.warnings.len(), 2, "{:?}", page.warnings);
    assert!(page.warnings.iter().all(|w| w.contains("split-") && w.contains("corrupt")), "{:?}", page.warnings);
    assert_eq!(fixture.logs().verify().await.unwrap().len(), 2);
    assert_eq!(fixture.logs().search(&t, &words("split")).await.unwrap().records.len(), 1);
}

#[tokio::test]
async fn a_missing_or_damaged_index_is_rebuilt_from_the_rows() {
    let t = tenant("t");
    let mut fixture = Fixture::new().await;
    fixture.store(&t, vec![record(1, "web", 17, "one two"), record(2, "db", 9, "two three")]).await;
    fixture.logs().flush().await.unwrap();
    let index = fixture.files(&t, ".index").remove(0);
    let good = std::fs::read(&index).unwrap();
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 8;
    for damage in [None, Some(Vec::new()), Some(good[..good.len() - 5].to_vec()), Some(flipped)] {
        match &damage {
            None => std::fs::remove_file(&index).unwrap(),
            Some(bytes) => std::fs::write(&index, bytes).unwrap(),
        }
        fixture.reopen().await;
        assert_eq!(fixture.bodies(&t, &words("three")).await, ["two three"]);
        assert_eq!(fixture.bodies(&t, &stream("service_name", MatchOp::Equal, "web")).await, ["one two"]);
        assert_eq!(fixture.logs().verify().await.unwrap(), []);
    }
}

#[tokio::test]
async fn the_tail_gives_every_request_once_in_order_and_a_lost_cursor_names_the_oldest() {
    let mut fixture = Fixture::with(SignalConfig { log_keep_ms: 1_000, ..config() }).await;
    let (a, b) = (tenant("a"), tenant("b"));
    let wake = fixture.logs().tail_wake();
    for i in 0..5 {
        fixture.store(if i % 2 == 0 { &a } else { &b }, vec![record(i, "s", 0, &format!("{i}")), record(i, "s", 0, "x")]).await;
    }
    assert_eq!(*wake.borrow(), fixture.logs().newest().0);
    let mut cursor = Lsn(0);
    let mut seen = Vec::new();
    loop {
        let batches = fixture.logs().tail(cursor, 3).await.unwrap();
        let Some(last) = batches.last() else { break };
        cursor = last.lsn;
        seen.extend(batches.into_iter().map(|b| (b.tenant.to_string(), b.records[0].body.clone(), b.arrival.millis())));
    }
    let wanted: Vec<_> = (0..5).map(|i| (if i % 2 == 0 { "a" } else { "b" }.to_owned(), i.to_string(), T0)).collect();
    assert_eq!(seen, wanted);
    // Cutting doesn't take the log from readers; age does, file by file.
    fixture.logs().flush().await.unwrap();
    assert_eq!(fixture.logs().tail(Lsn(0), 100).await.unwrap().len(), 5);
    for file in std::fs::read_dir(fixture.folder.path().join("log")).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    fixture.reopen().await;
    let newest = fixture.logs().newest().0;
    assert!(newest >= 5, "numbers never go back: {newest}");
    match fixture.logs().tail(Lsn(1), 10).await {
        Err(Error::CursorLost { after: 1, oldest, .. }) => {
            assert_eq!(fixture.logs().tail(Lsn(oldest - 1), 10).await.unwrap(), [])
        }
        other => panic!("{other:?}"),
    }
    fixture.store(&a, vec![record(9, "s", 0, "later")]).await;
    assert_eq!(fixture.logs().tail(Lsn(newest), 10).await.unwrap()[0].records[0].body, "later");
}

#[tokio::test]
async fn heads_are_cut_when_full_or_old_neighbours_are_merged_and_old_splits_go() {
    let mut fixture = Fixture::with(SignalConfig { split_age_ms: 1_000, retention_ms: 100_000, ..config() }).await;
    let t = tenant("t");
    fixture.store(&t, vec![record(0, "a", 0, "0")]).await;
    fixture.logs().maintain().await.unwrap();
    assert_eq!(fixture.logs().stats().splits, 0, "not due yet");
    for i in 1..8 {
        fixture.clock.advance_millis(1_001);
        fixture.logs().maintain().await.unwrap();
        fixture.store(&t, vec![record(0, "a", 0, &format!("{i}"))]).await;
    }
    fixture.clock.advance_millis(1_001);
    fixture.logs().maintain().await.unwrap();
    let stats = fixture.logs().stats();
    assert_eq!((stats.splits, stats.splits_written, stats.splits_merged, stats.head_bytes), (1, 8, 8, 0));
    assert_eq!(fixture.files(&t, ".rows").len(), 1, "merged splits are removed");
    assert_eq!(fixture.bodies(&t, &all()).await, ["7", "6", "5", "4", "3", "2", "1", "0"]);
    fixture.reopen().await;
    assert_eq!(fixture.bodies(&t, &all()).await.len(), 8);
    fixture.clock.advance_millis(101_000);
    fixture.logs().maintain().await.unwrap();
    assert_eq!((fixture.logs().stats().splits, fixture.files(&t, "s").len()), (0, 0));
    assert_eq!(fixture.bodies(&t, &all()).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_full_head_refuses_as_busy_until_it_is_written_out() {
    let fixture = Fixture::with(SignalConfig { head_bytes_max: 2_000, ..config() }).await;
    let t = tenant("t");
    fixture.store(&t, vec![record(0, "a", 0, &"x".repeat(1_500))]).await;
    let again = || vec![record(1, "a", 0, &"y".repeat(1_500))];
    assert!(matches!(fixture.logs().append(&t, again()).await, Err(Error::Busy { retry_after_ms: 1_000 })));
    fixture.store(&tenant("other"), again()).await;
    fixture.logs().flush().await.unwrap();
    fixture.store(&t, again()).await;
    assert_eq!(fixture.bodies(&t, &all()).await.len(), 2);
    assert_eq!(fixture.logs().stats().requests_busy, 1);
}

#[tokio::test]
async fn what_a_failing_disk_did_not_take_is_neither_acknowledged_nor_found() {
    use std::sync::atomic::Ordering::SeqCst;
    let fault = Arc::new(crate::wal::DiskFault::default());
    let mut fixture = Fixture::with(SignalConfig { fault: Some(fault.clone()), ..config() }).await;
    let t = tenant("t");
    fixture.store(&t, vec![record(0, "a", 0, "before")]).await;
    fault.bytes_left.store(10, SeqCst);
    assert!(matches!(fixture.logs().append(&t, vec![record(1, "a", 0, "lost")]).await, Err(Error::DiskFull)));
    assert_eq!(fixture.bodies(&t, &all()).await, ["before"]);
    fault.bytes_left.store(i64::MAX, SeqCst);
    fixture.store(&t, vec![record(2, "a", 0, "after")]).await;
    fixture.logs().flush().await.unwrap();
    assert_eq!(fixture.bodies(&t, &all()).await, ["after", "before"]);
    fault.fails_sync.store(true, SeqCst);
    for _ in 0..2 {
        let error = fixture.logs().append(&t, vec![record(3, "a", 0, "unsynced")]).await.unwrap_err();
        assert!(matches!(error, Error::Poisoned { .. }), "{error}");
    }
    assert_eq!(fixture.bodies(&t, &all()).await, ["after", "before"], "what is stored stays readable");
    assert_eq!(fixture.logs().stats().head_bytes, 0);
    fault.fails_sync.store(false, SeqCst);
    fixture.reopen().await;
    assert!(fixture.bodies(&t, &all()).await.ends_with(&["after".to_owned(), "before".to_owned()]));
}

#[tokio::test]
async fn a_page_holds_at_most_its_limit_and_says_whether_there_is_more() {
    let fixture = Fixture::new().await;
    let t = tenant("t");
    fixture.store(&t, (0..6_000).map(|i| record(i, "a", 0, &format!("n{i}"))).collect()).await;
    fixture.logs().flush().await.unwrap();
    let page = fixture.logs().search(&t, &all()).await.unwrap();
    assert_eq!((page.records.len(), page.is_truncated), (limits::PAGE_ROWS_MAX, true));
    let page = fixture.logs().search(&t, &LogQuery { limit: 3, ..all() }).await.unwrap();
    assert_eq!((page.records[0].body.as_str(), page.records.len(), page.is_truncated), ("n5999", 3, true));
    let page =
        fixture.logs().search(&t, &LogQuery { limit: 3, start: Timestamp::from_millis(T0 + 5_997), ..all() }).await.unwrap();
    assert_eq!((page.records.len(), page.is_truncated), (3, false));
}

#[tokio::test]
async fn the_background_work_cuts_by_itself_and_ends_with_the_store() {
    let mut fixture = Fixture::with(SignalConfig { tick_ms: Some(10), split_age_ms: 0, ..config() }).await;
    let t = tenant("t");
    fixture.store(&t, vec![record(0, "a", 0, "cut me")]).await;
    while fixture.logs().stats().splits == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(fixture.bodies(&t, &all()).await, ["cut me"]);
    fixture.logs().close().await;
    assert!(matches!(fixture.logs().append(&t, vec![record(0, "a", 0, "late")]).await, Err(Error::Closed)));
    fixture.reopen().await;
    assert_eq!(fixture.bodies(&t, &all()).await, ["cut me"]);
    const { assert!(RECORD_BYTES_MAX > limits::BODY_INFLATED_BYTES_MAX, "a request always fits one record of the log") }
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<(i64, u8, u8, u8)>),
    Cut,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let rows = proptest::collection::vec((0i64..50, 0u8..3, 0u8..25, 0u8..12), 1..8);
    let step = prop_oneof![4 => rows.prop_map(Step::Append), 2 => Just(Step::Cut), 1 => Just(Step::Reopen)];
    proptest::collection::vec(step, 1..25)
}

const WORDS: [&str; 12] =
    ["timeout", "Timeout", "time out", "database", "DB", "über", "connection reset", "x", "", "reset", "a b c", "timeouts"];

fn queries() -> Vec<LogQuery> {
    let at = |ms| Timestamp::from_millis(T0 + ms);
    vec![
        all(),
        LogQuery { limit: 3, ..all() },
        LogQuery { limit: 4, direction: Direction::Forward, ..all() },
        LogQuery { start: at(10), end: at(30), limit: 5, ..LogQuery::default() },
        words("timeout"),
        words("\"connection reset\""),
        line(LineOp::Contains, "imeout"),
        LogQuery { limit: 2, ..line(LineOp::Contains, "t") },
        line(LineOp::NotContains, "timeout"),
        line(LineOp::Regex, "^[a-z ]+$"),
        stream("service_name", MatchOp::Equal, "s1"),
        stream("level", MatchOp::NotRegex, "error|info"),
        field("n", MatchOp::Equal, "3"),
        field("n", MatchOp::NotEqual, "3"),
    ]
}

/// The model: a list in order of arrival, and the definition of each filter written down once more, slowly.
fn expected(rows: &[LogRecord], query: &LogQuery) -> Vec<String> {
    let mut hits: Vec<_> = rows
        .iter()
        .filter(|r| r.time >= query.start && r.time < query.end)
        .filter(|r| {
            query.text.as_ref().is_none_or(|text| {
                let body = format!(" {} ", r.body.to_lowercase());
                let text = text.trim_matches('"');
                body.contains(&format!(" {text} "))
            })
        })
        .filter(|r| {
            query.lines.iter().all(|l| match l.op {
                LineOp::Contains => r.body.contains(&l.text),
                LineOp::NotContains => !r.body.contains(&l.text),
                LineOp::Regex => regex::Regex::new(&l.text).unwrap().is_match(&r.body),
                LineOp::NotRegex => !regex::Regex::new(&l.text).unwrap().is_match(&r.body),
            })
        })
        .filter(|r| {
            query.streams.iter().all(|m| match m.name.as_str() {
                "service_name" => r.service() == m.value,
                _ => !["error", "info"].contains(&severity_level(r.severity_number)),
            })
        })
        .filter(|r| query.fields.iter().all(|m| (r.attributes["n"] == AttributeValue::Int(3)) == (m.op == MatchOp::Equal)))
        .map(|r| (r.time, r.body.clone()))
        .collect();
    hits.sort_by_key(|(time, _)| *time);
    if query.direction == Direction::Backward {
        hits.reverse();
    }
    hits.truncate(if query.limit == 0 { usize::MAX } else { query.limit });
    hits.into_iter().map(|(_, body)| body).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn searches_equal_a_plain_list_whatever_was_cut_merged_or_reopened(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let t = tenant("t");
            let mut fixture = Fixture::new().await;
            let mut rows: Vec<LogRecord> = Vec::new();
            for (i, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Append(new) => {
                        let new: Vec<_> = new
                            .into_iter()
                            .enumerate()
                            .map(|(j, (ms, service, severity, word))| {
                                let body = format!("{} n{i} r{j}", WORDS[word as usize]);
                                let body = body.trim_start();
                                with(record(ms, &format!("s{service}"), severity, body), "n", AttributeValue::Int(i64::from(word)))
                            })
                            .collect();
                        fixture.store(&t, new.clone()).await;
                        rows.extend(new);
                    }
                    Step::Cut => fixture.logs().flush().await.unwrap(),
                    Step::Reopen => fixture.reopen().await,
                }
                if i % 4 == 0 {
                    for query in queries().iter().take(3) {
                        assert_eq!(fixture.bodies(&t, query).await, expected(&rows, query), "{query:?}");
                    }
                }
            }
            for query in queries() {
                assert_eq!(fixture.bodies(&t, &query).await, expected(&rows, &query), "{query:?}");
                let counted: u64 = fixture.logs().histogram(&t, &query, 1_000_000_000).await.unwrap().iter().map(|b| b.count).sum();
                assert_eq!(counted as usize, expected(&rows, &LogQuery { limit: 0, ..query.clone() }).len());
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_during_the_hand_over_neither_misses_nor_doubles_a_record() {
    let fixture = Fixture::new().await;
    let t = tenant("t");
    let logs = fixture.logs().clone();
    let cutter = {
        let logs = logs.clone();
        tokio::spawn(async move {
            for _ in 0..20 {
                logs.flush().await.unwrap();
                tokio::task::yield_now().await;
            }
        })
    };
    let mut acknowledged = 0;
    while !cutter.is_finished() {
        fixture.store(&t, vec![record(acknowledged, "a", 0, &acknowledged.to_string())]).await;
        acknowledged += 1;
        let found = fixture.bodies(&t, &LogQuery { direction: Direction::Forward, ..all() }).await;
        assert_eq!(found, (0..acknowledged).map(|i| i.to_string()).collect::<Vec<_>>());
    }
    cutter.await.unwrap();
}
