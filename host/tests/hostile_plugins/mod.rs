//! Plugins that misbehave, in every way that the sandbox is for: each is stopped and named, and nobody else notices.

use crate::harness::{Host, component};
use reqwest::{Method, header};
use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// Operations of the hostile component, and what the host calls each.
const DEEDS: [(&str, &str); 10] = [
    ("loop", "plugin.out_of_cpu"),
    ("memory", "plugin.out_of_memory"),
    ("recurse", "plugin.trap"),
    ("panic", "plugin.trap"),
    // 100 MB, of which its memory holds no second copy.
    ("big-answer", "plugin.out_of_memory"),
    ("big-log", "plugin.output_too_large"),
    ("many-handles", "plugin.trap"),
    ("no-json", "plugin.invalid_output"),
    ("wrong-output", "plugin.invalid_output"),
    ("sleep", "plugin.timeout"),
];

fn workflow(name: &str, call: &str) -> String {
    format!(
        "document: {{ dsl: 1.0.3, namespace: t, name: {name}, version: 1.0.0 }}\n\
         do:\n  - act:\n      call: {call}\n      with: {{ n: 7 }}\n"
    )
}

async fn done(request: reqwest::RequestBuilder) -> Value {
    let response = request.send().await.expect("the host answers");
    let (status, text) = (response.status(), response.text().await.expect("the answer can be read"));
    assert!(status.is_success(), "{status} {text}");
    serde_json::from_str(&text).unwrap_or(Value::Null)
}

/// The run after it has ended.
async fn ended(host: &Host, token: &str, run: &Value) -> Value {
    let path = format!("/api/v1/runs/{}", run["id"].as_str().expect("a run has an id"));
    host.wait_for(&format!("the end of {}", run["workflow"]), async || {
        let shown = done(host.request_as(Some(token), Method::GET, &path)).await;
        (!shown["ended"].is_null()).then_some(shown)
    })
    .await
}

#[tokio::test]
async fn each_misdeed_is_stopped_and_named_while_another_tenant_goes_on() {
    let mut host = Host::start_bare().await;
    let quiet = host.add_tenant("quiet").await;
    let hostile = component("testing/hostile.wasm");
    let path = hostile.to_str().expect("the path is UTF-8");
    let said = host.cli(&["plugin", "install", path, "--name", "hostile-loop"]).unwrap_or_else(|e| panic!("{e}\n{}", host.log()));
    assert!(said.contains("testing/hostile"), "{said}");
    // The quiet tenant has the very same component, well used.
    let bytes = std::fs::read(&hostile).expect("the component is there");
    let as_quiet = |method: Method, path: &str| host.request_as(Some(&quiet), method, path);
    done(as_quiet(Method::POST, "/api/v1/packages").header(header::CONTENT_TYPE, "application/wasm").body(bytes)).await;
    done(as_quiet(Method::PUT, "/api/v1/plugins/tool").json(&json!({ "plugin": "testing/hostile" }))).await;
    done(as_quiet(Method::PUT, "/api/v1/workflows/quiet").body(workflow("quiet", "tool/well"))).await;

    let mut bad = Vec::new();
    for (deed, _) in DEEDS {
        done(host.request(Method::PUT, &format!("/api/v1/plugins/hostile-{deed}")).json(&json!({ "plugin": "testing/hostile" })))
            .await;
        let name = format!("do-{deed}");
        done(
            host.request(Method::PUT, &format!("/api/v1/workflows/{name}"))
                .body(workflow(&name, &format!("hostile-{deed}/{deed}"))),
        )
        .await;
        bad.push(done(host.request(Method::POST, &format!("/api/v1/workflows/{name}/runs")).json(&json!({}))).await);
    }
    // And as a detector, again and again.
    done(
        host.request(Method::PUT, "/api/v1/plugins/hostile")
            .json(&json!({ "plugin": "testing/hostile", "grant": { "telemetry": ["metrics"] } })),
    )
    .await;
    for monitor in ["loop", "memory"] {
        let spec = json!({ "detector": "hostile", "query": "vector(1)", "every": "1s" });
        done(host.request(Method::PUT, &format!("/api/v1/monitors/{monitor}")).json(&spec)).await;
    }

    // Meanwhile: telemetry in and out, and a run from its start to its end.
    for round in 0..3 {
        let line = format!("quiet_metric {round}\n");
        done(as_quiet(Method::POST, "/api/v1/import/prometheus").body(line)).await;
        let seen = done(as_quiet(Method::GET, "/api/v1/query?query=quiet_metric")).await;
        assert_eq!(seen["data"]["result"][0]["value"][1], round.to_string(), "{seen}");
        let run = done(as_quiet(Method::POST, "/api/v1/workflows/quiet/runs").json(&json!({}))).await;
        let run = ended(&host, &quiet, &run).await;
        assert_eq!((&run["status"], &run["output"]), (&json!("completed"), &json!({ "n": 7 })), "{run:#}");
    }

    for ((deed, code), run) in DEEDS.iter().zip(&bad) {
        let run = ended(&host, crate::harness::TOKEN, run).await;
        assert_eq!(run["status"], "faulted", "{deed}: {run:#}");
        let error = run["error"].to_string();
        assert!(error.contains(code), "{deed}: {code} is not in {error}");
        let page = host.get(&format!("/api/v1/plugins/hostile-{deed}")).await;
        let meter = page["meters"].as_array().and_then(|m| m.iter().find(|m| m["function"] == format!("action.execute {deed}")));
        let meter = meter.unwrap_or_else(|| panic!("{deed}: no call on its page: {page:#}"));
        assert_eq!((&meter["calls"], &meter["failures"]), (&json!(1), &json!(1)), "{deed}: {meter}");
        host.wait_for("the call's recording", async || {
            let calls = host.get(&format!("/api/v1/invocations?plugin=hostile-{deed}")).await;
            let call = calls["items"][0].clone();
            (call["status"] == *code).then_some(())
        })
        .await;
    }
    for (monitor, says) in [("loop", "CPU"), ("memory", "memory")] {
        host.wait_for("the monitor's error", async || {
            let shown = host.get(&format!("/api/v1/monitors/{monitor}")).await;
            // The one that was called after the breaker opened says that instead.
            let why = shown["lastError"].as_str().unwrap_or_default().to_owned();
            (why.contains(says) || why.contains("in a row")).then_some(())
        })
        .await;
    }
    let calls = done(as_quiet(Method::GET, "/api/v1/plugins/tool")).await;
    let failures: u64 = calls["meters"].as_array().into_iter().flatten().filter_map(|m| m["failures"].as_u64()).sum();
    assert_eq!(failures, 0, "the quiet tenant's plugin is charged for another's misdeeds: {calls:#}");
    assert!(host.stop(), "a host that ran hostile plugins ends cleanly:\n{}", host.log());
}

/// A server that counts who comes, and sends everybody on to `location`.
async fn redirecting_to(location: &str) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound socket has an address");
    let visits = Arc::new(AtomicUsize::new(0));
    let (counter, answer) =
        (visits.clone(), format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    (address, visits)
}

#[tokio::test]
async fn a_plugin_reaches_no_host_it_was_not_granted_nor_the_metadata_address_by_a_redirect() {
    let host = Host::start_bare().await;
    let (granted, granted_visits) = redirecting_to("http://169.254.169.254/latest/meta-data/").await;
    let (other, other_visits) = redirecting_to("http://127.0.0.1:1/").await;
    let path = component("http.wasm");
    host.cli(&["plugin", "install", path.to_str().expect("the path is UTF-8"), "--name", "narrow"])
        .unwrap_or_else(|e| panic!("{e}"));
    let plugin =
        |hosts: Value| json!({ "plugin": "orchestrix/http", "grant": { "http": [{ "hosts": hosts, "methods": ["GET"] }] } });
    done(host.request(Method::PUT, "/api/v1/plugins/narrow").json(&plugin(json!([format!("http://{granted}")])))).await;
    // The widest grant there is does not open the machine's own metadata.
    done(host.request(Method::PUT, "/api/v1/plugins/wide").json(&plugin(json!(["http://*:*"])))).await;
    let mut ended_by = std::collections::HashMap::new();
    for (name, first, then) in [
        ("ungranted", format!("narrow/request, with: {{ endpoint: 'http://{other}/' }}"), None),
        ("method", format!("narrow/request, with: {{ endpoint: 'http://{granted}/', method: POST, body: x }}"), None),
        ("refused-hop", format!("narrow/request, with: {{ endpoint: 'http://{granted}/' }}"), None),
        ("metadata", "wide/request, with: { endpoint: 'http://169.254.169.254/latest/' }".to_owned(), None),
        ("mapped", "wide/request, with: { endpoint: 'http://[::ffff:169.254.169.254]/latest/' }".to_owned(), None),
        (
            "redirected",
            format!("wide/request, with: {{ endpoint: 'http://{granted}/', redirect: true, output: response }}"),
            Some("wide/request, with: { endpoint: '${ .headers.location }' }"),
        ),
    ] {
        let mut text = format!(
            "document: {{ dsl: 1.0.3, namespace: t, name: {name}, version: 1.0.0 }}\ndo:\n  - first: {{ call: {first} }}\n"
        );
        if let Some(then) = then {
            text.push_str(&format!("  - follow: {{ call: {then} }}\n"));
        }
        done(host.request(Method::PUT, &format!("/api/v1/workflows/{name}")).body(text)).await;
        let run = done(host.request(Method::POST, &format!("/api/v1/workflows/{name}/runs")).json(&json!({}))).await;
        let run = ended(&host, crate::harness::TOKEN, &run).await;
        assert_eq!(run["status"], "faulted", "{name}: {run:#}");
        ended_by.insert(name, run);
    }
    let error = |name: &str| ended_by[name]["error"].to_string();
    assert!(
        error("ungranted").contains("permission.denied") && error("ungranted").contains(&other.to_string()),
        "{}",
        error("ungranted")
    );
    assert!(error("method").contains("POST"), "{}", error("method"));
    assert!(error("refused-hop").contains("302"), "{}", error("refused-hop"));
    for name in ["metadata", "mapped", "redirected"] {
        assert!(error(name).contains("169.254.169.254") && error(name).contains("metadata service"), "{name}: {}", error(name));
    }
    assert_eq!(ended_by["redirected"]["steps"][0]["output"]["statusCode"], 302, "{:#}", ended_by["redirected"]);
    assert_eq!(other_visits.load(Ordering::SeqCst), 0, "the host that was not granted was reached");
    assert_eq!(
        granted_visits.load(Ordering::SeqCst),
        2,
        "one request without following, one of the run that looked where it leads"
    );
    let page = host.get("/api/v1/plugins/wide").await;
    let denials: u64 = page["meters"].as_array().into_iter().flatten().filter_map(|m| m["denials"].as_u64()).sum();
    assert!(denials >= 3, "denials are on the plugin's page: {page:#}");
}
