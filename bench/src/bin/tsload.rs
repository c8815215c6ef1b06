//! Sends the data set to a Prometheus remote-write receiver, or to ClickHouse as RowBinary, and prints throughput,
//! latency and the server's cost as one JSON line.

use bench_load::{
    http::urlencode,
    metric::Spec,
    push::{Target, push},
    remote_write, stats,
};
use std::{process::ExitCode, sync::atomic::AtomicBool, time::Duration};

const USAGE: &str = "tsload --url URL [--format remote-write|clickhouse|none] [--hosts 1000] [--metrics 10] [--hours 6]
  [--interval-s 10] [--concurrency 2] [--batch 5000] [--start-ms 0 (= now - hours)] [--jitter-ms 0] [--seed 42]
  [--pid PID (of the server, for CPU and memory)] [--retries 20] [--header LINE (such as an Authorization header)]";

struct Options {
    url: String,
    format: String,
    hosts: usize,
    metrics: usize,
    hours: f64,
    interval_s: f64,
    concurrency: usize,
    batch: usize,
    start_ms: i64,
    jitter_ms: u64,
    seed: u64,
    pid: Option<u32>,
    retries: u32,
    header: String,
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)) {
        Ok(options) => run(&options),
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options {
        url: String::new(),
        format: "remote-write".into(),
        hosts: 1000,
        metrics: 10,
        hours: 6.0,
        interval_s: 10.0,
        concurrency: 2,
        batch: 5000,
        start_ms: 0,
        jitter_ms: 0,
        seed: 42,
        pid: None,
        retries: 20,
        header: String::new(),
    };
    fn number<T: std::str::FromStr>(option: &str, value: &str) -> Result<T, String> {
        value.parse().map_err(|_| format!("{option} can't be {value:?}"))
    }
    while let Some(option) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{option} needs a value"))?;
        match option.as_str() {
            "--url" => options.url = value,
            "--format" => options.format = value,
            "--hosts" => options.hosts = number(&option, &value)?,
            "--metrics" => options.metrics = number(&option, &value)?,
            "--hours" => options.hours = number(&option, &value)?,
            "--interval-s" => options.interval_s = number(&option, &value)?,
            "--concurrency" => options.concurrency = number::<usize>(&option, &value)?.max(1),
            "--batch" => options.batch = number(&option, &value)?,
            "--start-ms" => options.start_ms = number(&option, &value)?,
            "--jitter-ms" => options.jitter_ms = number(&option, &value)?,
            "--seed" => options.seed = number(&option, &value)?,
            "--pid" => options.pid = Some(number(&option, &value)?),
            "--retries" => options.retries = number(&option, &value)?,
            "--header" => options.header = format!("{value}\r\n"),
            _ => return Err(format!("there is no option {option}")),
        }
    }
    if !matches!(options.format.as_str(), "remote-write" | "clickhouse" | "none") {
        return Err(format!("there is no format {:?}", options.format));
    }
    if options.url.is_empty() && options.format != "none" {
        return Err("--url is missing".into());
    }
    if options.start_ms == 0 {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_err(|e| e.to_string())?;
        options.start_ms = (now.as_secs_f64() - options.hours * 3600.0) as i64 / 10 * 10_000;
    }
    Ok(options)
}

fn run(options: &Options) -> ExitCode {
    let spec = Spec {
        hosts: options.hosts,
        metrics: options.metrics,
        start_ms: options.start_ms,
        interval_ms: (options.interval_s * 1000.0) as i64,
        ticks: (options.hours * 3600.0 / options.interval_s).round() as u64,
        jitter_ms: options.jitter_ms,
        seed: options.seed,
    };
    let shards = options.concurrency;
    if options.format == "none" {
        let mut next = remote_write::bodies(&spec, 0, 1, options.batch);
        let mut body = Vec::new();
        let (mut samples, mut bytes) = (0, 0);
        loop {
            let count = next(&mut body);
            if count == 0 {
                break;
            }
            (samples, bytes) = (samples + count, bytes + body.len());
        }
        let cpu = stats::cpu_seconds(std::process::id()).unwrap_or(0.0);
        println!("{{\"samples\":{samples},\"body_bytes\":{bytes},\"client_cpu_s\":{cpu:.2}}}");
        return ExitCode::SUCCESS;
    }
    let cpu_before = options.pid.and_then(stats::cpu_seconds);
    let stop = AtomicBool::new(false);
    let mut target = Target { url: options.url.clone(), headers: options.header.clone(), retries: options.retries };
    let mut outcome = if options.format == "clickhouse" {
        target.url += &format!("?query={}", urlencode("INSERT INTO samples (series, ts, value) FORMAT RowBinary"));
        push(&target, (0..shards).map(|shard| row_binary(&spec, shard, shards, options.batch)).collect(), &stop)
    } else {
        target.headers += remote_write::HEADERS;
        push(&target, (0..shards).map(|shard| remote_write::bodies(&spec, shard, shards, options.batch)).collect(), &stop)
    };
    let ms = |took: Duration| took.as_secs_f64() * 1e3;
    let [p50, p99, max] = [0.5, 0.99, 1.0].map(|p| ms(stats::percentile(&mut outcome.latencies, p)));
    let (samples, wall) = (outcome.items, outcome.wall.as_secs_f64());
    print!(
        "{{\"acked_samples\":{samples},\"requests\":{},\"retried\":{},\"wall_s\":{wall:.3},\"samples_per_s\":{:.0},\
         \"body_bytes_per_sample\":{:.2},\"p50_ms\":{p50:.2},\"p99_ms\":{p99:.2},\"max_ms\":{max:.2},\"client_cpu_s\":{:.2}",
        outcome.requests,
        outcome.retried,
        samples as f64 / wall,
        outcome.bytes as f64 / samples.max(1) as f64,
        stats::cpu_seconds(std::process::id()).unwrap_or(0.0)
    );
    if let (Some(before), Some(pid)) = (cpu_before, options.pid)
        && let (Some(after), Some((peak, resident))) = (stats::cpu_seconds(pid), stats::memory_mib(pid))
    {
        let cpu = after - before;
        print!(
            ",\"server_cpu_s\":{cpu:.2},\"server_cpu_s_per_million\":{:.3},\"server_peak_rss_mib\":{peak:.0},\"server_rss_mib\":{resident:.0}",
            cpu * 1e6 / samples.max(1) as f64
        );
    }
    println!(",\"start_ms\":{},\"errors\":{:?}}}", options.start_ms, outcome.errors);
    if outcome.errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Rows of series (UInt32), time (Int64) and value (Float64).
fn row_binary(spec: &Spec, shard: usize, shards: usize, batch: usize) -> impl FnMut(&mut Vec<u8>) -> u64 + Send + use<> {
    let mut samples = spec.shard(shard, shards);
    let metrics = spec.metrics;
    let series: Vec<u32> = samples.series.iter().map(|&(host, metric)| (host * metrics + metric) as u32).collect();
    move |body| {
        let mut count = 0;
        for (at, time_ms, value) in samples.by_ref().take(batch) {
            body.extend_from_slice(&series[at].to_le_bytes());
            body.extend_from_slice(&time_ms.to_le_bytes());
            body.extend_from_slice(&value.to_le_bytes());
            count += 1;
        }
        count
    }
}
