//! Plugins: Rust crates to WebAssembly components, with their manifest inside.
//!
//! The compiler for wasm32 is rustup's when its target is installed, else Debian's `rustc-web`, which brings no
//! standard library for wasm32: it is built from Debian's sources, in the same cargo call.

use crate::{manifest, project::Project, shell, stamp::Stamp};
use anyhow::{Context, Result, bail};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use wasm_encoder::{CustomSection, Section};

const TARGET: &str = "wasm32-unknown-unknown";
const DEBIAN_PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "lld-22"];
/// The custom section the host reads the manifest from.
const MANIFEST_SECTION: &str = "orchestrix:manifest";

/// A crate that becomes a component: a folder with `Cargo.toml` and `plugin.toml` two levels under `plugins/`.
pub struct Guest {
    /// Of the folder; the component is `<name>.wasm`.
    pub name: String,
    /// Of the cargo package, which may not have the name of a dependency such as `http`.
    pub package: String,
    pub folder: PathBuf,
}

/// Builds what changed, and returns the folder of the components. Without a change it does nothing.
pub fn build(project: &Project) -> Result<PathBuf> {
    let guests = find(project)?;
    let plugins = project.plugins();
    let stamp = Stamp::of(project.target.join("guest/stamp"), &sources(project))?;
    if stamp.is_fresh() && guests.iter().all(|guest| component(&plugins, guest).is_file()) {
        return Ok(plugins);
    }
    // Manifests first: a mistake there should show before minutes of compiling.
    let manifests = guests.iter().map(|guest| manifest::read(&guest.folder)).collect::<Result<Vec<_>>>()?;
    let built = compile(project, &guests)?;
    let testing = plugins.join("testing");
    fs::create_dir_all(&testing).with_context(|| format!("{} can't be made", testing.display()))?;
    for (guest, manifest) in guests.iter().zip(&manifests) {
        let module = built.join(guest.package.replace('-', "_")).with_extension("wasm");
        let module =
            fs::read(&module).with_context(|| format!("{} wasn't built: is its crate-type cdylib?", module.display()))?;
        let bytes = componentize(&module, manifest).with_context(|| format!("{} is no component", guest.name))?;
        let path = component(&plugins, guest);
        fs::write(&path, &bytes).with_context(|| format!("{} can't be written", path.display()))?;
        eprintln!("{:>8} KB  {}", bytes.len().div_ceil(1024), path.display());
    }
    remove_others(&plugins, &plugins, &guests)?;
    remove_others(&testing, &plugins, &guests)?;
    stamp.keep()?;
    Ok(plugins)
}

/// All plugin crates of the project, in order of their names.
pub fn find(project: &Project) -> Result<Vec<Guest>> {
    let mut guests = Vec::new();
    for kind in folders(&project.root.join("plugins"))? {
        for folder in folders(&kind)? {
            if folder.join("plugin.toml").is_file() && folder.join("Cargo.toml").is_file() {
                let text = fs::read_to_string(folder.join("Cargo.toml"))?;
                let cargo: toml::Table = toml::from_str(&text).with_context(|| format!("{}/Cargo.toml", folder.display()))?;
                let package = cargo.get("package").and_then(|p| p.get("name")).and_then(toml::Value::as_str);
                let package = package.with_context(|| format!("{}/Cargo.toml has no package name", folder.display()))?.to_owned();
                let name = folder.file_name().context("a folder has a name")?.to_string_lossy().into_owned();
                guests.push(Guest { name, package, folder });
            }
        }
    }
    guests.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some(pair) = guests.windows(2).find(|pair| pair[0].name == pair[1].name) {
        bail!("two plugins are called {}: {} and {}", pair[0].name, pair[0].folder.display(), pair[1].folder.display());
    }
    Ok(guests)
}

/// Whether this machine can compile for wasm32, and with what.
pub fn toolchain() -> Result<Toolchain> {
    let sysroot = shell::output(Command::new("rustc").args(["--print", "sysroot"]));
    if let Ok(sysroot) = sysroot {
        let libraries = Path::new(String::from_utf8_lossy(&sysroot).trim()).join("lib/rustlib").join(TARGET).join("lib");
        if libraries.is_dir() {
            return Ok(Toolchain::Rustup);
        }
    }
    if shell::exists("/usr/bin/dpkg") {
        let missing: Vec<_> = DEBIAN_PACKAGES.into_iter().filter(|package| !shell::is_installed(package)).collect();
        return Ok(Toolchain::Debian { missing });
    }
    bail!("there is no compiler for {TARGET} here; run: rustup target add {TARGET}")
}

#[derive(Debug, PartialEq, Eq)]
pub enum Toolchain {
    Rustup,
    /// With the packages that are still to be installed.
    Debian {
        missing: Vec<&'static str>,
    },
}

fn compile(project: &Project, guests: &[Guest]) -> Result<PathBuf> {
    let target = project.target.join("guest");
    let mut command = match toolchain()? {
        Toolchain::Rustup => shell::cargo(),
        Toolchain::Debian { missing } => {
            shell::apt_install(&missing).with_context(|| format!("or use rustup: rustup target add {TARGET}"))?;
            let mut command = Command::new("/usr/bin/cargo");
            command
                .env("RUSTC", "/usr/bin/rustc")
                .env("RUSTC_BOOTSTRAP", "1")
                .env("RUSTFLAGS", "-Clinker=wasm-ld-22")
                .arg("-Zbuild-std=std,panic_abort");
            command
        }
    };
    // What the outer cargo said about its own toolchain must not reach another one.
    for variable in
        ["CARGO", "RUSTUP_TOOLCHAIN", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO_ENCODED_RUSTFLAGS", "CARGO_TARGET_DIR"]
    {
        command.env_remove(variable);
    }
    command.current_dir(&project.root).args(["build", "--profile", "guest", "--target", TARGET, "--target-dir"]).arg(&target);
    for guest in guests {
        command.args(["-p", &guest.package]);
    }
    shell::run(&mut command)?;
    Ok(target.join(TARGET).join("guest"))
}

/// The component of a core module that was linked with wit-bindgen's description in it, and the manifest as a custom section.
fn componentize(module: &[u8], manifest: &serde_json::Value) -> Result<Vec<u8>> {
    let mut bytes = wit_component::ComponentEncoder::default().validate(true).module(module)?.encode()?;
    let json = serde_json::to_vec(manifest)?;
    CustomSection { name: MANIFEST_SECTION.into(), data: json.into() }.append_to(&mut bytes);
    Ok(bytes)
}

/// What the components are made from.
fn sources(project: &Project) -> Vec<PathBuf> {
    ["plugins", "sdk/rust", "wit", "xtask/src", "Cargo.toml", "Cargo.lock"].map(|path| project.root.join(path)).into()
}

/// Hostile and fixture guests go into a folder of their own: a host must not find them among its plugins.
pub fn component(plugins: &Path, guest: &Guest) -> PathBuf {
    let is_for_tests = guest.folder.parent().is_some_and(|kind| kind.ends_with("testing"));
    let folder = if is_for_tests { plugins.join("testing") } else { plugins.to_owned() };
    folder.join(format!("{}.wasm", guest.name))
}

/// A component whose crate is gone must not be found by the host.
fn remove_others(folder: &Path, plugins: &Path, guests: &[Guest]) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_ours = guests.iter().any(|guest| component(plugins, guest) == path);
        if path.extension().is_some_and(|extension| extension == "wasm") && !is_ours {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

fn folders(path: &Path) -> Result<Vec<PathBuf>> {
    let Ok(entries) = fs::read_dir(path) else { return Ok(Vec::new()) };
    let mut found: Vec<_> = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    found.retain(|path| path.is_dir());
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(root: &Path) -> Project {
        Project { root: root.into(), target: root.join("target") }
    }

    fn crate_at(root: &Path, folder: &str, name: &str) {
        let folder = root.join("plugins").join(folder);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("Cargo.toml"), format!("[package]\nname = \"{name}\"\n")).unwrap();
        fs::write(folder.join("plugin.toml"), "").unwrap();
    }

    #[test]
    fn guests_are_folders_with_both_files_and_names_are_unique() {
        let root = tempfile::tempdir().unwrap();
        let project = project(root.path());
        assert!(find(&project).unwrap().is_empty());
        crate_at(root.path(), "detectors/b", "b-plugin");
        crate_at(root.path(), "actions/a", "a-plugin");
        fs::create_dir_all(root.path().join("plugins/actions/empty")).unwrap();
        let names: Vec<_> = find(&project).unwrap().into_iter().map(|guest| (guest.name, guest.package)).collect();
        assert_eq!(names, [("a".into(), "a-plugin".into()), ("b".into(), "b-plugin".into())]);
        crate_at(root.path(), "detectors/a", "c-plugin");
        assert!(find(&project).err().unwrap().to_string().contains("two plugins are called a"));
    }

    #[test]
    fn guests_for_tests_are_kept_apart() {
        let guest = |folder: &str| Guest { name: "x".into(), package: "x-plugin".into(), folder: folder.into() };
        let at = |folder: &str| component(Path::new("/out"), &guest(folder));
        assert_eq!(at("/p/plugins/testing/x"), Path::new("/out/testing/x.wasm"));
        assert_eq!(at("/p/plugins/actions/x"), Path::new("/out/x.wasm"));
    }

    #[test]
    fn what_is_no_module_is_refused() {
        for module in [&b""[..], b"\0asm", b"garbage that is no module"] {
            assert!(componentize(module, &serde_json::json!({})).is_err());
        }
    }

    #[test]
    fn components_of_vanished_crates_are_removed_and_other_files_kept() {
        let root = tempfile::tempdir().unwrap();
        for name in ["a.wasm", "gone.wasm", "notes.txt"] {
            fs::write(root.path().join(name), "").unwrap();
        }
        remove_others(
            root.path(),
            root.path(),
            &[Guest { name: "a".into(), package: "a-plugin".into(), folder: PathBuf::new() }],
        )
        .unwrap();
        let kept = |name: &str| root.path().join(name).exists();
        assert_eq!([kept("a.wasm"), kept("gone.wasm"), kept("notes.txt")], [true, false, true]);
    }
}
