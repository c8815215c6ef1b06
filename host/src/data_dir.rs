//! The data folder, opened once. All below it goes through this handle; see `docs/guide/config.md` for the layout.

use anyhow::{Context, bail};
use cap_std::{
    ambient_authority,
    fs::{Dir, OpenOptions, OpenOptionsExt},
};
use std::{
    io::{ErrorKind, Read, Write},
    path::{Path, PathBuf},
};

pub struct DataDir {
    dir: Dir,
    path: PathBuf,
}

impl DataDir {
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let name = path.display();
        Dir::create_ambient_dir_all(path, ambient_authority()).with_context(|| format!("cannot make the data folder {name}"))?;
        let dir =
            Dir::open_ambient_dir(path, ambient_authority()).with_context(|| format!("cannot open the data folder {name}"))?;
        let path = path.canonicalize().with_context(|| format!("cannot resolve the data folder {name}"))?;
        for folder in ["telemetry", "packages", "cache"] {
            dir.create_dir_all(folder)
                .with_context(|| format!("cannot make {folder} in the data folder {name}; is it writable?"))?;
        }
        Ok(Self { dir, path })
    }

    pub fn sub(&self, name: &str) -> anyhow::Result<Dir> {
        self.dir.open_dir(name).with_context(|| format!("cannot open {name} in the data folder"))
    }

    /// For rooms that need a path: the telemetry engine's memory maps, SQLite.
    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The content of a file that only its owner may read; `None` when it isn't there.
    pub fn read_private(&self, name: &str) -> anyhow::Result<Option<String>> {
        let mut file = match self.dir.open(name) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {name} in the data folder")),
        };
        let mode = std::os::unix::fs::PermissionsExt::mode(&std_permissions(&file)?);
        if mode & 0o077 != 0 {
            bail!("{} can be read by others (mode {:o}); run `chmod 600` on it", self.path(name).display(), mode & 0o777);
        }
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        Ok(Some(text.trim().to_owned()))
    }

    /// Writes a file with mode 0600 that is whole or absent, also after a power loss.
    pub fn write_private(&self, name: &str, content: &str) -> anyhow::Result<()> {
        self.write(name, content, 0o600)
    }

    pub fn write(&self, name: &str, content: &str, mode: u32) -> anyhow::Result<()> {
        let draft = format!("{name}.new");
        let write = || -> std::io::Result<()> {
            let _ = self.dir.remove_file(&draft);
            let mut file = self.dir.open_with(&draft, OpenOptions::new().write(true).create_new(true).mode(mode))?;
            file.write_all(content.as_bytes())?;
            file.sync_all()?;
            self.dir.rename(&draft, &self.dir, name)
        };
        write().with_context(|| format!("cannot write {name} in the data folder"))
    }

    pub fn remove(&self, name: &str) {
        let _ = self.dir.remove_file(name);
    }
}

fn std_permissions(file: &cap_std::fs::File) -> std::io::Result<std::fs::Permissions> {
    file.try_clone()?.into_std().metadata().map(|m| m.permissions())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_file_is_readable_by_its_owner_only_and_refused_otherwise() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(&dir.path().join("data")).unwrap();
        assert_eq!(data.read_private("master.key").unwrap(), None);
        data.write_private("master.key", "abc\n").unwrap();
        assert_eq!(data.read_private("master.key").unwrap().as_deref(), Some("abc"));
        std::fs::set_permissions(data.path("master.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = data.read_private("master.key").unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn a_data_folder_that_is_a_file_is_refused_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = DataDir::open(file.path()).err().unwrap().to_string();
        assert!(error.contains(&file.path().display().to_string()), "{error}");
    }
}
