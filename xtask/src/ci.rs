//! What CI runs, and nothing more.

use crate::{guest, licence, prerequisite, project::Project, shell, test, web};
use anyhow::{Context, Result, bail};
use std::fs;

pub fn run(project: &Project) -> Result<()> {
    let cargo = |arguments: &[&str]| shell::run(shell::cargo().current_dir(&project.root).args(arguments));
    cargo(&["fmt", "--all", "--check"])?;
    licence::check(project)?;
    prerequisite::ensure(&prerequisite::BUILD)?;
    // The host embeds the web interface and finds the plugins beside it.
    web::build(project)?;
    guest::build(project)?;
    cargo(&["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    openapi_is_fresh(project)?;
    test::run(project, &[])
}

/// The committed description of the API is what the code generates.
fn openapi_is_fresh(project: &Project) -> Result<()> {
    let mut command = shell::cargo();
    command.current_dir(&project.root).args(["run", "--quiet", "--locked", "-p", "orchestrix", "--", "schema", "openapi"]);
    let generated = String::from_utf8(shell::output(&mut command)?).context("the generated OpenAPI document is no UTF-8")?;
    let path = project.root.join("docs/openapi.json");
    let kept = fs::read_to_string(&path).context("docs/openapi.json can't be read")?;
    if kept.trim_end() != generated.trim_end() {
        bail!("docs/openapi.json is old; run: cargo run -p orchestrix -- schema openapi > docs/openapi.json");
    }
    Ok(())
}
