//! The folder of uploaded components, named by digest. Opened once as a directory handle: no path is put
//! together from what a caller sent.

use cap_std::fs::Dir;
use sha2::{Digest, Sha256};
use std::{io, sync::Arc};

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Packages(Arc<Dir>);

impl Packages {
    pub fn new(dir: Dir) -> Self {
        Self(Arc::new(dir))
    }

    /// `sha256:` and 64 hexadecimal digits.
    pub fn digest(bytes: &[u8]) -> String {
        format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
    }

    /// Stores the bytes and answers their digest. Blocking: call it off the runtime's threads.
    pub fn put(&self, bytes: &[u8]) -> io::Result<String> {
        let digest = Self::digest(bytes);
        let name = file_name(&digest).expect("a digest just made has the form of one");
        if self.0.exists(&name) {
            return Ok(digest);
        }
        let draft = format!("{name}.{}.new", uuid::Uuid::new_v4());
        {
            let mut file = self.0.create(&draft)?;
            io::Write::write_all(&mut file, bytes)?;
            file.sync_all()?;
        }
        self.0.rename(&draft, &self.0, &name)?;
        self.0.open(".")?.sync_all()?;
        Ok(digest)
    }

    /// Reads a component and checks that it is the one its name says.
    pub fn get(&self, digest: &str) -> io::Result<Vec<u8>> {
        let name = file_name(digest).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a digest"))?;
        let bytes = self.0.read(name)?;
        if Self::digest(&bytes) != digest {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the stored component {digest} was altered; upload it again"),
            ));
        }
        Ok(bytes)
    }
}

fn file_name(digest: &str) -> Option<String> {
    let hex = digest.strip_prefix("sha256:")?;
    (hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit())).then(|| format!("{hex}.wasm"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &tempfile::TempDir) -> Packages {
        Packages::new(Dir::open_ambient_dir(dir.path(), cap_std::ambient_authority()).unwrap())
    }

    #[test]
    fn what_was_stored_comes_back_and_an_altered_file_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let packages = open(&dir);
        let digest = packages.put(b"component").unwrap();
        assert_eq!(packages.put(b"component").unwrap(), digest);
        assert_eq!(packages.get(&digest).unwrap(), b"component");
        let file = dir.path().join(format!("{}.wasm", &digest[7..]));
        std::fs::write(file, b"altered").unwrap();
        assert_eq!(packages.get(&digest).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_digest_is_never_a_path() {
        let dir = tempfile::tempdir().unwrap();
        for bad in ["../../etc/passwd", "sha256:../x", "sha256:", &format!("sha256:{}", "z".repeat(64))] {
            assert_eq!(open(&dir).get(bad).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{bad}");
        }
    }
}
