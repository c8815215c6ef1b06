//! What plugin calls did: a summary in columns, the whole as JSON.

use crate::{Db, Error, Result, Tx};
use model::{InvocationId, RunId, TenantId, Timestamp};
use sqlx::{Row, any::AnyRow};

#[derive(Clone, Debug, PartialEq)]
pub struct RecordingRow {
    /// Grows; 0 before it is stored.
    pub id: i64,
    pub invocation: InvocationId,
    pub installation: String,
    pub plugin: String,
    pub version: String,
    pub digest: String,
    pub function: String,
    pub run: Option<RunId>,
    /// `ok`, or the error's code.
    pub status: String,
    pub started: Timestamp,
    pub wall_us: i64,
    pub cpu_us: i64,
    pub memory_bytes: i64,
    /// JSON; empty in a listing.
    pub body: String,
}

/// Which to list, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordingFilter {
    pub installation: Option<String>,
    pub run: Option<RunId>,
    /// Rows with a smaller id: the next page.
    pub before: Option<i64>,
}

const COLUMNS: &str =
    "id, invocation, installation, plugin, version, digest, function, run, status, started_ns, wall_us, cpu_us, memory_bytes";

impl Tx {
    pub async fn add_recording(&mut self, tenant: &TenantId, row: &RecordingRow) -> Result<()> {
        sqlx::query(
            "INSERT INTO recording (tenant, invocation, installation, plugin, version, digest, function, run, status, started_ns, wall_us, \
             cpu_us, memory_bytes, body) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
        )
        .bind(tenant.as_str())
        .bind(row.invocation.to_string())
        .bind(&row.installation)
        .bind(&row.plugin)
        .bind(&row.version)
        .bind(&row.digest)
        .bind(&row.function)
        .bind(row.run.map_or_else(String::new, |r| r.to_string()))
        .bind(&row.status)
        .bind(row.started.nanos())
        .bind(row.wall_us)
        .bind(row.cpu_us)
        .bind(row.memory_bytes)
        .bind(&row.body)
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Removes what began before `before`; answers how many rows.
    pub async fn trim_recordings(&mut self, before: Timestamp) -> Result<u64> {
        let done =
            sqlx::query("DELETE FROM recording WHERE started_ns < $1").bind(before.nanos()).execute(self.connection()).await?;
        Ok(done.rows_affected())
    }
}

impl Db {
    pub async fn recordings(&self, tenant: &TenantId, filter: &RecordingFilter, rows_max: i64) -> Result<Vec<RecordingRow>> {
        let sql = format!(
            "SELECT {COLUMNS}, '' FROM recording WHERE tenant = $1 AND ($2 = '' OR installation = $2) AND ($3 = '' OR run = $3) AND id < $4 \
             ORDER BY id DESC LIMIT $5"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(tenant.as_str())
            .bind(filter.installation.clone().unwrap_or_default())
            .bind(filter.run.map_or_else(String::new, |r| r.to_string()))
            .bind(filter.before.unwrap_or(i64::MAX))
            .bind(rows_max)
            .fetch_all(self.read())
            .await?;
        rows.iter().map(read).collect()
    }

    pub async fn recording(&self, tenant: &TenantId, invocation: InvocationId) -> Result<RecordingRow> {
        let sql = format!("SELECT {COLUMNS}, body FROM recording WHERE tenant = $1 AND invocation = $2 ORDER BY id DESC LIMIT 1");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(tenant.as_str())
            .bind(invocation.to_string())
            .fetch_optional(self.read())
            .await?;
        row.as_ref().map(read).transpose()?.ok_or_else(|| Error::not_found(format!("recording of invocation {invocation}")))
    }
}

fn read(row: &AnyRow) -> Result<RecordingRow> {
    let bad = |e: model::IdError| Error::Row { table: "recording", why: e.to_string() };
    let run: String = row.try_get(7)?;
    Ok(RecordingRow {
        id: row.try_get(0)?,
        invocation: row.try_get::<String, _>(1)?.parse().map_err(bad)?,
        installation: row.try_get(2)?,
        plugin: row.try_get(3)?,
        version: row.try_get(4)?,
        digest: row.try_get(5)?,
        function: row.try_get(6)?,
        run: if run.is_empty() { None } else { Some(run.parse().map_err(bad)?) },
        status: row.try_get(8)?,
        started: Timestamp(row.try_get(9)?),
        wall_us: row.try_get(10)?,
        cpu_us: row.try_get(11)?,
        memory_bytes: row.try_get(12)?,
        body: row.try_get(13)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn recordings_are_listed_newest_first_for_their_tenant_only() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&format!("sqlite:{}", dir.path().join("t.db").display())).await.unwrap();
        let (a, b) = (TenantId::new("a").unwrap(), TenantId::new("b").unwrap());
        let run = RunId::generate();
        let row = |n: i64, run: Option<RunId>| RecordingRow {
            id: 0,
            invocation: InvocationId::generate(),
            installation: "i".into(),
            plugin: "o/p".into(),
            version: "1.0.0".into(),
            digest: "sha256:0".into(),
            function: "action.execute x".into(),
            run,
            status: "ok".into(),
            started: Timestamp(n),
            wall_us: 1,
            cpu_us: 1,
            memory_bytes: 1,
            body: format!("{{\"n\":{n}}}"),
        };
        let rows = [row(1, None), row(2, Some(run)), row(3, None)];
        let stored = rows.clone();
        let tenant = a.clone();
        db.write::<_, Error, _>(move |tx| {
            Box::pin(async move {
                for row in &stored {
                    tx.add_recording(&tenant, row).await?;
                }
                Ok(())
            })
        })
        .await
        .unwrap();
        let listed = |rows: Vec<RecordingRow>| rows.into_iter().map(|r| r.started.nanos()).collect::<Vec<_>>();
        let all = RecordingFilter::default();
        assert_eq!(listed(db.recordings(&a, &all, 10).await.unwrap()), [3, 2, 1]);
        assert_eq!(listed(db.recordings(&b, &all, 10).await.unwrap()), [0; 0]);
        assert_eq!(listed(db.recordings(&a, &RecordingFilter { run: Some(run), ..all }, 10).await.unwrap()), [2]);
        assert_eq!(db.recording(&a, rows[0].invocation).await.unwrap().body, "{\"n\":1}");
        assert!(matches!(db.recording(&b, rows[0].invocation).await, Err(Error::NotFound { .. })));
        let trimmed =
            db.write::<_, Error, _>(|tx| Box::pin(async move { tx.trim_recordings(Timestamp(3)).await })).await.unwrap();
        assert_eq!(trimmed, 2);
    }
}
