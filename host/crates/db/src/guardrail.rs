//! Guardrails as an admin wrote them, and what their budgets have spent.

use crate::{Backend, Db, Error, Result, Tx};
use model::{TenantId, Timestamp};
use sqlx::{Row, any::AnyRow};

#[derive(Clone, Debug, PartialEq)]
pub struct GuardrailRow {
    pub name: String,
    /// Validated by the stage `action` before it is stored.
    pub spec: serde_json::Value,
    pub updated: Timestamp,
}

impl Tx {
    pub async fn put_guardrail(&mut self, tenant: &TenantId, row: &GuardrailRow) -> Result<()> {
        sqlx::query(
            "INSERT INTO guardrail (tenant, name, spec, updated_ns) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (tenant, name) DO UPDATE SET spec = excluded.spec, updated_ns = excluded.updated_ns",
        )
        .bind(tenant.as_str())
        .bind(&row.name)
        .bind(row.spec.to_string())
        .bind(row.updated.nanos())
        .execute(self.connection())
        .await?;
        Ok(())
    }

    pub async fn delete_guardrail(&mut self, tenant: &TenantId, name: &str) -> Result<()> {
        let done = sqlx::query("DELETE FROM guardrail WHERE tenant = $1 AND name = $2")
            .bind(tenant.as_str())
            .bind(name)
            .execute(self.connection())
            .await?;
        if done.rows_affected() == 0 {
            return Err(Error::not_found(format!("guardrail {name}")));
        }
        sqlx::query("DELETE FROM budget_use WHERE tenant = $1 AND guardrail = $2")
            .bind(tenant.as_str())
            .bind(name)
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// The tenant's guardrails, held against other hosts until the commit: a budget is counted and spent in one piece.
    pub async fn lock_guardrails(&mut self, tenant: &TenantId) -> Result<Vec<GuardrailRow>> {
        let lock = if self.backend == Backend::Postgres { " FOR UPDATE" } else { "" };
        let sql = format!("SELECT name, spec, updated_ns FROM guardrail WHERE tenant = $1 ORDER BY name{lock}");
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(tenant.as_str()).fetch_all(self.connection()).await?;
        rows.iter().map(read).collect()
    }

    /// How much of a budget was spent after `since`; older use is forgotten.
    pub async fn budget_used(&mut self, tenant: &TenantId, guardrail: &str, since: Timestamp) -> Result<i64> {
        sqlx::query("DELETE FROM budget_use WHERE tenant = $1 AND guardrail = $2 AND at_ns <= $3")
            .bind(tenant.as_str())
            .bind(guardrail)
            .bind(since.nanos())
            .execute(self.connection())
            .await?;
        let row = sqlx::query("SELECT COUNT(*) FROM budget_use WHERE tenant = $1 AND guardrail = $2")
            .bind(tenant.as_str())
            .bind(guardrail)
            .fetch_one(self.connection())
            .await?;
        Ok(row.try_get(0)?)
    }

    pub async fn spend_budget(&mut self, tenant: &TenantId, guardrail: &str, at: Timestamp, ledger: i64) -> Result<()> {
        sqlx::query("INSERT INTO budget_use (tenant, guardrail, at_ns, ledger) VALUES ($1, $2, $3, $4)")
            .bind(tenant.as_str())
            .bind(guardrail)
            .bind(at.nanos())
            .bind(ledger)
            .execute(self.connection())
            .await?;
        Ok(())
    }
}

impl Db {
    pub async fn guardrails(&self, tenant: &TenantId) -> Result<Vec<GuardrailRow>> {
        let rows = sqlx::query("SELECT name, spec, updated_ns FROM guardrail WHERE tenant = $1 ORDER BY name")
            .bind(tenant.as_str())
            .fetch_all(self.read())
            .await?;
        rows.iter().map(read).collect()
    }

    pub async fn guardrail(&self, tenant: &TenantId, name: &str) -> Result<GuardrailRow> {
        let row = sqlx::query("SELECT name, spec, updated_ns FROM guardrail WHERE tenant = $1 AND name = $2")
            .bind(tenant.as_str())
            .bind(name)
            .fetch_optional(self.read())
            .await?;
        row.as_ref().map(read).transpose()?.ok_or_else(|| Error::not_found(format!("guardrail {name}")))
    }
}

fn read(row: &AnyRow) -> Result<GuardrailRow> {
    let spec: String = row.try_get(1)?;
    Ok(GuardrailRow {
        name: row.try_get(0)?,
        spec: serde_json::from_str(&spec).map_err(|e| Error::Row { table: "guardrail", why: e.to_string() })?,
        updated: Timestamp(row.try_get(2)?),
    })
}
