//! Running other programs.

use anyhow::{Context, Result, bail};
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The cargo that runs us.
pub fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Shows the command, runs it, and fails when it fails.
pub fn run(command: &mut Command) -> Result<()> {
    let shown = show(command);
    eprintln!("$ {shown}");
    let status = command.status().with_context(|| format!("{shown} can't be started"))?;
    if !status.success() {
        bail!("{shown} failed ({status})");
    }
    Ok(())
}

/// The standard output of a command that must succeed.
pub fn output(command: &mut Command) -> Result<Vec<u8>> {
    let shown = show(command);
    let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("{shown} can't be started"))?;
    if !output.status.success() {
        bail!("{shown} failed ({})", output.status);
    }
    Ok(output.stdout)
}

/// Finds a program as the shell would.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Installs Debian packages that are missing, asking nothing. Does nothing where apt isn't.
pub fn apt_install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let apt =
        find_program("apt-get").with_context(|| format!("install these by hand, this is no Debian: {}", packages.join(" ")))?;
    let is_root = rustix::process::geteuid().is_root();
    let command = |arguments: &[&str]| {
        let mut command = if is_root { Command::new(&apt) } else { Command::new("sudo") };
        if !is_root {
            command.arg("-n").arg(&apt);
        }
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
        command
    };
    let mut install = vec!["install", "-y", "-q", "--no-install-recommends"];
    install.extend(packages);
    if run(&mut command(&install)).is_ok() {
        return Ok(());
    }
    // The package lists may be old.
    run(&mut command(&["update", "-q"]))?;
    run(&mut command(&install)).with_context(|| format!("run as root: apt-get install {}", packages.join(" ")))
}

pub fn is_installed(package: &str) -> bool {
    let query = Command::new("dpkg-query").args(["-W", "-f=${Status}", package]).stderr(Stdio::null()).output();
    query.is_ok_and(|found| found.stdout.ends_with(b"ok installed"))
}

pub fn exists(path: impl AsRef<Path>) -> bool {
    path.as_ref().exists()
}

fn show(command: &Command) -> String {
    let variables =
        command.get_envs().filter_map(|(name, value)| Some(format!("{}={}", name.to_string_lossy(), value?.to_string_lossy())));
    let words = std::iter::once(command.get_program()).chain(command.get_args()).map(|word| word.to_string_lossy().into_owned());
    let secret =
        |word: String| if word.contains("TOKEN=") { word.split('=').next().unwrap_or("").to_owned() + "=…" } else { word };
    variables.map(secret).chain(words).collect::<Vec<_>>().join(" ")
}
