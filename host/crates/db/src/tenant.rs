//! Tenants: made at first start and by an admin.

use crate::{Db, Error, Result, Tx};
use model::{TenantId, Timestamp};
use sqlx::Row;

impl Tx {
    /// Creates the tenant unless it is there.
    pub async fn ensure_tenant(&mut self, tenant: &TenantId, now: Timestamp) -> Result<()> {
        sqlx::query("INSERT INTO tenant (id, created_ns) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING")
            .bind(tenant.as_str())
            .bind(now.nanos())
            .execute(self.connection())
            .await?;
        Ok(())
    }
}

impl Db {
    pub async fn tenants(&self) -> Result<Vec<TenantId>> {
        let rows = sqlx::query("SELECT id FROM tenant ORDER BY id").fetch_all(self.read()).await?;
        rows.iter()
            .map(|row| {
                let id: String = row.try_get(0)?;
                id.parse().map_err(|e: model::IdError| Error::Row { table: "tenant", why: e.to_string() })
            })
            .collect()
    }
}
