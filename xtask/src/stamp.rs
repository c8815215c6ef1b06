//! "Has any of these files changed since?" without asking a build tool, so that a second run costs milliseconds.

use anyhow::{Context, Result};
use std::{
    collections::hash_map::DefaultHasher,
    fs,
    hash::{Hash, Hasher},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

/// A digest of names, sizes and times of files, kept beside what was built from them.
pub struct Stamp {
    file: PathBuf,
    digest: String,
}

impl Stamp {
    /// Looks at every file under `sources`, except build products.
    pub fn of(file: PathBuf, sources: &[PathBuf]) -> Result<Self> {
        let mut hasher = DefaultHasher::new();
        for source in sources {
            visit(source, &mut hasher).with_context(|| format!("{} can't be read", source.display()))?;
        }
        Ok(Self { file, digest: format!("{:016x}", hasher.finish()) })
    }

    pub fn is_fresh(&self) -> bool {
        fs::read_to_string(&self.file).is_ok_and(|kept| kept == self.digest)
    }

    pub fn keep(&self) -> Result<()> {
        if let Some(folder) = self.file.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&self.file, &self.digest).with_context(|| format!("{} can't be written", self.file.display()))
    }
}

fn visit(path: &Path, hasher: &mut DefaultHasher) -> std::io::Result<()> {
    let Ok(meta) = fs::metadata(path) else { return Ok(()) };
    if meta.is_dir() {
        let mut entries: Vec<_> = fs::read_dir(path)?.collect::<Result<_, _>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if !name.starts_with('.') && !matches!(name.as_ref(), "target" | "node_modules" | "dist") {
                visit(&entry.path(), hasher)?;
            }
        }
        return Ok(());
    }
    path.hash(hasher);
    meta.len().hash(hasher);
    meta.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).hash(hasher);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_makes_it_stale_and_a_build_product_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("src/target")).unwrap();
        fs::write(at("src/a.rs"), "1").unwrap();
        let stamp = || Stamp::of(at("stamp"), &[at("src")]).unwrap();
        assert!(!stamp().is_fresh());
        stamp().keep().unwrap();
        fs::write(at("src/target/x"), "1").unwrap();
        assert!(stamp().is_fresh());
        fs::write(at("src/a.rs"), "12").unwrap();
        assert!(!stamp().is_fresh());
    }
}
