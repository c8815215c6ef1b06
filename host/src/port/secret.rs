//! Stored secrets, opened for the one call that needs them.

use super::{failed, refusal};
use api::Vault;
use async_trait::async_trait;
use db::Db;
use model::{ErrorRecord, RetryAdvice, TenantId};
use plugin::{SecretPort, SecretValue};

pub struct Secrets {
    db: Db,
    vault: Vault,
}

impl Secrets {
    pub fn new(db: Db, vault: Vault) -> Self {
        Self { db, vault }
    }
}

#[async_trait]
impl SecretPort for Secrets {
    async fn get(&self, tenant: &TenantId, name: &str) -> Result<Option<SecretValue>, ErrorRecord> {
        let row = match self.db.secret(tenant, name).await {
            Ok(row) => row,
            Err(db::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(failed(&error)),
        };
        match self.vault.open(tenant, name, &row.nonce, &row.sealed) {
            Ok(bytes) => Ok(Some(SecretValue { bytes, hosts: row.hosts })),
            Err(error) => Err(refusal("config.secret_unusable", error.to_string(), RetryAdvice::Never)),
        }
    }
}
