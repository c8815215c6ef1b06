//! Monitors: their settings, how they fare, and the cursor and snapshot of stream detectors.

use crate::{Db, Error, Result, Tx};
use model::{LabelSet, MonitorId, TenantId, Timestamp};
use serde_json::Value;
use sqlx::{Row, any::AnyRow};

/// A monitor as stored; what its settings mean, `detect` knows.
#[derive(Clone, Debug, PartialEq)]
pub struct Monitor {
    pub id: MonitorId,
    pub tenant: TenantId,
    pub name: String,
    pub spec: Value,
}

/// What of a scheduled monitor must survive a restart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MonitorState {
    pub failures: u64,
    pub last_error: Option<String>,
    /// Label sets reported lately: when one is missing, its data is missing.
    pub known: Vec<LabelSet>,
}

/// Where a stream detector stands: all of it moves in one transaction with its findings.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamState {
    pub cursor: u64,
    pub next_tick: Timestamp,
    pub snapshot: Option<Vec<u8>>,
}

impl Tx {
    /// Creates the monitor or replaces its settings; the id stays as long as the name does. A stream detector
    /// whose settings change starts afresh, because its state was made under the old ones.
    pub async fn put_monitor(&mut self, monitor: &Monitor, now: Timestamp) -> Result<Monitor> {
        let row = sqlx::query(
            "INSERT INTO monitor (tenant, name, id, spec, updated_ns) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (tenant, name) DO UPDATE SET spec = excluded.spec, updated_ns = excluded.updated_ns \
             RETURNING id, tenant, name, spec",
        )
        .bind(monitor.tenant.as_str())
        .bind(&monitor.name)
        .bind(monitor.id.to_string())
        .bind(monitor.spec.to_string())
        .bind(now.nanos())
        .fetch_one(self.connection())
        .await?;
        let stored = read(&row)?;
        sqlx::query("UPDATE monitor_stream SET snapshot = NULL WHERE id = $1 AND tenant = $2")
            .bind(stored.id.to_string())
            .bind(monitor.tenant.as_str())
            .execute(self.connection())
            .await?;
        Ok(stored)
    }

    /// Removes the monitor and all it left behind; answers what it was.
    pub async fn delete_monitor(&mut self, tenant: &TenantId, name: &str) -> Result<Monitor> {
        let row = sqlx::query("DELETE FROM monitor WHERE tenant = $1 AND name = $2 RETURNING id, tenant, name, spec")
            .bind(tenant.as_str())
            .bind(name)
            .fetch_optional(self.connection())
            .await?;
        let monitor = row.as_ref().map(read).transpose()?.ok_or_else(|| Error::not_found(format!("monitor {name}")))?;
        for sql in ["DELETE FROM monitor_state WHERE id = $1", "DELETE FROM monitor_stream WHERE id = $1"] {
            sqlx::query(sql).bind(monitor.id.to_string()).execute(self.connection()).await?;
        }
        Ok(monitor)
    }

    /// Whether the monitor still stands: an evaluation that ends after its removal must leave nothing.
    pub async fn has_monitor(&mut self, id: MonitorId) -> Result<bool> {
        let row =
            sqlx::query("SELECT 1 FROM monitor WHERE id = $1").bind(id.to_string()).fetch_optional(self.connection()).await?;
        Ok(row.is_some())
    }

    pub async fn set_monitor_state(
        &mut self,
        tenant: &TenantId,
        id: MonitorId,
        state: &MonitorState,
        now: Timestamp,
    ) -> Result<()> {
        let known = serde_json::to_string(&state.known).map_err(|e| unreadable("monitor_state", e))?;
        sqlx::query(
            "INSERT INTO monitor_state (id, tenant, failures, last_error, known, updated_ns) VALUES ($1, $2, $3, $4, $5, $6) \
             ON CONFLICT (id) DO UPDATE SET failures = excluded.failures, last_error = excluded.last_error, \
             known = excluded.known, updated_ns = excluded.updated_ns",
        )
        .bind(id.to_string())
        .bind(tenant.as_str())
        .bind(i64::try_from(state.failures).unwrap_or(i64::MAX))
        .bind(state.last_error.as_deref())
        .bind(known)
        .bind(now.nanos())
        .execute(self.connection())
        .await?;
        Ok(())
    }

    pub async fn set_stream_state(
        &mut self,
        tenant: &TenantId,
        id: MonitorId,
        state: &StreamState,
        now: Timestamp,
    ) -> Result<()> {
        sqlx::query(
            "INSERT INTO monitor_stream (id, tenant, cursor_lsn, next_tick_ns, snapshot, updated_ns) VALUES ($1, $2, $3, $4, $5, $6) \
             ON CONFLICT (id) DO UPDATE SET cursor_lsn = excluded.cursor_lsn, next_tick_ns = excluded.next_tick_ns, \
             snapshot = excluded.snapshot, updated_ns = excluded.updated_ns",
        )
        .bind(id.to_string())
        .bind(tenant.as_str())
        .bind(i64::try_from(state.cursor).unwrap_or(i64::MAX))
        .bind(state.next_tick.nanos())
        .bind(state.snapshot.clone())
        .bind(now.nanos())
        .execute(self.connection())
        .await?;
        Ok(())
    }
}

impl Db {
    pub async fn monitor(&self, tenant: &TenantId, name: &str) -> Result<Monitor> {
        let row = sqlx::query("SELECT id, tenant, name, spec FROM monitor WHERE tenant = $1 AND name = $2")
            .bind(tenant.as_str())
            .bind(name)
            .fetch_optional(self.read())
            .await?;
        row.as_ref().map(read).transpose()?.ok_or_else(|| Error::not_found(format!("monitor {name}")))
    }

    pub async fn monitors(&self, tenant: &TenantId) -> Result<Vec<Monitor>> {
        let rows = sqlx::query("SELECT id, tenant, name, spec FROM monitor WHERE tenant = $1 ORDER BY name")
            .bind(tenant.as_str())
            .fetch_all(self.read())
            .await?;
        rows.iter().map(read).collect()
    }

    /// Of all tenants: what the detect stage takes up at start.
    pub async fn monitors_of_all(&self) -> Result<Vec<Monitor>> {
        let rows = sqlx::query("SELECT id, tenant, name, spec FROM monitor ORDER BY tenant, name").fetch_all(self.read()).await?;
        rows.iter().map(read).collect()
    }

    pub async fn monitor_state(&self, tenant: &TenantId, id: MonitorId) -> Result<MonitorState> {
        let row = sqlx::query("SELECT failures, last_error, known FROM monitor_state WHERE id = $1 AND tenant = $2")
            .bind(id.to_string())
            .bind(tenant.as_str())
            .fetch_optional(self.read())
            .await?;
        let Some(row) = row else { return Ok(MonitorState::default()) };
        Ok(MonitorState {
            failures: u64::try_from(row.try_get::<i64, _>(0)?).unwrap_or(0),
            last_error: row.try_get(1)?,
            known: serde_json::from_str(&row.try_get::<String, _>(2)?).map_err(|e| unreadable("monitor_state", e))?,
        })
    }

    pub async fn stream_state(&self, tenant: &TenantId, id: MonitorId) -> Result<Option<StreamState>> {
        let row = sqlx::query("SELECT cursor_lsn, next_tick_ns, snapshot FROM monitor_stream WHERE id = $1 AND tenant = $2")
            .bind(id.to_string())
            .bind(tenant.as_str())
            .fetch_optional(self.read())
            .await?;
        row.map(|row| {
            Ok(StreamState {
                cursor: u64::try_from(row.try_get::<i64, _>(0)?).unwrap_or(0),
                next_tick: Timestamp(row.try_get(1)?),
                snapshot: row.try_get(2)?,
            })
        })
        .transpose()
    }
}

fn unreadable(table: &'static str, error: impl std::fmt::Display) -> Error {
    Error::Row { table, why: error.to_string() }
}

fn read(row: &AnyRow) -> Result<Monitor> {
    let bad = |error: String| unreadable("monitor", error);
    Ok(Monitor {
        id: row.try_get::<String, _>(0)?.parse().map_err(|e: model::IdError| bad(e.to_string()))?,
        tenant: row.try_get::<String, _>(1)?.parse().map_err(|e: model::IdError| bad(e.to_string()))?,
        name: row.try_get(2)?,
        spec: serde_json::from_str(&row.try_get::<String, _>(3)?).map_err(|e| bad(e.to_string()))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn monitor(tenant: &TenantId, spec: i64) -> Monitor {
        Monitor { id: MonitorId::generate(), tenant: tenant.clone(), name: "cpu".into(), spec: serde_json::json!({ "n": spec }) }
    }

    #[tokio::test]
    async fn a_monitor_keeps_its_id_when_it_is_put_again_and_leaves_nothing_when_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&format!("sqlite:{}", dir.path().join("t.db").display())).await.unwrap();
        let (tenant, other) = (TenantId::default_tenant(), TenantId::new("other").unwrap());
        let now = Timestamp::from_secs(1);
        let state = StreamState { cursor: 7, next_tick: Timestamp(9), snapshot: Some(vec![1, 2]) };
        let (a, b, c) = (monitor(&tenant, 1), monitor(&tenant, 2), monitor(&other, 3));
        let put = (a.clone(), b, c, state.clone());
        let second = db
            .write::<_, Error, _>(move |tx| {
                Box::pin(async move {
                    let (a, b, c, state) = put;
                    tx.put_monitor(&a, now).await?;
                    tx.put_monitor(&c, now).await?;
                    let second = tx.put_monitor(&b, now).await?;
                    tx.set_stream_state(&a.tenant, second.id, &state, now).await?;
                    Ok(second)
                })
            })
            .await
            .unwrap();
        assert_eq!((second.id, second.spec["n"].as_i64()), (a.id, Some(2)));
        assert_eq!(db.monitors(&tenant).await.unwrap(), std::slice::from_ref(&second));
        assert_eq!(db.monitors_of_all().await.unwrap().len(), 2);
        assert_eq!(db.stream_state(&tenant, a.id).await.unwrap(), Some(state));
        assert_eq!(db.stream_state(&other, a.id).await.unwrap(), None);
        let gone = tenant.clone();
        db.write::<_, Error, _>(move |tx| Box::pin(async move { tx.delete_monitor(&gone, "cpu").await })).await.unwrap();
        assert!(matches!(db.monitor(&tenant, "cpu").await, Err(Error::NotFound { .. })));
        assert_eq!(db.stream_state(&tenant, a.id).await.unwrap(), None);
        assert_eq!(db.monitors_of_all().await.unwrap().len(), 1);
    }
}
