//! Where things are.

use anyhow::{Context, Result};
use std::path::PathBuf;

pub struct Project {
    pub root: PathBuf,
    /// Cargo's target directory.
    pub target: PathBuf,
}

impl Project {
    pub fn find() -> Result<Self> {
        // cargo sets the variable when it runs us; the compiled-in path serves a direct start.
        let own = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = own.parent().context("xtask has no parent folder")?.to_owned();
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(dir) => std::path::absolute(dir).context("CARGO_TARGET_DIR is no path")?,
            None => root.join("target"),
        };
        Ok(Self { root, target })
    }

    /// Where the host looks for first-party plugins: beside its executable.
    pub fn plugins(&self) -> PathBuf {
        self.target.join("debug/plugins")
    }

    pub fn host(&self) -> PathBuf {
        self.target.join("debug/orchestrix")
    }

    pub fn playground(&self) -> PathBuf {
        self.target.join("debug/playground")
    }
}
