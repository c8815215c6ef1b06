//! The web interface, built by Vite into `host/web/dist`, which the host embeds.

use crate::{prerequisite, project::Project, shell, stamp::Stamp};
use anyhow::Result;
use std::{path::PathBuf, process::Command};

/// Builds it when its sources changed; says whether it did.
pub fn build(project: &Project) -> Result<bool> {
    let web = project.root.join("host/web");
    if !web.join("package.json").is_file() {
        eprintln!("host/web has no package.json: no web interface to build");
        return Ok(false);
    }
    let stamp = Stamp::of(project.target.join("web/stamp"), std::slice::from_ref(&web))?;
    if stamp.is_fresh() && web.join("dist/index.html").is_file() {
        return Ok(false);
    }
    prerequisite::ensure(&prerequisite::WEB)?;
    install(project, &web)?;
    shell::run(Command::new("npm").args(["run", "--silent", "build"]).current_dir(&web))?;
    // npm may have touched its lock file: look again.
    Stamp::of(project.target.join("web/stamp"), &[web])?.keep()?;
    Ok(true)
}

/// `npm ci`, when the lock file changed since the last one.
fn install(project: &Project, web: &PathBuf) -> Result<()> {
    let stamp = Stamp::of(project.target.join("web/modules"), &[web.join("package.json"), web.join("package-lock.json")])?;
    if stamp.is_fresh() && web.join("node_modules").is_dir() {
        return Ok(());
    }
    let verb = if web.join("package-lock.json").is_file() { "ci" } else { "install" };
    shell::run(Command::new("npm").args([verb, "--no-audit", "--no-fund"]).current_dir(web))?;
    Stamp::of(project.target.join("web/modules"), &[web.join("package.json"), web.join("package-lock.json")])?.keep()
}
