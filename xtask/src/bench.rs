//! `cargo xtask bench`: measured figures, printed as the tables of `docs/benchmarks.md`.
//!
//! Each bench is a file that starts the host on a folder of its own, drives a bounded load over loopback and answers
//! rows. CPU time comes from `/proc`, so that figures hold on a shared machine; wall time is only as quiet as the machine.

mod host;
mod latency;
mod logs;
mod metrics;
mod peer;
mod plugins;
mod receiver;
mod startup;
mod table;
mod workflows;

use crate::{guest, project::Project, shell};
use anyhow::{Context, Result, bail};
use clap::Args;
use std::{
    fs,
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};
use table::Row;

#[derive(Args)]
pub struct Options {
    /// startup, metrics, logs, latency, plugins, workflows; all of them without
    names: Vec<String>,
    /// Build and measure the release profile instead of dev
    #[arg(long)]
    release: bool,
    /// Measure this executable, with the folder `plugins` beside it, and build nothing
    #[arg(long, conflicts_with = "release", value_name = "FILE")]
    host: Option<PathBuf>,
    /// Multiplies every load: 0.1 is a quick look
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Give the same metrics to victoria-metrics and prometheus, where these are installed
    #[arg(long)]
    peers: bool,
}

/// What a bench needs.
struct Bench<'a> {
    project: &'a Project,
    options: &'a Options,
    /// Set by Ctrl-C: loads end, the hosts are stopped, and nothing more is started.
    stop: Arc<AtomicBool>,
    binary: PathBuf,
    plugins: PathBuf,
}

type Run = fn(&Bench) -> Result<Vec<Row>>;

const BENCHES: [(&str, Run); 6] = [
    ("startup", startup::run),
    ("metrics", metrics::run),
    ("logs", logs::run),
    ("latency", latency::run),
    ("plugins", plugins::run),
    ("workflows", workflows::run),
];

pub fn run(project: &Project, options: &Options) -> Result<()> {
    if let Some(unknown) = options.names.iter().find(|name| BENCHES.iter().all(|(known, _)| known != name)) {
        bail!("there is no bench {unknown:?}; there are {}", BENCHES.map(|(name, _)| name).join(", "));
    }
    if !(0.001..=100.0).contains(&options.scale) {
        bail!("--scale {} is not between 0.001 and 100", options.scale);
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("signals can't be caught")?;
    }
    let (binary, plugins) = match &options.host {
        Some(file) => {
            let file = fs::canonicalize(file).with_context(|| format!("{} can't be found", file.display()))?;
            (file.clone(), file.with_file_name("plugins"))
        }
        None => (build(project, options.release)?, guest::build(project)?),
    };
    let bench = Bench { project, options, stop, binary, plugins };
    println!("{}", machine(options));
    // One bench that fails must not cost the figures of the others.
    let mut failed = Vec::new();
    for (name, run) in BENCHES.iter().filter(|(name, _)| options.names.is_empty() || options.names.iter().any(|n| n == name)) {
        if bench.is_stopped() {
            bail!("stopped");
        }
        println!("\n## {name}\n\nLoad of the machine before: {}\n", load());
        match run(&bench) {
            Ok(rows) => print!("{}", table::render(&rows)),
            Err(error) => {
                println!("failed: {error:#}");
                failed.push(*name);
            }
        }
    }
    match failed.as_slice() {
        [] => Ok(()),
        names => bail!("failed: {}", names.join(", ")),
    }
}

impl Bench<'_> {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Of a load, by `--scale`.
    fn scaled(&self, count: u64) -> u64 {
        ((count as f64 * self.options.scale) as u64).max(1)
    }

    /// Fails when Ctrl-C came meanwhile.
    fn pause(&self, time: Duration) -> Result<()> {
        let end = std::time::Instant::now() + time;
        while !self.is_stopped() {
            let left = end.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(Duration::from_millis(100)));
        }
        bail!("stopped")
    }
}

fn build(project: &Project, is_release: bool) -> Result<PathBuf> {
    let mut command = shell::cargo();
    command.current_dir(&project.root).args(["build", "--locked", "-p", "orchestrix"]);
    if is_release {
        command.arg("--release");
    }
    shell::run(&mut command)?;
    Ok(if is_release { project.target.join("release/orchestrix") } else { project.host() })
}

fn machine(options: &Options) -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")).map_or("", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let commit = shell::output(Command::new("git").args(["describe", "--always", "--dirty"])).unwrap_or_default();
    let profile = match &options.host {
        Some(file) => format!("executable {}", file.display()),
        None if options.release => "profile release".into(),
        None => "profile dev".into(),
    };
    format!("{model}, {cores} cores, {profile}, commit {}", String::from_utf8_lossy(&commit).trim())
}

/// Of the last minute; near the number of cores or above, wall times say little.
fn load() -> String {
    fs::read_to_string("/proc/loadavg").ok().and_then(|text| text.split(' ').next().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(names: &[&str], scale: f64) -> String {
        let project = Project { root: "/".into(), target: "/".into() };
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let options = Options { names, release: false, host: None, scale, peers: false };
        run(&project, &options).unwrap_err().to_string()
    }

    #[test]
    fn an_unknown_bench_is_named_with_the_known_ones() {
        let expected = "there is no bench \"strat\"; there are startup, metrics, logs, latency, plugins, workflows";
        assert_eq!(outcome(&["strat"], 1.0), expected);
    }

    #[test]
    fn a_scale_that_makes_no_load_is_refused() {
        for scale in [0.0, -1.0, f64::NAN, 1e9] {
            assert!(outcome(&["logs"], scale).contains("--scale"), "{scale}");
        }
    }
}
