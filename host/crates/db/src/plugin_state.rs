//! Durable bytes of plugins: a namespace for each tenant and installation, compare-and-set, a quota.

use crate::{Db, Result, Tx};
use model::{TenantId, Timestamp};
use sqlx::Row;

/// Keys of one installation looked at to answer a listing; the quota keeps real ones far below.
const KEYS_MAX: i64 = 100_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginState {
    pub value: Vec<u8>,
    /// Never 0.
    pub revision: u64,
}

/// A write that was not made is an answer, not an error: the caller tells its plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatePut {
    Written {
        revision: u64,
    },
    /// 0 when the key is absent.
    Conflict {
        revision: u64,
    },
    OverQuota {
        bytes_used: u64,
    },
}

/// What to write, and under which condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPluginState {
    pub key: String,
    pub value: Vec<u8>,
    /// None: always; 0: only when absent; n: only over revision n.
    pub expect: Option<u64>,
    pub expires: Option<Timestamp>,
    pub bytes_max: u64,
}

impl Tx {
    pub async fn put_plugin_state(
        &mut self,
        tenant: &TenantId,
        installation: &str,
        new: &NewPluginState,
        now: Timestamp,
    ) -> Result<StatePut> {
        sqlx::query("DELETE FROM plugin_state WHERE tenant = $1 AND installation = $2 AND expires_ns > 0 AND expires_ns <= $3")
            .bind(tenant.as_str())
            .bind(installation)
            .bind(now.nanos())
            .execute(self.connection())
            .await?;
        let revision = self.plugin_state_revision(tenant, installation, &new.key).await?;
        if new.expect.is_some_and(|expected| expected != revision) {
            return Ok(StatePut::Conflict { revision });
        }
        let row = sqlx::query(
            "SELECT CAST(COALESCE(SUM(length(state_key) + length(value)), 0) AS BIGINT) FROM plugin_state \
             WHERE tenant = $1 AND installation = $2 AND state_key <> $3",
        )
        .bind(tenant.as_str())
        .bind(installation)
        .bind(&new.key)
        .fetch_one(self.connection())
        .await?;
        let bytes_used = u64::try_from(row.try_get::<i64, _>(0)?).unwrap_or(0);
        if bytes_used + (new.key.len() + new.value.len()) as u64 > new.bytes_max {
            return Ok(StatePut::OverQuota { bytes_used });
        }
        sqlx::query(
            "INSERT INTO plugin_state (tenant, installation, state_key, value, revision, expires_ns) VALUES ($1, $2, $3, $4, $5, $6) \
             ON CONFLICT (tenant, installation, state_key) DO UPDATE SET value = excluded.value, revision = excluded.revision, \
             expires_ns = excluded.expires_ns",
        )
        .bind(tenant.as_str())
        .bind(installation)
        .bind(&new.key)
        .bind(new.value.clone())
        .bind(revision as i64 + 1)
        .bind(new.expires.map_or(0, Timestamp::nanos))
        .execute(self.connection())
        .await?;
        Ok(StatePut::Written { revision: revision + 1 })
    }

    /// Conflict's revision is what is there; deleting an absent key is no conflict unless one was expected.
    pub async fn delete_plugin_state(
        &mut self,
        tenant: &TenantId,
        installation: &str,
        key: &str,
        expect: Option<u64>,
    ) -> Result<StatePut> {
        let revision = self.plugin_state_revision(tenant, installation, key).await?;
        if expect.is_some_and(|expected| expected != revision) {
            return Ok(StatePut::Conflict { revision });
        }
        sqlx::query("DELETE FROM plugin_state WHERE tenant = $1 AND installation = $2 AND state_key = $3")
            .bind(tenant.as_str())
            .bind(installation)
            .bind(key)
            .execute(self.connection())
            .await?;
        Ok(StatePut::Written { revision: 0 })
    }

    /// All state of an installation, when it is removed.
    pub async fn clear_plugin_state(&mut self, tenant: &TenantId, installation: &str) -> Result<()> {
        sqlx::query("DELETE FROM plugin_state WHERE tenant = $1 AND installation = $2")
            .bind(tenant.as_str())
            .bind(installation)
            .execute(self.connection())
            .await?;
        Ok(())
    }

    async fn plugin_state_revision(&mut self, tenant: &TenantId, installation: &str, key: &str) -> Result<u64> {
        let row = sqlx::query("SELECT revision FROM plugin_state WHERE tenant = $1 AND installation = $2 AND state_key = $3")
            .bind(tenant.as_str())
            .bind(installation)
            .bind(key)
            .fetch_optional(self.connection())
            .await?;
        Ok(row.map(|r| r.try_get::<i64, _>(0)).transpose()?.map_or(0, |r| u64::try_from(r).unwrap_or(0)))
    }
}

impl Db {
    pub async fn plugin_state(
        &self,
        tenant: &TenantId,
        installation: &str,
        key: &str,
        now: Timestamp,
    ) -> Result<Option<PluginState>> {
        let row = sqlx::query(
            "SELECT value, revision FROM plugin_state WHERE tenant = $1 AND installation = $2 AND state_key = $3 \
             AND (expires_ns = 0 OR expires_ns > $4)",
        )
        .bind(tenant.as_str())
        .bind(installation)
        .bind(key)
        .bind(now.nanos())
        .fetch_optional(self.read())
        .await?;
        row.map(|row| {
            let revision: i64 = row.try_get(1)?;
            Ok(PluginState { value: row.try_get(0)?, revision: u64::try_from(revision).unwrap_or(0) })
        })
        .transpose()
    }

    /// Keys with `prefix` after `after` in the order of their bytes, whatever the database's collation.
    pub async fn plugin_state_keys(
        &self,
        tenant: &TenantId,
        installation: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<String>> {
        let rows = sqlx::query(
            "SELECT state_key FROM plugin_state WHERE tenant = $1 AND installation = $2 AND (expires_ns = 0 OR expires_ns > $3) LIMIT $4",
        )
        .bind(tenant.as_str())
        .bind(installation)
        .bind(now.nanos())
        .bind(KEYS_MAX)
        .fetch_all(self.read())
        .await?;
        let mut keys = rows.iter().map(|r| r.try_get::<String, _>(0)).collect::<Result<Vec<_>, _>>()?;
        keys.retain(|key| key.starts_with(prefix) && after.is_none_or(|a| key.as_str() > a));
        keys.sort_unstable();
        keys.truncate(limit);
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(key: &str, value: &[u8], expect: Option<u64>) -> NewPluginState {
        NewPluginState { key: key.into(), value: value.to_vec(), expect, expires: None, bytes_max: 20 }
    }

    #[tokio::test]
    async fn state_is_compared_before_it_is_set_bounded_and_kept_apart_by_tenant() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&format!("sqlite:{}", dir.path().join("t.db").display())).await.unwrap();
        let (a, b) = (TenantId::new("a").unwrap(), TenantId::new("b").unwrap());
        let put = async |new: NewPluginState, now: i64| {
            let a = a.clone();
            db.write::<_, crate::Error, _>(move |tx| {
                Box::pin(async move { tx.put_plugin_state(&a, "i", &new, Timestamp(now)).await })
            })
            .await
            .unwrap()
        };
        assert_eq!(put(new("k", b"1", Some(0)), 0).await, StatePut::Written { revision: 1 });
        assert_eq!(put(new("k", b"2", Some(0)), 0).await, StatePut::Conflict { revision: 1 });
        assert_eq!(put(new("k", b"2", Some(1)), 0).await, StatePut::Written { revision: 2 });
        assert_eq!(put(new("l", &[0; 18], None), 0).await, StatePut::OverQuota { bytes_used: 2 });
        assert_eq!(
            put(NewPluginState { expires: Some(Timestamp(5)), ..new("m", b"x", None) }, 0).await,
            StatePut::Written { revision: 1 }
        );
        assert_eq!(
            db.plugin_state(&a, "i", "k", Timestamp(0)).await.unwrap(),
            Some(PluginState { value: b"2".to_vec(), revision: 2 })
        );
        assert_eq!(db.plugin_state(&b, "i", "k", Timestamp(0)).await.unwrap(), None);
        assert_eq!(db.plugin_state_keys(&a, "i", "", None, 10, Timestamp(4)).await.unwrap(), ["k", "m"]);
        assert_eq!(db.plugin_state_keys(&a, "i", "", None, 10, Timestamp(5)).await.unwrap(), ["k"]);
        assert_eq!(db.plugin_state_keys(&a, "i", "", Some("k"), 10, Timestamp(0)).await.unwrap(), ["m"]);
    }
}
