//! Compiled components on disk. One file each, named by the component's digest and the engine's: a magic
//! number, the SHA-256 of the rest, the machine code. wasmtime loads damaged code without complaint, so the
//! digest is checked before each load; what doesn't fit is deleted and compiled again.

use crate::Error;
use cap_std::fs::Dir;
use sha2::{Digest, Sha256};
use std::{
    hash::{Hash, Hasher},
    io::Write,
    sync::Arc,
};

const MAGIC: &[u8; 8] = b"ORXCWASM";
const HEADER_BYTES: usize = MAGIC.len() + 32;

/// The folder; cheap to clone.
#[derive(Clone)]
pub(crate) struct Cache(Arc<Dir>);

impl Cache {
    pub(crate) fn new(dir: Dir) -> Self {
        Self(Arc::new(dir))
    }

    /// The machine code, when it is there and whole.
    pub(crate) fn get(&self, key: &str) -> Option<Vec<u8>> {
        let name = file_name(key);
        let mut bytes = self.0.read(&name).ok()?;
        let is_whole = bytes.len() > HEADER_BYTES
            && bytes[..MAGIC.len()] == MAGIC[..]
            && Sha256::digest(&bytes[HEADER_BYTES..])[..] == bytes[MAGIC.len()..HEADER_BYTES];
        if !is_whole {
            tracing::warn!(file = name, "damaged compiled plugin deleted, it is compiled again");
            let _ = self.0.remove_file(&name);
            return None;
        }
        Some(bytes.split_off(HEADER_BYTES))
    }

    /// Under its name only when complete.
    pub(crate) fn put(&self, key: &str, code: &[u8]) -> Result<(), Error> {
        let name = file_name(key);
        let part = format!("{name}.{}.part", uuid::Uuid::new_v4().simple());
        let write = || -> std::io::Result<()> {
            let mut file = self.0.create(&part)?;
            file.write_all(MAGIC)?;
            file.write_all(&Sha256::digest(code))?;
            file.write_all(code)?;
            file.sync_all()?;
            self.0.rename(&part, &self.0, &name)
        };
        write().map_err(|error| {
            let _ = self.0.remove_file(&part);
            Error::Cache(error)
        })
    }
}

/// Digest of the component and of everything that makes machine code unloadable when it changes.
pub(crate) fn key(digest: &str, engine: &wasmtime::Engine) -> String {
    let mut hasher = Sha256Hasher(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut hasher);
    let engine = hex::encode(&hasher.0.finalize()[..8]);
    format!("{}-{engine}", digest.trim_start_matches("sha256:"))
}

fn file_name(key: &str) -> String {
    format!("{key}.cwasm")
}

/// `std`'s default hasher may change between releases of Rust; this one may not.
struct Sha256Hasher(Sha256);

impl Hasher for Sha256Hasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
    fn finish(&self) -> u64 {
        let digest = self.0.clone().finalize();
        u64::from_le_bytes(digest[..8].try_into().expect("eight bytes of a digest"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(dir: &tempfile::TempDir) -> Cache {
        Cache::new(Dir::open_ambient_dir(dir.path(), cap_std::ambient_authority()).unwrap())
    }

    #[test]
    fn whole_code_comes_back_and_damaged_code_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(&dir);
        cache.put("k", b"machine code").unwrap();
        assert_eq!(cache.get("k").as_deref(), Some(&b"machine code"[..]));
        let path = dir.path().join("k.cwasm");
        let whole = std::fs::read(&path).unwrap();
        for damage in 0..3 {
            let mut bytes = whole.clone();
            match damage {
                0 => *bytes.last_mut().unwrap() ^= 1,
                1 => bytes.truncate(10),
                _ => bytes[0] = b'X',
            }
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(cache.get("k"), None);
            assert!(!path.exists());
        }
        assert_eq!(cache.get("absent"), None);
    }
}
