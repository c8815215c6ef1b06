//! Webhook endpoints as an admin wrote them.

use crate::{Db, Error, Result, Tx};
use model::{TenantId, Timestamp};
use sqlx::{Row, any::AnyRow};

#[derive(Clone, Debug, PartialEq)]
pub struct Webhook {
    pub name: String,
    /// Validated by `ingest` before it is stored.
    pub spec: serde_json::Value,
    pub updated: Timestamp,
}

impl Tx {
    /// Creates it, or replaces the one of that name.
    pub async fn put_webhook(&mut self, tenant: &TenantId, webhook: &Webhook) -> Result<()> {
        sqlx::query(
            "INSERT INTO webhook (tenant, name, spec, updated_ns) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (tenant, name) DO UPDATE SET spec = excluded.spec, updated_ns = excluded.updated_ns",
        )
        .bind(tenant.as_str())
        .bind(&webhook.name)
        .bind(webhook.spec.to_string())
        .bind(webhook.updated.nanos())
        .execute(self.connection())
        .await?;
        Ok(())
    }

    pub async fn delete_webhook(&mut self, tenant: &TenantId, name: &str) -> Result<()> {
        let done = sqlx::query("DELETE FROM webhook WHERE tenant = $1 AND name = $2")
            .bind(tenant.as_str())
            .bind(name)
            .execute(self.connection())
            .await?;
        if done.rows_affected() == 0 { Err(Error::not_found(format!("webhook {name}"))) } else { Ok(()) }
    }
}

impl Db {
    pub async fn webhooks(&self, tenant: &TenantId) -> Result<Vec<Webhook>> {
        let rows = sqlx::query("SELECT name, spec, updated_ns FROM webhook WHERE tenant = $1 ORDER BY name")
            .bind(tenant.as_str())
            .fetch_all(self.read())
            .await?;
        rows.iter().map(read).collect()
    }

    pub async fn webhook(&self, tenant: &TenantId, name: &str) -> Result<Webhook> {
        let row = sqlx::query("SELECT name, spec, updated_ns FROM webhook WHERE tenant = $1 AND name = $2")
            .bind(tenant.as_str())
            .bind(name)
            .fetch_optional(self.read())
            .await?;
        row.as_ref().map(read).transpose()?.ok_or_else(|| Error::not_found(format!("webhook {name}")))
    }
}

fn read(row: &AnyRow) -> Result<Webhook> {
    let spec: String = row.try_get(1)?;
    Ok(Webhook {
        name: row.try_get(0)?,
        spec: serde_json::from_str(&spec).map_err(|e| Error::Row { table: "webhook", why: e.to_string() })?,
        updated: Timestamp(row.try_get(2)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_webhook_is_stored_replaced_and_deleted_for_its_tenant_only() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&format!("sqlite:{}", dir.path().join("t.db").display())).await.unwrap();
        let (mine, other) = (TenantId::default_tenant(), TenantId::new("other").unwrap());
        for n in [1, 2] {
            let (mine, row) =
                (mine.clone(), Webhook { name: "a".into(), spec: serde_json::json!({ "n": n }), updated: Timestamp(n) });
            db.write::<_, Error, _>(move |tx| Box::pin(async move { tx.put_webhook(&mine, &row).await })).await.unwrap();
        }
        assert_eq!(db.webhook(&mine, "a").await.unwrap().spec["n"], 2);
        assert!(db.webhooks(&other).await.unwrap().is_empty());
        assert!(matches!(db.webhook(&other, "a").await, Err(Error::NotFound { .. })));
        let delete = |tenant: TenantId| {
            let db = db.clone();
            async move { db.write::<_, Error, _>(move |tx| Box::pin(async move { tx.delete_webhook(&tenant, "a").await })).await }
        };
        assert!(matches!(delete(other).await, Err(Error::NotFound { .. })));
        delete(mine.clone()).await.unwrap();
        assert!(db.webhooks(&mine).await.unwrap().is_empty());
    }
}
