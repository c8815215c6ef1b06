//! What can go wrong with a query, by what the caller can do about it.

use crate::promql::ParseError;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// The query is understood, but these series can't be computed so (many-to-many matching, same labels twice).
    #[error("{0}")]
    Execution(String),
    #[error("query would {what} over the limit of {limit}; narrow the selectors or the time range")]
    TooLarge { what: &'static str, limit: usize },
    #[error("query ran longer than {0} ms; narrow the selectors or the time range")]
    OutOfTime(u64),
    #[error("query was cancelled")]
    Cancelled,
    #[error("the telemetry store could not be read")]
    Store(#[from] telemetry::Error),
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

pub(crate) fn execution(message: impl Into<String>) -> Error {
    Error::Execution(message.into())
}
