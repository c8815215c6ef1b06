//! `cargo xtask`: what a developer or a machine types to build, run, test and measure the project.

mod bench;
mod ci;
mod guest;
mod licence;
mod manifest;
mod new_plugin;
mod prerequisite;
mod project;
mod shell;
mod stamp;
mod test;
mod up;
mod web;

use anyhow::Result;
use clap::{Parser, Subcommand};
use project::Project;
use std::{path::PathBuf, process::ExitCode};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Build, run, test and measure Orchestrix")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build everything, start the host on ./data and the playground, apply the examples. Ctrl-C stops both
    Up(up::Options),
    /// Run every test; what follows `--` goes to the test runner
    Test {
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// What CI runs: format, lints, licences, freshness of generated files, then all tests
    Ci,
    /// Build the plugins and put them into <target>/debug/plugins
    Plugins,
    /// Build the web interface
    Web,
    /// Write each plugin's schema.json from its Rust types
    Schemas,
    /// Measure; without a name, everything
    Bench(bench::Options),
    /// Make a new plugin that builds and passes its test
    NewPlugin {
        name: String,
        #[arg(long, value_enum, default_value = "action")]
        kind: new_plugin::Kind,
    },
    /// Run PromQL test files in Prometheus' promqltest format
    Promqltest {
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Check the machine's tools, and say how to get what is missing
    Doctor,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let project = Project::find()?;
    match Cli::parse().command {
        Command::Up(options) => up::run(&project, &options),
        Command::Test { arguments } => test::run(&project, &arguments),
        Command::Ci => ci::run(&project),
        Command::Plugins => guest::build(&project).map(drop),
        Command::Web => web::build(&project).map(drop),
        Command::Schemas => manifest::write_schemas(&project),
        Command::Bench(options) => bench::run(&project, &options),
        Command::NewPlugin { name, kind } => new_plugin::make(&project, &name, kind),
        Command::Promqltest { files } => test::promqltest(&project, &files),
        Command::Doctor => prerequisite::report(&project),
    }
}
