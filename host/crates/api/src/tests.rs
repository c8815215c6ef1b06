//! The router as callers meet it: over SQLite in a folder of its own, with a sandbox that holds no plugin.

use crate::{
    Authenticator, Packages, Parts, Readiness, State, Vault,
    access::{Access, ENDPOINTS},
    auth::hash_token,
};
use async_trait::async_trait;
use axum::{Router, body::Body, http::Request};
use db::{Db, Topic, token::Token};
use http_body_util::BodyExt;
use model::{Clock, ErrorRecord, Event, LogRecord, ManualClock, Role, Series, Span, TenantId, Timestamp};
use plugin::{PluginLog, Recording, SecretValue, StateEntry, StateWrite, TimeRange};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// A sandbox's outside without anything in it.
struct Nothing;

fn refused() -> ErrorRecord {
    ErrorRecord { code: "test".into(), message: "nothing here".into(), retry: model::RetryAdvice::Never, details: Value::Null }
}

#[async_trait]
impl plugin::TelemetryPort for Nothing {
    async fn query_metrics(&self, _: &TenantId, _: &str, _: TimeRange) -> Result<Vec<Series>, ErrorRecord> {
        Err(refused())
    }
    async fn query_logs(&self, _: &TenantId, _: &str, _: TimeRange, _: usize) -> Result<Vec<LogRecord>, ErrorRecord> {
        Err(refused())
    }
    async fn query_spans(&self, _: &TenantId, _: &str, _: TimeRange, _: usize) -> Result<Vec<Span>, ErrorRecord> {
        Err(refused())
    }
}

#[async_trait]
impl plugin::StatePort for Nothing {
    async fn get(&self, _: &TenantId, _: &str, _: &str) -> Result<Option<StateEntry>, ErrorRecord> {
        Err(refused())
    }
    async fn put(&self, _: &TenantId, _: &str, _: StateWrite) -> Result<u64, ErrorRecord> {
        Err(refused())
    }
    async fn delete(&self, _: &TenantId, _: &str, _: &str, _: Option<u64>) -> Result<(), ErrorRecord> {
        Err(refused())
    }
    async fn list(&self, _: &TenantId, _: &str, _: &str, _: Option<&str>, _: u32) -> Result<Vec<String>, ErrorRecord> {
        Err(refused())
    }
}

#[async_trait]
impl plugin::SecretPort for Nothing {
    async fn get(&self, _: &TenantId, _: &str) -> Result<Option<SecretValue>, ErrorRecord> {
        Err(refused())
    }
}

impl plugin::RecordPort for Nothing {
    fn record(&self, _: Recording) {}
}

impl plugin::LogPort for Nothing {
    fn emit(&self, _: PluginLog) {}
}

#[async_trait]
impl ingest::Secrets for Nothing {
    async fn secret(&self, _: &TenantId, _: &str) -> Result<Option<Vec<u8>>, String> {
        Ok(None)
    }
}

/// A running API with two tenants. Tokens are `<tenant>-<role>`.
struct World {
    router: Router,
    db: Db,
    clock: Arc<ManualClock>,
    stop: CancellationToken,
    _dir: tempfile::TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn world() -> World {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    let manual = Arc::new(ManualClock::at(Timestamp::from_secs(1_764_000_000)));
    let clock: Arc<dyn Clock> = manual.clone();
    let db = Db::open(&format!("sqlite:{}", dir.path().join("t.db").display())).await.unwrap();
    for tenant in ["default", "other"] {
        for role in [Role::Ingest, Role::Viewer, Role::Operator, Role::Admin] {
            let token = Token {
                id: uuid::Uuid::new_v4().to_string(),
                tenant: TenantId::new(tenant).unwrap(),
                name: role.as_str().into(),
                role,
                hash: hash_token(&format!("{tenant}-{}", role.as_str())),
                created: clock.now(),
                expires: None,
                revoked: None,
            };
            db.write::<_, db::Error, _>(move |tx| Box::pin(async move { tx.add_token(&token).await })).await.unwrap();
        }
    }
    let telemetry =
        telemetry::Telemetry::open(&dir.path().join("telemetry"), telemetry::Config::default(), clock.clone()).await.unwrap();
    let engine = query::promql::Engine::new(Arc::new(telemetry.metrics.clone()));
    let ports = plugin::Ports {
        clock: clock.clone(),
        telemetry: Arc::new(Nothing),
        state: Arc::new(Nothing),
        secrets: Arc::new(Nothing),
        effects: Arc::new(action::Effects::new(db.clone(), clock.clone())),
        recorder: Arc::new(Nothing),
        log: Arc::new(Nothing),
    };
    let plugins = plugin::Host::new(plugin::HostConfig { instances_max: 4, ..Default::default() }, ports).unwrap();
    let auth = Authenticator::new(db.clone(), clock.clone());
    let ingest = ingest::State::new(telemetry.clone(), db.clone(), Arc::new(auth.clone()), Arc::new(Nothing), clock.clone());
    let (_, scrapes) = ingest::scrape::Service::new(ingest::scrape::Config::default(), ingest.clone()).unwrap();
    let detectors = Arc::new(::detect::Plugins { db: db.clone(), host: plugins.clone() });
    let detect = ::detect::Service::new(Default::default(), db.clone(), &telemetry, engine.clone(), detectors, clock.clone());
    let workflow = ::workflow::Service::new(db.clone(), clock.clone(), Default::default());
    let (monitors, workflows, stop) = (detect.handle(), workflow.handle(), CancellationToken::new());
    tokio::spawn(detect.run(stop.clone()));
    tokio::spawn(workflow.run(stop.clone()));
    std::fs::create_dir(dir.path().join("packages")).unwrap();
    let packages = cap_std::fs::Dir::open_ambient_dir(dir.path().join("packages"), cap_std::ambient_authority()).unwrap();
    let state = State::new(Parts {
        db: db.clone(),
        telemetry,
        queries: Arc::new(engine),
        plugins,
        workflows,
        monitors,
        scrapes,
        stats: Box::new(Vec::new),
        started: clock.now(),
        vault: Vault::new(&[7; 32]),
        packages: Packages::new(packages),
        auth,
        clock,
        ready: Arc::new(Readiness::default()),
        public_url: Some("http://orchestrix.test".into()),
        data_dir: dir.path().into(),
    });
    World { router: crate::router(state, ingest::routes(ingest)), db, clock: manual, stop, _dir: dir }
}

impl World {
    async fn send(&self, method: &str, path: &str, token: &str, body: impl Into<Body>) -> (u16, Value) {
        let mut request = Request::builder().method(method).uri(path);
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let response = self.router.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned())))
    }

    async fn admin(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(method, path, "default-admin", body).await
    }
}

/// A path of the table with something in place of its parameters.
fn concrete(path: &str) -> String {
    let mut out = String::new();
    let mut is_inside = false;
    for c in path.chars() {
        match c {
            '{' => {
                is_inside = true;
                out.push('x');
            }
            '}' => is_inside = false,
            c if !is_inside => out.push(c),
            _ => {}
        }
    }
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn every_endpoint_refuses_no_token_a_wrong_one_and_a_role_too_low() {
    let world = world().await;
    for e in ENDPOINTS {
        let Access::Role(role) = e.access else { continue };
        let path = concrete(e.path);
        for (token, status, code) in [("", 401, "ORX-0101"), ("orx_wrong", 401, "ORX-0102")] {
            let (got, body) = world.send(e.method, &path, token, "").await;
            assert_eq!((got, body["code"].as_str()), (status, Some(code)), "{} {path} with {token:?}: {body}", e.method);
        }
        let lower = [Role::Ingest, Role::Viewer, Role::Operator].into_iter().rfind(|r| *r < role);
        if let Some(lower) = lower {
            let (got, body) = world.send(e.method, &path, &format!("default-{}", lower.as_str()), "").await;
            assert_eq!((got, body["code"].as_str()), (403, Some("ORX-0104")), "{} {path} as {lower:?}: {body}", e.method);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_of_the_table_has_a_route_behind_it() {
    let world = world().await;
    for e in ENDPOINTS.iter().filter(|e| e.path != "/api/v1/events/stream") {
        let (status, body) = world.send(e.method, &concrete(e.path), "default-admin", "").await;
        let is_missing = status == 405 || body["detail"].as_str().is_some_and(|d| d.starts_with("there is no endpoint"));
        assert!(!is_missing, "{} {}: {status} {body}", e.method, e.path);
        assert!(status < 500, "{} {}: {status} {body}", e.method, e.path);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_or_revoked_token_no_longer_opens() {
    let world = world().await;
    let (status, made) =
        world.admin("POST", "/api/v1/tokens", json!({ "name": "ci", "role": "viewer", "expiresIn": "1h" })).await;
    assert_eq!(status, 201, "{made}");
    let token = made["token"].as_str().unwrap();
    assert_eq!(world.send("GET", "/api/v1/alerts", token, "").await.0, 200);
    world.clock.advance_millis(3_600_000);
    assert_eq!(world.send("GET", "/api/v1/alerts", token, "").await.1["code"], "ORX-0103");

    let (_, made) = world.admin("POST", "/api/v1/tokens", json!({ "name": "ci2", "role": "viewer" })).await;
    let token = made["token"].as_str().unwrap();
    assert_eq!(world.send("GET", "/api/v1/me", token, "").await.0, 200);
    world.admin("DELETE", &format!("/api/v1/tokens/{}", made["id"].as_str().unwrap()), Value::Null).await;
    assert_eq!(world.send("GET", "/api/v1/me", token, "").await.1["code"], "ORX-0102");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenant_s_things_are_not_there() {
    let world = world().await;
    world.admin("PUT", "/api/v1/secrets/db", json!({ "value": "x", "hosts": [] })).await;
    world.admin("PUT", "/api/v1/monitors/cpu", json!({ "detector": "threshold", "query": "up" })).await;
    world.admin("PUT", "/api/v1/guardrails/g", json!({ "deny": true })).await;
    for path in ["/api/v1/secrets/db", "/api/v1/monitors/cpu", "/api/v1/guardrails/g"] {
        assert_eq!(world.send("GET", path, "default-admin", "").await.0, 200, "{path}");
        for method in ["GET", "DELETE"] {
            let (status, body) = world.send(method, path, "other-admin", "").await;
            assert_eq!((status, body["code"].as_str()), (404, Some("ORX-0201")), "{method} {path}: {body}");
        }
    }
    assert_eq!(world.send("GET", "/api/v1/monitors", "other-viewer", "").await.1["items"], json!([]));
    assert_eq!(world.send("GET", "/api/v1/audit", "other-admin", "").await.1["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_leaves_an_audit_row_and_a_secret_never_comes_back() {
    let world = world().await;
    let (status, answer) =
        world.admin("PUT", "/api/v1/secrets/slack", json!({ "value": "hunter2-value", "hosts": ["https://slack.com"] })).await;
    assert_eq!(status, 200, "{answer}");
    let (_, audit) = world.admin("GET", "/api/v1/audit", Value::Null).await;
    assert_eq!(audit["items"][0]["action"], "put secret");
    assert_eq!((audit["items"][0]["actor"].as_str(), audit["items"][0]["target"].as_str()), (Some("admin"), Some("slack")));
    for path in ["/api/v1/secrets", "/api/v1/secrets/slack", "/api/v1/audit"] {
        let (_, body) = world.admin("GET", path, Value::Null).await;
        assert!(!answer.to_string().contains("hunter2") && !body.to_string().contains("hunter2"), "{path}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_field_is_refused_with_the_nearest_one() {
    let world = world().await;
    for (path, body, hint) in [
        ("/api/v1/secrets/a", json!({ "valeu": "x" }), "value"),
        ("/api/v1/monitors/a", json!({ "detector": "threshold", "quary": "up" }), "query"),
        ("/api/v1/silences/a", json!({ "matchers": ["a=b"], "coment": "x" }), "comment"),
        ("/api/v1/plugins/a", json!({ "plugin": "a/b", "grants": {} }), "grant"),
    ] {
        let (status, answer) = world.admin("PUT", path, body).await;
        assert_eq!((status, answer["code"].as_str()), (422, Some("ORX-0002")), "{path}: {answer}");
        assert!(answer["errors"][0]["hint"].as_str().unwrap_or("").contains(hint), "{path}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_problem_has_the_shape_of_rfc_9457() {
    let world = world().await;
    let request = Request::builder().uri("/api/v1/monitors/none").header("authorization", "Bearer default-viewer");
    let response = world.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    assert_eq!(response.headers()["x-content-type-options"], "nosniff");
    let body: Value = serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
    for key in ["type", "title", "status", "detail", "code"] {
        assert!(!body[key].is_null(), "{key} is missing: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_workflow_is_told_with_its_line_and_a_right_one_runs() {
    let world = world().await;
    let wrong =
        "document:\n  dsl: 1.0.3\n  namespace: test\n  name: hello\n  version: 0.1.0\ndo:\n  - greet:\n      sett: {a: 1}\n";
    let (status, answer) = world.send("PUT", "/api/v1/workflows/hello", "default-admin", wrong).await;
    assert_eq!((status, answer["code"].as_str()), (422, Some("ORX-0401")), "{answer}");
    assert!(answer["errors"][0]["line"].as_u64().unwrap_or(0) >= 7, "{answer}");

    let right = wrong.replace("sett:", "set:");
    let (status, answer) = world.send("PUT", "/api/v1/workflows/other", "default-admin", right.clone()).await;
    assert_eq!((status, answer["errors"][0]["pointer"].as_str()), (422, Some("/document/name")), "{answer}");
    assert_eq!(world.send("PUT", "/api/v1/workflows/hello", "default-admin", right).await.0, 200);
    let (status, run) = world.send("POST", "/api/v1/workflows/hello/runs", "default-operator", "{}").await;
    assert_eq!(status, 201, "{run}");
    let path = format!("/api/v1/runs/{}", run["id"].as_str().unwrap());
    for _ in 0..200 {
        let (_, run) = world.send("GET", &path, "default-viewer", "").await;
        if run["status"] == "completed" {
            assert_eq!(run["steps"][0]["name"], "greet", "{run}");
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the run did not complete: {:?}", world.send("GET", &path, "default-viewer", "").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_stream_resumes_after_the_last_id_and_shows_its_own_tenant_only() {
    let world = world().await;
    for n in 1..=4 {
        let tenant = TenantId::new(if n == 3 { "other" } else { "default" }).unwrap();
        let event = Event::new(n.to_string(), "/test", "io.test", json!({ "n": n }));
        world
            .db
            .write::<_, db::Error, _>(move |tx| {
                Box::pin(async move { tx.hand_off(Topic::Event, &tenant, Timestamp(n), &event).await })
            })
            .await
            .unwrap();
    }
    let request = Request::builder()
        .uri("/api/v1/events/stream?type=io.test")
        .header("authorization", "Bearer default-viewer")
        .header("last-event-id", "1");
    let response = world.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    let mut text = String::new();
    while text.matches("id: ").count() < 2 || !text.ends_with("\n\n") {
        let frame = body.frame().await.unwrap().unwrap();
        text.push_str(&String::from_utf8_lossy(frame.data_ref().unwrap()));
    }
    let ids: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("id: ")).collect();
    assert_eq!(ids, ["2", "4"], "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_a_client_s_mistake_on_every_endpoint() {
    let world = world().await;
    for e in ENDPOINTS.iter().filter(|e| e.method == "PUT" || e.method == "POST") {
        for body in [&b"\xff\xfe\x00"[..], b"{", b"[]", b"null", b"{\"a\":"] {
            let (status, answer) = world.send(e.method, &concrete(e.path), "default-admin", body.to_vec()).await;
            assert!(status < 500, "{} {} with {body:?}: {status} {answer}", e.method, e.path);
        }
    }
    let (status, answer) = world.send("PUT", "/api/v1/secrets/big", "default-admin", vec![b'x'; 3 << 20]).await;
    assert_eq!((status, answer["code"].as_str()), (413, Some("ORX-0005")), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_component_is_refused_by_name() {
    let world = world().await;
    let (status, answer) = world.send("POST", "/api/v1/packages", "default-admin", &b"\0asm\x01\0\0\0"[..]).await;
    assert_eq!((status, answer["code"].as_str()), (422, Some("ORX-0501")), "{answer}");
    let (status, answer) = world.admin("PUT", "/api/v1/plugins/slack", json!({ "plugin": "orchestrix/slack" })).await;
    assert_eq!((status, answer["errors"][0]["pointer"].as_str()), (422, Some("/plugin")), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_and_alertmanager_shapes_are_theirs() {
    let world = world().await;
    let (status, body) = world.send("GET", "/api/v1/query?query=1%2B1", "default-viewer", "").await;
    assert_eq!((status, &body["data"]["result"][1]), (200, &json!("2")), "{body}");
    let (status, body) = world.send("GET", "/api/v1/query?query=up%7B", "default-viewer", "").await;
    assert_eq!((status, body["errorType"].as_str()), (400, Some("bad_data")), "{body}");
    let silence = json!({ "matchers": [{ "name": "job", "value": "api", "isRegex": false }], "createdBy": "t", "comment": "c",
                          "startsAt": "2025-11-24T16:00:00Z", "endsAt": "2025-11-24T18:00:00Z" });
    let (status, made) = world.send("POST", "/api/v2/silences", "default-operator", silence.to_string()).await;
    assert_eq!(status, 200, "{made}");
    let (_, listed) = world.send("GET", "/api/v2/silences", "default-viewer", "").await;
    assert_eq!((&listed[0]["id"], listed[0]["status"]["state"].as_str()), (&made["silenceID"], Some("active")), "{listed}");
    assert_eq!(world.send("GET", "/api/v2/alerts", "default-viewer", "").await, (200, json!([])));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_served_for_any_place_and_forbids_foreign_scripts() {
    let world = world().await;
    for path in ["/", "/alerts/1"] {
        let response = world.router.clone().oneshot(Request::builder().uri(path).body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        assert!(response.headers()["content-security-policy"].to_str().unwrap().contains("script-src 'self'"));
    }
    assert_eq!(world.send("GET", "/api/v1/nothing", "", "").await.1["code"], "ORX-0201");
    assert_eq!(world.send("GET", "/healthz", "", "").await.0, 200);
    assert_eq!(world.send("GET", "/readyz", "", "").await.0, 200);
}
