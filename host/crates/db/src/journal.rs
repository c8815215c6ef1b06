//! The journal of runs: one row a transition. docs/formats/journal.md

use crate::{Db, Error, Result, Tx};
use model::{RunId, TenantId, Timestamp};
use serde_json::Value;
use sqlx::Row;

/// One transition of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct JournalRow {
    pub seq: i64,
    pub at: Timestamp,
    /// A JSON array of entries.
    pub body: Value,
}

impl Tx {
    /// Fails when the row exists: two holders of one run, or a transition applied twice.
    pub async fn add_to_journal(&mut self, tenant: &TenantId, run: RunId, seq: i64, at: Timestamp, body: &str) -> Result<()> {
        sqlx::query("INSERT INTO journal (tenant, run, seq, at_ns, body) VALUES ($1, $2, $3, $4, $5)")
            .bind(tenant.as_str())
            .bind(run.to_string())
            .bind(seq)
            .bind(at.nanos())
            .bind(body)
            .execute(self.connection())
            .await
            .map_err(Error::conflict(format!("transition {seq} of run {run}")))?;
        Ok(())
    }
}

impl Db {
    /// Transitions after `after`, oldest first.
    pub async fn journal(&self, tenant: &TenantId, run: RunId, after: i64, rows_max: i64) -> Result<Vec<JournalRow>> {
        let rows =
            sqlx::query("SELECT seq, at_ns, body FROM journal WHERE tenant = $1 AND run = $2 AND seq > $3 ORDER BY seq LIMIT $4")
                .bind(tenant.as_str())
                .bind(run.to_string())
                .bind(after)
                .bind(rows_max)
                .fetch_all(self.read())
                .await?;
        rows.iter()
            .map(|row| {
                let body: String = row.try_get(2)?;
                Ok(JournalRow {
                    seq: row.try_get(0)?,
                    at: Timestamp(row.try_get(1)?),
                    body: serde_json::from_str(&body).map_err(|e| Error::Row { table: "journal", why: e.to_string() })?,
                })
            })
            .collect()
    }
}
