//! Which runs listen to which types of events.

use crate::{Db, Error, Result, Tx};
use model::{RunId, TenantId};
use sqlx::Row;

impl Tx {
    /// Replaces what the run listens to; an empty kind is any event.
    pub async fn set_listeners(&mut self, tenant: &TenantId, run: RunId, kinds: &[String]) -> Result<()> {
        sqlx::query("DELETE FROM listener WHERE run = $1").bind(run.to_string()).execute(self.connection()).await?;
        for kind in kinds {
            sqlx::query("INSERT INTO listener (tenant, run, kind) VALUES ($1, $2, $3)")
                .bind(tenant.as_str())
                .bind(run.to_string())
                .bind(kind)
                .execute(self.connection())
                .await?;
        }
        Ok(())
    }
}

impl Db {
    /// Listeners of all tenants, for the engine's index in memory.
    pub async fn listeners_of_all(&self) -> Result<Vec<(TenantId, RunId, String)>> {
        let bad = |e: model::IdError| Error::Row { table: "listener", why: e.to_string() };
        let rows = sqlx::query("SELECT tenant, run, kind FROM listener").fetch_all(self.read()).await?;
        rows.iter()
            .map(|row| {
                let (tenant, run): (String, String) = (row.try_get(0)?, row.try_get(1)?);
                Ok((tenant.parse().map_err(bad)?, run.parse().map_err(bad)?, row.try_get(2)?))
            })
            .collect()
    }
}
