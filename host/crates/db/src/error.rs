//! What can go wrong in the database, by what the caller can do about it.

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("database URL {url:?} is neither sqlite:PATH nor postgres://USER@HOST/NAME")]
    Url { url: String },
    #[error("cannot open the database {url:?}")]
    Open {
        url: String,
        #[source]
        source: sqlx::Error,
    },
    #[error("the schema could not be brought up to date")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// Somebody else changed or created it first.
    #[error("{what} already exists or was changed meanwhile")]
    Conflict { what: String },
    #[error("there is no {what}")]
    NotFound { what: String },
    /// A row that this version can't read: our bug, or a hand that edited the database.
    #[error("a row of {table} is unreadable: {why}")]
    Row { table: &'static str, why: String },
    /// Nothing of the write is stored; it succeeds when there is space again.
    #[error("the disk under the database is full; free space, writing resumes by itself")]
    DiskFull,
    /// Another process held SQLite's lock for longer than we wait; nothing of the write is stored.
    #[error("the database is locked by another process; stop it, or try again")]
    Locked,
    #[error("the database failed")]
    Sql(#[source] sqlx::Error),
    /// The group commit that held this write failed; nothing of it is stored.
    #[error("the commit failed: {0}")]
    Commit(String),
    /// Our bug: nothing of this write is stored, and the panic's message and place are in the log.
    #[error("the write panicked; nothing of it is stored")]
    Panicked,
    #[error("the database is shutting down")]
    Closed,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let code = match &error {
            sqlx::Error::Database(inner) => inner.code().map(|code| code.into_owned()),
            _ => None,
        };
        match code.as_deref() {
            Some("53100") => Self::DiskFull,
            // PostgreSQL's other codes have five characters; SQLite's have fewer digits, with the primary code in the low byte.
            Some(code) if code.len() < 5 => match code.parse::<u32>().map(|n| n & 0xff) {
                Ok(13) => Self::DiskFull,
                Ok(5 | 6) => Self::Locked,
                _ => Self::Sql(error),
            },
            _ => Self::Sql(error),
        }
    }
}

impl Error {
    /// The same failure for each write of a commit that failed.
    pub(crate) fn of_commit(&self) -> Self {
        match self {
            Self::DiskFull => Self::DiskFull,
            Self::Locked => Self::Locked,
            other => Self::Commit(crate::writer::chain(other)),
        }
    }

    /// A unique-key violation turned into [`Error::Conflict`]; all else stays as it is.
    pub fn conflict(what: impl Into<String>) -> impl FnOnce(sqlx::Error) -> Self {
        let what = what.into();
        move |error| match &error {
            sqlx::Error::Database(db) if db.is_unique_violation() => Self::Conflict { what },
            _ => Self::from(error),
        }
    }

    pub fn not_found(what: impl Into<String>) -> Self {
        Self::NotFound { what: what.into() }
    }
}
