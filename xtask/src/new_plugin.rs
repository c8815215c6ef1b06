//! `cargo xtask new-plugin`: a plugin of the project that builds and passes its test at once.

use crate::project::Project;
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use std::{fs, path::PathBuf};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    Action,
    Detector,
    StreamDetector,
}

pub fn make(project: &Project, name: &str, kind: Kind) -> Result<()> {
    let folder = write(project, name, kind)?;
    println!("{} is made. Next:", folder.display());
    println!("  cargo test -p {name}-plugin   its unit tests, natively");
    println!("  cargo xtask schemas   after each change of its types");
    println!("  cargo xtask plugins   builds the component");
    Ok(())
}

fn write(project: &Project, name: &str, kind: Kind) -> Result<PathBuf> {
    let is_name = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        && name.len() <= 64;
    if !is_name {
        bail!("{name:?} is no plugin name: lower-case letters, digits and hyphens, a letter first");
    }
    let folder = project.root.join("plugins").join(if kind == Kind::Action { "actions" } else { "detectors" }).join(name);
    if folder.exists() {
        bail!("{} is there already", folder.display());
    }
    let (code, manifest, schema) = match kind {
        Kind::Action => {
            (include_str!("template/action.rs"), include_str!("template/action.toml"), include_str!("template/action.json"))
        }
        Kind::Detector => {
            (include_str!("template/detector.rs"), include_str!("template/detector.toml"), include_str!("template/detector.json"))
        }
        Kind::StreamDetector => {
            (include_str!("template/stream.rs"), include_str!("template/stream.toml"), include_str!("template/detector.json"))
        }
    };
    let fill = |text: &str| text.replace("NAME", name);
    fs::create_dir_all(folder.join("src")).with_context(|| format!("{} can't be made", folder.display()))?;
    fs::write(folder.join("Cargo.toml"), fill(include_str!("template/cargo.toml")))?;
    fs::write(folder.join("plugin.toml"), fill(manifest))?;
    fs::write(folder.join("schema.json"), schema)?;
    fs::write(folder.join("src/lib.rs"), fill(code))?;
    fs::write(folder.join("README.md"), fill(include_str!("template/readme.md")))?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{guest, manifest};

    #[test]
    fn a_new_plugin_of_every_kind_is_found_with_a_manifest_that_merges() {
        let root = tempfile::tempdir().unwrap();
        let project = Project { root: root.path().into(), target: root.path().join("target") };
        for (name, kind) in [("my-action", Kind::Action), ("my-detector", Kind::Detector), ("my-stream", Kind::StreamDetector)] {
            let folder = write(&project, name, kind).unwrap();
            let manifest = manifest::read(&folder).unwrap();
            assert_eq!(manifest["id"], format!("acme/{name}"));
            assert!(manifest.pointer("/config/schema").or(manifest.pointer("/detector/params")).is_some());
            assert!(!fs::read_to_string(folder.join("src/lib.rs")).unwrap().contains("NAME"));
        }
        let names: Vec<_> = guest::find(&project).unwrap().into_iter().map(|guest| guest.name).collect();
        assert_eq!(names, ["my-action", "my-detector", "my-stream"]);
    }

    #[test]
    fn bad_and_taken_names_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let project = Project { root: root.path().into(), target: root.path().join("target") };
        for name in ["", "A", "../x", "a b", "1a", "a/b", "-a"] {
            assert!(write(&project, name, Kind::Action).is_err(), "{name:?}");
        }
        write(&project, "a", Kind::Action).unwrap();
        assert!(write(&project, "a", Kind::Action).unwrap_err().to_string().contains("there already"));
    }
}
