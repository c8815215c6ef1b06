//! First-party components beside the executable: offered to each tenant, the detectors installed, all loaded.

use anyhow::Context;
use api::Packages;
use cap_std::{ambient_authority, fs::Dir};
use db::Db;
use model::{Clock, Grant, Installation, TenantId, limits};
use std::{collections::BTreeMap, io::Read, path::PathBuf, sync::Arc};

/// Installed for every tenant without being asked: they only read telemetry.
const DETECTORS: &[&str] = &["orchestrix/threshold", "orchestrix/log-pattern", "orchestrix/absence"];
/// Who did it, in the audit.
const ACTOR: &str = "host";

pub struct Bundled {
    pub dir: Option<PathBuf>,
    pub packages: Packages,
    pub host: plugin::Host,
    pub db: Db,
    pub clock: Arc<dyn Clock>,
}

impl Bundled {
    /// A component that can't be read or loaded is told and left out: the host serves without it.
    pub async fn load(&self) -> anyhow::Result<()> {
        let tenants = self.db.tenants().await?;
        for bytes in self.components()? {
            if let Err(error) = self.offer(bytes.into(), &tenants).await {
                tracing::warn!(error = format!("{error:#}"), "a bundled component was left out");
            }
        }
        let mut digests: Vec<String> = self.db.installations_of_all().await?.into_iter().map(|i| i.digest).collect();
        digests.sort();
        digests.dedup();
        let count = digests.len();
        for digest in digests {
            if let Err(problem) = api::plugin::load(&self.host, &self.packages, &digest).await {
                tracing::error!(digest, error = %problem, "an installed component cannot be loaded");
            }
        }
        tracing::info!(components = count, "components are loaded");
        Ok(())
    }

    fn components(&self) -> anyhow::Result<Vec<Vec<u8>>> {
        let folder = match &self.dir {
            Some(dir) => dir.clone(),
            None => match std::env::current_exe().ok().and_then(|exe| exe.parent().map(|p| p.join("plugins"))) {
                Some(beside) if beside.is_dir() => beside,
                _ => return Ok(Vec::new()),
            },
        };
        let dir = Dir::open_ambient_dir(&folder, ambient_authority())
            .with_context(|| format!("cannot open the folder of components {}; see --plugins-dir", folder.display()))?;
        let mut found = Vec::new();
        for entry in dir.entries()? {
            let entry = entry?;
            if !entry.file_name().to_string_lossy().ends_with(".wasm") {
                continue;
            }
            let mut bytes = Vec::new();
            entry.open()?.take(limits::COMPONENT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
            found.push(bytes);
        }
        Ok(found)
    }

    async fn offer(&self, bytes: bytes::Bytes, tenants: &[TenantId]) -> anyhow::Result<()> {
        let now = self.clock.now();
        let (row, manifest) = api::plugin::keep(&self.packages, bytes, ACTOR, now).await?;
        for tenant in tenants {
            if self.db.package(tenant, &row.digest).await.is_err() {
                let (tenant, row) = (tenant.clone(), row.clone());
                self.db.write::<_, db::Error, _>(move |tx| Box::pin(async move { tx.put_package(&tenant, &row).await })).await?;
            }
            if DETECTORS.contains(&manifest.id.as_str()) {
                self.install(tenant, &row, &manifest).await?;
            }
        }
        Ok(())
    }

    /// At first start; later only the component follows the host's release, what an admin set stays.
    async fn install(&self, tenant: &TenantId, row: &db::package::PackageRow, manifest: &plugin::Manifest) -> anyhow::Result<()> {
        let name = manifest.id.rsplit('/').next().unwrap_or(&manifest.id).to_owned();
        let installation = match self.db.installation(tenant, &name).await {
            Ok(existing) if existing.plugin != manifest.id || existing.digest == row.digest => return Ok(()),
            Ok(existing) => Installation { version: row.version.clone(), digest: row.digest.clone(), ..existing },
            Err(db::Error::NotFound { .. }) => {
                let asked = api::plugin::asked(manifest);
                Installation {
                    tenant: tenant.clone(),
                    name: name.clone(),
                    plugin: manifest.id.clone(),
                    version: row.version.clone(),
                    digest: row.digest.clone(),
                    config: serde_json::json!({}),
                    grant: Grant { telemetry: asked.telemetry, state_bytes: asked.state_bytes, ..Grant::default() },
                    secrets: BTreeMap::new(),
                    is_enabled: true,
                }
            }
            Err(error) => return Err(error.into()),
        };
        let (tenant, now) = (tenant.clone(), self.clock.now());
        let detail =
            serde_json::json!({ "plugin": installation.plugin, "version": installation.version, "digest": installation.digest });
        self.db
            .write::<_, db::Error, _>(move |tx| {
                Box::pin(async move {
                    tx.put_installation(&installation, now).await?;
                    tx.audit(&tenant, now, ACTOR, "install plugin", &name, &detail).await
                })
            })
            .await?;
        Ok(())
    }
}
