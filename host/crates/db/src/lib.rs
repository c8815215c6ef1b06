//! Relational state through sqlx: SQLite by default, PostgreSQL for several hosts.
//!
//! The only room that holds SQL. One file a noun; each function takes either a [`Tx`] (writes) or the
//! [`Db`] (reads). Times are `BIGINT` nanoseconds, JSON is `TEXT`, placeholders are `$1`: one SQL text
//! serves both databases. See `docs/formats/database.md`.
//!
//! Writes go through [`Db::write`]: closures of many callers are committed together (group commit),
//! each inside a savepoint of its own, so that one that fails takes nobody with it.

pub mod action_call;
pub mod alert;
pub mod audit;
pub mod definition;
mod error;
pub mod guardrail;
mod handoff;
pub mod installation;
pub mod journal;
pub mod ledger;
pub mod listener;
mod migration;
pub mod monitor;
pub mod package;
pub mod plugin_state;
pub mod recording;
pub mod run;
pub mod scrape;
pub mod secret;
pub mod silence;
mod tenant;
pub mod timer;
pub mod token;
mod trim;
pub mod webhook;
mod writer;

pub use error::{Error, Result};
pub use handoff::{Handed, Topic, Wake};
pub use writer::Tx;

use sqlx::any::AnyPoolOptions;
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Sqlite,
    Postgres,
}

/// A cheap-clone handle on the database.
#[derive(Clone)]
pub struct Db {
    read: sqlx::AnyPool,
    writer: writer::Handle,
    wakes: Arc<handoff::Wakes>,
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Db")
    }
}

impl Db {
    /// Opens `sqlite:PATH` (created when absent) or `postgres://…`, brings the schema up to date and
    /// starts the writer. Must be called inside a tokio runtime.
    pub async fn open(url: &str) -> Result<Self> {
        sqlx::any::install_default_drivers();
        let backend = match url.split(':').next() {
            Some("sqlite") => Backend::Sqlite,
            Some("postgres" | "postgresql") => Backend::Postgres,
            _ => return Err(Error::Url { url: redact(url) }),
        };
        let connect_url = match backend {
            Backend::Sqlite if !url.contains('?') => format!("{url}?mode=rwc"),
            _ => url.to_owned(),
        };
        // SQLite has one writer by nature; PostgreSQL's group commit is ours, so one is enough there too.
        let write = pool(&connect_url, 1, backend).await?;
        let read = pool(&connect_url, 4, backend).await?;
        migration::run(&write, backend).await?;
        let wakes = Arc::new(handoff::Wakes::default());
        let writer = writer::start(write, backend, wakes.clone());
        Ok(Self { read, writer, wakes })
    }

    /// The pool for reads. Only this crate's noun files use it.
    pub(crate) fn read(&self) -> &sqlx::AnyPool {
        &self.read
    }

    /// Commits what is queued, then closes. Later writes answer [`Error::Closed`].
    pub async fn close(&self) {
        self.writer.close().await;
        self.read.close().await;
    }
}

async fn pool(url: &str, connections: u32, backend: Backend) -> Result<sqlx::AnyPool> {
    let options = AnyPoolOptions::new().max_connections(connections).min_connections(1);
    let options = match backend {
        Backend::Postgres => options,
        // SQLite is in this process: no connection goes stale, and asking each time costs a round trip to its thread.
        Backend::Sqlite => options.test_before_acquire(false).after_connect(|connection, _| {
            Box::pin(async move {
                // FULL: an acknowledged write survives power loss, not only a crash of the process.
                for pragma in ["journal_mode = WAL", "synchronous = FULL", "busy_timeout = 10000", "foreign_keys = ON"] {
                    sqlx::query(sqlx::AssertSqlSafe(format!("PRAGMA {pragma}"))).execute(&mut *connection).await?;
                }
                Ok(())
            })
        }),
    };
    options.connect(url).await.map_err(|source| Error::Open { url: redact(url), source })
}

/// The URL without its password, for messages.
fn redact(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(start), Some(at)) if at > start => format!("{}://…@{}", &url[..start], &url[at + 1..]),
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        assert_eq!(redact("postgres://u:secret@h/db"), "postgres://…@h/db");
        assert_eq!(redact("sqlite:/x/y.db"), "sqlite:/x/y.db");
    }

    #[tokio::test]
    async fn an_unknown_scheme_is_refused_by_name() {
        let error = Db::open("mysql://h/d").await.unwrap_err();
        assert!(error.to_string().contains("sqlite:"), "{error}");
    }
}
