//! The lock on a data folder: two hosts writing one folder would destroy it.

use crate::{Error, Result};
use cap_std::fs::{Dir, OpenOptions};
use std::{
    fs::{File, TryLockError},
    io::{Read, Seek, Write},
};

/// Held while the folder is open. The kernel drops it when the process dies, however it dies.
#[derive(Debug)]
pub struct FolderLock(#[allow(dead_code, reason = "the open file is the lock")] File);

impl FolderLock {
    pub fn acquire(dir: &Dir, path: &str) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true);
        let mut file =
            dir.open_with("lock", &options).map_err(|e| Error::io(format!("opening the lock of {path}"), e))?.into_std();
        match lock_soon(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Who holds it is a courtesy: an unreadable file changes only the message.
                let _ = (&mut file).take(128).read_to_string(&mut holder);
                let holder = if holder.trim().is_empty() { "unknown".into() } else { holder.trim().to_owned() };
                return Err(Error::Locked { path: path.into(), holder });
            }
            Err(TryLockError::Error(e)) => return Err(Error::io(format!("locking {path}"), e)),
        }
        // On a full disk the name can't be written; the lock holds all the same.
        let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "process {}", std::process::id()));
        Ok(Self(file))
    }
}

/// Waits a moment for a host that is just ending: whoever restarts one need not be told.
fn lock_soon(file: &File) -> Result<(), TryLockError> {
    for _ in 0..10 {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(std::time::Duration::from_millis(50)),
            other => return other,
        }
    }
    file.try_lock()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_host_on_a_folder_is_refused_until_the_first_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient_dir(folder.path(), cap_std::ambient_authority()).unwrap();
        let first = FolderLock::acquire(&dir, "data").unwrap();
        let second = FolderLock::acquire(&dir, "data").unwrap_err().to_string();
        assert!(second.contains("in use by another host (process ") && second.contains("--data-dir"), "{second}");
        drop(first);
        FolderLock::acquire(&dir, "data").unwrap();
    }
}
