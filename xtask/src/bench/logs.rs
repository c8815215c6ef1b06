//! Log lines by JSON lines and by OTLP: to the answer, and until they are indexed.

use super::{
    Bench,
    host::Host,
    table::{Row, count, ms},
};
use anyhow::{Context, Result, bail};
use bench_load::{
    log::{self, Format},
    push::{Target, push},
    stats,
};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const LINES: u64 = 400_000;
const BATCH: u64 = 1_000;
const SETTLE: Duration = Duration::from_secs(120);
const RETRIES: u32 = 100;
/// The stream's own time goes at about 50 lines a second; it must not end ahead of the clock.
const LINES_PER_S: u64 = 50;

pub fn run(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (name, format) in [("JSON lines", Format::Json), ("OTLP over HTTP", Format::Otlp)] {
        one(bench, name, format, &mut rows)?;
    }
    Ok(rows)
}

fn one(bench: &Bench, name: &str, format: Format, rows: &mut Vec<Row>) -> Result<()> {
    let lines = bench.scaled(LINES);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs();
    let start_ms = (now - lines / LINES_PER_S - 60) * 1000;
    let host = Host::start(bench, "logs")?;
    let (url, kind) = match format {
        Format::Json => (host.url("/api/v1/logs"), "application/x-ndjson"),
        Format::Otlp => (format!("http://{}/v1/logs", host.otlp_http), "application/x-protobuf"),
    };
    let target = Target { url, headers: Host::authorization() + &format!("Content-Type: {kind}\r\n"), retries: RETRIES };
    let before = host.usage()?;
    let mut outcome = push(&target, vec![log::bodies(format, start_ms, lines, BATCH)], &bench.stop);
    if let Some(error) = outcome.errors.first() {
        bail!("{name}: the load was refused: {error}");
    }
    let answered = host.usage()?;
    host.settle(bench, SETTLE)?;
    let settled = host.usage()?;
    let refused = host.counter("orx_ingest_items_refused_total")?;
    if refused > 0.0 {
        bail!("{name}: {refused} lines were refused");
    }
    let sent = outcome.items as f64;
    let per_million = |cpu_s: f64| format!("{:.1} s", cpu_s * 1e6 / sent);
    let mut row = |what: &str, figure: String| rows.push(Row::new(format!("{name}: {what}"), figure));
    row("lines", count(sent));
    row("bytes per line as sent", format!("{:.0}", outcome.bytes as f64 / sent));
    row("lines/s, acknowledged after fsync", count(sent / outcome.wall.as_secs_f64()));
    row("request of 1,000 lines, p50", ms(stats::percentile(&mut outcome.latencies, 0.5)));
    row("request of 1,000 lines, p99", ms(stats::percentile(&mut outcome.latencies, 0.99)));
    row("requests told to wait", count(outcome.retried as f64));
    row("host CPU per million lines until answered", per_million(answered.cpu_s - before.cpu_s));
    row("host CPU per million lines until idle (indexed)", per_million(settled.cpu_s - before.cpu_s));
    row("peak resident memory", format!("{:.0} MiB", settled.peak_mib));
    let folder = host.folder.join("data/telemetry/logs");
    host.stop()?;
    let per_line = |part: &str| format!("{:.0} bytes per line", stats::disk_bytes(&folder.join(part)) as f64 / sent);
    row("on disk after a stop: rows and index", per_line("tenants"));
    row("on disk after a stop: log, kept for readers up to 128 MiB", per_line("log"));
    Ok(())
}
