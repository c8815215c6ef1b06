//! Components a tenant uploaded, by digest. The bytes lie in the package folder.

use crate::{Db, Error, Result, Tx};
use model::{TenantId, Timestamp};
use sqlx::{Row, any::AnyRow};

#[derive(Clone, Debug, PartialEq)]
pub struct PackageRow {
    /// `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    /// `orchestrix/kubernetes`
    pub plugin: String,
    pub version: String,
    pub bytes_count: i64,
    pub manifest: serde_json::Value,
    pub uploaded_by: String,
    pub uploaded: Timestamp,
}

const COLUMNS: &str = "digest, plugin, version, bytes_count, manifest, uploaded_by, uploaded_ns";

impl Tx {
    /// The same bytes twice are one package; who brought them first stays noted.
    pub async fn put_package(&mut self, tenant: &TenantId, row: &PackageRow) -> Result<()> {
        sqlx::query(
            "INSERT INTO package (tenant, digest, plugin, version, bytes_count, manifest, uploaded_by, uploaded_ns) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (tenant, digest) DO UPDATE SET uploaded_ns = excluded.uploaded_ns",
        )
        .bind(tenant.as_str())
        .bind(&row.digest)
        .bind(&row.plugin)
        .bind(&row.version)
        .bind(row.bytes_count)
        .bind(row.manifest.to_string())
        .bind(&row.uploaded_by)
        .bind(row.uploaded.nanos())
        .execute(self.connection())
        .await?;
        Ok(())
    }
}

impl Db {
    /// The tenant's packages, newest first.
    pub async fn packages(&self, tenant: &TenantId, rows_max: i64) -> Result<Vec<PackageRow>> {
        let sql = format!("SELECT {COLUMNS} FROM package WHERE tenant = $1 ORDER BY uploaded_ns DESC, digest LIMIT $2");
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(tenant.as_str()).bind(rows_max).fetch_all(self.read()).await?;
        rows.iter().map(read).collect()
    }

    pub async fn package(&self, tenant: &TenantId, digest: &str) -> Result<PackageRow> {
        let sql = format!("SELECT {COLUMNS} FROM package WHERE tenant = $1 AND digest = $2");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(tenant.as_str()).bind(digest).fetch_optional(self.read()).await?;
        row.as_ref().map(read).transpose()?.ok_or_else(|| Error::not_found(format!("package {digest}")))
    }

    /// Newest upload of a plugin, of one version or of any.
    pub async fn package_of(&self, tenant: &TenantId, plugin: &str, version: Option<&str>) -> Result<Option<PackageRow>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM package WHERE tenant = $1 AND plugin = $2 AND ($3 = '' OR version = $3) \
             ORDER BY uploaded_ns DESC, digest LIMIT 1"
        );
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(tenant.as_str())
            .bind(plugin)
            .bind(version.unwrap_or(""))
            .fetch_optional(self.read())
            .await?;
        row.as_ref().map(read).transpose()
    }
}

fn read(row: &AnyRow) -> Result<PackageRow> {
    let manifest: String = row.try_get(4)?;
    Ok(PackageRow {
        digest: row.try_get(0)?,
        plugin: row.try_get(1)?,
        version: row.try_get(2)?,
        bytes_count: row.try_get(3)?,
        manifest: serde_json::from_str(&manifest).map_err(|e| Error::Row { table: "package", why: e.to_string() })?,
        uploaded_by: row.try_get(5)?,
        uploaded: Timestamp(row.try_get(6)?),
    })
}
