//! What can go wrong in the detect stage, by what the caller can do about it.

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The monitor's settings are wrong: the user's mistake.
    #[error("monitor {name:?}: {message}")]
    Spec { name: String, message: String },
    #[error("there is no monitor {0:?}")]
    NoMonitor(String),
    /// The detector or its query failed.
    #[error("monitor {name:?} could not be evaluated: {}", record.message)]
    Failed { name: String, record: model::ErrorRecord },
    #[error("the detect stage is shutting down")]
    Closed,
    #[error(transparent)]
    Db(#[from] db::Error),
}

pub type Result<T, E = Error> = std::result::Result<T, E>;
