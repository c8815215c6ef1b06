//! From a sample to the first action it causes: remote write → monitor → alert → workflow → `call: http`, measured at
//! the receiver. Every stage has committed to disk by then.

use super::{
    Bench,
    host::Host,
    receiver::Receiver,
    table::{Row, ms},
};
use anyhow::{Context, Result, bail};
use bench_load::{http::Client, remote_write, stats::percentile};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const EPISODES: u64 = 200;
/// Left out: the first ones load what later ones find in memory.
const WARM_UP: u64 = 3;
/// Between episodes. An alert follows another of the same monitor seldom at once; without a pause the figure
/// would hold the rest that an evaluated monitor takes.
const PAUSE: Duration = Duration::from_millis(250);
const PATIENCE: Duration = Duration::from_secs(10);
const GOAL: Duration = Duration::from_millis(50);

pub fn run(bench: &Bench) -> Result<Vec<Row>> {
    let host = Host::start(bench, "latency")?;
    let receiver = Receiver::start()?;
    host.apply(&resources(&receiver.address.to_string()))?;
    let mut client = host.client()?;
    let wait = |path: &str| -> Result<Instant> {
        let end = Instant::now() + PATIENCE;
        while let Ok((at, arrived)) = receiver.arrivals.recv_timeout(end.saturating_duration_since(Instant::now())) {
            if arrived == path {
                return Ok(at);
            }
        }
        bail!("no call of {path} within {} s; see {}", PATIENCE.as_secs(), host.folder.join("host.log").display())
    };
    let (mut accepted, mut sent, mut resolved, mut writes) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let cpu_before = host.usage()?.cpu_s;
    let episodes = bench.scaled(EPISODES);
    for episode in 0..WARM_UP + episodes {
        let (begin, answered) = write(&mut client, 95.0)?;
        let fired = wait("/firing")?;
        bench.pause(PAUSE)?;
        let (_, back) = write(&mut client, 10.0)?;
        let ended = wait("/resolved")?;
        bench.pause(PAUSE)?;
        if episode >= WARM_UP {
            writes.push(answered - begin);
            sent.push(fired - begin);
            accepted.push(fired.saturating_duration_since(answered));
            resolved.push(ended.saturating_duration_since(back));
        }
    }
    let cpu = (host.usage()?.cpu_s - cpu_before) / (2 * (WARM_UP + episodes)) as f64;
    host.stop()?;
    let p99 = percentile(&mut accepted, 0.99);
    Ok(vec![
        Row::new("episodes", episodes),
        Row::new("sample accepted → action at the receiver, p50", ms(percentile(&mut accepted, 0.5))),
        Row::new("sample accepted → action at the receiver, p99", ms(p99)).goal("under 50 ms", p99 < GOAL),
        Row::new("sample accepted → action at the receiver, slowest", ms(percentile(&mut accepted, 1.0))),
        Row::new("sample sent → action at the receiver, p50", ms(percentile(&mut sent, 0.5))),
        Row::new("sample sent → action at the receiver, p99", ms(percentile(&mut sent, 0.99))),
        Row::new("recovery accepted → action at the receiver, p50", ms(percentile(&mut resolved, 0.5))),
        Row::new("recovery accepted → action at the receiver, p99", ms(percentile(&mut resolved, 0.99))),
        Row::new("write of the sample (fsync), p50", ms(percentile(&mut writes, 0.5))),
        Row::new("write of the sample (fsync), p99", ms(percentile(&mut writes, 0.99))),
        Row::new("host CPU per change, pauses included", ms(Duration::from_secs_f64(cpu.max(0.0)))),
    ])
}

/// Writes one sample; when the request went out, and when its answer was in.
fn write(client: &mut Client, value: f64) -> Result<(Instant, Instant)> {
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_millis() as i64;
    let labels = [("__name__", "bench_load".to_owned()), ("instance", "a".to_owned())];
    let body = remote_write::one_sample(&labels, now_ms, value);
    let begin = Instant::now();
    let (status, answer) = client.send("POST", "/api/v1/write", remote_write::HEADERS, &body)?;
    if status >= 300 {
        bail!("the sample was refused: status {status}: {}", String::from_utf8_lossy(&answer));
    }
    Ok((begin, Instant::now()))
}

fn resources(receiver: &str) -> String {
    let workflow = |name: &str| {
        format!(
            "---
document: {{ dsl: 1.0.3, namespace: bench, name: {name}, version: 1.0.0 }}
schedule:
  on: {{ one: {{ with: {{ type: io.orchestrix.alert.{name}, source: /monitors/bench-load }} }} }}
do:
  - tell:
      call: http
      with: {{ method: post, endpoint: \"http://{receiver}/{name}\", body: {{}} }}
"
        )
    };
    format!(
        "apiVersion: orchestrix/v1
kind: Plugin
metadata: {{ name: http }}
spec:
  plugin: orchestrix/http
  grant: {{ http: [{{ hosts: [\"http://{receiver}\"], methods: [POST], path_prefix: / }}] }}
---
apiVersion: orchestrix/v1
kind: Monitor
metadata: {{ name: bench-load }}
spec:
  detector: threshold
  query: bench_load
  every: 1m
  params: {{ op: \">\", threshold: 90 }}
{}{}",
        workflow("firing"),
        workflow("resolved")
    )
}
