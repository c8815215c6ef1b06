//! From the start of the process to its line that it listens, on an empty folder and on a used one; memory when idle.

use super::{
    Bench,
    host::Host,
    table::{Row, ms},
};
use anyhow::Result;
use bench_load::stats::percentile;
use std::time::Duration;

const WARM_STARTS: u64 = 7;
const WARM_GOAL: Duration = Duration::from_millis(300);
const IDLE_FOR: Duration = Duration::from_secs(10);
const IDLE_GOAL_MIB: f64 = 100.0;

pub fn run(bench: &Bench) -> Result<Vec<Row>> {
    let first = Host::start(bench, "startup")?;
    let folder = first.folder.clone();
    let mut rows = vec![
        Row::new("first start to listening", ms(first.listening)),
        Row::new("first start to ready (each plugin compiled)", ms(first.ready)),
    ];
    first.stop()?;
    let (mut listening, mut ready) = (Vec::new(), Vec::new());
    for _ in 0..bench.scaled(WARM_STARTS) {
        let host = Host::start_on(bench, &folder)?;
        listening.push(host.listening);
        ready.push(host.ready);
        host.stop()?;
    }
    let median = percentile(&mut listening, 0.5);
    rows.push(Row::new("warm start to listening, median", ms(median)).goal("under 300 ms", median < WARM_GOAL));
    rows.push(Row::new("warm start to listening, slowest", ms(percentile(&mut listening, 1.0))));
    rows.push(Row::new("warm start to ready, median", ms(percentile(&mut ready, 0.5))));

    let host = Host::start_on(bench, &folder)?;
    let before = host.usage()?.cpu_s;
    bench.pause(IDLE_FOR)?;
    let usage = host.usage()?;
    let idle = usage.resident_mib;
    rows.push(Row::new("idle: resident memory", format!("{idle:.0} MiB")).goal("under 100 MB", idle < IDLE_GOAL_MIB));
    let idle_cpu = (usage.cpu_s - before) / IDLE_FOR.as_secs_f64() * 100.0;
    rows.push(Row::new("idle: CPU, of one core, start included", format!("{idle_cpu:.1} %")));
    host.stop()?;
    Ok(rows)
}
