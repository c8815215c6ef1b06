//! The binary: command line, configuration, wiring. Nothing else.

mod archive;
mod bundled;
mod cli;
mod client;
mod command;
mod config;
mod data_dir;
mod logging;
mod output;
mod port;
mod serve;
mod stats;

use clap::{CommandFactory, Parser};
use cli::{Cli, Command, SchemaCommand};
use client::Failure;
use command::Context;
use model::Clock;
use std::process::ExitCode;

/// How the host calls itself to compile a component under limits; no command for people.
pub const COMPILE_COMMAND: &str = "compile-component";

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(COMPILE_COMMAND) {
        return plugin::compile_child_main();
    }
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("orchestrix: cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(run(cli));
    // A blocking call that hangs must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("orchestrix: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let now = || model::SystemClock.now();
    let context = || Context::new(&cli.remote);
    match &cli.command {
        Command::Serve(serve) => Ok(serve::run(serve).await?),
        Command::Apply { files, dry_run } => command::apply::run(&context()?, files, *dry_run).await,
        Command::Get { kind, name } => command::resource::get(&context()?, kind, name.as_deref()).await,
        Command::Delete { kind, name } => command::resource::delete(&context()?, kind, name).await,
        Command::Plugin(plugin) => command::plugin::run(&context()?, plugin).await,
        Command::Workflow(workflow) => command::workflow::run(&context()?, workflow).await,
        Command::Query(query) => command::query::run(&context()?, query, now()).await,
        Command::Token(token) => command::token::run(&context()?, token).await,
        Command::Doctor => command::doctor::run(&context()?, now()).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "orchestrix", &mut script);
            write_out(&script);
            Ok(())
        }
        Command::Schema(SchemaCommand::Openapi) => {
            let text = serde_json::to_string_pretty(&api::openapi::document()).expect("the document has text keys only");
            write_out(format!("{text}\n").as_bytes());
            Ok(())
        }
        Command::Schema(SchemaCommand::Config) => {
            let text = toml::to_string_pretty(&config::ConfigFile::default()).expect("the defaults are TOML");
            write_out(format!("{text}\n").as_bytes());
            Ok(())
        }
    }
}

fn write_out(bytes: &[u8]) {
    use std::io::Write;
    // A reader that went away (`| head`) is no failure.
    let _ = std::io::stdout().write_all(bytes);
}
