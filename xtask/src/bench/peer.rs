//! Other servers that take remote write and answer PromQL, given the same load where they are installed.

use super::Bench;
use crate::{shell, up};
use anyhow::{Context, Result, bail};
use bench_load::{http::Client, stats};
use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

const READY: Duration = Duration::from_secs(30);

pub struct Peer {
    pub name: &'static str,
    /// In the folder it starts in; `{folder}` and `{address}` are filled in.
    arguments: &'static [&'static str],
    pub write: &'static str,
    health: &'static str,
}

pub const ALL: [Peer; 2] = [
    Peer {
        name: "victoria-metrics",
        arguments: &[
            "-storageDataPath={folder}",
            "-httpListenAddr={address}",
            "-retentionPeriod=1y",
            "-search.maxUniqueTimeseries=1000000",
        ],
        write: "/api/v1/write",
        health: "/health",
    },
    Peer {
        name: "prometheus",
        arguments: &[
            "--config.file={folder}/prometheus.yml",
            "--storage.tsdb.path={folder}/tsdb",
            "--web.listen-address={address}",
            "--web.enable-remote-write-receiver",
            "--log.level=warn",
        ],
        write: "/api/v1/write",
        health: "/-/ready",
    },
];

pub fn find(peer: &Peer) -> Option<PathBuf> {
    shell::find_program(peer.name)
}

pub struct Server {
    process: up::Process,
    pub folder: PathBuf,
    address: String,
}

impl Server {
    pub fn start(bench: &Bench, peer: &Peer, program: &Path) -> Result<Self> {
        let folder = bench.project.target.join("bench").join(peer.name);
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("{} can't be emptied", folder.display()))?;
        }
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("prometheus.yml"), "scrape_configs: []\n")?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let shown = folder.display().to_string();
        let arguments = peer.arguments.iter().map(|a| a.replace("{folder}", &shown).replace("{address}", &address));
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = up::Process::start(peer.name, &mut command)?;
        let is_up = || {
            let answer =
                Client::new(&format!("http://{address}/")).and_then(|mut client| client.send("GET", peer.health, "", b""));
            answer.is_ok_and(|(status, _)| status == 200)
        };
        process.wait_until(READY, &bench.stop, is_up)?;
        Ok(Self { process, folder, address })
    }

    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// As the host is given: until two seconds pass with hardly any CPU.
    pub fn settle(&self, bench: &Bench, limit: Duration) -> Result<()> {
        let begin = Instant::now();
        let cpu = || stats::cpu_seconds(self.pid()).context("it ended by itself");
        while begin.elapsed() < limit {
            let before = cpu()?;
            bench.pause(Duration::from_secs(2))?;
            if cpu()? - before <= 0.05 {
                return Ok(());
            }
        }
        bail!("it was still busy after {} s", limit.as_secs())
    }

    pub fn stop(mut self) -> Result<()> {
        self.process.stop()
    }
}
