//! Who may do what: tenants apart, tokens that expired or were revoked, roles that do not suffice.

use crate::{bad_input::endpoints, harness::Host};
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};

async fn status(request: reqwest::RequestBuilder) -> StatusCode {
    request.send().await.expect("the host answers").status()
}

async fn json_of(request: reqwest::RequestBuilder) -> Value {
    let response = request.send().await.expect("the host answers");
    let (status, text) = (response.status(), response.text().await.expect("the answer can be read"));
    assert!(status.is_success(), "{status} {text}");
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

async fn token(host: &Host, role: &str, expires: Option<&str>) -> Value {
    let body = json!({ "name": format!("a {role}"), "role": role, "expiresIn": expires });
    json_of(host.request(Method::POST, "/api/v1/tokens").json(&body)).await
}

const WORKFLOW: &str =
    "document: { dsl: 1.0.3, namespace: t, name: mine, version: 1.0.0 }\ndo:\n  - say: { set: { secret: plan } }\n";

#[tokio::test]
async fn a_tenant_sees_and_touches_nothing_of_another() {
    let host = Host::start_bare().await;
    let other = host.add_tenant("other").await;
    // One of everything that can be had without a plugin.
    for (method, path, media, body) in [
        ("POST", "/api/v1/import/prometheus", "text/plain", "mine_metric{a=\"b\"} 1\n"),
        ("POST", "/api/v1/logs", "application/x-ndjson", "{\"message\":\"mine in the log\",\"service\":\"shop\"}\n"),
        (
            "POST",
            "/api/v1/events",
            "application/cloudevents+json",
            r#"{"specversion":"1.0","id":"1","source":"/s","type":"mine.event"}"#,
        ),
        ("POST", "/api/v2/alerts", "application/json", r#"[{"labels":{"alertname":"MineIsDown"}}]"#),
        ("PUT", "/api/v1/secrets/mine", "application/json", r#"{"value":"hunter2","hosts":["https://example.com"]}"#),
        ("PUT", "/api/v1/scrapes/mine", "application/json", r#"{"targets":["127.0.0.1:1"]}"#),
        ("PUT", "/api/v1/webhooks/mine", "application/json", "{}"),
        ("PUT", "/api/v1/guardrails/mine", "application/json", r#"{"effects":["a.b"],"deny":true}"#),
        ("PUT", "/api/v1/workflows/mine", "application/yaml", WORKFLOW),
        ("POST", "/api/v1/workflows/mine/runs", "application/json", r#"{"input":"mine"}"#),
    ] {
        let request = host.request(method.parse().expect("a method"), path).header(header::CONTENT_TYPE, media).body(body);
        let response = request.send().await.expect("the host answers");
        assert!(response.status().is_success(), "{method} {path}: {:?}", response.text().await);
    }
    let alert = host
        .wait_for("the alert and the event", async || {
            let alerts = host.get("/api/v1/alerts").await;
            let events = host.get("/api/v1/events?type=mine.event").await;
            let has_event = events["items"].as_array().is_some_and(|items| !items.is_empty());
            let id = alerts["data"]["alerts"][0]["id"].clone();
            (has_event && !id.is_null()).then_some(id)
        })
        .await;
    let text = |id: &Value| id.as_str().map_or_else(|| id.to_string(), str::to_owned);
    let runs = host.runs("mine").await;
    let token = host.get("/api/v1/tokens").await["items"][0]["id"].clone();

    let as_other = |method: Method, path: &str| host.request_as(Some(&other), method, path);
    for (list, named) in [
        ("/api/v1/query?query=mine_metric", "mine_metric"),
        ("/api/v1/series?match[]=mine_metric", "mine_metric"),
        ("/api/v1/label/__name__/values", "mine_metric"),
        ("/api/v1/logs?query=mine", "mine in the log"),
        ("/api/v1/events", "mine.event"),
        ("/api/v1/alerts", "MineIsDown"),
        ("/api/v2/alerts", "MineIsDown"),
        ("/api/v1/secrets", "mine"),
        ("/api/v1/scrapes", "mine"),
        ("/api/v1/webhooks", "mine"),
        ("/api/v1/guardrails", "mine"),
        ("/api/v1/workflows", "mine"),
        ("/api/v1/runs", "mine"),
        ("/api/v1/targets", "mine"),
        ("/api/v1/audit", "mine"),
        ("/api/v1/tokens", "bootstrap"),
    ] {
        let seen = json_of(as_other(Method::GET, list)).await.to_string();
        assert!(!seen.contains(named), "GET {list} shows another tenant's {named}: {seen}");
        let own = host.get(list).await.to_string();
        assert!(own.contains(named), "GET {list} does not show its own {named}: {own}");
    }
    let (run, alert, token) = (text(&runs[0]["id"]), text(&alert), text(&token));
    for (method, path) in [
        ("GET", "/api/v1/secrets/mine".to_owned()),
        ("DELETE", "/api/v1/secrets/mine".into()),
        ("GET", "/api/v1/scrapes/mine".into()),
        ("DELETE", "/api/v1/scrapes/mine".into()),
        ("DELETE", "/api/v1/webhooks/mine".into()),
        ("DELETE", "/api/v1/guardrails/mine".into()),
        ("GET", "/api/v1/workflows/mine".into()),
        ("DELETE", "/api/v1/workflows/mine".into()),
        ("POST", "/api/v1/workflows/mine/runs".into()),
        ("GET", format!("/api/v1/runs/{run}")),
        ("POST", format!("/api/v1/runs/{run}/pause")),
        ("GET", format!("/api/v1/alerts/{alert}")),
        ("DELETE", format!("/api/v1/tokens/{token}")),
    ] {
        assert_eq!(status(as_other(method.parse().expect("a method"), &path)).await, StatusCode::NOT_FOUND, "{method} {path}");
    }
    // All is still there for its owner.
    assert_eq!(host.get("/api/v1/secrets/mine").await["name"], "mine");
    assert_eq!(host.get("/api/v1/workflows/mine").await["name"], "mine");
    // Who names a tenant that is not its token's is refused, not served from its own.
    for path in ["/api/v1/logs", "/loki/api/v1/push", "/api/v1/import/prometheus"] {
        let named = host.request(Method::POST, path).header("x-scope-orgid", "other").body("{}");
        let response = named.send().await.expect("the host answers");
        assert_eq!(response.status(), StatusCode::FORBIDDEN, "{path}");
        assert!(response.text().await.is_ok_and(|t| t.contains("X-Scope-OrgID")), "{path}");
    }
}

#[tokio::test]
async fn an_expired_or_revoked_token_opens_nothing_and_is_told_why() {
    let host = Host::start_bare().await;
    let brief = token(&host, "admin", Some("1s")).await;
    let revoked = token(&host, "admin", None).await;
    let clear = |made: &Value| made["token"].as_str().expect("a token is shown once").to_owned();
    let (brief, secret) = (clear(&brief), clear(&revoked));
    assert_eq!(status(host.request_as(Some(&secret), Method::GET, "/api/v1/me")).await, StatusCode::OK);
    let id = revoked["id"].as_str().expect("a token has an id");
    assert_eq!(status(host.request(Method::DELETE, &format!("/api/v1/tokens/{id}"))).await, StatusCode::NO_CONTENT);
    host.wait_for("the token to expire", async || {
        let now = status(host.request_as(Some(&brief), Method::GET, "/api/v1/me")).await;
        (now == StatusCode::UNAUTHORIZED).then_some(())
    })
    .await;
    for (token, code, says) in [(&brief, "ORX-0103", "has expired"), (&secret, "ORX-0102", "revoked")] {
        for (method, path) in
            [(Method::GET, "/api/v1/status"), (Method::GET, "/api/v1/query?query=up"), (Method::POST, "/api/v1/logs")]
        {
            let refused = host.request_as(Some(token), method, path).send().await.expect("the host answers");
            assert_eq!(refused.status(), StatusCode::UNAUTHORIZED, "{path}");
            let problem: Value = refused.json().await.expect("a problem is JSON");
            assert_eq!(problem["code"], code, "{path}: {problem}");
            assert!(problem["detail"].as_str().is_some_and(|d| d.contains(says)), "{path}: {problem}");
        }
    }
}

#[tokio::test]
async fn a_role_does_what_it_may_and_is_refused_all_above() {
    let host = Host::start_bare().await;
    let roles = ["ingest", "viewer", "operator", "admin"];
    for (rank, role) in roles.iter().enumerate() {
        let made = token(&host, role, None).await;
        let token = made["token"].as_str();
        for endpoint in endpoints(&host, "nothing-like-it").await {
            let Some(wanted) = roles.iter().position(|r| endpoint.wants == format!("Needs the role {r}.")) else { continue };
            // Sent bodiless: whatever is answered beyond the gate, it is not a refusal of the role.
            let what = format!("{role}: {} {}", endpoint.method, endpoint.path);
            let response = host.request_as(token, endpoint.method, &endpoint.path).send().await.expect("the host answers");
            if rank >= wanted {
                assert!(!matches!(response.status().as_u16(), 401 | 403), "{what}: {:?}", response.text().await);
                continue;
            }
            assert_eq!(response.status(), StatusCode::FORBIDDEN, "{what}");
            let problem: Value = response.json().await.expect("a problem is JSON");
            assert_eq!(problem["code"], "ORX-0104", "{what}: {problem}");
            assert!(problem["detail"].as_str().is_some_and(|d| d.contains(roles[wanted])), "{what}: {problem}");
        }
    }
}
