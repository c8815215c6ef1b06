//! `cargo xtask bench`: measured figures, printed as the tables of `docs/benchmarks.md`.
//!
//! A bench is a function in [`BENCHES`] that returns its rows. Figures come with the machine they are from.

use crate::{guest, project::Project, shell, up};
use anyhow::{Context, Result, bail};
use std::{
    fs,
    process::{Command, Stdio},
    sync::atomic::AtomicBool,
    time::{Duration, Instant},
};

/// What was measured, and the figure with its unit.
type Row = (String, String);
type Bench = fn(&Project) -> Result<Vec<Row>>;

const BENCHES: [(&str, Bench); 2] = [("start", start), ("plugins", plugins)];

pub fn run(project: &Project, names: &[String]) -> Result<()> {
    if let Some(unknown) = names.iter().find(|name| BENCHES.iter().all(|(known, _)| known != name)) {
        bail!("there is no bench {unknown:?}; there are {}", BENCHES.map(|(name, _)| name).join(", "));
    }
    println!("{}\n", machine());
    for (name, bench) in BENCHES.iter().filter(|(name, _)| names.is_empty() || names.iter().any(|wanted| wanted == name)) {
        let rows = bench(project).with_context(|| format!("bench {name}"))?;
        println!("## {name}\n\n| | figure |\n|---|---|");
        for (what, figure) in rows {
            println!("| {what} | {figure} |");
        }
        println!();
    }
    Ok(())
}

/// From exec to ready, on an empty folder and on a used one, and the memory of an idle host.
fn start(project: &Project) -> Result<Vec<Row>> {
    let plugins = guest::build(project)?;
    shell::run(shell::cargo().current_dir(&project.root).args(["build", "--release", "--locked", "-p", "orchestrix"]))?;
    let data = project.target.join("bench-start");
    if data.exists() {
        fs::remove_dir_all(&data)?;
    }
    let address = "127.0.0.1:18080";
    let mut rows = Vec::new();
    for what in ["first start, plugins compiled", "start, warm"] {
        let begin = Instant::now();
        let mut host = up::Process::start(
            "host",
            Command::new(project.target.join("release/orchestrix"))
                .args(["serve", "--http", address, "--otlp-grpc", "127.0.0.1:0", "--otlp-http", "127.0.0.1:0", "--data-dir"])
                .arg(&data)
                .arg("--plugins-dir")
                .arg(&plugins)
                .stdout(Stdio::null())
                .stderr(Stdio::null()),
        )?;
        host.wait_until(Duration::from_secs(120), &AtomicBool::new(false), || up::is_ready(address))?;
        rows.push((what.to_owned(), format!("{} ms", begin.elapsed().as_millis())));
        if what == "start, warm" {
            std::thread::sleep(Duration::from_secs(5));
            rows.push(("resident memory, idle after 5 s".into(), resident(host.child.id())?));
        }
        host.stop()?;
    }
    Ok(rows)
}

/// Sizes of the components, as built.
fn plugins(project: &Project) -> Result<Vec<Row>> {
    let folder = guest::build(project)?;
    let size = |guest: guest::Guest| {
        let bytes = fs::metadata(guest::component(&folder, &guest))?.len();
        Ok((guest.name, format!("{} KB", bytes.div_ceil(1024))))
    };
    guest::find(project)?.into_iter().map(size).collect()
}

fn resident(pid: u32) -> Result<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS in /proc")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().context("VmRSS is no number")?;
    Ok(format!("{} MiB", kib / 1024))
}

fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")).map_or("", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let commit = shell::output(Command::new("git").args(["rev-parse", "--short", "HEAD"])).unwrap_or_default();
    format!("{model}, {cores} cores, commit {}", String::from_utf8_lossy(&commit).trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_bench_is_named_with_the_known_ones() {
        let project = Project { root: "/".into(), target: "/".into() };
        let error = run(&project, &["strat".into()]).unwrap_err().to_string();
        assert_eq!(error, "there is no bench \"strat\"; there are start, plugins");
    }
}
