//! A tenant's `manifest`: which splits are live, and up to which number the log is in them.
//! Replaced as a whole by a rename; a split that it doesn't name does not exist.

use super::split::{SplitMeta, save};
use crate::wal::sync_dir;
use crate::{Error, Result};
use cap_std::fs::Dir;
use serde::{Deserialize, Serialize};
use std::io;

const NAME: &str = "manifest";
const TEMPORARY: &str = "manifest.tmp";
const VERSION: u32 = 1;
/// 200 bytes a split: more than a million splits.
const BYTES_MAX: u64 = 256 << 20;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub version: u32,
    pub next_split: u64,
    /// Records of the log up to this one are in splits.
    pub flushed_lsn: u64,
    /// In the order in which their records arrived.
    pub splits: Vec<SplitMeta>,
}

impl Manifest {
    pub fn load(dir: &Dir, tenant: &str) -> Result<Self> {
        let shown = format!("{tenant}/{NAME}");
        let bytes = match dir.metadata(NAME) {
            Ok(meta) if meta.len() > BYTES_MAX => return Err(Error::corrupt(shown, 0, "larger than any manifest")),
            Ok(_) => dir.read(NAME).map_err(|e| Error::io(format!("reading {shown}"), e))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self { version: VERSION, ..Self::default() }),
            Err(e) => return Err(Error::io(format!("reading {shown}"), e)),
        };
        let (crc, body) = bytes.split_at_checked(9).ok_or_else(|| Error::corrupt(&shown, 0, "cut short"))?;
        if crc != checksum_line(body).as_bytes() {
            return Err(Error::corrupt(shown, 0, "checksum differs"));
        }
        let manifest: Self =
            serde_json::from_slice(body).map_err(|e| Error::corrupt(&shown, e.column() as u64, e.to_string()))?;
        if manifest.version != VERSION {
            return Err(Error::corrupt(shown, 0, format!("version {} is not known to this host", manifest.version)));
        }
        Ok(manifest)
    }

    pub fn save(&self, dir: &Dir) -> Result<()> {
        let body = serde_json::to_string(self).expect("a manifest is plain numbers");
        match dir.remove_file(TEMPORARY) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::io("removing an unfinished manifest", e)),
            _ => {}
        }
        save(dir, TEMPORARY, format!("{}{body}", checksum_line(body.as_bytes())).as_bytes())?;
        dir.rename(TEMPORARY, dir, NAME).map_err(|e| Error::io("replacing a manifest", e))?;
        sync_dir(dir)
    }
}

fn checksum_line(body: &[u8]) -> String {
    format!("{:08x}\n", crc32fast::hash(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, Dir) {
        let folder = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient_dir(folder.path(), cap_std::ambient_authority()).unwrap();
        (folder, dir)
    }

    #[test]
    fn a_manifest_is_read_as_written_and_a_missing_one_is_empty() {
        let (_folder, dir) = folder();
        let empty = Manifest::load(&dir, "t").unwrap();
        assert!(empty.splits.is_empty());
        let manifest = Manifest { next_split: 7, flushed_lsn: 99, ..empty };
        manifest.save(&dir).unwrap();
        manifest.save(&dir).unwrap();
        assert_eq!(Manifest::load(&dir, "t").unwrap(), manifest);
    }

    #[test]
    fn a_damaged_manifest_is_refused_by_name() {
        let (_folder, dir) = folder();
        Manifest { version: VERSION, ..Manifest::default() }.save(&dir).unwrap();
        let good = dir.read(NAME).unwrap();
        for cut in 0..good.len() {
            dir.write(NAME, &good[..cut]).unwrap();
            let error = Manifest::load(&dir, "acme").unwrap_err().to_string();
            assert!(error.starts_with("acme/manifest is corrupt"), "{error}");
        }
    }
}
