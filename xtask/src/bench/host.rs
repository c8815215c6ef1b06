//! The host as a process under measurement: on a folder and ports of its own, stopped whatever happens.

use super::Bench;
use crate::up;
use anyhow::{Context, Result, bail};
use bench_load::{http::Client, stats};
use serde_json::Value;
use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

const TOKEN: &str = "bench-admin-token-0123456789abcdef";
/// The first start compiles the plugins.
const READY: Duration = Duration::from_secs(120);

pub struct Host {
    process: up::Process,
    executable: PathBuf,
    pub folder: PathBuf,
    pub http: String,
    pub otlp_http: String,
    /// From the start of the process to its line that it listens.
    pub listening: Duration,
    /// From the start of the process to a yes of `/readyz`.
    pub ready: Duration,
}

/// Where a line of the log says the host listens.
#[derive(Debug, PartialEq, Eq)]
struct Doors {
    http: String,
    otlp_http: String,
}

/// What the host has used so far.
#[derive(Clone, Copy)]
pub struct Usage {
    pub cpu_s: f64,
    pub peak_mib: f64,
    pub resident_mib: f64,
}

impl Host {
    /// On an empty folder.
    pub fn start(bench: &Bench, name: &str) -> Result<Self> {
        let folder = bench.project.target.join("bench").join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("{} can't be emptied", folder.display()))?;
        }
        Self::start_on(bench, &folder)
    }

    /// On a folder that may have been used.
    pub fn start_on(bench: &Bench, folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("{} can't be made", folder.display()))?;
        let mut command = Command::new(&bench.binary);
        command
            .args(["serve", "--playground", "--http", "127.0.0.1:0", "--otlp-grpc", "127.0.0.1:0", "--otlp-http", "127.0.0.1:0"])
            .arg("--data-dir")
            .arg(folder.join("data"))
            .arg("--plugins-dir")
            .arg(&bench.plugins)
            .env("ORCHESTRIX_BOOTSTRAP_TOKEN", TOKEN)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let begin = Instant::now();
        let mut process = up::Process::start("host", &mut command)?;
        let output = process.child.stderr.take().context("its errors are piped")?;
        let log = File::options().create(true).append(true).open(folder.join("host.log"))?;
        let (says, said) = mpsc::channel();
        thread::spawn(move || watch(BufReader::new(output), log, &says));
        let (at, doors) = loop {
            match said.recv_timeout(Duration::from_millis(100)) {
                Ok(found) => break found,
                Err(mpsc::RecvTimeoutError::Timeout) if begin.elapsed() < READY && !bench.is_stopped() => {}
                Err(_) => bail!("the host doesn't listen; see {}", folder.join("host.log").display()),
            }
        };
        process.wait_until(READY, &bench.stop, || up::is_ready(&doors.http))?;
        Ok(Self {
            process,
            executable: bench.binary.clone(),
            folder: folder.to_owned(),
            http: doors.http,
            otlp_http: doors.otlp_http,
            listening: at - begin,
            ready: begin.elapsed(),
        })
    }

    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    /// The header line that authorises.
    pub fn authorization() -> String {
        format!("Authorization: Bearer {TOKEN}\r\n")
    }

    pub fn client(&self) -> Result<Client> {
        let mut client = Client::new(&self.url("/"))?;
        client.extra = Self::authorization();
        Ok(client)
    }

    pub fn get(&self, path: &str) -> Result<Value> {
        let (status, body) = self.client()?.send("GET", path, "", &[])?;
        if status != 200 {
            bail!("GET {path}: status {status}: {}", String::from_utf8_lossy(&body));
        }
        serde_json::from_slice(&body).with_context(|| format!("GET {path} is no JSON"))
    }

    /// The value of one of the host's own counters or gauges, summed over its labels.
    pub fn counter(&self, name: &str) -> Result<f64> {
        let (status, body) = self.client()?.send("GET", "/metrics", "", &[])?;
        if status != 200 {
            bail!("GET /metrics: status {status}");
        }
        sum(&String::from_utf8_lossy(&body), name).with_context(|| format!("/metrics has no {name}"))
    }

    /// `orchestrix apply`, as a user would.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        let mut child = Command::new(&self.executable)
            .args(["apply", "--file", "-"])
            .env("ORCHESTRIX_URL", self.url(""))
            .env("ORCHESTRIX_TOKEN", TOKEN)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("the command line can't be started")?;
        child.stdin.take().context("its input is piped")?.write_all(yaml.as_bytes())?;
        let status = child.wait()?;
        if !status.success() {
            bail!("orchestrix apply failed ({status})");
        }
        Ok(())
    }

    pub fn usage(&self) -> Result<Usage> {
        let pid = self.pid();
        let cpu_s = stats::cpu_seconds(pid).context("the host is gone")?;
        let (peak_mib, resident_mib) = stats::memory_mib(pid).context("the host is gone")?;
        Ok(Usage { cpu_s, peak_mib, resident_mib })
    }

    /// Waits until the host has used hardly any CPU for two seconds: flushes and merges are then done and counted.
    pub fn settle(&self, bench: &Bench, limit: Duration) -> Result<()> {
        const WINDOW: Duration = Duration::from_secs(2);
        const IDLE_CPU_S: f64 = 0.05;
        let begin = Instant::now();
        while begin.elapsed() < limit {
            let before = self.usage()?.cpu_s;
            bench.pause(WINDOW)?;
            if self.usage()?.cpu_s - before <= IDLE_CPU_S {
                return Ok(());
            }
        }
        bail!("the host was still busy after {} s", limit.as_secs())
    }

    /// Drains and ends it; the folder stays.
    pub fn stop(mut self) -> Result<()> {
        self.process.stop()
    }
}

fn watch(lines: impl BufRead, mut log: File, says: &mpsc::Sender<(Instant, Doors)>) {
    for line in lines.lines().map_while(Result::ok) {
        if let Some(doors) = doors(&line) {
            // Nobody listens any more after the first.
            let _ = says.send((Instant::now(), doors));
        }
        // A full disk must not block the host.
        let _ = writeln!(log, "{line}");
    }
}

fn doors(line: &str) -> Option<Doors> {
    let (_, rest) = line.split_once("listening ")?;
    let value = |key: &str| rest.split(' ').find_map(|word| word.strip_prefix(key)).map(str::to_owned);
    Some(Doors { http: value("http=")?, otlp_http: value("otlp_http=")? })
}

fn sum(exposition: &str, name: &str) -> Option<f64> {
    let value = |line: &str| {
        let rest = line.strip_prefix(name)?;
        rest.starts_with([' ', '{']).then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
    };
    exposition.lines().filter_map(value).reduce(|a, b| a + b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_doors_are_where_the_log_says() {
        let line = "2026-01-01T00:00:00Z  INFO orchestrix::serve: listening http=127.0.0.1:1 otlp_grpc=127.0.0.1:2 otlp_http=127.0.0.1:3 data=x";
        assert_eq!(doors(line), Some(Doors { http: "127.0.0.1:1".into(), otlp_http: "127.0.0.1:3".into() }));
        for other in ["components are loaded", "listening", "listening http=127.0.0.1:1"] {
            assert_eq!(doors(other), None, "{other}");
        }
    }

    #[test]
    fn a_counter_is_the_sum_over_its_labels() {
        let text = "# TYPE a_total counter\na_total{s=\"x y\"} 1\na_total{s=\"z\"} 2.5\na_total_more 9\nb 7\n";
        assert_eq!(sum(text, "a_total"), Some(3.5));
        assert_eq!(sum(text, "b"), Some(7.0));
        assert_eq!(sum(text, "c"), None);
    }
}
