//! Plugins' durable state in the database.

use super::{failed, refusal};
use async_trait::async_trait;
use db::{
    Db,
    plugin_state::{NewPluginState, StatePut},
};
use model::{Clock, ErrorRecord, RetryAdvice, TenantId};
use plugin::{StateEntry, StatePort, StateWrite};
use std::sync::Arc;

pub struct States {
    db: Db,
    clock: Arc<dyn Clock>,
}

impl States {
    pub fn new(db: Db, clock: Arc<dyn Clock>) -> Self {
        Self { db, clock }
    }
}

#[async_trait]
impl StatePort for States {
    async fn get(&self, tenant: &TenantId, installation: &str, key: &str) -> Result<Option<StateEntry>, ErrorRecord> {
        let found = self.db.plugin_state(tenant, installation, key, self.clock.now()).await.map_err(|e| failed(&e))?;
        Ok(found.map(|s| StateEntry { value: s.value, revision: s.revision }))
    }

    async fn put(&self, tenant: &TenantId, installation: &str, write: StateWrite) -> Result<u64, ErrorRecord> {
        let StateWrite { key, value, expect, expires, bytes_max } = write;
        let (tenant, installation, now) = (tenant.clone(), installation.to_owned(), self.clock.now());
        let new = NewPluginState { key: key.clone(), value, expect, expires, bytes_max };
        let put = self
            .db
            .write::<_, db::Error, _>(move |tx| {
                Box::pin(async move { tx.put_plugin_state(&tenant, &installation, &new, now).await })
            })
            .await
            .map_err(|e| failed(&e))?;
        match put {
            StatePut::Written { revision } => Ok(revision),
            other => Err(not_written(&key, other, bytes_max)),
        }
    }

    async fn delete(&self, tenant: &TenantId, installation: &str, key: &str, expect: Option<u64>) -> Result<(), ErrorRecord> {
        let (tenant, installation, owned) = (tenant.clone(), installation.to_owned(), key.to_owned());
        let done = self
            .db
            .write::<_, db::Error, _>(move |tx| {
                Box::pin(async move { tx.delete_plugin_state(&tenant, &installation, &owned, expect).await })
            })
            .await
            .map_err(|e| failed(&e))?;
        match done {
            StatePut::Written { .. } => Ok(()),
            other => Err(not_written(key, other, 0)),
        }
    }

    async fn list(
        &self,
        tenant: &TenantId,
        installation: &str,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<String>, ErrorRecord> {
        let now = self.clock.now();
        self.db.plugin_state_keys(tenant, installation, prefix, after, limit as usize, now).await.map_err(|e| failed(&e))
    }
}

fn not_written(key: &str, put: StatePut, bytes_max: u64) -> ErrorRecord {
    match put {
        StatePut::OverQuota { bytes_used } => refusal(
            "state.quota",
            format!("{bytes_used} of the state's {bytes_max} bytes are used: delete keys, or ask for more state_bytes"),
            RetryAdvice::Never,
        ),
        StatePut::Conflict { revision } | StatePut::Written { revision } => {
            refusal("state.conflict", format!("key {key:?} is at revision {revision}: read it again"), RetryAdvice::Now)
        }
    }
}
