//! `postgres`: questions to a PostgreSQL database, each one statement in a read-only transaction.
//!
//! The host ends TLS and computes the SCRAM proof: the plugin sees no password. A session parameter isn't trusted to
//! keep a session read-only, so each statement runs by the extended protocol, which takes a single one, inside
//! `BEGIN READ ONLY`.

mod wire;

use orchestrix_sdk::{net, prelude::*};
use std::collections::BTreeMap;
use wire::Session;

/// Rows that one answer may hold.
const ROWS_MAX: u32 = 1_000;

/// The installation's configuration.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Postgres {
    host: String,
    /// Usually 5432.
    port: u16,
    database: String,
    user: String,
    /// Without TLS the answers travel in clear; the password never does.
    #[serde(default = "yes")]
    tls: bool,
    /// Statements are stopped by the server after it.
    #[serde(default = "ten_seconds")]
    statement_timeout: Millis,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Query {
    sql: String,
    /// Values of `$1`, `$2`, …; lists and objects go as JSON.
    #[serde(default)]
    parameters: Vec<Value>,
    /// At most 1000.
    #[serde(default = "hundred")]
    max_rows: u32,
}

#[derive(Debug, PartialEq, Serialize, JsonSchema)]
pub struct Rows {
    columns: Vec<String>,
    rows: Vec<BTreeMap<String, Value>>,
    /// Whether there were more rows.
    truncated: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

#[derive(Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    healthy: bool,
    latency_ms: u64,
    /// A replica is in recovery; a primary isn't.
    in_recovery: Option<bool>,
    connections: Option<i64>,
    max_connections: Option<i64>,
    /// Why it is not healthy.
    error: String,
}

#[orchestrix_sdk::action]
impl Postgres {
    #[operation]
    fn query(&self, _ctx: &Context, input: Query) -> Result<Rows> {
        if input.max_rows == 0 || input.max_rows > ROWS_MAX {
            return Err(Error::input(format!("max_rows must be between 1 and {ROWS_MAX}")));
        }
        if input.sql.trim().is_empty() || input.sql.contains('\0') {
            return Err(Error::input("sql is no statement"));
        }
        self.with_session(|session| {
            let table = session.read(&input.sql, &input.parameters, input.max_rows)?;
            let rows = table.rows.into_iter().map(|row| table.columns.iter().cloned().zip(row).collect()).collect();
            Ok(Rows { rows, columns: table.columns, truncated: table.is_truncated })
        })
    }

    #[operation]
    fn health_check(&self, ctx: &Context, _input: Nothing) -> Result<Health> {
        let begin = ctx.monotonic_ns();
        let sql =
            "SELECT pg_is_in_recovery(), (SELECT count(*) FROM pg_stat_activity), current_setting('max_connections')::bigint";
        let outcome = self.with_session(|session| session.read(sql, &[], 1));
        let latency_ms = ctx.monotonic_ns().saturating_sub(begin) / 1_000_000;
        match outcome {
            Ok(table) => {
                let row = table.rows.first().ok_or_else(|| Error::protocol("the server answered without a row"))?;
                Ok(Health {
                    healthy: true,
                    latency_ms,
                    in_recovery: row.first().and_then(Value::as_bool),
                    connections: row.get(1).and_then(Value::as_i64),
                    max_connections: row.get(2).and_then(Value::as_i64),
                    error: String::new(),
                })
            }
            // The database's trouble is the answer; ours (a grant, a secret, the configuration) is an error.
            Err(e) if e.code.starts_with("remote.") && e.code != "remote.unauthorized" || e.code.starts_with("postgres.") => {
                Ok(Health {
                    healthy: false,
                    latency_ms,
                    in_recovery: None,
                    connections: None,
                    max_connections: None,
                    error: e.message,
                })
            }
            Err(e) => Err(e),
        }
    }

    #[check]
    fn check(&self, ctx: &Context) -> Result<Health> {
        self.health_check(ctx, Nothing {})
    }
}

impl Postgres {
    /// Opens a session, lets `act` use it, and closes it. Where the admin didn't grant the socket as read-only, the
    /// connection is announced as an effect.
    fn with_session<T>(&self, act: impl FnOnce(&mut Session<net::Connection>) -> Result<T>) -> Result<T> {
        let address = format!("tcp://{}:{}", self.host, self.port);
        let (connection, permit) = match net::connect(&self.host, self.port, self.tls) {
            Err(e) if e.code == "effect.permit_required" => {
                let effect =
                    Effect::new("postgres.connect", address).summary(format!("read from {}", self.database)).idempotent();
                let permit = effect.begin()?;
                match net::connect(&self.host, self.port, self.tls) {
                    Ok(connection) => (connection, Some(permit)),
                    Err(e) => {
                        permit.settle_error(&e);
                        return Err(e);
                    }
                }
            }
            outcome => (outcome?, None),
        };
        let outcome = Session::open(connection, &self.user, &self.database, self.statement_timeout).and_then(|mut session| {
            let outcome = act(&mut session);
            session.close();
            outcome
        });
        if let Some(permit) = permit {
            // Nothing is ever changed: read-only transactions are rolled back.
            permit.done(None);
        }
        outcome
    }
}

fn yes() -> bool {
    true
}

fn hundred() -> u32 {
    100
}

fn ten_seconds() -> Millis {
    Millis(10_000)
}

#[cfg(test)]
mod tests;
