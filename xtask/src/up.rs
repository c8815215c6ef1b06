//! `cargo xtask up`: everything, running, in one command.

use crate::{guest, prerequisite, project::Project, shell, web};
use anyhow::{Context, Result, bail};
use clap::Args;
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

#[derive(Args)]
pub struct Options {
    /// Where the host keeps everything
    #[arg(long, default_value = "data")]
    data_dir: PathBuf,
    /// Address of the API and the web interface
    #[arg(long, default_value = "127.0.0.1:8080")]
    http: String,
    /// Only the host: no playground, no examples
    #[arg(long)]
    bare: bool,
}

/// Where the playground listens, as the examples expect.
const PLAYGROUND: &str = "127.0.0.1:9400";
/// The host's own door for OTLP over gRPC.
const OTLP: &str = "http://127.0.0.1:4317";
/// How long a stopped host may drain.
const DRAIN: Duration = Duration::from_secs(30);
/// How long a host may take until it is ready; the first start compiles the plugins.
const READY: Duration = Duration::from_secs(120);

pub fn run(project: &Project, options: &Options) -> Result<()> {
    prerequisite::ensure(&prerequisite::BUILD)?;
    web::build(project)?;
    let plugins = guest::build(project)?;
    shell::run(shell::cargo().current_dir(&project.root).args(["build", "--locked", "-p", "orchestrix", "-p", "playground"]))?;

    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("signals can't be caught")?;
    }
    let data = if options.data_dir.is_absolute() { options.data_dir.clone() } else { project.root.join(&options.data_dir) };
    fs::create_dir_all(&data).with_context(|| format!("{} can't be made", data.display()))?;

    let mut host = Process::start(
        "host",
        Command::new(project.host())
            .current_dir(&project.root)
            .args(["serve", "--http", &options.http, "--data-dir"])
            .arg(&data)
            .arg("--plugins-dir")
            .arg(&plugins)
            // The playground runs on this machine, and plugins must be allowed to reach it: said here, visibly.
            .args((!options.bare).then_some("--playground")),
    )?;
    host.wait_until(READY, &stop, || is_ready(&options.http))?;
    let token = admin_token(&data)?;
    let url = format!("http://{}", options.http);

    let mut playground = None;
    if !options.bare && !stop.load(Ordering::Relaxed) {
        let mut command = Command::new(project.playground());
        command.env("ORCHESTRIX_TOKEN", &token).args(["--http", PLAYGROUND, "--otlp", OTLP]);
        playground = Some(Process::start("playground", &mut command)?);
        if let Err(e) = apply_examples(project, &url, &token) {
            eprintln!("the examples could not be applied: {e:#}");
        }
    }
    if !stop.load(Ordering::Relaxed) {
        greet(&url, &token, playground.is_some());
    }
    let outcome = watch(&stop, &mut host, playground.as_mut());
    // The host drains first: an action in flight may still talk to the playground.
    let drained = host.stop();
    if let Some(mut playground) = playground {
        playground.stop()?;
    }
    drained?;
    outcome
}

/// Every YAML file in the folders of `examples/`, in one go: what others refer to comes first, whatever the order.
fn apply_examples(project: &Project, url: &str, token: &str) -> Result<()> {
    let mut files = Vec::new();
    let mut folders = vec![project.root.join("examples")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("{} can't be read", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
                files.push(path);
            }
        }
    }
    if files.is_empty() {
        return Ok(());
    }
    files.sort();
    let mut apply = Command::new(project.host());
    apply.env("ORCHESTRIX_URL", url).env("ORCHESTRIX_TOKEN", token).arg("apply");
    for file in &files {
        apply.arg("--file").arg(file);
    }
    shell::run(&mut apply)
}

fn greet(url: &str, token: &str, has_playground: bool) {
    println!("\n  Orchestrix   {url}\n  sign in with {token}\n");
    if has_playground {
        println!("  The playground sends metrics, logs and traces. To see a repair from alert to resolved:");
        println!("    1. open {url} and look at the alerts");
        println!("    2. break something on the playground's page, http://{PLAYGROUND}");
        println!("    3. watch the run repair it, and what it tells the chat at http://{PLAYGROUND}/chat\n");
    }
    println!("  Ctrl-C stops everything.\n");
}

/// Until somebody stops us, or one of the two ends by itself.
fn watch(stop: &AtomicBool, host: &mut Process, mut playground: Option<&mut Process>) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        for process in [Some(&mut *host), playground.as_deref_mut()].into_iter().flatten() {
            if let Some(status) = process.child.try_wait()? {
                bail!("the {} ended by itself ({status})", process.name);
            }
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// The token the host made at its first start, or the one it was given.
fn admin_token(data: &std::path::Path) -> Result<String> {
    if let Ok(token) = std::env::var("ORCHESTRIX_BOOTSTRAP_TOKEN") {
        return Ok(token);
    }
    let path = data.join("admin-token");
    let token = fs::read_to_string(&path).with_context(|| format!("the host left no token in {}", path.display()))?;
    Ok(token.trim().to_owned())
}

/// Asks `/readyz`.
pub fn is_ready(address: &str) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        write!(stream, "GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.take(4096).read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// A program of ours in a process group of its own, so that Ctrl-C reaches us alone and we stop it in order.
pub struct Process {
    name: &'static str,
    pub child: Child,
}

impl Process {
    pub fn start(name: &'static str, command: &mut Command) -> Result<Self> {
        let child = command.process_group(0).spawn().with_context(|| format!("the {name} can't be started"))?;
        Ok(Self { name, child })
    }

    /// Waits until it is up, has ended, or somebody stops us.
    pub fn wait_until(&mut self, limit: Duration, stop: &AtomicBool, is_up: impl Fn() -> bool) -> Result<()> {
        let begin = Instant::now();
        while !is_up() && !stop.load(Ordering::Relaxed) {
            if let Some(status) = self.child.try_wait()? {
                bail!("the {} ended before it was ready ({status})", self.name);
            }
            if begin.elapsed() > limit {
                bail!("the {} wasn't ready after {} s", self.name, limit.as_secs());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// SIGTERM, time to drain, then the hard way. A shell in the background hands SIGINT down as ignored.
    pub fn stop(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).with_context(|| format!("the {} can't be told to stop", self.name))?;
        let begin = Instant::now();
        while begin.elapsed() < DRAIN {
            if let Some(status) = self.child.try_wait()? {
                if !status.success() {
                    bail!("the {} ended with {status}", self.name);
                }
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        self.child.kill()?;
        self.child.wait()?;
        bail!("the {} didn't stop within {} s and was killed", self.name, DRAIN.as_secs())
    }
}

/// Whatever fails in between, nothing of ours is left running.
impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.stop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_host_is_ready_when_it_says_so() {
        for (answer, expected) in [("HTTP/1.1 200 OK\r\n\r\n", true), ("HTTP/1.1 503 Busy\r\n\r\n", false), ("", false)] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let server = thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 256];
                let read = stream.read(&mut request).unwrap();
                assert!(request[..read].starts_with(b"GET /readyz "));
                stream.write_all(answer.as_bytes()).unwrap();
            });
            assert_eq!(is_ready(&address), expected);
            server.join().unwrap();
        }
        assert!(!is_ready("127.0.0.1:1"));
    }

    #[test]
    fn a_process_is_stopped_by_the_signal_it_can_answer() {
        let mut process =
            Process::start("sleeper", Command::new("sh").args(["-c", "trap 'exit 0' TERM; while :; do sleep 0.01; done"]))
                .unwrap();
        thread::sleep(Duration::from_millis(200));
        process.stop().unwrap();
        assert!(process.child.try_wait().unwrap().unwrap().success());
    }

    #[test]
    fn a_process_that_ends_early_is_no_success() {
        let mut process = Process::start("failer", Command::new("sh").args(["-c", "exit 3"])).unwrap();
        let error = process.wait_until(Duration::from_secs(5), &AtomicBool::new(false), || false).unwrap_err();
        assert!(error.to_string().contains("ended before it was ready"), "{error}");
    }
}
