//! Programs that people run, sending to the host as they are: Debian's Prometheus, Python's OpenTelemetry SDK.

use crate::harness::{Host, TOKEN, repository};
use serde_json::Value;
use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// Ended by its pid when the test ends, however it ends.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn prometheus_writes_what_it_scrapes_and_its_labels_and_metadata_arrive() {
    let host = Host::start_bare().await;
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = format!(
        "global: {{ scrape_interval: 1s, external_labels: {{ cluster: test }} }}\n\
         scrape_configs:\n  - job_name: itself\n    static_configs: [{{ targets: ['127.0.0.1:{port}'] }}]\n\
         remote_write:\n  - url: {}\n    authorization: {{ credentials: {TOKEN} }}\n    \
         metadata_config: {{ send_interval: 1s }}\n    queue_config: {{ batch_send_deadline: 500ms }}\n",
        host.url("/api/v1/write")
    );
    let file = folder.path().join("prometheus.yml");
    std::fs::write(&file, config).expect("the folder is writable");
    let log = std::fs::File::create(folder.path().join("log")).expect("the folder is writable");
    let child = Command::new("prometheus")
        .arg(format!("--config.file={}", file.display()))
        .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("prometheus is missing: run `apt-get install prometheus`, or `cargo xtask test`");
    let prometheus = Ended(child);
    let said = || std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
    let up = host
        .wait_for(&format!("what Prometheus scrapes; it says: {}", said()), async || {
            let answer = host.get("/api/v1/query?query=up%7Bjob%3D%22itself%22%7D").await;
            answer["data"]["result"].get(0).filter(|r| r["value"][1] == "1").cloned()
        })
        .await;
    assert_eq!(
        (&up["metric"]["cluster"], &up["metric"]["instance"]),
        (&"test".into(), &format!("127.0.0.1:{port}").into()),
        "{up}"
    );
    host.wait_for("a histogram's rate and the metadata", async || {
        let rate = "/api/v1/query?query=sum(rate(prometheus_http_requests_total%5B1m%5D))%20%3E%200";
        let has_rate = !host.get(rate).await["data"]["result"].as_array()?.is_empty();
        let metadata = host.get("/api/v1/metadata?metric=prometheus_http_requests_total").await;
        (has_rate && metadata["data"]["prometheus_http_requests_total"][0]["type"] == "counter").then_some(())
    })
    .await;
    // Prometheus counts what was refused; and its stale marker ends the series when the target is gone.
    drop(prometheus);
    assert!(!said().contains("non-recoverable"), "{}", said());
    let samples = host.get("/api/v1/query?query=count_over_time(up%7Bjob%3D%22itself%22%7D%5B5m%5D)").await;
    assert!(samples["data"]["result"][0]["value"][1].as_str().is_some_and(|n| n != "0"), "{samples}");
}

/// The Python that `cargo xtask test` prepares with the packages of `requirements.txt`.
fn python() -> PathBuf {
    let beside =
        Path::new(env!("CARGO_BIN_EXE_orchestrix")).ancestors().nth(2).expect("the target folder").join("test-python/bin/python");
    let python = std::env::var_os("ORCHESTRIX_TEST_PYTHON").map_or(beside, PathBuf::from);
    assert!(python.is_file(), "{} is missing: run `cargo xtask test`", python.display());
    python
}

#[tokio::test]
async fn pythons_opentelemetry_sdk_sends_metrics_logs_and_traces() {
    let host = Host::start_bare().await;
    let output = Command::new(python())
        .arg(repository().join("host/tests/clients/opentelemetry_client.py"))
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", host.otlp_http())
        .env("OTEL_EXPORTER_OTLP_HEADERS", format!("authorization=Bearer%20{TOKEN}"))
        .stdin(Stdio::null())
        .output()
        .expect("python starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("Failed to export"), "{said}");
    let trace = said.split_whitespace().find_map(|w| w.strip_prefix("trace=")).unwrap_or_else(|| panic!("{said}")).to_owned();

    let value =
        async |query: &str| -> Value { host.get(&format!("/api/v1/query?query={query}")).await["data"]["result"].clone() };
    let orders = value("shop_orders_total").await;
    assert_eq!((&orders[0]["value"][1], &orders[0]["metric"]["item"]), (&"3".into(), &"tea".into()), "{orders}");
    let count = value("shop_duration_seconds_count").await;
    assert_eq!(count[0]["value"][1], "2", "{count}");
    let quantile = value("histogram_quantile(0.99,shop_duration_seconds_bucket)").await;
    assert!(quantile[0]["value"][1].as_str().is_some(), "{quantile}");

    let logs = host.get("/api/v1/logs?query=%7Bservice_name%3D%22python-shop%22%7D%20%7C%3D%20%22tea%20is%20out%22").await;
    let line = &logs["items"][0];
    assert_eq!(line["body"], "tea is out", "{logs}");
    assert_eq!(line["traceId"], trace.as_str(), "the line knows its trace: {line}");

    let spans = host.get(&format!("/api/v1/traces/{trace}")).await;
    let names: Vec<&str> = spans["items"].as_array().into_iter().flatten().filter_map(|s| s["name"].as_str()).collect();
    assert!(names.contains(&"order") && names.contains(&"look up"), "{spans}");
    let services = host.get("/api/v1/services").await;
    assert!(services.to_string().contains("python-shop"), "{services}");
}
