//! Compilation, away from the async threads and, when a program is given for it, in a child process of its
//! own: compile-time denial of service is not wasmtime's bug, so memory and time are bounded from outside.

use crate::{Error, engine};
use std::{
    io::{Read, Write},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};
use tokio::io::AsyncWriteExt;

/// Address space of the compiling child: SpiderMonkey's 14 MB component takes about 2 GiB.
const CHILD_BYTES_MAX: u64 = 6 << 30;
/// CPU and wall seconds of the compiling child: JavaScript takes 25 CPU s, more on a slow machine.
const CHILD_CPU_S_MAX: u64 = 300;
const CHILD_WALL_S_MAX: u64 = 300;

/// Who compiles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Compiler {
    /// A blocking thread of this process.
    #[default]
    InProcess,
    /// `program args…`, which must end in [`compile_child_main`].
    Child { program: PathBuf, args: Vec<String> },
}

/// The compiling child's `main`: component on stdin, machine code on stdout, an error on stderr and exit code 1.
/// Lowers its own limits first.
pub fn compile_child_main() -> std::process::ExitCode {
    let run = || -> Result<(), String> {
        limit_self();
        let mut wasm = Vec::new();
        let max = model::limits::COMPONENT_BYTES_MAX as u64 + 1;
        std::io::stdin().take(max).read_to_end(&mut wasm).map_err(|e| e.to_string())?;
        let code = compile_here(&wasm).map_err(|e| e.to_string())?;
        let mut out = std::io::stdout().lock();
        out.write_all(&code).and_then(|()| out.flush()).map_err(|e| e.to_string())
    };
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            std::process::ExitCode::FAILURE
        }
    }
}

impl Compiler {
    /// Machine code for a component, fit for [`engine::config`]'s engines.
    pub(crate) async fn compile(&self, wasm: bytes::Bytes) -> Result<Vec<u8>, Error> {
        match self {
            Self::InProcess => {
                tokio::task::spawn_blocking(move || compile_here(&wasm)).await.map_err(|e| Error::Compile(e.to_string()))?
            }
            Self::Child { program, args } => in_child(program, args, &wasm).await,
        }
    }
}

fn compile_here(wasm: &[u8]) -> Result<Vec<u8>, Error> {
    let engine = wasmtime::Engine::new(&engine::config()).map_err(|e| Error::Engine(format!("{e:#}")))?;
    engine.precompile_component(wasm).map_err(|e| Error::Compile(format!("{e:#}")))
}

async fn in_child(program: &PathBuf, args: &[String], wasm: &[u8]) -> Result<Vec<u8>, Error> {
    let failed = |why: String| Error::Compile(format!("the compiling process {}: {why}", program.display()));
    let mut child = tokio::process::Command::new(program)
        .args(args)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| failed(e.to_string()))?;
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let feed = async move {
        // A child that refuses early closes its end; its stderr says why.
        let _ = stdin.write_all(wasm).await;
        drop(stdin);
    };
    let both = async { tokio::join!(feed, child.wait_with_output()).1 };
    let output = tokio::time::timeout(Duration::from_secs(CHILD_WALL_S_MAX), both)
        .await
        .map_err(|_| failed(format!("took more than {CHILD_WALL_S_MAX} s")))?
        .map_err(|e| failed(e.to_string()))?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        let stderr = String::from_utf8_lossy(&output.stderr);
        Err(failed(format!("{} ({})", stderr.trim(), output.status)))
    }
}

fn limit_self() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    for (resource, max) in [(Resource::As, CHILD_BYTES_MAX), (Resource::Cpu, CHILD_CPU_S_MAX), (Resource::Core, 0)] {
        // Where a limit can't be set, the parent's deadline is still there.
        let _ = setrlimit(resource, Rlimit { current: Some(max), maximum: Some(max) });
    }
}
