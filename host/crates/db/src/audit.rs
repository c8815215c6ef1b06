//! The audit: who changed what, when. Written in the transaction that makes the change.

use crate::{Db, Error, Result, Tx};
use model::{TenantId, Timestamp};
use sqlx::Row;

#[derive(Clone, Debug, PartialEq)]
pub struct AuditRow {
    pub id: i64,
    pub at: Timestamp,
    /// Name of the token, or `host` for what the host did by itself.
    pub actor: String,
    /// Verb and noun: `put monitor`, `revoke token`.
    pub action: String,
    pub target: String,
    /// Never holds a secret's value.
    pub detail: serde_json::Value,
}

impl Tx {
    pub async fn audit(
        &mut self,
        tenant: &TenantId,
        at: Timestamp,
        actor: &str,
        action: &str,
        target: &str,
        detail: &serde_json::Value,
    ) -> Result<()> {
        sqlx::query("INSERT INTO audit (tenant, at_ns, actor, action, target, detail) VALUES ($1, $2, $3, $4, $5, $6)")
            .bind(tenant.as_str())
            .bind(at.nanos())
            .bind(actor)
            .bind(action)
            .bind(target)
            .bind(detail.to_string())
            .execute(self.connection())
            .await?;
        Ok(())
    }
}

impl Db {
    /// Rows before `before`, newest first.
    pub async fn audit(&self, tenant: &TenantId, before: i64, rows_max: i64) -> Result<Vec<AuditRow>> {
        let rows = sqlx::query(
            "SELECT id, at_ns, actor, action, target, detail FROM audit WHERE tenant = $1 AND id < $2 ORDER BY id DESC LIMIT $3",
        )
        .bind(tenant.as_str())
        .bind(before)
        .bind(rows_max)
        .fetch_all(self.read())
        .await?;
        rows.iter()
            .map(|row| {
                let detail: String = row.try_get(5)?;
                Ok(AuditRow {
                    id: row.try_get(0)?,
                    at: Timestamp(row.try_get(1)?),
                    actor: row.try_get(2)?,
                    action: row.try_get(3)?,
                    target: row.try_get(4)?,
                    detail: serde_json::from_str(&detail).map_err(|e| Error::Row { table: "audit", why: e.to_string() })?,
                })
            })
            .collect()
    }
}
