//! Runs: one row each, holding its checkpoint and what lists show of it.

use crate::{Db, Error, Result, Tx};
use model::{RunId, TenantId, Timestamp};
use serde_json::Value;
use sqlx::{Row, any::AnyRow};

/// A run as lists and pages show it.
#[derive(Clone, Debug, PartialEq)]
pub struct RunRow {
    pub id: RunId,
    pub tenant: TenantId,
    pub namespace: String,
    pub name: String,
    pub version: String,
    pub revision: i64,
    /// `running`, `waiting`, `suspended`, `completed`, `faulted` or `cancelled`.
    pub status: String,
    /// Names the alert a run is about within its definition; empty when it is about none.
    pub flight: String,
    pub parent: Option<RunId>,
    pub alert: Option<String>,
    /// What started it.
    pub cause: Value,
    /// What it waits for: `[{step, for, since, …}]`.
    pub waits: Value,
    /// Whether a person is asked: for an approval, or about a call in doubt.
    pub asks: bool,
    pub started: Timestamp,
    pub updated: Timestamp,
    pub ended: Option<Timestamp>,
    pub input: Value,
    pub output: Value,
    pub error: Value,
    pub steps: i64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunFilter {
    pub name: Option<String>,
    pub status: Option<String>,
    pub alert: Option<String>,
    pub parent: Option<RunId>,
    /// Only those in which a person is asked.
    pub asks: bool,
    /// Only those started before; for the next page.
    pub before: Option<Timestamp>,
    pub limit: Option<usize>,
}

const COLUMNS: &str = "id, tenant, namespace, name, version, revision, status, flight, parent, alert, cause, waits, asks, \
                       started_ns, updated_ns, ended_ns, input, output, error, steps";

impl Tx {
    /// Inserts the run or replaces its row, with its checkpoint.
    pub async fn put_run(&mut self, row: &RunRow, state: &str) -> Result<()> {
        let parent = row.parent.map(|p| p.to_string()).unwrap_or_default();
        sqlx::query(
            "INSERT INTO run (id, tenant, namespace, name, version, revision, status, flight, parent, alert, cause, waits, asks, \
             started_ns, updated_ns, ended_ns, input, output, error, steps, state) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21) \
             ON CONFLICT (id) DO UPDATE SET status = excluded.status, waits = excluded.waits, asks = excluded.asks, \
             updated_ns = excluded.updated_ns, ended_ns = excluded.ended_ns, output = excluded.output, error = excluded.error, \
             steps = excluded.steps, state = excluded.state",
        )
        .bind(row.id.to_string())
        .bind(row.tenant.as_str())
        .bind(&row.namespace)
        .bind(&row.name)
        .bind(&row.version)
        .bind(row.revision)
        .bind(&row.status)
        .bind(&row.flight)
        .bind(parent)
        .bind(row.alert.as_deref().unwrap_or_default())
        .bind(row.cause.to_string())
        .bind(row.waits.to_string())
        .bind(i64::from(row.asks))
        .bind(row.started.nanos())
        .bind(row.updated.nanos())
        .bind(row.ended.map_or(0, Timestamp::nanos))
        .bind(row.input.to_string())
        .bind(row.output.to_string())
        .bind(row.error.to_string())
        .bind(row.steps)
        .bind(state)
        .execute(self.connection())
        .await
        .map_err(Error::conflict(format!("an unfinished run of {} for this alert", row.name)))?;
        Ok(())
    }
}

impl Db {
    /// Newest first.
    pub async fn runs(&self, tenant: &TenantId, filter: &RunFilter) -> Result<Vec<RunRow>> {
        let limit = filter.limit.unwrap_or(100).min(model::limits::PAGE_ROWS_MAX);
        let sql = format!(
            "SELECT {COLUMNS} FROM run WHERE tenant = $1 AND ($2 = '' OR name = $2) AND ($3 = '' OR status = $3) \
             AND ($4 = '' OR alert = $4) AND ($5 = '' OR parent = $5) AND ($6 = 0 OR asks = 1) AND started_ns < $7 \
             ORDER BY started_ns DESC, id DESC LIMIT $8"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(tenant.as_str())
            .bind(filter.name.as_deref().unwrap_or_default())
            .bind(filter.status.as_deref().unwrap_or_default())
            .bind(filter.alert.as_deref().unwrap_or_default())
            .bind(filter.parent.map(|p| p.to_string()).unwrap_or_default())
            .bind(i64::from(filter.asks))
            .bind(filter.before.map_or(i64::MAX, Timestamp::nanos))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(self.read())
            .await?;
        rows.iter().map(read).collect()
    }

    pub async fn run(&self, tenant: &TenantId, id: RunId) -> Result<RunRow> {
        let sql = format!("SELECT {COLUMNS} FROM run WHERE tenant = $1 AND id = $2");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(tenant.as_str())
            .bind(id.to_string())
            .fetch_optional(self.read())
            .await?
            .ok_or_else(|| Error::not_found(format!("run {id}")))?;
        read(&row)
    }

    /// The checkpoint of a run, whoever's it is: for the engine, which acts for no caller.
    pub async fn run_state(&self, id: RunId) -> Result<Option<String>> {
        let row = sqlx::query("SELECT state FROM run WHERE id = $1").bind(id.to_string()).fetch_optional(self.read()).await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?)
    }

    /// Whether an unfinished run has this flight key.
    pub async fn is_in_flight(&self, tenant: &TenantId, flight: &str) -> Result<bool> {
        let row = sqlx::query("SELECT 1 FROM run WHERE tenant = $1 AND flight = $2 AND ended_ns = 0 LIMIT 1")
            .bind(tenant.as_str())
            .bind(flight)
            .fetch_optional(self.read())
            .await?;
        Ok(row.is_some())
    }

    /// How many runs the tenant has by status.
    pub async fn run_counts(&self, tenant: &TenantId) -> Result<Vec<(String, i64)>> {
        let rows =
            sqlx::query("SELECT status, CAST(COUNT(*) AS BIGINT) FROM run WHERE tenant = $1 GROUP BY status ORDER BY status")
                .bind(tenant.as_str())
                .fetch_all(self.read())
                .await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }
}

fn bad(why: impl ToString) -> Error {
    Error::Row { table: "run", why: why.to_string() }
}

fn read(row: &AnyRow) -> Result<RunRow> {
    let text = |column: usize| -> Result<String> { Ok(row.try_get(column)?) };
    let json = |column: usize| -> Result<Value> { serde_json::from_str(&text(column)?).map_err(bad) };
    let (parent, alert, ended) = (text(8)?, text(9)?, row.try_get::<i64, _>(15)?);
    Ok(RunRow {
        id: text(0)?.parse().map_err(bad)?,
        tenant: text(1)?.parse().map_err(bad)?,
        namespace: text(2)?,
        name: text(3)?,
        version: text(4)?,
        revision: row.try_get(5)?,
        status: text(6)?,
        flight: text(7)?,
        parent: if parent.is_empty() { None } else { Some(parent.parse().map_err(bad)?) },
        alert: (!alert.is_empty()).then_some(alert),
        cause: json(10)?,
        waits: json(11)?,
        asks: row.try_get::<i64, _>(12)? != 0,
        started: Timestamp(row.try_get(13)?),
        updated: Timestamp(row.try_get(14)?),
        ended: (ended != 0).then_some(Timestamp(ended)),
        input: json(16)?,
        output: json(17)?,
        error: json(18)?,
        steps: row.try_get(19)?,
    })
}
