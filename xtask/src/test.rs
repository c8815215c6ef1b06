//! Every test, with what they need built and installed first.

use crate::{guest, prerequisite, project::Project, shell, stamp::Stamp, web};
use anyhow::Result;
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Where tests find the components.
const PLUGINS_DIR: &str = "ORCHESTRIX_PLUGINS_DIR";
/// Where tests find a Python with the packages of `host/tests/requirements.txt`.
const PYTHON: &str = "ORCHESTRIX_TEST_PYTHON";

pub fn run(project: &Project, arguments: &[String]) -> Result<()> {
    prerequisite::ensure(&prerequisite::BUILD)?;
    prerequisite::ensure(&prerequisite::TEST)?;
    web::build(project)?;
    let plugins = guest::build(project)?;
    let python = python(project)?;
    npm(project)?;
    // Black-box tests start the binaries.
    let build = ["build", "--locked", "-p", "orchestrix", "-p", "playground"];
    shell::run(shell::cargo().current_dir(&project.root).args(build))?;
    let mut command = shell::cargo();
    command
        .current_dir(&project.root)
        .env(PLUGINS_DIR, &plugins)
        .args(["test", "--locked", "--workspace", "--no-fail-fast"])
        .args(arguments);
    if let Some(python) = python {
        command.env(PYTHON, python);
    }
    shell::run(&mut command)
}

/// Runs files in Prometheus' promqltest format against our engine.
pub fn promqltest(project: &Project, files: &[PathBuf]) -> Result<()> {
    let mut command = shell::cargo();
    command.current_dir(&project.root).args(["run", "--quiet", "--locked", "-p", "query", "--example", "promqltest", "--"]);
    for file in files {
        command.arg(std::path::absolute(file)?);
    }
    shell::run(&mut command)
}

/// A virtual environment under the target folder, when tests name Python packages.
fn python(project: &Project) -> Result<Option<PathBuf>> {
    let requirements = project.root.join("host/tests/requirements.txt");
    if !requirements.is_file() {
        return Ok(None);
    }
    let folder = project.target.join("test-python");
    let python = folder.join("bin/python");
    let stamp = Stamp::of(folder.join("stamp"), std::slice::from_ref(&requirements))?;
    if !stamp.is_fresh() || !python.is_file() {
        shell::run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
        shell::run(
            Command::new(&python)
                .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"])
                .arg(&requirements),
        )?;
        stamp.keep()?;
    }
    Ok(Some(python))
}

/// Packages of tests that are JavaScript programs.
fn npm(project: &Project) -> Result<()> {
    let folder = project.root.join("host/tests");
    if !folder.join("package.json").is_file() {
        return Ok(());
    }
    let files = |folder: &Path| [folder.join("package.json"), folder.join("package-lock.json")];
    let stamp = Stamp::of(project.target.join("test-npm/stamp"), &files(&folder))?;
    if stamp.is_fresh() && folder.join("node_modules").is_dir() {
        return Ok(());
    }
    shell::run(Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(&folder))?;
    stamp.keep()
}
