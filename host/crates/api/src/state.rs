//! What the handlers share.

use crate::{auth::Authenticator, error::Problem, packages::Packages, vault::Vault};
use db::{Db, Tx};
use futures::future::BoxFuture;
use model::{Clock, Principal, Timestamp};
use serde_json::Value;
use std::{
    ops::Deref,
    sync::{Arc, atomic::AtomicBool},
};

/// Everything the API needs of the other rooms.
pub struct Parts {
    pub db: Db,
    pub telemetry: telemetry::Telemetry,
    pub queries: Arc<query::promql::Engine>,
    pub plugins: ::plugin::Host,
    pub workflows: ::workflow::Handle,
    pub monitors: ::detect::Handle,
    pub scrapes: ::ingest::scrape::Handle,
    /// Counters of all stages, read when `/metrics` is asked.
    pub stats: Box<dyn Fn() -> Vec<crate::host::Metric> + Send + Sync>,
    pub started: Timestamp,
    pub vault: Vault,
    pub packages: Packages,
    pub auth: Authenticator,
    pub clock: Arc<dyn Clock>,
    pub ready: Arc<Readiness>,
    /// Base of links that are shown outside: `https://orchestrix.example.com`.
    pub public_url: Option<String>,
    /// For the disk's free space.
    pub data_dir: std::path::PathBuf,
}

/// What must happen before the host serves, and what is not done yet.
#[derive(Debug, Default)]
pub struct Readiness {
    waiting: std::sync::Mutex<std::collections::BTreeMap<&'static str, String>>,
    pub is_draining: AtomicBool,
}

impl Readiness {
    pub fn wait_for(&self, what: &'static str, why: impl Into<String>) {
        self.waiting.lock().expect("nothing panics while it holds this lock").insert(what, why.into());
    }

    pub fn done(&self, what: &'static str) {
        self.waiting.lock().expect("nothing panics while it holds this lock").remove(what);
    }

    pub fn waiting(&self) -> Vec<(&'static str, String)> {
        self.waiting.lock().expect("nothing panics while it holds this lock").iter().map(|(k, v)| (*k, v.clone())).collect()
    }
}

#[derive(Clone)]
pub struct State(Arc<Parts>);

impl State {
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Makes a change and writes its audit row in the same transaction. `action` is verb and noun.
    pub async fn change<T, F>(
        &self,
        who: &Principal,
        action: &'static str,
        target: &str,
        detail: Value,
        f: F,
    ) -> Result<T, Problem>
    where
        T: Send + 'static,
        F: for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<T, db::Error>> + Send + 'static,
    {
        let (tenant, actor, target, now) = (who.tenant.clone(), who.name.clone(), target.to_owned(), self.now());
        let done = self
            .db
            .write::<T, db::Error, _>(move |tx| {
                Box::pin(async move {
                    let done = f(tx).await?;
                    tx.audit(&tenant, now, &actor, action, &target, &detail).await?;
                    Ok(done)
                })
            })
            .await?;
        Ok(done)
    }
}

impl Deref for State {
    type Target = Parts;
    fn deref(&self) -> &Parts {
        &self.0
    }
}
