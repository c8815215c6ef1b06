//! Workflow definitions: every changed text a revision, the newest one in force.

use crate::{Db, Error, Result, Tx};
use model::{TenantId, Timestamp};
use sqlx::{Row, any::AnyRow};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefinitionRow {
    pub tenant: TenantId,
    pub namespace: String,
    pub name: String,
    /// The author's version; two revisions may carry the same.
    pub version: String,
    pub revision: i64,
    pub is_newest: bool,
    /// Whether its triggers start runs. By hand it can be started anyway.
    pub is_enabled: bool,
    pub created: Timestamp,
    pub text: String,
}

/// Which revision is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pick {
    Newest,
    Revision(i64),
    /// The newest revision with this version.
    Version(String),
}

/// When a definition starts next by time, and what its `schedule.on.all` has gathered so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduleRow {
    pub tenant: TenantId,
    pub namespace: String,
    pub name: String,
    /// `None`: not by time.
    pub due: Option<Timestamp>,
    /// JSON.
    pub gathered: String,
}

const COLUMNS: &str = "tenant, namespace, name, version, revision, is_newest, is_enabled, created_ns, text";

impl Tx {
    /// Stores the text as the newest revision, unless it equals the newest already. Answers the revision
    /// and whether it is new.
    pub async fn put_definition(&mut self, row: &DefinitionRow) -> Result<(i64, bool)> {
        let newest = sqlx::query("SELECT revision, text, is_enabled FROM definition WHERE tenant = $1 AND namespace = $2 AND name = $3 AND is_newest = 1")
            .bind(row.tenant.as_str())
            .bind(&row.namespace)
            .bind(&row.name)
            .fetch_optional(self.connection())
            .await?;
        let mut revision = 1;
        let mut is_enabled = i64::from(row.is_enabled);
        if let Some(newest) = newest {
            let last: i64 = newest.try_get(0)?;
            if newest.try_get::<String, _>(1)? == row.text {
                return Ok((last, false));
            }
            revision = last + 1;
            is_enabled = newest.try_get(2)?;
            sqlx::query(
                "UPDATE definition SET is_newest = 0 WHERE tenant = $1 AND namespace = $2 AND name = $3 AND is_newest = 1",
            )
            .bind(row.tenant.as_str())
            .bind(&row.namespace)
            .bind(&row.name)
            .execute(self.connection())
            .await?;
        } else {
            // A deleted definition keeps its rows for the runs that pin them.
            let last = sqlx::query("SELECT CAST(COALESCE(MAX(revision), 0) AS BIGINT) FROM definition WHERE tenant = $1 AND namespace = $2 AND name = $3")
                .bind(row.tenant.as_str())
                .bind(&row.namespace)
                .bind(&row.name)
                .fetch_one(self.connection())
                .await?;
            revision += last.try_get::<i64, _>(0)?;
        }
        sqlx::query(
            "INSERT INTO definition (tenant, namespace, name, version, revision, is_newest, is_enabled, created_ns, text) \
             VALUES ($1, $2, $3, $4, $5, 1, $6, $7, $8)",
        )
        .bind(row.tenant.as_str())
        .bind(&row.namespace)
        .bind(&row.name)
        .bind(&row.version)
        .bind(revision)
        .bind(is_enabled)
        .bind(row.created.nanos())
        .bind(&row.text)
        .execute(self.connection())
        .await
        .map_err(Error::conflict(format!("workflow {}/{}", row.namespace, row.name)))?;
        Ok((revision, true))
    }

    /// Turns a definition's triggers on or off.
    pub async fn enable_definition(&mut self, tenant: &TenantId, namespace: &str, name: &str, is_enabled: bool) -> Result<()> {
        let done = sqlx::query(
            "UPDATE definition SET is_enabled = $4 WHERE tenant = $1 AND namespace = $2 AND name = $3 AND is_newest = 1",
        )
        .bind(tenant.as_str())
        .bind(namespace)
        .bind(name)
        .bind(i64::from(is_enabled))
        .execute(self.connection())
        .await?;
        if done.rows_affected() == 0 { Err(Error::not_found(format!("workflow {namespace}/{name}"))) } else { Ok(()) }
    }

    /// No new run starts from it; its revisions stay for the runs that pin them.
    pub async fn delete_definition(&mut self, tenant: &TenantId, namespace: &str, name: &str) -> Result<()> {
        let done = sqlx::query(
            "UPDATE definition SET is_newest = 0 WHERE tenant = $1 AND namespace = $2 AND name = $3 AND is_newest = 1",
        )
        .bind(tenant.as_str())
        .bind(namespace)
        .bind(name)
        .execute(self.connection())
        .await?;
        if done.rows_affected() == 0 {
            return Err(Error::not_found(format!("workflow {namespace}/{name}")));
        }
        sqlx::query("DELETE FROM definition_schedule WHERE tenant = $1 AND namespace = $2 AND name = $3")
            .bind(tenant.as_str())
            .bind(namespace)
            .bind(name)
            .execute(self.connection())
            .await?;
        Ok(())
    }

    pub async fn put_definition_schedule(&mut self, row: &ScheduleRow) -> Result<()> {
        sqlx::query(
            "INSERT INTO definition_schedule (tenant, namespace, name, due_ns, gathered) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (tenant, namespace, name) DO UPDATE SET due_ns = excluded.due_ns, gathered = excluded.gathered",
        )
        .bind(row.tenant.as_str())
        .bind(&row.namespace)
        .bind(&row.name)
        .bind(row.due.map_or(0, Timestamp::nanos))
        .bind(&row.gathered)
        .execute(self.connection())
        .await?;
        Ok(())
    }
}

impl Db {
    /// The newest definitions of a tenant, by name.
    pub async fn definitions(&self, tenant: &TenantId) -> Result<Vec<DefinitionRow>> {
        let sql = format!("SELECT {COLUMNS} FROM definition WHERE tenant = $1 AND is_newest = 1 ORDER BY namespace, name");
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(tenant.as_str()).fetch_all(self.read()).await?;
        rows.iter().map(read).collect()
    }

    /// The newest definitions of all tenants, for the triggers.
    pub async fn definitions_of_all(&self) -> Result<Vec<DefinitionRow>> {
        let sql = format!("SELECT {COLUMNS} FROM definition WHERE is_newest = 1");
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(self.read()).await?;
        rows.iter().map(read).collect()
    }

    /// One revision. `name` is `namespace/name`, or the bare name; of equal names in several namespaces
    /// the one put last is meant.
    pub async fn definition(&self, tenant: &TenantId, name: &str, pick: &Pick) -> Result<DefinitionRow> {
        let (namespace, name) = name.split_once('/').unwrap_or(("", name));
        let (condition, number, version) = match pick {
            Pick::Newest => ("is_newest = 1", 0, ""),
            Pick::Revision(number) => ("revision = $4", *number, ""),
            Pick::Version(version) => ("version = $5", 0, version.as_str()),
        };
        let sql = format!(
            "SELECT {COLUMNS} FROM definition WHERE tenant = $1 AND name = $2 AND ($3 = '' OR namespace = $3) \
             AND ($4 = $4) AND ($5 = $5) AND {condition} ORDER BY created_ns DESC, revision DESC LIMIT 1"
        );
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(tenant.as_str())
            .bind(name)
            .bind(namespace)
            .bind(number)
            .bind(version)
            .fetch_optional(self.read())
            .await?
            .ok_or_else(|| match pick {
                Pick::Newest => Error::not_found(format!("workflow {name:?}")),
                Pick::Revision(number) => Error::not_found(format!("revision {number} of workflow {name:?}")),
                Pick::Version(version) => Error::not_found(format!("version {version:?} of workflow {name:?}")),
            })?;
        read(&row)
    }

    /// All revisions of one definition, newest first.
    pub async fn definition_revisions(
        &self,
        tenant: &TenantId,
        namespace: &str,
        name: &str,
        rows_max: i64,
    ) -> Result<Vec<DefinitionRow>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM definition WHERE tenant = $1 AND namespace = $2 AND name = $3 ORDER BY revision DESC LIMIT $4"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(tenant.as_str())
            .bind(namespace)
            .bind(name)
            .bind(rows_max)
            .fetch_all(self.read())
            .await?;
        rows.iter().map(read).collect()
    }

    /// Schedules of all tenants.
    pub async fn definition_schedules_of_all(&self) -> Result<Vec<ScheduleRow>> {
        let rows = sqlx::query("SELECT tenant, namespace, name, due_ns, gathered FROM definition_schedule")
            .fetch_all(self.read())
            .await?;
        rows.iter()
            .map(|row| {
                let due: i64 = row.try_get(3)?;
                Ok(ScheduleRow {
                    tenant: tenant(row, 0)?,
                    namespace: row.try_get(1)?,
                    name: row.try_get(2)?,
                    due: (due > 0).then_some(Timestamp(due)),
                    gathered: row.try_get(4)?,
                })
            })
            .collect()
    }
}

fn tenant(row: &AnyRow, column: usize) -> Result<TenantId> {
    let text: String = row.try_get(column)?;
    text.parse().map_err(|e: model::IdError| Error::Row { table: "definition", why: e.to_string() })
}

fn read(row: &AnyRow) -> Result<DefinitionRow> {
    Ok(DefinitionRow {
        tenant: tenant(row, 0)?,
        namespace: row.try_get(1)?,
        name: row.try_get(2)?,
        version: row.try_get(3)?,
        revision: row.try_get(4)?,
        is_newest: row.try_get::<i64, _>(5)? != 0,
        is_enabled: row.try_get::<i64, _>(6)? != 0,
        created: Timestamp(row.try_get(7)?),
        text: row.try_get(8)?,
    })
}
