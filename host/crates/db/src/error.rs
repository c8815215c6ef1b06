//! What can go wrong in the database, by what the caller can do about it.

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("database URL {url:?} is neither sqlite:PATH nor postgres://USER@HOST/NAME")]
    Url { url: String },
    #[error("cannot open the database {url:?}")]
    Open { url: String, #[source] source: sqlx::Error },
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
    #[error("the database failed")]
    Sql(#[from] sqlx::Error),
    /// The group commit that held this write failed; nothing of it is stored.
    #[error("the commit failed: {0}")]
    Commit(String),
    #[error("the database is shutting down")]
    Closed,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A unique-key violation turned into [`Error::Conflict`]; all else stays as it is.
    pub fn conflict(what: impl Into<String>) -> impl FnOnce(sqlx::Error) -> Self {
        let what = what.into();
        move |error| match &error {
            sqlx::Error::Database(db) if db.is_unique_violation() => Self::Conflict { what },
            _ => Self::Sql(error),
        }
    }

    pub fn not_found(what: impl Into<String>) -> Self {
        Self::NotFound { what: what.into() }
    }
}
