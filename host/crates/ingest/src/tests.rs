//! The endpoints as senders see them, over a real store and a real database.

use crate::{AuthError, Authenticate, Secrets, State, otlp, remote_write, routes};
use axum::{Router, body::Body, response::Response};
use db::{Db, Topic};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use model::{ManualClock, Matcher, Principal, Role, TenantId, Timestamp};
use serde_json::{Value, json};
use std::sync::Arc;
use telemetry::{MetricReader as _, Telemetry};
use tower::ServiceExt as _;

const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);
const NOW_MS: i64 = NOW.millis();

struct Tokens;

#[async_trait::async_trait]
impl Authenticate for Tokens {
    async fn authenticate(&self, headers: &HeaderMap) -> Result<Principal, AuthError> {
        match headers.get("authorization").and_then(|v| v.to_str().ok()) {
            None => Err(AuthError::Missing),
            Some("Bearer good") => {
                Ok(Principal { tenant: TenantId::default_tenant(), name: "sender".into(), role: Role::Ingest })
            }
            Some("Bearer old") => Err(AuthError::Expired),
            Some(_) => Err(AuthError::Unknown),
        }
    }
}

#[async_trait::async_trait]
impl Secrets for Tokens {
    async fn secret(&self, _tenant: &TenantId, name: &str) -> Result<Option<Vec<u8>>, String> {
        Ok((name == "key").then(|| b"It's a Secret to Everybody".to_vec()))
    }
}

struct Host {
    state: State,
    telemetry: Telemetry,
    db: Db,
    app: Router,
    otlp: Router,
    clock: Arc<ManualClock>,
    _dir: tempfile::TempDir,
}

impl Host {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(NOW));
        let telemetry = Telemetry::open(&dir.path().join("telemetry"), Default::default(), clock.clone()).await.unwrap();
        let db = Db::open(&format!("sqlite:{}", dir.path().join("t.db").display())).await.unwrap();
        let state = State::new(telemetry.clone(), db.clone(), Arc::new(Tokens), Arc::new(Tokens), clock.clone());
        Self { clock, app: routes(state.clone()), otlp: otlp::http(state.clone()), state, telemetry, db, _dir: dir }
    }

    async fn post(&self, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> (StatusCode, String) {
        let router = if path.starts_with("/v1/") { &self.otlp } else { &self.app };
        let mut request = Request::post(path).header("authorization", "Bearer good");
        for (name, value) in headers {
            if *name == "authorization" {
                request.headers_mut().unwrap().remove(*name);
            }
            if !value.is_empty() {
                request = request.header(*name, *value);
            }
        }
        shown(router.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap()).await
    }

    async fn series(&self, name: &str) -> Vec<String> {
        let tenant = TenantId::default_tenant();
        let found =
            self.telemetry.metrics.select(&tenant, &[Matcher::equal("__name__", name)], 0, NOW_MS + 10_000_000).await.unwrap();
        let mut found: Vec<_> = found
            .into_iter()
            .map(|s| {
                let value = |v: &f64| if v.to_bits() == model::STALE_NAN_BITS { "stale".into() } else { v.to_string() };
                format!("{} {}", s.labels, s.values.iter().map(value).collect::<Vec<_>>().join(" "))
            })
            .collect();
        found.sort();
        found
    }

    async fn logs(&self) -> Vec<model::LogRecord> {
        let query = telemetry::LogQuery {
            streams: vec![],
            lines: vec![],
            fields: vec![],
            text: None,
            trace_id: None,
            start: Timestamp(0),
            end: Timestamp(i64::MAX),
            limit: 100,
            direction: telemetry::Direction::Forward,
        };
        self.telemetry.logs.search(&TenantId::default_tenant(), &query).await.unwrap().records
    }

    async fn handed(&self, topic: Topic) -> Vec<Value> {
        self.db.handed::<Value>(topic, 0, 100).await.unwrap().into_iter().map(|h| h.payload).collect()
    }
}

async fn shown(response: Response) -> (StatusCode, String) {
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

fn snappy(bytes: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(bytes).unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

const PATHS: &[&str] = &[
    "/api/v1/write",
    "/api/v1/import/prometheus",
    "/metrics/job/j",
    "/loki/api/v1/push",
    "/api/v1/logs",
    "/api/v1/events",
    "/api/v2/alerts",
    "/api/v1/alertmanager/webhook",
    "/v1/metrics",
    "/v1/logs",
    "/v1/traces",
];

#[tokio::test]
async fn every_endpoint_wants_a_token_and_its_own_tenant_and_survives_garbage() {
    let host = Host::start().await;
    for path in PATHS {
        let json = ("content-type", "application/json");
        let (status, body) = host.post(path, &[("authorization", ""), json], "").await;
        assert_eq!(status, 401, "{path}: {body}");
        let (status, body) = host.post(path, &[("authorization", "Bearer old"), json], "").await;
        assert!(status == 401 && body.contains("expired"), "{path}: {body}");
        let (status, body) = host.post(path, &[("x-scope-orgid", "other"), json], "").await;
        assert!(status == 403 && body.contains("other"), "{path}: {body}");
        for content_type in ["application/x-protobuf", "application/json", "image/png", ""] {
            for encoding in ["", "gzip", "snappy", "br"] {
                for garbage in [&[0xff; 40][..], b"{\"a\":", b"[[[[", &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff], b""] {
                    let (status, body) = host
                        .post(path, &[("content-type", content_type), ("content-encoding", encoding)], garbage.to_vec())
                        .await;
                    assert!(!status.is_server_error(), "{path} {content_type} {encoding}: {status} {body}");
                }
            }
        }
        let (status, body) =
            host.post(path, &[("content-length", "99999999999"), ("content-type", "application/json")], "").await;
        assert!(matches!(status.as_u16(), 413 | 415), "{path}: {status} {body}");
    }
    assert!(host.state.stats().requests_refused > 0);
    assert_eq!(host.state.stats().samples, 0);
}

#[tokio::test]
async fn remote_write_is_204_when_stored_and_400_with_the_count_when_partly() {
    let host = Host::start().await;
    let headers = [("content-type", "application/x-protobuf"), ("content-encoding", "snappy")];
    let good: (&[(&str, &str)], &[(i64, f64)]) = (&[("__name__", "up"), ("job", "a")], &[(NOW_MS, 1.0)]);
    let whole = snappy(&remote_write::tests::request_v1(&[good]));
    assert_eq!(host.post("/api/v1/write", &headers, whole.clone()).await, (StatusCode::NO_CONTENT, String::new()));
    let bad: (&[(&str, &str)], &[(i64, f64)]) = (&[("job", "b")], &[(NOW_MS, 1.0)]);
    let mixed = snappy(&remote_write::tests::request_v1(&[bad, (good.0, &[(NOW_MS + 1, 2.0)])]));
    let (status, body) = host.post("/api/v1/write", &headers, mixed).await;
    assert!(status == 400 && body.starts_with("1 of 2 samples refused"), "{status} {body}");
    assert_eq!(host.series("up").await, [r#"up{job="a"} 1 2"#]);
    for (content_type, why) in [("text/plain", "application/x-protobuf"), ("application/x-protobuf;proto=x.Y", "x.Y")] {
        let (status, body) = host.post("/api/v1/write", &[("content-type", content_type), headers[1]], whole.clone()).await;
        assert!(status == 415 && body.contains(why), "{status} {body}");
    }
}

#[tokio::test]
async fn pushed_text_is_stored_and_bad_lines_are_named() {
    let host = Host::start().await;
    let (status, body) =
        host.post("/api/v1/import/prometheus?extra_label=env=prod", &[("content-type", "text/plain")], "a 1\nb x\n").await;
    assert!(status == 200 && body.contains(r#""stored":1"#) && body.contains("line 2"), "{status} {body}");
    assert_eq!(host.series("a").await, [r#"a{env="prod"} 1"#]);
    let (status, _) = host.post("/metrics/job/backup/instance/db", &[], "done 7\n").await;
    assert_eq!(status, 204);
    assert_eq!(host.series("done").await, [r#"done{instance="db", job="backup"} 7"#]);
    let open = [("content-type", "application/openmetrics-text; version=1.0.0")];
    let (status, body) = host.post("/api/v1/import/prometheus", &open, "c 1\n").await;
    assert!(status == 400 && body.contains("# EOF"), "{body}");
}

#[tokio::test]
async fn logs_come_in_as_json_lines_and_by_loki() {
    let host = Host::start().await;
    let lines = b"{\"msg\":\"one\",\"service\":\"api\",\"level\":\"error\"}\nnot json\n";
    let (status, body) = host.post("/api/v1/logs", &[("content-encoding", "gzip")], gzip(lines)).await;
    assert!(status == 200 && body.contains("line 2"), "{status} {body}");
    let push = json!({"streams": [{"stream": {"app": "web"}, "values": [[NOW.nanos().to_string(), "two"]]}]});
    let (status, body) = host.post("/loki/api/v1/push", &[("content-type", "application/json")], push.to_string()).await;
    assert_eq!(status, 204, "{body}");
    let mut bodies: Vec<_> = host.logs().await.into_iter().map(|r| r.body).collect();
    bodies.sort();
    assert_eq!(bodies, ["one", "two"]);
    let (status, body) = host.post("/loki/api/v1/push", &[("content-type", "application/json")], "{}").await;
    assert!(status == 400 && serde_json::from_str::<Value>(&body).unwrap()["message"].is_string(), "{body}");
}

#[tokio::test]
async fn the_examples_of_the_otlp_project_are_taken() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../../shared/data/otlp");
    if !folder.exists() {
        println!("the OTLP examples are missing at {}: nothing was checked", folder.display());
        return;
    }
    let host = Host::start().await;
    // Moved from 2018 to the test's now, or retention would refuse them.
    let example = |file: &str| {
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        text.replace("1544712660300000000", &NOW.nanos().to_string())
    };
    let json = [("content-type", "application/json")];
    for (file, path) in [("logs.json", "/v1/logs"), ("events.json", "/v1/logs"), ("trace.json", "/v1/traces")] {
        let text = example(file);
        assert_eq!(host.post(path, &json, text).await, (StatusCode::OK, "{}".into()), "{file}");
    }
    let text = example("metrics.json");
    let (status, body) = host.post("/v1/metrics", &[json[0], ("content-encoding", "gzip")], gzip(text.as_bytes())).await;
    // The example's counters are delta: those are refused by name, the gauge is kept.
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &answer["partialSuccess"]["rejectedDataPoints"]), (StatusCode::OK, &json!(3)), "{body}");
    assert!(answer["partialSuccess"]["errorMessage"].as_str().unwrap().contains("my.counter: delta"), "{body}");
    assert_eq!(host.series("my_gauge_ratio").await, [r#"my_gauge_ratio{job="my.service", my_gauge_attr="some value"} 10"#]);
    let cumulative = text.replace("\"aggregationTemporality\": 1", "\"aggregationTemporality\": 2");
    assert_eq!(host.post("/v1/metrics", &json, cumulative).await, (StatusCode::OK, "{}".into()));
    let of = |name: &str| format!("{name}_bucket");
    let buckets = host.series(&of("my_histogram_ratio")).await.len() + host.series(&of("my_histogram")).await.len();
    assert_eq!(buckets, 2);
    let exponential = host.series("my_exponential_histogram_bucket").await;
    let shown: Vec<_> = exponential
        .iter()
        .map(|s| s[s.find("le=").unwrap()..].split(", my").next().unwrap().to_owned() + s.rsplit(' ').next().unwrap())
        .collect();
    assert_eq!(shown, [r#"le="+Inf"3"#, r#"le="0"1"#, r#"le="8"3"#]);
}

#[tokio::test]
async fn otlp_refuses_as_a_status_in_the_requests_encoding() {
    let host = Host::start().await;
    let (status, body) = host.post("/v1/logs", &[("content-type", "application/json")], "{\"resourceLogs\":3}").await;
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert!(status == 400 && answer["code"] == 3 && answer["message"].as_str().unwrap().contains("resourceLogs"), "{body}");
    let response = host
        .otlp
        .clone()
        .oneshot(Request::post("/v1/logs").header("content-type", "application/x-protobuf").body(Body::empty()).unwrap())
        .await
        .unwrap();
    assert_eq!(
        (response.status(), &response.headers()["content-type"]),
        (StatusCode::UNAUTHORIZED, &"application/x-protobuf".parse::<http::HeaderValue>().unwrap())
    );
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let fields: Vec<_> = crate::protobuf::Fields::new(&body).map(Result::unwrap).collect();
    assert_eq!((fields[0].varint(), fields[1].text().is_ok_and(|t| t.contains("no token"))), (Ok(16), true));
}

#[tokio::test]
async fn otlp_over_grpc_takes_gzip_answers_partial_success_and_wants_a_token() {
    use opentelemetry_proto::tonic::{
        collector::logs::v1::{ExportLogsServiceRequest, logs_service_client::LogsServiceClient},
        logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
    };
    let host = Host::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let cancel = tokio_util::sync::CancellationToken::new();
    let server = tokio::spawn(otlp::grpc(host.state.clone(), listener, cancel.clone()));
    let mut client = LogsServiceClient::connect(format!("http://{address}"))
        .await
        .unwrap()
        .send_compressed(tonic::codec::CompressionEncoding::Gzip);
    let record = LogRecord { time_unix_nano: NOW.nanos() as u64, ..Default::default() };
    let bad = LogRecord { trace_id: vec![1; 3], ..record.clone() };
    let scope_logs = vec![ScopeLogs { log_records: vec![record, bad], ..Default::default() }];
    let request = ExportLogsServiceRequest { resource_logs: vec![ResourceLogs { scope_logs, ..Default::default() }] };
    let refused = client.export(request.clone()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    let mut request = tonic::Request::new(request);
    request.metadata_mut().insert("authorization", "Bearer good".parse().unwrap());
    let partial = client.export(request).await.unwrap().into_inner().partial_success.unwrap();
    assert_eq!(partial.rejected_log_records, 1);
    assert!(partial.error_message.contains("logRecords[1]: its trace id has 3 bytes"), "{}", partial.error_message);
    assert_eq!(host.logs().await.len(), 1);
    drop(client);
    cancel.cancel();
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_webhook_is_let_in_by_its_signature_or_a_token() {
    let host = Host::start().await;
    let webhook = db::webhook::Webhook { name: "hub".into(), spec: json!({"secret": "key", "type": "com.github"}), updated: NOW };
    host.db
        .write::<_, db::Error, _>(move |tx| Box::pin(async move { tx.put_webhook(&TenantId::default_tenant(), &webhook).await }))
        .await
        .unwrap();
    let signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    let anonymous = ("authorization", "");
    let text = ("content-type", "text/plain");
    let (status, _) =
        host.post("/api/v1/webhooks/hub", &[anonymous, text, ("x-hub-signature-256", signature)], "Hello, World!").await;
    assert_eq!(status, 202);
    let (bad_status, bad) =
        host.post("/api/v1/webhooks/hub", &[anonymous, ("x-hub-signature-256", signature)], "Hello, World?").await;
    let (none_status, none) = host.post("/api/v1/webhooks/nub", &[anonymous], "x").await;
    assert_eq!((bad_status.as_u16(), none_status.as_u16(), bad), (401, 401, none.replace("nub", "hub")));
    let (status, body) = host.post("/api/v1/webhooks/hub", &[], "unsigned").await;
    assert!(status == 403 && body.contains("X-Hub-Signature-256"), "{body}");
    let (status, _) = host.post("/api/v1/webhooks/other", &[("content-type", "application/json")], r#"{"a":1}"#).await;
    assert_eq!(status, 202);
    let events = host.handed(Topic::Event).await;
    let kinds: Vec<_> = events.iter().map(|e| (e["type"].as_str().unwrap(), &e["data"])).collect();
    assert_eq!(kinds, [("com.github", &json!("Hello, World!")), ("webhook.other", &json!({"a": 1}))]);
    let (status, body) = host.post("/api/v1/webhooks/other", &[], vec![b'x'; model::limits::EVENT_BYTES_MAX + 1]).await;
    assert_eq!(status, 413, "{body}");
}

#[tokio::test]
async fn alerts_of_others_reach_the_alert_stage() {
    let host = Host::start().await;
    let json_type = ("content-type", "application/json");
    let alerts =
        json!([{"labels": {"alertname": "HighCpu", "instance": "a"}, "annotations": {"summary": "hot"}}, {"labels": {}}]);
    let (status, body) = host.post("/api/v2/alerts", &[json_type], alerts.to_string()).await;
    assert!(status == 400 && body.contains("alert 1"), "{body}");
    let webhook =
        json!({"version": "4", "receiver": "r", "alerts": [{"status": "resolved", "labels": {"alertname": "HighCpu"}}]});
    let (status, body) = host.post("/api/v1/alertmanager/webhook", &[json_type], webhook.to_string()).await;
    assert_eq!(status, 204, "{body}");
    let findings = host.handed(Topic::Finding).await;
    let said: Vec<_> =
        findings.iter().map(|f| (f["monitor_name"].as_str().unwrap(), f["findings"][0]["status"].as_str().unwrap())).collect();
    assert_eq!(said, [("HighCpu", "firing"), ("HighCpu", "ok")]);
    assert_eq!(host.handed(Topic::Event).await.len(), 2);
}

#[tokio::test]
async fn events_go_onto_the_bus_and_forged_ones_do_not() {
    let host = Host::start().await;
    let event = json!({"specversion": "1.0", "id": "1", "source": "/s", "type": "com.example.deploy"});
    let structured = ("content-type", "application/cloudevents+json");
    assert_eq!(host.post("/api/v1/events", &[structured], event.to_string()).await.0, 202);
    let forged = event.to_string().replace("com.example.deploy", "io.orchestrix.alert.firing");
    let (status, body) = host.post("/api/v1/events", &[structured], forged).await;
    assert!(status == 400 && body.contains("host's own"), "{body}");
    let events = host.handed(Topic::Event).await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["time"], "2023-11-14T22:13:20Z");
}

#[tokio::test]
async fn a_scraped_target_that_loses_a_series_fails_and_vanishes_is_marked_stale_each_time() {
    use parking_lot::Mutex;
    let host = Host::start().await;
    let page = Arc::new(Mutex::new((200u16, "# TYPE a gauge\na{job=\"own\"} 1\nb 2\n".to_owned())));
    let shared = page.clone();
    let target = Router::new().route(
        "/metrics",
        axum::routing::get(move || async move {
            let (status, text) = shared.lock().clone();
            (StatusCode::from_u16(status).unwrap(), text)
        }),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { axum::serve(listener, target).await.unwrap() });
    let spec = json!({"targets": [address], "interval": "1s", "labels": {"instance": "i"}});
    let job = db::scrape::Scrape { name: "j".into(), spec, updated: NOW };
    host.db
        .write::<_, db::Error, _>(move |tx| Box::pin(async move { tx.put_scrape(&TenantId::default_tenant(), &job).await }))
        .await
        .unwrap();
    let (service, handle) = crate::scrape::Service::new(Default::default(), host.state.clone()).unwrap();
    let cancel = tokio_util::sync::CancellationToken::new();
    let running = tokio::spawn(service.run(cancel.clone()));
    let tenant = TenantId::default_tenant();
    // The clock moves a second at each look, so that each scrape has a time of its own.
    let until = async |name: &str, expected: &str| {
        let mut last = String::new();
        for _ in 0..200 {
            host.clock.advance_millis(1_000);
            last = host.series(name).await.first().and_then(|s| s.rsplit(' ').next().map(str::to_owned)).unwrap_or_default();
            if last == expected {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("the last sample of {name} is {last:?}, not {expected:?}; targets {:?}", handle.targets(&tenant));
    };
    until("b", "2").await;
    let labels = |series: Vec<String>| series[0].split("} ").next().unwrap().to_owned();
    assert_eq!(labels(host.series("a").await), r#"a{exported_job="own", instance="i", job="j""#);
    until("up", "1").await;
    *page.lock() = (200, "a{job=\"own\"} 1\n".into());
    until("b", "stale").await;
    until("a", "1").await;
    *page.lock() = (500, String::new());
    until("a", "stale").await;
    until("up", "0").await;
    assert_eq!((handle.targets(&tenant)[0].is_up, handle.targets(&tenant)[0].last_error.contains("500")), (Some(false), true));
    *page.lock() = (200, "a 1\nbroken line here\n".into());
    until("up", "0").await;
    *page.lock() = (200, "a 1\n".into());
    until("up", "1").await;
    host.db
        .write::<_, db::Error, _>(|tx| Box::pin(async { tx.delete_scrape(&TenantId::default_tenant(), "j").await }))
        .await
        .unwrap();
    handle.reload();
    until("up", "stale").await;
    assert!(handle.targets(&tenant).is_empty());
    assert!(handle.targets(&TenantId::new("other").unwrap()).is_empty());
    cancel.cancel();
    running.await.unwrap();
}
