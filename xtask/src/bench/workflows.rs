//! Durable steps: a hundred runs at once, of steps that only set and of steps that also call.

use super::{
    Bench,
    host::Host,
    receiver::Receiver,
    table::{Row, count, ms},
};
use anyhow::{Result, bail};
use bench_load::stats::percentile;
use std::time::{Duration, Instant};

const RUNS: u64 = 100;
const STARTERS: u64 = 4;
const PATIENCE: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(20);

pub fn run(bench: &Bench) -> Result<Vec<Row>> {
    let host = Host::start(bench, "workflows")?;
    let receiver = Receiver::start()?;
    host.apply(&resources(&receiver.address.to_string()))?;
    let mut rows = Vec::new();
    for (name, what) in [("bench-set", "10 set"), ("bench-call", "10 × (set, call: http)")] {
        one(bench, &host, name, what, &mut rows)?;
    }
    host.stop()?;
    Ok(rows)
}

fn one(bench: &Bench, host: &Host, name: &str, what: &str, rows: &mut Vec<Row>) -> Result<()> {
    let runs = bench.scaled(RUNS);
    let ended = || -> Result<f64> {
        if host.counter("orx_workflow_runs_faulted_total")? > 0.0 {
            bail!("{what}: a run failed; see {}", host.folder.join("host.log").display());
        }
        host.counter("orx_workflow_runs_completed_total")
    };
    let (ended_before, steps_before) = (ended()?, host.counter("orx_workflow_steps_total")?);
    let (requests_before, commits_before) =
        (host.counter("orx_workflow_requests_total")?, host.counter("orx_workflow_commits_total")?);
    let cpu_before = host.usage()?.cpu_s;
    let begin = Instant::now();
    let mut starts = start(bench, host, name, runs)?;
    while ended()? - ended_before < runs as f64 {
        if begin.elapsed() > PATIENCE {
            bail!("{what}: {} of {runs} runs had ended after {} s", ended()? - ended_before, PATIENCE.as_secs());
        }
        bench.pause(POLL)?;
    }
    let wall = begin.elapsed().as_secs_f64();
    let cpu = host.usage()?.cpu_s - cpu_before;
    let steps = host.counter("orx_workflow_steps_total")? - steps_before;
    let calls = host.counter("orx_workflow_requests_total")? - requests_before;
    let commits = host.counter("orx_workflow_commits_total")? - commits_before;
    let mut row = |label: &str, figure: String| rows.push(Row::new(format!("{what}: {label}"), figure));
    row("runs at once", count(runs as f64));
    row("steps", count(steps));
    row("durable steps/s", count(steps / wall));
    row("runs/s, start to end", format!("{:.1}", runs as f64 / wall));
    row("actions/s", count(calls / wall));
    row("commits of the engine per step", format!("{:.2}", commits / steps.max(1.0)));
    row("host CPU per step", ms(Duration::from_secs_f64((cpu / steps.max(1.0)).max(0.0))));
    row("request that starts a run, p50", ms(percentile(&mut starts, 0.5)));
    Ok(())
}

/// Starts the runs from a few connections, as fast as they are taken.
fn start(bench: &Bench, host: &Host, name: &str, runs: u64) -> Result<Vec<Duration>> {
    let path = format!("/api/v1/workflows/{name}/runs");
    let starter = |number: u64| -> Result<Vec<Duration>> {
        let mut client = host.client()?;
        let mut took = Vec::new();
        for _ in (number..runs).step_by(STARTERS as usize) {
            if bench.is_stopped() {
                bail!("stopped");
            }
            let begin = Instant::now();
            let (status, body) = client.send("POST", &path, "Content-Type: application/json\r\n", b"{}")?;
            if status >= 300 {
                bail!("POST {path}: status {status}: {}", String::from_utf8_lossy(&body));
            }
            took.push(begin.elapsed());
        }
        Ok(took)
    };
    std::thread::scope(|scope| {
        let starter = &starter;
        let threads: Vec<_> = (0..STARTERS).map(|number| scope.spawn(move || starter(number))).collect();
        let parts = threads.into_iter().map(|thread| thread.join().expect("a starter doesn't panic"));
        Ok(parts.collect::<Result<Vec<_>>>()?.concat())
    })
}

fn resources(receiver: &str) -> String {
    let set = |n: u32| format!("  - set{n}: {{ set: {{ n: {n}, at: \"${{ $workflow.id }}\" }} }}\n");
    let call = |n: u32| {
        format!(
            "  - call{n}: {{ call: http, with: {{ method: post, endpoint: \"http://{receiver}/step\", body: {{ n: {n} }} }} }}\n"
        )
    };
    let head = |name: &str| format!("---\ndocument: {{ dsl: 1.0.3, namespace: bench, name: {name}, version: 1.0.0 }}\ndo:\n");
    let mut text = format!(
        "apiVersion: orchestrix/v1
kind: Plugin
metadata: {{ name: http }}
spec:
  plugin: orchestrix/http
  grant: {{ http: [{{ hosts: [\"http://{receiver}\"], methods: [POST], path_prefix: / }}] }}
"
    );
    text += &head("bench-set");
    (1..=10).for_each(|n| text += &set(n));
    text += &head("bench-call");
    (1..=10).for_each(|n| text += &(set(n) + &call(n)));
    text
}
