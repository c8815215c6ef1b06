//! Scrape jobs as an admin wrote them.

use crate::{Db, Error, Result, Tx};
use model::{TenantId, Timestamp};
use sqlx::{Row, any::AnyRow};

#[derive(Clone, Debug, PartialEq)]
pub struct Scrape {
    pub name: String,
    /// Validated by `ingest` before it is stored.
    pub spec: serde_json::Value,
    pub updated: Timestamp,
}

impl Tx {
    /// Creates it, or replaces the one of that name.
    pub async fn put_scrape(&mut self, tenant: &TenantId, scrape: &Scrape) -> Result<()> {
        sqlx::query(
            "INSERT INTO scrape (tenant, name, spec, updated_ns) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (tenant, name) DO UPDATE SET spec = excluded.spec, updated_ns = excluded.updated_ns",
        )
        .bind(tenant.as_str())
        .bind(&scrape.name)
        .bind(scrape.spec.to_string())
        .bind(scrape.updated.nanos())
        .execute(self.connection())
        .await?;
        Ok(())
    }

    pub async fn delete_scrape(&mut self, tenant: &TenantId, name: &str) -> Result<()> {
        let done = sqlx::query("DELETE FROM scrape WHERE tenant = $1 AND name = $2")
            .bind(tenant.as_str())
            .bind(name)
            .execute(self.connection())
            .await?;
        if done.rows_affected() == 0 { Err(Error::not_found(format!("scrape {name}"))) } else { Ok(()) }
    }
}

impl Db {
    pub async fn scrapes(&self, tenant: &TenantId) -> Result<Vec<Scrape>> {
        let rows = sqlx::query("SELECT name, spec, updated_ns FROM scrape WHERE tenant = $1 ORDER BY name")
            .bind(tenant.as_str())
            .fetch_all(self.read())
            .await?;
        rows.iter().map(read).collect()
    }

    pub async fn scrape(&self, tenant: &TenantId, name: &str) -> Result<Scrape> {
        let row = sqlx::query("SELECT name, spec, updated_ns FROM scrape WHERE tenant = $1 AND name = $2")
            .bind(tenant.as_str())
            .bind(name)
            .fetch_optional(self.read())
            .await?;
        row.as_ref().map(read).transpose()?.ok_or_else(|| Error::not_found(format!("scrape {name}")))
    }

    /// The jobs of all tenants, for the scraper.
    pub async fn scrapes_of_all(&self) -> Result<Vec<(TenantId, Scrape)>> {
        let rows =
            sqlx::query("SELECT name, spec, updated_ns, tenant FROM scrape ORDER BY tenant, name").fetch_all(self.read()).await?;
        rows.iter()
            .map(|row| {
                let tenant: String = row.try_get(3)?;
                let tenant = tenant.parse().map_err(|e: model::IdError| Error::Row { table: "scrape", why: e.to_string() })?;
                Ok((tenant, read(row)?))
            })
            .collect()
    }
}

fn read(row: &AnyRow) -> Result<Scrape> {
    let spec: String = row.try_get(1)?;
    Ok(Scrape {
        name: row.try_get(0)?,
        spec: serde_json::from_str(&spec).map_err(|e| Error::Row { table: "scrape", why: e.to_string() })?,
        updated: Timestamp(row.try_get(2)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_scrape_is_stored_replaced_and_deleted_for_its_tenant_only() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&format!("sqlite:{}", dir.path().join("t.db").display())).await.unwrap();
        let (mine, other) = (TenantId::default_tenant(), TenantId::new("other").unwrap());
        for n in [1, 2] {
            let (mine, row) =
                (mine.clone(), Scrape { name: "a".into(), spec: serde_json::json!({ "n": n }), updated: Timestamp(n) });
            db.write::<_, Error, _>(move |tx| Box::pin(async move { tx.put_scrape(&mine, &row).await })).await.unwrap();
        }
        assert_eq!(db.scrape(&mine, "a").await.unwrap().spec["n"], 2);
        assert!(db.scrapes(&other).await.unwrap().is_empty());
        assert!(matches!(db.scrape(&other, "a").await, Err(Error::NotFound { .. })));
        let delete = |tenant: TenantId| {
            let db = db.clone();
            async move { db.write::<_, Error, _>(move |tx| Box::pin(async move { tx.delete_scrape(&tenant, "a").await })).await }
        };
        assert!(matches!(delete(other).await, Err(Error::NotFound { .. })));
        delete(mine.clone()).await.unwrap();
        assert!(db.scrapes(&mine).await.unwrap().is_empty());
    }
}
