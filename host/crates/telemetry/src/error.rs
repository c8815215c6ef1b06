//! What can go wrong in the telemetry store, told apart by what a caller does about it.

use std::io;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing of the request was stored; the same request may be sent again.
    #[error("the telemetry store is busy; try again in {retry_after_ms} ms")]
    Busy { retry_after_ms: u64 },
    /// Nothing of the request was stored; what was acknowledged before is safe and readable.
    #[error("the disk under the data folder is full; free space, writing resumes by itself")]
    DiskFull,
    /// A write could not be made durable. Retrying a failed fsync may report success for lost pages, so the log stops.
    #[error("the log {log} stopped after a failed sync ({reason}); check the disk, then restart")]
    Poisoned { log: String, reason: String },
    #[error("the data folder {path} is in use by another host ({holder}); stop it or choose another --data-dir")]
    Locked { path: String, holder: String },
    #[error("{file} is corrupt at byte {offset}: {reason}")]
    Corrupt { file: String, offset: u64, reason: String },
    /// The user's mistake in a query or a request.
    #[error("{0}")]
    Invalid(String),
    /// A bound was met; the message names it.
    #[error("{0}")]
    TooLarge(String),
    /// A reader by cursor was away for too long; what lies between was removed from the log (it is still in splits).
    #[error("record {after} of the {log} log is no longer there; the oldest is {oldest}: go on from it")]
    CursorLost { log: &'static str, after: u64, oldest: u64 },
    #[error("the telemetry store is closed")]
    Closed,
    #[error("{context}")]
    Io {
        context: String,
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Wraps an I/O error with what was being done; a full disk becomes [`Error::DiskFull`].
    pub fn io(context: impl Into<String>, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull,
            _ => Self::Io { context: context.into(), source },
        }
    }

    pub fn corrupt(file: impl Into<String>, offset: u64, reason: impl Into<String>) -> Self {
        Self::Corrupt { file: file.into(), offset, reason: reason.into() }
    }
}

/// One damaged place on disk that was found and worked around.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corruption {
    pub file: String,
    pub offset: u64,
    pub reason: String,
}

/// Why one item of a request was not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub item: String,
    pub reason: String,
}

/// The answer to an append: what is durable now, and what was refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    pub stored: u64,
    pub rejected: u64,
    /// The first [`Appended::REFUSALS_MAX`] refusals.
    pub refusals: Vec<Refusal>,
}

impl Appended {
    /// Enough to see what is wrong with a sender; the count says the rest.
    pub const REFUSALS_MAX: usize = 10;

    /// Counts `items` as refused, and keeps the reason if there is room.
    pub fn refuse(&mut self, items: u64, item: impl FnOnce() -> String, reason: impl FnOnce() -> String) {
        self.rejected += items;
        if self.refusals.len() < Self::REFUSALS_MAX {
            self.refusals.push(Refusal { item: item(), reason: reason() });
        }
    }
}
