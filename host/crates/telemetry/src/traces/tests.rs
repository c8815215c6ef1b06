use super::*;
use model::{AttributeValue, ManualClock, MatchOp, SpanEvent, SpanLink};

const T0: i64 = 1_700_000_000_000;

async fn open(folder: &tempfile::TempDir) -> Traces {
    let dir = Dir::open_ambient_dir(folder.path(), cap_std::ambient_authority()).unwrap();
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(T0)));
    Traces::open(dir, SignalConfig { tick_ms: None, ..SignalConfig::default() }, clock, None).await.unwrap()
}

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

fn span(trace: u8, id: u8, service: &str, name: &str, start_ms: i64, duration_ms: i64) -> Span {
    let start = Timestamp::from_millis(T0 + start_ms);
    Span {
        trace_id: vec![trace; 16],
        span_id: vec![id; 8],
        name: name.into(),
        kind: SpanKind::Server,
        start,
        end: start.plus_millis(duration_ms),
        resource: [("service.name".to_owned(), service.into())].into_iter().collect(),
        ..Span::default()
    }
}

fn spans() -> Vec<Span> {
    let mut failed = span(2, 4, "pay", "POST /pay", 30, 900);
    failed.status = SpanStatus::Error;
    failed.status_message = "card declined".into();
    failed.attributes.insert("http.response.status_code".into(), AttributeValue::Int(402));
    failed.events.push(SpanEvent { time: failed.start.plus_millis(5), name: "exception".into(), ..SpanEvent::default() });
    failed.links.push(SpanLink { trace_id: vec![1; 16], span_id: vec![1; 8], ..SpanLink::default() });
    let mut child = span(1, 2, "db", "SELECT", 12, 3);
    child.parent_span_id = vec![1; 8];
    child.kind = SpanKind::Client;
    vec![span(1, 1, "web", "GET /cart", 10, 20), child, span(2, 3, "web", "GET /pay", 25, 950), failed]
}

fn all() -> SpanQuery {
    SpanQuery { end: Timestamp::from_millis(T0 + 100_000), ..SpanQuery::default() }
}

#[tokio::test]
async fn spans_are_found_by_trace_and_by_what_they_are_in_head_and_split_and_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let t = tenant("acme");
    let mut traces = open(&folder).await;
    assert_eq!(traces.append(&t, spans()).await.unwrap().stored, 4);
    let attribute = |name: &str, op, value: &str| SpanQuery { attributes: vec![Matcher::new(name, op, value)], ..all() };
    let text = |s: &str| Some(s.to_owned());
    let cases: Vec<(SpanQuery, &[&str])> = vec![
        (all(), &["POST /pay", "GET /pay", "SELECT", "GET /cart"]),
        (SpanQuery { limit: 2, ..all() }, &["POST /pay", "GET /pay"]),
        (SpanQuery { service: text("web"), ..all() }, &["GET /pay", "GET /cart"]),
        (SpanQuery { service: text("web"), name: text("GET /cart"), ..all() }, &["GET /cart"]),
        (SpanQuery { kind: Some(SpanKind::Client), ..all() }, &["SELECT"]),
        (SpanQuery { status: Some(SpanStatus::Error), ..all() }, &["POST /pay"]),
        (
            SpanQuery { duration_ns_min: Some(20_000_000), duration_ns_max: Some(900_000_000), ..all() },
            &["POST /pay", "GET /cart"],
        ),
        (SpanQuery { duration_ns_min: Some(20_000_001), ..all() }, &["POST /pay", "GET /pay"]),
        (attribute("http.response.status_code", MatchOp::Equal, "402"), &["POST /pay"]),
        (attribute("http_response_status_code", MatchOp::Regex, "4.."), &["POST /pay"]),
        (attribute("http_response_status_code", MatchOp::NotEqual, "402"), &["GET /pay", "SELECT", "GET /cart"]),
        (attribute("service_name", MatchOp::Equal, "db"), &["SELECT"]),
        (
            SpanQuery { start: Timestamp::from_millis(T0 + 12), end: Timestamp::from_millis(T0 + 30), ..all() },
            &["GET /pay", "SELECT"],
        ),
    ];
    for place in ["head", "replayed head", "split", "reopened split"] {
        assert_eq!(traces.trace(&t, &[2; 16]).await.unwrap(), spans()[2..], "in the {place}");
        assert_eq!(traces.trace(&t, &[3; 16]).await.unwrap(), []);
        for (query, wanted) in &cases {
            let names: Vec<_> = traces.search(&t, query).await.unwrap().into_iter().map(|s| s.name).collect();
            assert_eq!(names, *wanted, "in the {place}: {query:?}");
        }
        let (from, to) = (Timestamp(0), all().end);
        assert_eq!(traces.services(&t, from, to).await.unwrap(), ["db", "pay", "web"]);
        assert_eq!(traces.operations(&t, "web", from, to).await.unwrap(), ["GET /cart", "GET /pay"]);
        assert_eq!(traces.services(&tenant("other"), from, to).await.unwrap(), Vec::<String>::new());
        assert_eq!(traces.trace(&tenant("other"), &[2; 16]).await.unwrap(), []);
        if place == "replayed head" {
            traces.flush().await.unwrap();
        } else {
            drop(traces);
            traces = open(&folder).await;
        }
    }
    assert_eq!(traces.verify().await.unwrap(), []);
}

#[tokio::test]
async fn spans_that_cannot_be_placed_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let traces = open(&folder).await;
    let mut backwards = span(1, 1, "a", "backwards", 10, 0);
    backwards.end = backwards.start.plus_millis(-1);
    let mut crowded = span(1, 1, "a", "crowded", 10, 1);
    crowded.events = vec![SpanEvent::default(); 2_000];
    let mut big = span(1, 1, "a", "big", 10, 1);
    let blob = |i: i64| SpanEvent {
        attributes: [(format!("k{i}"), "x".repeat(60_000).into())].into_iter().collect(),
        ..SpanEvent::default()
    };
    big.events = (0..30).map(blob).collect();
    let bad = vec![
        Span { trace_id: vec![0; 16], ..span(1, 1, "a", "no trace", 10, 1) },
        Span { span_id: vec![1; 7], ..span(1, 1, "a", "short id", 10, 1) },
        backwards,
        crowded,
        big,
    ];
    let answer = traces.append(&tenant("t"), bad).await.unwrap();
    assert_eq!((answer.stored, answer.rejected), (0, 5));
    let wanted =
        ["no trace id", "span id has 7 bytes instead of 8", "ends before it starts", "2000 events", "at most 1048576 are stored"];
    for (refusal, wanted) in answer.refusals.iter().zip(wanted) {
        assert!(refusal.reason.contains(wanted), "{refusal:?}");
    }
    let inverted = SpanQuery { duration_ns_min: Some(2), duration_ns_max: Some(1), ..all() };
    assert!(traces.search(&tenant("t"), &inverted).await.unwrap_err().to_string().contains("shortest duration"));
}

#[tokio::test]
async fn the_tail_gives_spans_by_cursor() {
    let folder = tempfile::tempdir().unwrap();
    let traces = open(&folder).await;
    traces.append(&tenant("t"), spans()).await.unwrap();
    let batches = traces.tail(Lsn(0), 10).await.unwrap();
    assert_eq!(batches.iter().map(|b| (b.lsn, b.records.len())).collect::<Vec<_>>(), [(Lsn(1), 4)]);
    assert_eq!(traces.tail(traces.newest(), 10).await.unwrap(), []);
}

#[test]
fn bytes_that_are_no_span_are_an_error() {
    use crate::store::Kind;
    let mut bytes = Vec::new();
    SpanKindOf::encode(&spans()[3], &mut bytes);
    assert_eq!(SpanKindOf::decode(&bytes), Ok(spans()[3].clone()));
    for cut in 0..bytes.len() {
        assert!(SpanKindOf::decode(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    bytes.push(0);
    assert!(SpanKindOf::decode(&bytes).is_err());
}
