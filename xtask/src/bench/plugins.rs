//! What a call of a component costs: a fresh instance each, from the host's own meters and from the process' CPU time.

use super::{
    Bench,
    host::Host,
    table::{Row, count, ms},
};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::time::Duration;

const MONITORS: u64 = 40;
const EVALUATIONS_FOR: Duration = Duration::from_secs(10);

/// What the host's meters say of one function.
#[derive(Clone, Copy, Default)]
struct Meter {
    calls: f64,
    wall_us: f64,
    cpu_us: f64,
}

pub fn run(bench: &Bench) -> Result<Vec<Row>> {
    let host = Host::start(bench, "plugins")?;
    let rows = evaluations(bench, &host)?;
    host.stop()?;
    Ok(rows)
}

/// Monitors that are due every second: the path that runs all day.
fn evaluations(bench: &Bench, host: &Host) -> Result<Vec<Row>> {
    let monitors = bench.scaled(MONITORS);
    let yaml: Vec<String> = (0..monitors).map(monitor).collect();
    host.apply(&yaml.join("---\n"))?;
    bench.pause(Duration::from_secs(2))?;
    let (before, cpu_before) = (meter(host, "evaluate")?, host.usage()?.cpu_s);
    bench.pause(EVALUATIONS_FOR)?;
    let used = meter(host, "evaluate")?.since(before);
    let cpu = host.usage()?.cpu_s - cpu_before;
    if used.calls < 1.0 {
        bail!("no monitor was evaluated; see {}", host.folder.join("host.log").display());
    }
    Ok(vec![
        Row::new("threshold monitors, each evaluated every second", count(monitors as f64)),
        Row::new("evaluations/s", format!("{:.1}", used.calls / EVALUATIONS_FOR.as_secs_f64())),
        Row::new("fresh instance, call and teardown, mean (meter)", micros(used.wall_us / used.calls)),
        Row::new("… of that CPU inside the component", micros(used.cpu_us / used.calls)),
        Row::new("host CPU per evaluation: query, call, recording, schedule", micros(cpu * 1e6 / used.calls)),
    ])
}

fn monitor(number: u64) -> String {
    // `vector(1)` gives a series without a store behind it; the monitor stays ok and writes no reports.
    format!(
        "apiVersion: orchestrix/v1
kind: Monitor
metadata: {{ name: bench-{number} }}
spec: {{ detector: threshold, query: vector(1), every: 1s, params: {{ op: \">\", threshold: 90 }} }}
"
    )
}

fn meter(host: &Host, function: &str) -> Result<Meter> {
    let shown = host.get("/api/v1/plugins/threshold")?;
    let meters = shown["meters"].as_array().context("the plugin shows no meters")?;
    Ok(meters.iter().filter(|meter| is_of(meter, function)).fold(Meter::default(), |sum, meter| {
        let number = |key: &str| meter[key].as_f64().unwrap_or(0.0);
        Meter {
            calls: sum.calls + number("calls"),
            wall_us: sum.wall_us + number("wallUs"),
            cpu_us: sum.cpu_us + number("cpuUs"),
        }
    }))
}

/// Functions are named with their interface or without.
fn is_of(meter: &Value, function: &str) -> bool {
    meter["function"].as_str().is_some_and(|name| name.rsplit(['/', '.', '#']).next() == Some(function))
}

impl Meter {
    fn since(self, before: Self) -> Self {
        Self { calls: self.calls - before.calls, wall_us: self.wall_us - before.wall_us, cpu_us: self.cpu_us - before.cpu_us }
    }
}

fn micros(us: f64) -> String {
    ms(Duration::from_secs_f64(us.max(0.0) / 1e6))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_known_with_its_interface_and_without() {
        for (name, expected) in
            [("evaluate", true), ("orchestrix:plugin/detector.evaluate", true), ("re-evaluate", false), ("check", false)]
        {
            assert_eq!(is_of(&serde_json::json!({ "function": name }), "evaluate"), expected, "{name}");
        }
    }
}
