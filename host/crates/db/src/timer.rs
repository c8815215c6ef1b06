//! When runs want to be woken.

use crate::{Db, Error, Result, Tx};
use model::{RunId, TenantId, Timestamp};
use sqlx::Row;

impl Tx {
    /// Sets the run's one timer, or takes it away.
    pub async fn set_timer(&mut self, tenant: &TenantId, run: RunId, due: Option<Timestamp>) -> Result<()> {
        match due {
            Some(due) => {
                sqlx::query("INSERT INTO timer (run, tenant, due_ns) VALUES ($1, $2, $3) ON CONFLICT (run) DO UPDATE SET due_ns = excluded.due_ns")
                    .bind(run.to_string())
                    .bind(tenant.as_str())
                    .bind(due.nanos())
                    .execute(self.connection())
                    .await?;
            }
            None => {
                sqlx::query("DELETE FROM timer WHERE run = $1").bind(run.to_string()).execute(self.connection()).await?;
            }
        }
        Ok(())
    }
}

impl Db {
    /// Timers of all tenants due by `until`, the earliest first.
    pub async fn timers_of_all(&self, until: Timestamp, rows_max: i64) -> Result<Vec<(RunId, Timestamp)>> {
        let rows = sqlx::query("SELECT run, due_ns FROM timer WHERE due_ns <= $1 ORDER BY due_ns LIMIT $2")
            .bind(until.nanos())
            .bind(rows_max)
            .fetch_all(self.read())
            .await?;
        rows.iter()
            .map(|row| {
                let run: String = row.try_get(0)?;
                let run = run.parse().map_err(|e: model::IdError| Error::Row { table: "timer", why: e.to_string() })?;
                Ok((run, Timestamp(row.try_get(1)?)))
            })
            .collect()
    }
}
