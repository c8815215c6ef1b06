//! What the command line does against a host.

pub mod apply;
pub mod doctor;
pub mod plugin;
pub mod query;
pub mod resource;
pub mod token;
pub mod workflow;

use crate::{cli::Remote, client::Client, output};
use serde_json::Value;

/// A client and how to print.
pub struct Context {
    pub client: Client,
    pub format: output::Format,
}

impl Context {
    pub fn new(remote: &Remote) -> crate::client::Result<Self> {
        Ok(Self { client: Client::new(remote)?, format: remote.output })
    }

    pub fn print(&self, value: &Value, columns: &[&str]) {
        use std::io::Write;
        // A reader that went away (`| head`) is no failure.
        let _ = writeln!(std::io::stdout(), "{}", output::render(value, self.format, columns));
    }

    /// For people only: programs get what was printed with [`Self::print`].
    pub fn say(&self, text: impl std::fmt::Display) {
        if self.format == output::Format::Table {
            use std::io::Write;
            let _ = writeln!(std::io::stdout(), "{text}");
        }
    }
}
