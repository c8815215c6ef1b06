//! Installed plugins: which version under which name, with config, grant and secret bindings.

use crate::{Db, Error, Result, Tx};
use model::{Installation, TenantId, Timestamp};
use sqlx::{Row, any::AnyRow};

impl Tx {
    pub async fn put_installation(&mut self, installation: &Installation, now: Timestamp) -> Result<()> {
        let body = serde_json::to_string(installation).map_err(unreadable)?;
        sqlx::query(
            "INSERT INTO installation (tenant, name, digest, body, updated_ns) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (tenant, name) DO UPDATE SET digest = excluded.digest, body = excluded.body, updated_ns = excluded.updated_ns",
        )
        .bind(installation.tenant.as_str())
        .bind(&installation.name)
        .bind(&installation.digest)
        .bind(body)
        .bind(now.nanos())
        .execute(self.connection())
        .await?;
        Ok(())
    }

    pub async fn delete_installation(&mut self, tenant: &TenantId, name: &str) -> Result<()> {
        let done = sqlx::query("DELETE FROM installation WHERE tenant = $1 AND name = $2")
            .bind(tenant.as_str())
            .bind(name)
            .execute(self.connection())
            .await?;
        if done.rows_affected() == 0 { Err(Error::not_found(format!("plugin {name}"))) } else { Ok(()) }
    }
}

impl Db {
    pub async fn installation(&self, tenant: &TenantId, name: &str) -> Result<Installation> {
        let row = sqlx::query("SELECT body FROM installation WHERE tenant = $1 AND name = $2")
            .bind(tenant.as_str())
            .bind(name)
            .fetch_optional(self.read())
            .await?;
        row.as_ref().map(read).transpose()?.ok_or_else(|| Error::not_found(format!("plugin {name}")))
    }

    pub async fn installations(&self, tenant: &TenantId) -> Result<Vec<Installation>> {
        let rows = sqlx::query("SELECT body FROM installation WHERE tenant = $1 ORDER BY name")
            .bind(tenant.as_str())
            .fetch_all(self.read())
            .await?;
        rows.iter().map(read).collect()
    }

    /// Of all tenants: what must be loaded at start.
    pub async fn installations_of_all(&self) -> Result<Vec<Installation>> {
        let rows = sqlx::query("SELECT body FROM installation ORDER BY tenant, name").fetch_all(self.read()).await?;
        rows.iter().map(read).collect()
    }
}

fn unreadable(error: serde_json::Error) -> Error {
    Error::Row { table: "installation", why: error.to_string() }
}

fn read(row: &AnyRow) -> Result<Installation> {
    serde_json::from_str(&row.try_get::<String, _>(0)?).map_err(unreadable)
}
