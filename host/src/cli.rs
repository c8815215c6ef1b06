//! The command line.

use crate::output::Format;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Watches systems and repairs them.
#[derive(Debug, Parser)]
#[command(name = "orchestrix", version, about, after_help = AFTER)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub remote: Remote,
}

const AFTER: &str = "\
Start a host:      orchestrix serve --data-dir data
Talk to it:        export ORCHESTRIX_URL=http://127.0.0.1:8080 ORCHESTRIX_TOKEN=$(cat data/admin-token)
                   orchestrix doctor
                   orchestrix apply -f monitors.yaml
                   orchestrix query metrics 'up'

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 not allowed, 5 the host can't be reached";

/// How to reach the host, and how to print what it says.
#[derive(Clone, Debug, Args)]
pub struct Remote {
    /// Address of the host
    #[arg(long, global = true, env = "ORCHESTRIX_URL", default_value = "http://127.0.0.1:8080", value_name = "URL")]
    pub server: String,
    /// API token
    #[arg(long, global = true, env = "ORCHESTRIX_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub token: Option<String>,
    /// How to print
    #[arg(long, short, global = true, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a host
    Serve(Serve),
    /// Create or change what a YAML file describes
    Apply {
        /// File of one or more YAML documents, or - for standard input; may be repeated
        #[arg(short, long = "file", required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Say what would be sent, and send nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Show resources: monitors, plugins, alerts, runs, workflows, secrets, guardrails, silences, scrapes, webhooks, events, ledger, audit
    Get {
        /// Kind of resource, singular or plural
        kind: String,
        /// Its name or id; all of them without
        name: Option<String>,
    },
    /// Delete a resource
    Delete { kind: String, name: String },
    /// Install, list and inspect plugins
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// Run and inspect workflows
    #[command(subcommand)]
    Workflow(WorkflowCommand),
    /// Ask for metrics, logs and traces
    #[command(subcommand)]
    Query(QueryCommand),
    /// Make, list and revoke API tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// Check server, token, clock, disk and plugins, and explain what is wrong
    Doctor,
    /// Print a shell's completion script
    Completions { shell: clap_complete::Shell },
    /// Print the OpenAPI document or the configuration with its defaults
    #[command(subcommand)]
    Schema(SchemaCommand),
}

#[derive(Debug, Args)]
pub struct Serve {
    /// Folder of everything durable
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Address of the API, the page and ingest over HTTP; port 0 takes a free one
    #[arg(long, value_name = "ADDR")]
    pub http: Option<String>,
    /// Address of OTLP over gRPC
    #[arg(long, value_name = "ADDR")]
    pub otlp_grpc: Option<String>,
    /// Address of OTLP over HTTP
    #[arg(long, value_name = "ADDR")]
    pub otlp_http: Option<String>,
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Folder of first-party components; `plugins` beside the executable without
    #[arg(long, value_name = "DIR")]
    pub plugins_dir: Option<PathBuf>,
    /// Let plugins reach this machine (127.0.0.1): for the playground only
    #[arg(long)]
    pub playground: bool,
}

#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// List installed plugins
    List,
    /// Show a plugin with its manifest, grants and meters
    Show { name: String },
    /// Upload a component and install it; what it asks for must be granted with `grant` or `apply`
    Install {
        /// The component (.wasm)
        file: PathBuf,
        /// Name to install it under; the last part of its id without
        #[arg(long)]
        name: Option<String>,
        /// Grant all that its manifest asks for
        #[arg(long)]
        grant_all: bool,
    },
    /// Replace a plugin's grant
    Grant {
        name: String,
        /// The grant as YAML or JSON; - for standard input
        #[arg(short, long = "file", value_name = "FILE")]
        file: PathBuf,
    },
    /// Let a plugin check its connection
    Check { name: String },
}

#[derive(Debug, Subcommand)]
pub enum WorkflowCommand {
    /// Start a run
    Run {
        name: String,
        /// Input as JSON, or @FILE
        #[arg(long, default_value = "{}")]
        input: String,
        /// Wait until the run has ended
        #[arg(long)]
        wait: bool,
    },
    /// List runs, newest first
    List {
        #[arg(long)]
        workflow: Option<String>,
        #[arg(long)]
        status: Option<String>,
    },
    /// Show a run with its steps
    Show { id: String },
    /// Cancel a run
    Cancel {
        id: String,
        #[arg(long, default_value = "cancelled from the command line")]
        reason: String,
    },
    /// Answer an approval step
    Answer {
        id: String,
        /// The step's pointer, as `show` prints it; the only waiting one without
        #[arg(long)]
        step: Option<String>,
        /// Refuse instead of approving
        #[arg(long)]
        deny: bool,
        #[arg(long)]
        comment: Option<String>,
    },
    /// Check a definition without storing it
    Validate { file: PathBuf },
}

#[derive(Debug, Subcommand)]
pub enum QueryCommand {
    /// PromQL, at one time or over a range
    Metrics {
        query: String,
        #[command(flatten)]
        range: Range,
        /// Step of a range query, such as 15s
        #[arg(long)]
        step: Option<String>,
    },
    /// Logs: a selector such as {service_name="cart"} |= "timeout", or plain words
    Logs {
        query: String,
        #[command(flatten)]
        range: Range,
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Spans of a service, or all of one trace
    Traces {
        /// A trace id
        #[arg(long)]
        id: Option<String>,
        #[arg(long)]
        service: Option<String>,
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        range: Range,
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
}

#[derive(Debug, Args)]
pub struct Range {
    /// Begin, as RFC 3339, Unix time, or back from now: -1h
    #[arg(long, allow_hyphen_values = true)]
    pub start: Option<String>,
    /// End; now without
    #[arg(long, allow_hyphen_values = true)]
    pub end: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token and print it once
    Create {
        name: String,
        /// ingest, viewer, operator or admin
        #[arg(long)]
        role: String,
        /// `12h`, `30d`; for ever without
        #[arg(long)]
        expires_in: Option<String>,
    },
    /// List tokens
    List,
    /// Revoke a token by its id
    Revoke { id: String },
}

#[derive(Debug, Subcommand)]
pub enum SchemaCommand {
    /// The OpenAPI document
    Openapi,
    /// The configuration with its defaults
    Config,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent_and_every_command_is_described() {
        let command = Cli::command();
        command.clone().debug_assert();
        for sub in command.get_subcommands() {
            assert!(sub.get_about().is_some() || sub.get_name() == "help", "{} has no description", sub.get_name());
        }
    }
}
