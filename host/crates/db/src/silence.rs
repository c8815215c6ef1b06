//! Silences: matchers and a time within which nothing starts for the alerts they match.

use crate::{Db, Error, Result, Tx};
use model::{Matcher, TenantId, Timestamp};
use sqlx::{Row, any::AnyRow};

#[derive(Clone, Debug, PartialEq)]
pub struct Silence {
    /// A UUID, as Alertmanager has it.
    pub id: String,
    pub matchers: Vec<Matcher>,
    pub starts: Timestamp,
    pub ends: Timestamp,
    pub created_by: String,
    pub comment: String,
    pub updated: Timestamp,
}

const COLUMNS: &str = "id, matchers, starts_ns, ends_ns, created_by, comment, updated_ns";

impl Tx {
    pub async fn put_silence(&mut self, tenant: &TenantId, silence: &Silence) -> Result<()> {
        let matchers =
            serde_json::to_string(&silence.matchers).map_err(|e| Error::Row { table: "silence", why: e.to_string() })?;
        // The tenant in the condition keeps one tenant from taking over another's id.
        let done = sqlx::query(
            "INSERT INTO silence (id, tenant, matchers, starts_ns, ends_ns, created_by, comment, updated_ns) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
             ON CONFLICT (id) DO UPDATE SET matchers = excluded.matchers, starts_ns = excluded.starts_ns, ends_ns = excluded.ends_ns, \
             created_by = excluded.created_by, comment = excluded.comment, updated_ns = excluded.updated_ns \
             WHERE silence.tenant = excluded.tenant",
        )
        .bind(&silence.id)
        .bind(tenant.as_str())
        .bind(matchers)
        .bind(silence.starts.nanos())
        .bind(silence.ends.nanos())
        .bind(&silence.created_by)
        .bind(&silence.comment)
        .bind(silence.updated.nanos())
        .execute(self.connection())
        .await?;
        if done.rows_affected() == 0 {
            return Err(Error::Conflict { what: format!("silence {}", silence.id) });
        }
        Ok(())
    }

    /// Ends a silence now, as Alertmanager's DELETE does; its row stays for the record.
    pub async fn expire_silence(&mut self, tenant: &TenantId, id: &str, now: Timestamp) -> Result<()> {
        let done = sqlx::query("UPDATE silence SET ends_ns = $3, updated_ns = $3 WHERE tenant = $1 AND id = $2 AND ends_ns > $3")
            .bind(tenant.as_str())
            .bind(id)
            .bind(now.nanos())
            .execute(self.connection())
            .await?;
        if done.rows_affected() == 0 { Err(Error::not_found(format!("active silence {id}"))) } else { Ok(()) }
    }

    /// Silences in force at `now`, as the write that asks would see them.
    pub async fn silences_at(&mut self, tenant: &TenantId, now: Timestamp) -> Result<Vec<Silence>> {
        let sql = format!("SELECT {COLUMNS} FROM silence WHERE tenant = $1 AND starts_ns <= $2 AND ends_ns > $2");
        let rows =
            sqlx::query(sqlx::AssertSqlSafe(sql)).bind(tenant.as_str()).bind(now.nanos()).fetch_all(self.connection()).await?;
        rows.iter().map(read).collect()
    }
}

impl Db {
    /// All silences, those that end last first.
    pub async fn silences(&self, tenant: &TenantId, rows_max: i64) -> Result<Vec<Silence>> {
        let sql = format!("SELECT {COLUMNS} FROM silence WHERE tenant = $1 ORDER BY ends_ns DESC LIMIT $2");
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(tenant.as_str()).bind(rows_max).fetch_all(self.read()).await?;
        rows.iter().map(read).collect()
    }

    pub async fn silence(&self, tenant: &TenantId, id: &str) -> Result<Silence> {
        let sql = format!("SELECT {COLUMNS} FROM silence WHERE tenant = $1 AND id = $2");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(tenant.as_str()).bind(id).fetch_optional(self.read()).await?;
        row.as_ref().map(read).transpose()?.ok_or_else(|| Error::not_found(format!("silence {id}")))
    }
}

fn read(row: &AnyRow) -> Result<Silence> {
    let matchers: String = row.try_get(1)?;
    Ok(Silence {
        id: row.try_get(0)?,
        matchers: serde_json::from_str(&matchers).map_err(|e| Error::Row { table: "silence", why: e.to_string() })?,
        starts: Timestamp(row.try_get(2)?),
        ends: Timestamp(row.try_get(3)?),
        created_by: row.try_get(4)?,
        comment: row.try_get(5)?,
        updated: Timestamp(row.try_get(6)?),
    })
}
