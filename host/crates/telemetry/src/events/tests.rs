use super::*;
use model::ManualClock;
use serde_json::json;

const T0: i64 = 1_700_000_000_000;

async fn open(folder: &tempfile::TempDir) -> Events {
    let dir = Dir::open_ambient_dir(folder.path(), cap_std::ambient_authority()).unwrap();
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(T0)));
    Events::open(dir, SignalConfig { tick_ms: None, ..SignalConfig::default() }, clock, None).await.unwrap()
}

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

fn event(ms: i64, id: &str, kind: &str, subject: Option<&str>) -> Event {
    Event {
        subject: subject.map(str::to_owned),
        received: Timestamp::from_millis(T0 + ms),
        ..Event::new(id, "/monitors/cpu", kind, json!({"value": 95.5, "labels": {"host": "a"}}))
    }
}

fn all() -> EventQuery {
    EventQuery { end: Timestamp::from_millis(T0 + 100_000), ..EventQuery::default() }
}

#[tokio::test]
async fn events_are_found_by_type_source_and_subject_in_head_and_split_and_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let t = tenant("acme");
    let mut events = open(&folder).await;
    let mut extended = event(30, "3", "com.example.push", None);
    extended.source = "/webhooks/git".into();
    extended.extensions.insert("traceparent".into(), json!("00-ab"));
    let sent = vec![
        event(10, "1", "io.orchestrix.alert.firing", Some("aaaa")),
        event(20, "2", "io.orchestrix.alert.resolved", Some("aaaa")),
        extended.clone(),
        event(40, "4", "io.orchestrix.alert.firing", Some("bbbb")),
    ];
    assert_eq!(events.append(&t, sent).await.unwrap().stored, 4);
    let text = |s: &str| Some(s.to_owned());
    let cases: Vec<(EventQuery, &[&str])> = vec![
        (all(), &["4", "3", "2", "1"]),
        (EventQuery { limit: 2, ..all() }, &["4", "3"]),
        (EventQuery { kind: text("io.orchestrix.alert.firing"), ..all() }, &["4", "1"]),
        (EventQuery { kind: text("io.orchestrix.alert.*"), ..all() }, &["4", "2", "1"]),
        (EventQuery { kind: text("io.orchestrix.alert"), ..all() }, &[]),
        (EventQuery { source: text("/webhooks/git"), ..all() }, &["3"]),
        (EventQuery { subject: text("aaaa"), ..all() }, &["2", "1"]),
        (EventQuery { subject: text("*"), ..all() }, &["4", "3", "2", "1"]),
        (EventQuery { start: Timestamp::from_millis(T0 + 20), end: Timestamp::from_millis(T0 + 40), ..all() }, &["3", "2"]),
    ];
    for place in ["head", "replayed head", "split", "reopened split"] {
        for (query, wanted) in &cases {
            let ids: Vec<_> = events.search(&t, query).await.unwrap().into_iter().map(|e| e.id).collect();
            assert_eq!(ids, *wanted, "in the {place}: {query:?}");
        }
        let found = events.search(&t, &EventQuery { source: text("/webhooks/git"), ..all() }).await.unwrap();
        assert_eq!(found, [extended.clone()], "in the {place}");
        assert_eq!(events.search(&tenant("other"), &all()).await.unwrap(), []);
        if place == "replayed head" {
            events.flush().await.unwrap();
        } else {
            drop(events);
            events = open(&folder).await;
        }
    }
}

#[tokio::test]
async fn events_that_could_not_be_read_back_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let events = open(&folder).await;
    let mut doubled = event(1, "doubled", "a", None);
    doubled.extensions.insert("source".into(), json!("/elsewhere"));
    let mut deep = event(1, "deep", "a", None);
    deep.data = (0..500).fold(json!(1), |v, _| json!([v]));
    let nameless = event(1, "", "a", None);
    let fresh = Event { received: Timestamp(0), ..event(1, "fresh", "a", None) };
    let answer = events.append(&tenant("t"), vec![doubled, deep, nameless, fresh]).await.unwrap();
    assert_eq!((answer.stored, answer.rejected), (1, 3));
    assert!(
        answer.refusals[0].reason.contains("can't be read back")
            && answer.refusals[2].reason.contains("needs id, source and type")
    );
    let found = events.search(&tenant("t"), &all()).await.unwrap();
    assert_eq!(found[0].received, Timestamp::from_millis(T0), "what has no time was taken in now");
}
