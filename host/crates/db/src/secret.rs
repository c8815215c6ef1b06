//! Secrets as sealed bytes. Nothing here can open them.

use crate::{Db, Error, Result, Tx};
use model::{TenantId, Timestamp};
use sqlx::{Row, any::AnyRow};

#[derive(Clone, PartialEq, Eq)]
pub struct SecretRow {
    pub name: String,
    pub nonce: Vec<u8>,
    pub sealed: Vec<u8>,
    /// `scheme://host[:port]` to which it may travel.
    pub hosts: Vec<String>,
    pub updated: Timestamp,
}

impl std::fmt::Debug for SecretRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretRow").field("name", &self.name).field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

impl Tx {
    pub async fn put_secret(&mut self, tenant: &TenantId, row: &SecretRow) -> Result<()> {
        let hosts = serde_json::to_string(&row.hosts).map_err(unreadable)?;
        sqlx::query(
            "INSERT INTO secret (tenant, name, nonce, sealed, hosts, updated_ns) VALUES ($1, $2, $3, $4, $5, $6) \
             ON CONFLICT (tenant, name) DO UPDATE SET nonce = excluded.nonce, sealed = excluded.sealed, hosts = excluded.hosts, \
             updated_ns = excluded.updated_ns",
        )
        .bind(tenant.as_str())
        .bind(&row.name)
        .bind(row.nonce.clone())
        .bind(row.sealed.clone())
        .bind(hosts)
        .bind(row.updated.nanos())
        .execute(self.connection())
        .await?;
        Ok(())
    }

    pub async fn delete_secret(&mut self, tenant: &TenantId, name: &str) -> Result<()> {
        let done = sqlx::query("DELETE FROM secret WHERE tenant = $1 AND name = $2")
            .bind(tenant.as_str())
            .bind(name)
            .execute(self.connection())
            .await?;
        if done.rows_affected() == 0 { Err(Error::not_found(format!("secret {name}"))) } else { Ok(()) }
    }
}

impl Db {
    pub async fn secrets(&self, tenant: &TenantId) -> Result<Vec<SecretRow>> {
        let rows = sqlx::query("SELECT name, nonce, sealed, hosts, updated_ns FROM secret WHERE tenant = $1 ORDER BY name")
            .bind(tenant.as_str())
            .fetch_all(self.read())
            .await?;
        rows.iter().map(read).collect()
    }

    pub async fn secret(&self, tenant: &TenantId, name: &str) -> Result<SecretRow> {
        let row = sqlx::query("SELECT name, nonce, sealed, hosts, updated_ns FROM secret WHERE tenant = $1 AND name = $2")
            .bind(tenant.as_str())
            .bind(name)
            .fetch_optional(self.read())
            .await?;
        row.as_ref().map(read).transpose()?.ok_or_else(|| Error::not_found(format!("secret {name}")))
    }
}

fn unreadable(error: serde_json::Error) -> Error {
    Error::Row { table: "secret", why: error.to_string() }
}

fn read(row: &AnyRow) -> Result<SecretRow> {
    Ok(SecretRow {
        name: row.try_get(0)?,
        nonce: row.try_get(1)?,
        sealed: row.try_get(2)?,
        hosts: serde_json::from_str(&row.try_get::<String, _>(3)?).map_err(unreadable)?,
        updated: Timestamp(row.try_get(4)?),
    })
}
