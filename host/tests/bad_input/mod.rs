//! Nonsense at every door: told with a code and a reason, and the host stays up.

use crate::harness::Host;
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};

/// Doors of ingest, which are not in the API's document: method, path, content type.
pub const INGEST: [(&str, &str, &str); 10] = [
    ("POST", "/api/v1/write", "application/x-protobuf"),
    ("POST", "/api/v1/import/prometheus", "text/plain"),
    ("POST", "/metrics/job/garbage", "text/plain"),
    ("PUT", "/metrics/job@base64/Z2FyYmFnZQ==", "text/plain"),
    ("POST", "/loki/api/v1/push", "application/json"),
    ("POST", "/api/v1/logs", "application/x-ndjson"),
    ("POST", "/api/v1/events", "application/cloudevents+json"),
    ("POST", "/api/v1/webhooks/garbage", "application/json"),
    ("POST", "/api/v2/alerts", "application/json"),
    ("POST", "/api/v1/alertmanager/webhook", "application/json"),
];
/// Paths whose protocols have a shape of their own for refusals.
const FOREIGN: [&str; 9] = [
    "/api/v1/query",
    "/api/v1/format_query",
    "/api/v1/series",
    "/api/v1/label",
    "/api/v1/metadata",
    "/api/v1/write",
    "/api/v2/alerts",
    "/loki/",
    "/v1/",
];
const OTLP: [&str; 3] = ["/v1/metrics", "/v1/logs", "/v1/traces"];

pub struct Endpoint {
    pub method: Method,
    /// With something in place of its parameters.
    pub path: String,
    /// As the document says.
    pub wants: String,
}

/// Every endpoint of the API's own document, with `fill` for each parameter of its path.
pub async fn endpoints(host: &Host, fill: &str) -> Vec<Endpoint> {
    let document = host.get("/api/v1/openapi.json").await;
    let mut all = Vec::new();
    for (path, operations) in document["paths"].as_object().expect("the document has paths") {
        let parts: Vec<&str> = path.split('/').map(|part| if part.starts_with('{') { fill } else { part }).collect();
        for (method, operation) in operations.as_object().expect("a path has operations") {
            let method = method.to_uppercase().parse().expect("a method of HTTP");
            let wants = operation["description"].as_str().unwrap_or_default().to_owned();
            all.push(Endpoint { method, path: parts.join("/"), wants });
        }
    }
    assert!(all.len() > 60, "only {} endpoints", all.len());
    all
}

/// A refusal says what is wrong, in the shape of its protocol and with a code of ours where that has room.
async fn assert_told(response: reqwest::Response, what: &str) -> Value {
    let status = response.status();
    let media = response.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let text = response.text().await.unwrap_or_default();
    assert!(status.is_client_error(), "{what}: {status} {text}");
    let body: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
    if media.starts_with("application/problem+json") {
        assert!(body["detail"].as_str().is_some_and(|d| d.len() > 10), "{what}: {status} {text}");
        assert!(body["code"].as_str().is_some_and(|c| c.starts_with("ORX-")), "{what}: {status} {text}");
        assert_eq!(body["status"], status.as_u16(), "{what}: {text}");
    } else {
        // Prometheus' API, Loki's, Alertmanager's, remote write's and OTLP's own shapes.
        let path = what.split(' ').find(|word| word.starts_with('/')).expect("what names a path");
        assert!(FOREIGN.iter().any(|foreign| path.starts_with(foreign)), "{what}: {media}: {text}");
        assert!(text.len() > 10, "{what}: {status} {text:?}");
    }
    body
}

/// Who answers before the body is read closes the connection, under the next request's feet: that one goes again.
async fn sent(request: reqwest::RequestBuilder) -> reqwest::Response {
    for _ in 0..5 {
        let again = request.try_clone().expect("a body of bytes can be sent twice");
        if let Ok(response) = again.send().await {
            return response;
        }
    }
    request.send().await.expect("the host answers")
}

async fn assert_well(host: &Host) {
    let taken = sent(host.request(Method::POST, "/api/v1/import/prometheus").body("still_here 1\n")).await;
    assert_eq!(taken.status(), StatusCode::NO_CONTENT);
    let answer = host.get("/api/v1/query?query=still_here").await;
    assert_eq!(answer["data"]["result"].as_array().map(Vec::len), Some(1), "{answer}");
    assert!(!host.log().contains("panicked"), "{}", host.log());
}

#[tokio::test]
async fn no_endpoint_but_health_and_signed_links_answers_without_a_token() {
    let host = Host::start_bare().await;
    let mut open = Vec::new();
    for endpoint in endpoints(&host, "x").await {
        for token in [None, Some("orx_wrong")] {
            let what = format!("{} {}", endpoint.method, endpoint.path);
            let response =
                host.request_as(token, endpoint.method.clone(), &endpoint.path).send().await.expect("the host answers");
            if endpoint.wants == "Needs no token." {
                open.push(endpoint.path.clone());
                continue;
            }
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{what}");
            assert!(response.headers().contains_key(header::WWW_AUTHENTICATE), "{what}");
            let problem: Value = response.json().await.expect("a problem is JSON");
            assert_eq!(problem["code"], if token.is_none() { "ORX-0101" } else { "ORX-0102" }, "{what}: {problem}");
        }
    }
    open.sort();
    open.dedup();
    assert_eq!(open, ["/api/v1/openapi.json", "/approve/x", "/healthz", "/readyz"]);
    for (method, path, media) in INGEST {
        let request = host.request_as(None, method.parse().expect("a method"), path).header(header::CONTENT_TYPE, media);
        let response = request.body("{}").send().await.expect("the host answers");
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{path}");
    }
    let client = reqwest::Client::new();
    for path in OTLP {
        let request = client.post(host.otlp_http() + path).header(header::CONTENT_TYPE, "application/json").body("{}");
        assert_eq!(request.send().await.expect("the host answers").status(), StatusCode::UNAUTHORIZED, "{path}");
    }
    use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, logs_service_client::LogsServiceClient};
    let mut grpc = LogsServiceClient::connect(host.otlp_grpc()).await.expect("gRPC is served");
    let refused = grpc.export(ExportLogsServiceRequest::default()).await.expect_err("no token was sent");
    assert_eq!(refused.code(), tonic::Code::Unauthenticated, "{refused}");
}

#[tokio::test]
async fn garbage_at_any_endpoint_is_refused_with_a_reason_and_harms_nothing() {
    let host = Host::start_bare().await;
    let deep = "[".repeat(100_000);
    let bodies: [(&str, &[u8]); 9] = [
        ("application/json", b"{"),
        ("application/json", b"{\"spec\": \"\\ud800\"}"),
        ("application/json", deep.as_bytes()),
        ("application/json", b"\xff\xfe\0\x01garbage"),
        ("application/json", b"[1, {\"a\": 1e999}]"),
        ("application/json", b"{\"definitely\": {\"not\": [\"a\", \"field\"]}}"),
        ("image/png", b"\x89PNG\r\n\x1a\n"),
        ("application/x-www-form-urlencoded", b"query=%7B%7B%FF&start=never&match[]=%7B&step=0"),
        ("application/wasm", b"\0asm\x01\0\0\0\xff"),
    ];
    let garbage = "query=%7B%7Bx&start=never&end=%00&step=0&limit=-1&time=x&match[]=%7B&before=x&after=x&direction=sideways&\
                   type=%ff&active=perhaps&filter=%7B&minDuration=long&version=%20&asks=perhaps&since=never";
    for endpoint in
        endpoints(&host, "nothing%20of%20the%20kind%ff").await.into_iter().chain(endpoints(&host, "nothing-like-it").await)
    {
        let what = format!("{} {}", endpoint.method, endpoint.path);
        let send = async |request: reqwest::RequestBuilder, with: &str| {
            let response = sent(request).await;
            assert!(!response.status().is_server_error(), "{what} with {with}: {:?}", response.text().await);
            if response.status().is_client_error() {
                assert_told(response, &what).await;
            }
        };
        send(host.request(endpoint.method.clone(), &format!("{}?{garbage}", endpoint.path)), "garbage in its query").await;
        if endpoint.method == Method::POST || endpoint.method == Method::PUT {
            for (media, body) in bodies {
                let request =
                    host.request(endpoint.method.clone(), &endpoint.path).header(header::CONTENT_TYPE, media).body(body.to_vec());
                send(request, &String::from_utf8_lossy(&body[..body.len().min(40)])).await;
            }
        }
    }
    assert_well(&host).await;
}

#[tokio::test]
async fn what_is_no_telemetry_is_refused_by_every_protocol() {
    let host = Host::start_bare().await;
    let client = reqwest::Client::new();
    let deep = format!("{{\"streams\":{}", "[".repeat(50_000));
    // A snappy block that says it holds 4 GiB, and a cut gzip.
    let bomb = b"\xff\xff\xff\xff\x0f\0\0\0";
    let cut = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x4b\x4c";
    for (media, encoding, body) in [
        (None, None, &b"\0\x01\x02\xff\xfe{"[..]),
        (None, None, b"{\"streams\": [{\"stream\": 3}]"),
        (None, None, deep.as_bytes()),
        (None, Some("gzip"), cut),
        (None, Some("snappy"), bomb),
        (None, Some("br"), b"x"),
        (Some("image/png"), None, b"\x89PNG"),
    ] {
        for (method, path, own) in INGEST {
            let what = format!("{method} {path} as {media:?} {encoding:?}");
            let method: Method = method.parse().expect("a method");
            let mut request = host.request(method, path).header(header::CONTENT_TYPE, media.unwrap_or(own));
            request = match encoding {
                Some(encoding) => request.header(header::CONTENT_ENCODING, encoding),
                None => request,
            };
            let response = sent(request.body(body.to_vec())).await;
            // A webhook takes whatever its sender sends.
            if path.ends_with("webhooks/garbage") && response.status() == StatusCode::ACCEPTED {
                continue;
            }
            assert_told(response, &what).await;
        }
        for path in OTLP {
            let request = client.post(host.otlp_http() + path).bearer_auth(crate::harness::TOKEN);
            let request = request.header(header::CONTENT_TYPE, media.unwrap_or("application/x-protobuf"));
            let request = match encoding {
                Some(encoding) => request.header(header::CONTENT_ENCODING, encoding),
                None => request,
            };
            let response = sent(request.body(body.to_vec())).await;
            assert_told(response, &format!("{path} as {media:?} {encoding:?}")).await;
        }
    }
    assert_well(&host).await;
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_whatever_it_holds() {
    let host = Host::start_bare().await;
    for (method, path, bytes) in [
        (Method::PUT, "/api/v1/monitors/big", 3 << 20),
        (Method::PUT, "/api/v1/workflows/big", 3 << 20),
        (Method::PUT, "/api/v1/workflows/big", (1 << 20) + 1),
        (Method::POST, "/api/v1/tokens", 3 << 20),
        (Method::POST, "/api/v1/packages", (32 << 20) + 1),
        (Method::POST, "/api/v1/logs", (16 << 20) + 1),
        (Method::POST, "/api/v1/events", (1 << 20) + 1),
    ] {
        let media = if path.ends_with("events") { "application/cloudevents+json" } else { "application/json" };
        let request = host.request(method, path).header(header::CONTENT_TYPE, media).body(vec![b' '; bytes]);
        match request.send().await {
            Ok(response) => {
                assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE, "{path}");
                assert_eq!(assert_told(response, path).await["code"], "ORX-0005", "{path}");
            }
            // It was answered before all was sent, and the connection closed over the rest.
            Err(error) => assert!(error.is_request() || error.is_body(), "{path}: {error}"),
        }
    }
    assert_well(&host).await;
}

#[tokio::test]
async fn a_misspelt_key_of_the_configuration_stops_the_start_and_names_the_right_one() {
    let host = Host::start_bare().await;
    let file = host.dir.path().join("host.toml");
    for (text, says) in [
        ("[server]\ndrain_secnds = 3\n", "did you mean `drain_seconds`?"),
        ("[serve]\nhttp = \"127.0.0.1:0\"\n", "did you mean `server`?"),
        ("[log]\nformat = \"xml\"\n", "text or json"),
        ("[server\n", "not TOML"),
    ] {
        std::fs::write(&file, text).expect("the folder is writable");
        let output = host.command().arg("--config").arg(&file).output().expect("the host binary starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(says) && !said.contains("listening"), "{text}: {said}");
    }
}

#[tokio::test]
async fn a_workflow_that_does_not_validate_is_told_with_line_column_and_hint() {
    let host = Host::start_bare().await;
    let text = "document:\n  dsl: 1.0.3\n  namespace: t\n  name: wrong\n  version: 1.0.0\ndo:\n  - first:\n      sett: { a: 1 }\n  - second:\n      set: { b: '${ .a | }' }\n";
    let put = host.request(Method::PUT, "/api/v1/workflows/wrong").header(header::CONTENT_TYPE, "application/yaml").body(text);
    let problem = assert_told(put.send().await.expect("the host answers"), "PUT").await;
    assert_eq!((&problem["code"], &problem["status"]), (&json!("ORX-0401"), &json!(422)), "{problem:#}");
    let errors = problem["errors"].as_array().expect("each mistake is told");
    let at =
        |line: u64| errors.iter().find(|e| e["line"] == line).unwrap_or_else(|| panic!("nothing about line {line}: {problem:#}"));
    assert!(at(8)["column"] == 7 && at(8)["hint"].as_str().is_some_and(|h| h.contains("set")), "{problem:#}");
    assert!(at(10)["column"].as_u64() > Some(7) && at(10)["message"].as_str().is_some_and(|m| !m.is_empty()), "{problem:#}");
    let said = host.apply(text).expect_err("it is refused by the command line, too");
    assert!(said.contains("8:7") && said.contains("10:"), "{said}");
    let none = host.request(Method::GET, "/api/v1/workflows/wrong").send().await.expect("the host answers");
    assert_eq!(none.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_misspelt_key_of_a_resource_is_refused_with_the_nearest_one() {
    let host = Host::start_bare().await;
    for (kind, spec, near) in [
        ("Monitor", "{ detector: threshold, quary: up, every: 15s }", "query"),
        ("Scrape", "{ targts: ['127.0.0.1:1'] }", "targets"),
        ("Webhook", "{ secrt: s }", "secret"),
        ("Guardrail", "{ effects: ['a.*'], bugdet: { max: 1, window: 1h } }", "budget"),
        ("Plugin", "{ plugin: orchestrix/http, grnt: {} }", "grant"),
        ("Secret", "{ value: x, hsts: [] }", "hosts"),
    ] {
        let said = host.apply(&format!("apiVersion: orchestrix/v1\nkind: {kind}\nmetadata: {{ name: wrong }}\nspec: {spec}\n"));
        let said = said.expect_err("it has a key that does not exist");
        assert!(said.contains(&format!("did you mean `{near}`?")), "{kind}: {said}");
    }
}

#[tokio::test]
async fn what_is_no_plugin_is_not_installed() {
    let host = Host::start_bare().await;
    // An empty core module, and an empty component: neither carries a manifest.
    for (bytes, says) in [
        (&b"GIF89a"[..], "no WebAssembly component"),
        (b"", "no WebAssembly component"),
        (b"\0asm\x01\0\0\0", "component"),
        (b"\0asm\x0d\0\x01\0", "no manifest"),
        (b"\0asm\x0d\0\x01\0\x00\xff\xff\xff\xff\x0f", "component"),
    ] {
        let upload = host.request(Method::POST, "/api/v1/packages").header(header::CONTENT_TYPE, "application/wasm").body(bytes);
        let problem = assert_told(upload.send().await.expect("the host answers"), "POST /api/v1/packages").await;
        assert_eq!(problem["code"], "ORX-0501", "{problem}");
        assert!(problem["detail"].as_str().is_some_and(|d| d.contains(says)), "{bytes:?}: {problem}");
    }
    assert_eq!(host.get("/api/v1/packages").await["items"], json!([]));
}
