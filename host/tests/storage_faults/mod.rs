//! The disk and the process fail: nothing that was acknowledged is lost, and what is refused is told.

use crate::harness::{Host, Setup, TOKEN};
use prost::Message;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Prometheus' remote-write messages, as far as they are sent here.
#[derive(Message)]
struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    timeseries: Vec<TimeSeries>,
}
#[derive(Message)]
struct TimeSeries {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
}
#[derive(Message)]
struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}
#[derive(Message)]
struct Sample {
    #[prost(double, tag = "1")]
    value: f64,
    #[prost(int64, tag = "2")]
    timestamp: i64,
}

const SERIES: u64 = 5;

/// One sample at `t_ms` for each of a few series.
fn remote_write(name: &str, t_ms: i64, value: f64) -> Vec<u8> {
    let label = |name: &str, value: String| Label { name: name.into(), value };
    let timeseries = (0..SERIES)
        .map(|n| TimeSeries {
            labels: vec![label("__name__", name.into()), label("n", n.to_string())],
            samples: vec![Sample { value, timestamp: t_ms }],
        })
        .collect();
    let plain = WriteRequest { timeseries }.encode_to_vec();
    snap::raw::Encoder::new().compress_vec(&plain).expect("snappy packs any bytes")
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    i64::try_from(now.as_millis()).expect("milliseconds fit")
}

#[derive(Clone, Copy, PartialEq)]
enum Signal {
    Metrics,
    Logs,
}

/// Sends batch after batch, each again until it is acknowledged, whatever happens to the host.
struct Writer {
    acknowledged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Writer {
    fn start(host: &Host, signal: Signal, begin_ms: i64) -> Self {
        let (acknowledged, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, is_over) = (acknowledged.clone(), stop.clone());
        let url = host.url(if signal == Signal::Metrics { "/api/v1/write" } else { "/api/v1/logs" });
        let client = reqwest::Client::builder().timeout(Duration::from_secs(20)).build().expect("a client");
        let task = tokio::spawn(async move {
            while !is_over.load(SeqCst) {
                let batch = count.load(SeqCst);
                let t_ms = begin_ms + i64::try_from(batch).expect("few batches");
                let request = client.post(&url).bearer_auth(TOKEN);
                let request = match signal {
                    Signal::Metrics => request
                        .header("content-type", "application/x-protobuf")
                        .header("content-encoding", "snappy")
                        .body(remote_write("load", t_ms, batch as f64)),
                    Signal::Logs => request.header("content-type", "application/x-ndjson").body(format!(
                        "{{\"service\":\"load\",\"message\":\"batch {batch} a\"}}\n{{\"service\":\"load\",\"message\":\"batch {batch} b\"}}\n"
                    )),
                };
                match request.send().await {
                    Ok(response) if response.status().is_success() => drop(count.fetch_add(1, SeqCst)),
                    Ok(response) => assert!(response.status().as_u16() >= 429, "{}", response.status()),
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        });
        Self { acknowledged, stop, task }
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(SeqCst)
    }

    /// Ends, and answers how many batches were acknowledged.
    async fn end(self) -> u64 {
        self.stop.store(true, SeqCst);
        self.task.await.expect("the writer met no refusal that it should not");
        self.acknowledged.load(SeqCst)
    }
}

async fn grown(host: &Host, writers: &[&Writer], by: u64) {
    let before: Vec<u64> = writers.iter().map(|w| w.acknowledged()).collect();
    host.wait_for("batches to be acknowledged", async || {
        writers.iter().zip(&before).all(|(w, before)| w.acknowledged() >= before + by).then_some(())
    })
    .await;
}

/// Each batch from 0 to `batches` is there, with each of its samples.
async fn assert_metrics(host: &Host, begin_ms: i64, batches: u64) {
    let answer = host.get("/api/v1/query?query=load%5B1d%5D").await;
    let series = answer["data"]["result"].as_array().cloned().unwrap_or_default();
    assert_eq!(series.len() as u64, SERIES, "{batches} batches, series: {}", series.len());
    for one in series {
        let held: BTreeSet<(i64, u64)> = one["values"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|pair| {
                let t_ms = (pair[0].as_f64().expect("a time") * 1e3).round() as i64;
                (t_ms, pair[1].as_str().and_then(|v| v.parse().ok()).expect("a whole number"))
            })
            .collect();
        for batch in 0..batches {
            let t_ms = begin_ms + i64::try_from(batch).expect("few batches");
            assert!(
                held.contains(&(t_ms, batch)),
                "batch {batch} of {batches} was acknowledged and is lost from {}",
                one["metric"]
            );
        }
    }
}

async fn assert_logs(host: &Host, batches: u64) {
    let mut held = BTreeSet::new();
    // A page holds some thousand lines, so they are asked for in parts by their text.
    for digit in 0..10 {
        let path =
            format!("/api/v1/logs?query=%7Bservice_name%3D%22load%22%7D%20%7C~%20%22batch%20%5B0-9%5D*{digit}%20%22&limit=5000");
        let page = host.get(&path).await;
        assert_eq!(page["truncated"], false, "too many lines for one page: {}", page["items"].as_array().map_or(0, Vec::len));
        held.extend(page["items"].as_array().into_iter().flatten().filter_map(|i| i["body"].as_str().map(str::to_owned)));
    }
    for batch in 0..batches {
        for half in ["a", "b"] {
            assert!(
                held.contains(&format!("batch {batch} {half}")),
                "line {half} of batch {batch} of {batches} was acknowledged and is lost"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_ten_times_under_load_it_loses_nothing_it_acknowledged() {
    let mut host = Host::start_bare().await;
    let begin_ms = now_ms() - 600_000;
    let metrics = Writer::start(&host, Signal::Metrics, begin_ms);
    let logs = Writer::start(&host, Signal::Logs, begin_ms);
    for round in 0..10 {
        grown(&host, &[&metrics, &logs], 5 + round).await;
        host.kill();
        let (samples, lines) = (metrics.acknowledged(), logs.acknowledged());
        host.resume().await;
        assert_metrics(&host, begin_ms, samples).await;
        assert_logs(&host, lines).await;
    }
    let (samples, lines) = (metrics.end().await, logs.end().await);
    assert_metrics(&host, begin_ms, samples).await;
    assert_logs(&host, lines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn told_to_stop_it_drains_ends_cleanly_and_goes_on_where_it_was() {
    let mut host = Host::start_bare().await;
    let workflow = "document: { dsl: 1.0.3, namespace: t, name: patient, version: 1.0.0 }\n\
                    do:\n  - rest: { wait: PT1S }\n  - say: { set: { rested: true } }\n";
    host.apply(workflow).unwrap_or_else(|e| panic!("{e}"));
    let begin_ms = now_ms() - 600_000;
    let metrics = Writer::start(&host, Signal::Metrics, begin_ms);
    let logs = Writer::start(&host, Signal::Logs, begin_ms);
    for _ in 0..2 {
        grown(&host, &[&metrics, &logs], 10).await;
        let started =
            host.request(Method::POST, "/api/v1/workflows/patient/runs").json(&json!({})).send().await.expect("the host answers");
        assert_eq!(started.status(), StatusCode::CREATED);
        assert!(host.stop(), "a host that is told to stop ends with success:\n{}", host.log());
        assert!(host.log().trim_end().ends_with("stopped"), "its last word says so:\n{}", host.log());
        host.resume().await;
    }
    let (samples, lines) = (metrics.end().await, logs.end().await);
    assert_metrics(&host, begin_ms, samples).await;
    assert_logs(&host, lines).await;
    host.wait_for("both runs to end", async || {
        let runs = host.runs("patient").await;
        (runs.len() == 2 && runs.iter().all(|run| run["status"] == "completed" && run["output"]["rested"] == true)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_second_host_on_the_folder_is_refused_and_the_first_goes_on() {
    let host = Host::start_bare().await;
    let second = Command::new(env!("CARGO_BIN_EXE_orchestrix"))
        .args(["serve", "--http", "127.0.0.1:0", "--otlp-grpc", "127.0.0.1:0", "--otlp-http", "127.0.0.1:0", "--data-dir"])
        .arg(host.data())
        .output()
        .expect("the host binary starts");
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(!second.status.success() && said.contains("in use by another host"), "{said}");
    assert!(said.contains("--data-dir"), "it says what to do: {said}");
    // And a third on other data, but on the port of the first.
    let third = host.command_on(&host.dir.path().join("elsewhere")).output().expect("the host binary starts");
    let said = String::from_utf8_lossy(&third.stderr);
    assert!(!third.status.success() && said.contains("cannot listen on"), "{said}");
    let sent = host.request(Method::POST, "/api/v1/import/prometheus").body("first 1\n").send().await.expect("the first answers");
    assert_eq!(sent.status(), StatusCode::NO_CONTENT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_database_is_locked_telemetry_comes_in_and_writes_wait_for_it() {
    let host = Host::start_bare().await;
    let url = format!("sqlite:{}", host.data().join("orchestrix.db").display());
    let db = db::Db::open(&url).await.expect("the database opens beside the host");
    let (locked, is_locked) = tokio::sync::oneshot::channel();
    let (unlock, may_unlock) = tokio::sync::oneshot::channel::<()>();
    let locking = tokio::spawn(async move {
        // A transaction of another process that holds the write lock until it is told.
        db.write::<(), db::Error, _>(move |tx| {
            Box::pin(async move {
                tx.ensure_tenant(&model::TenantId::new("locker").expect("a name"), model::Timestamp(1)).await?;
                let _ = locked.send(());
                let _ = may_unlock.await;
                Ok(())
            })
        })
        .await
    });
    is_locked.await.expect("the lock was taken");

    let waiting = tokio::spawn(
        host.request(Method::PUT, "/api/v1/secrets/late").json(&json!({ "value": "x", "hosts": ["https://a.example"] })).send(),
    );
    let event = json!({ "specversion": "1.0", "id": "1", "source": "/s", "type": "locked.out" });
    let event = host
        .request(Method::POST, "/api/v1/events")
        .header("content-type", "application/cloudevents+json")
        .body(event.to_string());
    let event = tokio::spawn(event.send());
    for n in 0..3 {
        let sent = host
            .request(Method::POST, "/api/v1/import/prometheus")
            .body(format!("meanwhile {n}\n"))
            .send()
            .await
            .expect("the host answers");
        assert_eq!(sent.status(), StatusCode::NO_CONTENT);
        let line = host
            .request(Method::POST, "/api/v1/logs")
            .body(format!("{{\"message\":\"meanwhile {n}\"}}\n"))
            .send()
            .await
            .expect("the host answers");
        assert_eq!(line.status(), StatusCode::NO_CONTENT);
        let answer = host.get("/api/v1/query?query=meanwhile").await;
        assert_eq!(answer["data"]["result"][0]["value"][1], n.to_string(), "{answer}");
    }
    assert!(!waiting.is_finished() && !event.is_finished(), "a write was answered while the database was locked");
    // As long as an impatient backup would hold it.
    tokio::time::sleep(Duration::from_secs(2)).await;
    unlock.send(()).expect("the lock is still held");
    locking.await.expect("the locker ends").expect("its own write is stored");
    let waited = waiting.await.expect("a task").expect("the host answers");
    assert!(waited.status().is_success(), "{:?}", waited.text().await);
    assert_eq!(event.await.expect("a task").expect("the host answers").status(), StatusCode::ACCEPTED);
    host.wait_for("the event that waited", async || {
        let events = host.get("/api/v1/events?type=locked.out").await;
        events["items"].as_array().is_some_and(|items| items.len() == 1).then_some(())
    })
    .await;
}

/// A disk of its own, small enough to fill.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None where this process may not mount.
    fn mount(at: &Path, megabytes: u32) -> Option<Self> {
        std::fs::create_dir_all(at).expect("the folder is writable");
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"]).arg(at).output();
        done.is_ok_and(|output| output.status.success()).then(|| Self(at.to_owned()))
    }

    /// Takes what is left; removing the file gives it back.
    fn fill(&self) -> PathBuf {
        let file = self.0.join("ballast");
        let mut ballast = std::fs::File::create(&file).expect("the disk is writable");
        for size in [1 << 20, 4096] {
            while std::io::Write::write_all(&mut ballast, &vec![7; size]).is_ok() {}
        }
        file
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn on_a_full_disk_it_refuses_by_name_keeps_what_it_has_and_recovers() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let Some(disk) = SmallDisk::mount(&folder.path().join("disk"), 64) else {
        // What the stores do at each full write is shown by their own tests; this one needs the right to mount.
        eprintln!("not shown here: this user may not mount a tmpfs");
        return;
    };
    let setup = Setup { data: Some(disk.0.join("data")), is_bare: true, ..Setup::default() };
    let mut host = Host::start_with(setup).await;
    let metric = async |host: &Host, n: u64| {
        let sent = host.request(Method::POST, "/api/v1/import/prometheus").body(format!("disk_{n} {n}\n")).send().await;
        sent.expect("the host answers")
    };
    let line = async |host: &Host, n: u64| {
        // Large, for the log has reserved some of the disk in advance.
        let line = json!({ "message": format!("disk line {n} {}", "0123456789abcdef".repeat(15_000)) });
        let sent = host.request(Method::POST, "/api/v1/logs").body(format!("{line}\n").repeat(4)).send().await;
        sent.expect("the host answers")
    };
    let secret = async |host: &Host, n: u64| {
        // Large enough not to fit into pages that are there already.
        let spec = json!({ "value": "x".repeat(30_000), "hosts": ["https://a.example"] });
        host.request(Method::PUT, &format!("/api/v1/secrets/s{n}")).json(&spec).send().await.expect("the host answers")
    };
    let mut kept = Vec::new();
    let mut secrets = Vec::new();
    assert!(metric(&host, 0).await.status().is_success());
    kept.push(0);
    assert!(line(&host, 0).await.status().is_success());
    let mut lines = vec![0];
    assert!(secret(&host, 0).await.status().is_success());
    secrets.push(0);

    let ballast = disk.fill();
    let (mut is_told, mut is_told_by_database) = (false, false);
    for n in 1..60 {
        for (is_told, response, kept) in [
            (&mut false, metric(&host, n).await, &mut kept),
            (&mut is_told, line(&host, n).await, &mut lines),
            (&mut is_told_by_database, secret(&host, n).await, &mut secrets),
        ] {
            let (status, text) = (response.status(), response.text().await.unwrap_or_default());
            match status.as_u16() {
                200..=299 => kept.push(n),
                503 | 507 => *is_told |= text.contains("disk") && text.contains("full"),
                _ => panic!("{status} {text}\n{}", host.log()),
            }
        }
    }
    assert!(is_told && is_told_by_database, "nobody was told that the disk is full: {lines:?} {secrets:?}\n{}", host.log());
    assert_eq!(host.get("/healthz").await["status"], "ok");
    let assert_kept = async |host: &Host, kept: &[u64], lines: &[u64], secrets: &[u64]| {
        for n in lines {
            let page = host.get(&format!("/api/v1/logs?query=%22disk%20line%20{n}%20%22&limit=1")).await;
            assert_eq!(page["items"].as_array().map(Vec::len), Some(1), "line {n} was acknowledged");
        }
        for n in kept {
            let answer = host.get(&format!("/api/v1/query?query=disk_{n}")).await;
            assert_eq!(answer["data"]["result"][0]["value"][1], n.to_string(), "sample {n} was acknowledged: {answer}");
        }
        for n in secrets {
            assert_eq!(host.get(&format!("/api/v1/secrets/s{n}")).await["name"], format!("s{n}"));
        }
    };
    assert_kept(&host, &kept, &lines, &secrets).await;

    std::fs::remove_file(ballast).expect("space is given back");
    for n in [100, 101] {
        host.wait_for("samples to be taken again", async || metric(&host, n).await.status().is_success().then_some(())).await;
        host.wait_for("secrets to be taken again", async || secret(&host, n).await.status().is_success().then_some(())).await;
        host.wait_for("lines to be taken again", async || line(&host, n).await.status().is_success().then_some(())).await;
        kept.push(n);
        lines.push(n);
        secrets.push(n);
    }
    assert_kept(&host, &kept, &lines, &secrets).await;
    host.kill();
    host.resume().await;
    assert_kept(&host, &kept, &lines, &secrets).await;
    drop(host);
}

/// libfaketime, where it is installed: a clock for one process that a test can set.
fn faketime() -> Option<PathBuf> {
    let mut folders = std::fs::read_dir("/usr/lib").ok()?.flatten().map(|e| e.path().join("faketime/libfaketimeMT.so.1"));
    folders.find(|library| library.is_file())
}

#[tokio::test]
async fn a_clock_that_is_set_forward_and_back_stops_nothing() {
    let library = faketime().expect("libfaketime is missing: run `apt-get install faketime`, or `cargo xtask test`");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let clock = folder.path().join("clock");
    let set = |offset: &str| std::fs::write(&clock, format!("{offset}\n")).expect("the folder is writable");
    set("+0");
    let environment = vec![
        ("LD_PRELOAD", library.into_os_string()),
        ("FAKETIME_TIMESTAMP_FILE", clock.clone().into_os_string()),
        ("FAKETIME_NO_CACHE", "1".into()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
    ];
    let host = Host::start_with(Setup { is_bare: true, environment, ..Setup::default() }).await;
    host.apply(
        "document: { dsl: 1.0.3, namespace: t, name: nap, version: 1.0.0 }\n\
         do:\n  - rest: { wait: PT0.5S }\n  - say: { set: { rested: true } }\n",
    )
    .unwrap_or_else(|e| panic!("{e}"));
    let told =
        async |host: &Host| host.get("/api/v1/status").await["now"].as_str().map(str::to_owned).expect("it tells its time");
    let mut times = Vec::new();
    for (n, offset) in ["+0", "+3h", "-2h", "+0"].into_iter().enumerate() {
        set(offset);
        times.push(told(&host).await);
        let sent = host
            .request(Method::POST, "/api/v1/import/prometheus")
            .body(format!("step {n}\n"))
            .send()
            .await
            .expect("the host answers");
        assert_eq!(sent.status(), StatusCode::NO_CONTENT, "clock {offset}");
        let line = format!("{{\"message\":\"clock step {n}\"}}\n");
        let sent = host.request(Method::POST, "/api/v1/logs").body(line).send().await.expect("the host answers");
        assert_eq!(sent.status(), StatusCode::NO_CONTENT, "clock {offset}");
        let started =
            host.request(Method::POST, "/api/v1/workflows/nap/runs").json(&json!({})).send().await.expect("the host answers");
        let run: Value = started.json().await.expect("a run is JSON");
        let path = format!("/api/v1/runs/{}", run["id"].as_str().expect("a run has an id"));
        host.wait_for("the run after a step of the clock", async || {
            (host.get(&path).await["status"] == "completed").then_some(())
        })
        .await;
    }
    assert!(times[1] > times[0] && times[2] < times[0], "the host did see the clock being set: {times:?}");
    // A sample from far in the future of the host's clock is refused with the reason, not stored over what is to come.
    set("-2h");
    let sent = host
        .request(Method::POST, "/api/v1/import/prometheus")
        .body(format!("step 9 {}\n", now_ms()))
        .send()
        .await
        .expect("the host answers");
    assert!(sent.status().is_client_error(), "{}", sent.status());
    assert!(sent.text().await.is_ok_and(|text| text.contains("future")), "the reason is told");
    set("+0");
    let answer = host.get("/api/v1/query?query=count_over_time(step%5B6h%5D)").await;
    assert!(answer["data"]["result"][0]["value"][1].as_str().is_some_and(|n| n != "0"), "{answer}");
    for n in 0..4 {
        let (start, end) = (now_ms() - 6 * 3_600_000, now_ms() + 6 * 3_600_000);
        let page = host.get(&format!("/api/v1/logs?query=%22clock%20step%20{n}%22&start={start}&end={end}")).await;
        assert_eq!(page["items"].as_array().map(Vec::len), Some(1), "{n}: {page}");
    }
}
