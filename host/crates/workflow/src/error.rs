//! What can go wrong, by what the caller can do about it.

use crate::definition::Diagnostic;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The author's mistake; each finding with its place.
    #[error("the definition has {} {}", .0.len(), if .0.len() == 1 { "error" } else { "errors" })]
    Invalid(Vec<Diagnostic>),
    /// The caller's mistake, in words for them.
    #[error("{0}")]
    Refused(String),
    #[error("the input is {bytes} bytes, more than the {max} a step may take")]
    TooLarge { bytes: usize, max: usize },
    #[error("an unfinished run {run} is already about this alert")]
    InFlight { run: String },
    #[error(transparent)]
    Db(#[from] db::Error),
    /// A checkpoint that this version can't read: our bug.
    #[error("the checkpoint of run {run} is unreadable: {why}")]
    Checkpoint { run: model::RunId, why: String },
    #[error("the workflow engine is not running")]
    Closed,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;
