//! Runs a fixed set of PromQL queries against a Prometheus-compatible API and prints latencies and the server's CPU per query.

use bench_load::{http::Client, question::QUESTIONS, stats::percentile};
use std::{process::ExitCode, time::Duration};

const USAGE: &str = "tsquery --url http://127.0.0.1:9090 --start-ms T --hours 6 [--runs 20] [--pid PID] [--header LINE]";

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn run(mut arguments: impl Iterator<Item = String>) -> Result<(), String> {
    let (mut url, mut header) = (String::new(), String::new());
    let (mut start_ms, mut hours, mut runs, mut pid) = (0_i64, 6.0_f64, 20_u32, None);
    while let Some(option) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{option} needs a value"))?;
        let wrong = |_| format!("{option} can't be {value:?}");
        match option.as_str() {
            "--url" => url = value,
            "--header" => header = format!("{value}\r\n"),
            "--start-ms" => start_ms = value.parse().map_err(wrong)?,
            "--hours" => hours = value.parse().map_err(|_| format!("--hours can't be {value:?}"))?,
            "--runs" => runs = value.parse().map_err(wrong)?,
            "--pid" => pid = Some(value.parse().map_err(wrong)?),
            _ => return Err(format!("there is no option {option}")),
        }
    }
    let mut client = Client::new(&url).map_err(|e| format!("--url {url:?}: {e}"))?;
    client.extra = header;
    let end_s = start_ms / 1000 + (hours * 3600.0) as i64 - 10;
    let ms = |took: Duration| took.as_secs_f64() * 1e3;
    println!("query,first_ms,p50_ms,p99_ms,server_cpu_ms,result_bytes,status");
    for question in &QUESTIONS {
        let mut answer = question.ask(&mut client, end_s, runs, pid).map_err(|e| format!("{}: {e}", question.name))?;
        let cpu = answer.cpu.map_or("-".into(), |cpu| format!("{:.1}", ms(cpu)));
        let (p50, p99) = (percentile(&mut answer.latencies, 0.5), percentile(&mut answer.latencies, 0.99));
        println!(
            "{},{:.2},{:.2},{:.2},{cpu},{},{}",
            question.name,
            ms(answer.first),
            ms(p50),
            ms(p99),
            answer.bytes,
            answer.status
        );
    }
    Ok(())
}
