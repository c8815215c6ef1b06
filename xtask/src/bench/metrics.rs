//! Remote write: 10,000 series, one sample per series entry, from two connections; then bytes on disk and queries.

use super::{
    Bench,
    host::Host,
    peer::{self, Peer},
    table::{Row, count, ms},
};
use anyhow::{Context, Result, bail};
use bench_load::{
    http::Client,
    metric::Spec,
    push::{Outcome, Target, push},
    question::QUESTIONS,
    remote_write, stats,
};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const HOSTS: usize = 1_000;
const METRICS: usize = 10;
const INTERVAL_MS: i64 = 10_000;
/// Times 10,000 series: five million samples, 83 minutes of their own time.
const TICKS: u64 = 500;
const CONNECTIONS: usize = 2;
const BATCH: usize = 5_000;
const QUERY_RUNS: u32 = 40;
const SETTLE: Duration = Duration::from_secs(60);
const RETRIES: u32 = 20;

/// What one server needed for the same load.
pub struct Cost {
    samples_per_s: f64,
    cpu_s_per_million: f64,
    peak_mib: f64,
    bytes_per_sample: f64,
    /// CPU per query, in the order of [`QUESTIONS`].
    query_cpu: Vec<Option<Duration>>,
}

pub fn run(bench: &Bench) -> Result<Vec<Row>> {
    let spec = spec(bench)?;
    let mut rows = Vec::new();
    let ours = ours(bench, &spec, &mut rows)?;
    if bench.options.peers {
        for peer in peer::ALL {
            match peer::find(&peer) {
                None => rows.push(Row::new(peer.name, "not installed")),
                Some(program) => {
                    let theirs = peer_cost(bench, &peer, &program, &spec).with_context(|| peer.name.to_owned())?;
                    compare(&peer, &ours, &theirs, &mut rows);
                }
            }
        }
    }
    Ok(rows)
}

fn ours(bench: &Bench, spec: &Spec, rows: &mut Vec<Row>) -> Result<Cost> {
    let host = Host::start(bench, "metrics")?;
    let before = host.usage()?;
    let target =
        Target { url: host.url("/api/v1/write"), headers: Host::authorization() + remote_write::HEADERS, retries: RETRIES };
    let mut outcome = load(bench, spec, &target)?;
    let after = host.usage()?;
    host.settle(bench, SETTLE)?;
    let settled = host.usage()?;
    let samples = outcome.items as f64;
    let refused = host.counter("orx_ingest_items_refused_total")?;
    if refused > 0.0 {
        bail!("{refused} samples were refused");
    }
    rows.push(Row::new("samples", count(samples)));
    rows.push(Row::new("samples/s, acknowledged after fsync", count(samples / outcome.wall.as_secs_f64())));
    rows.push(Row::new("host CPU per million samples", format!("{:.2} s", (settled.cpu_s - before.cpu_s) * 1e6 / samples)));
    let flushing = (settled.cpu_s - after.cpu_s) * 1e6 / samples;
    rows.push(Row::new("… of that after the last answer", format!("{flushing:.2} s")));
    rows.push(Row::new("request of 5,000 samples, p50", ms(stats::percentile(&mut outcome.latencies, 0.5))));
    rows.push(Row::new("request of 5,000 samples, p99", ms(stats::percentile(&mut outcome.latencies, 0.99))));
    rows.push(Row::new("requests told to wait", count(outcome.retried as f64)));
    rows.push(Row::new("peak resident memory", format!("{:.0} MiB", settled.peak_mib)));
    rows.push(Row::new("resident memory after settling", format!("{:.0} MiB", settled.resident_mib)));
    let mut client = host.client()?;
    let query_cpu = queries(bench, &mut client, spec, host.pid(), rows)?;
    let stored = host.folder.join("data/telemetry/metrics");
    let running = stats::disk_bytes(&stored) as f64 / samples;
    rows.push(Row::new("on disk while running (log and segments)", format!("{running:.2} bytes per sample")));
    host.stop()?;
    let bytes_per_sample = stats::disk_bytes(&stored) as f64 / samples;
    let segments = stats::disk_bytes(&stored.join("segments")) as f64 / samples;
    rows.push(Row::new("on disk after a stop, which flushes: segments", format!("{segments:.2} bytes per sample")));
    rows.push(Row::new("on disk after a stop, the log's last file included", format!("{bytes_per_sample:.2} bytes per sample")));
    Ok(Cost {
        samples_per_s: samples / outcome.wall.as_secs_f64(),
        cpu_s_per_million: (settled.cpu_s - before.cpu_s) * 1e6 / samples,
        peak_mib: settled.peak_mib,
        bytes_per_sample,
        query_cpu,
    })
}

fn peer_cost(bench: &Bench, peer: &Peer, program: &std::path::Path, spec: &Spec) -> Result<Cost> {
    let server = peer::Server::start(bench, peer, program)?;
    let cpu = || stats::cpu_seconds(server.pid()).context("it ended by itself");
    let before = cpu()?;
    let target = Target { url: server.url(peer.write), headers: remote_write::HEADERS.into(), retries: RETRIES };
    let outcome = load(bench, spec, &target)?;
    server.settle(bench, SETTLE)?;
    let used = cpu()? - before;
    let (peak_mib, _) = stats::memory_mib(server.pid()).context("it ended by itself")?;
    let samples = outcome.items as f64;
    let mut client = Client::new(&server.url("/"))?;
    let query_cpu = queries(bench, &mut client, spec, server.pid(), &mut Vec::new())?;
    let folder = server.folder.clone();
    server.stop()?;
    Ok(Cost {
        samples_per_s: samples / outcome.wall.as_secs_f64(),
        cpu_s_per_million: used * 1e6 / samples,
        peak_mib,
        bytes_per_sample: stats::disk_bytes(&folder) as f64 / samples,
        query_cpu,
    })
}

fn compare(peer: &Peer, ours: &Cost, theirs: &Cost, rows: &mut Vec<Row>) {
    let mut row = |what: &str, figure: String, ours: f64, theirs: f64| {
        rows.push(Row::new(format!("{}: {what}", peer.name), format!("{figure} (ours / theirs = {:.2})", ours / theirs)));
    };
    row("samples/s", count(theirs.samples_per_s), ours.samples_per_s, theirs.samples_per_s);
    let cpu = format!("{:.2} s", theirs.cpu_s_per_million);
    row("CPU per million samples", cpu, ours.cpu_s_per_million, theirs.cpu_s_per_million);
    row("peak resident memory", format!("{:.0} MiB", theirs.peak_mib), ours.peak_mib, theirs.peak_mib);
    let disk = format!("{:.2} bytes per sample", theirs.bytes_per_sample);
    row("on disk after a stop", disk, ours.bytes_per_sample, theirs.bytes_per_sample);
    for (question, (a, b)) in QUESTIONS.iter().zip(ours.query_cpu.iter().zip(&theirs.query_cpu)) {
        // Below a millisecond the ratio would be one of clock ticks.
        if let (Some(a), Some(b)) = (a, b)
            && *a.min(b) >= Duration::from_millis(1)
        {
            row(&format!("CPU of query {}", question.name), ms(*b), a.as_secs_f64(), b.as_secs_f64());
        }
    }
}

fn load(bench: &Bench, spec: &Spec, target: &Target) -> Result<Outcome> {
    let sources = (0..CONNECTIONS).map(|shard| remote_write::bodies(spec, shard, CONNECTIONS, BATCH)).collect();
    let outcome = push(target, sources, &bench.stop);
    if let Some(error) = outcome.errors.first() {
        bail!("the load was refused: {error}");
    }
    if bench.is_stopped() {
        bail!("stopped");
    }
    Ok(outcome)
}

fn queries(bench: &Bench, client: &mut Client, spec: &Spec, pid: u32, rows: &mut Vec<Row>) -> Result<Vec<Option<Duration>>> {
    let end_s = (spec.start_ms + spec.ticks as i64 * spec.interval_ms) / 1000 - 10;
    let mut cpu = Vec::new();
    for question in &QUESTIONS {
        if bench.is_stopped() {
            bail!("stopped");
        }
        let mut answer = question.ask(client, end_s, QUERY_RUNS, Some(pid))?;
        if answer.status != 200 {
            bail!("query {}: status {}", question.name, answer.status);
        }
        let figure =
            format!("p50 {}, CPU {}", ms(stats::percentile(&mut answer.latencies, 0.5)), answer.cpu.map_or("unknown".into(), ms));
        rows.push(Row::new(format!("query {}", question.name), figure));
        cpu.push(answer.cpu);
    }
    Ok(cpu)
}

/// Ends now, since a store refuses what is too old or ahead of the clock.
fn spec(bench: &Bench) -> Result<Spec> {
    let ticks = bench.scaled(TICKS);
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_millis() as i64;
    let start_ms = (now_ms - ticks as i64 * INTERVAL_MS) / INTERVAL_MS * INTERVAL_MS;
    Ok(Spec { hosts: HOSTS, metrics: METRICS, start_ms, interval_ms: INTERVAL_MS, ticks, jitter_ms: 0, seed: 42 })
}
