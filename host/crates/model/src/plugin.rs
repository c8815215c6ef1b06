//! An installed plugin as the stages pass it around. The manifest's own types live in `plugin`.

use crate::TenantId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A plugin version that an admin installed for a tenant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Installation {
    pub tenant: TenantId,
    /// What monitors and workflows call it; one plugin may be installed under several names.
    pub name: String,
    /// `orchestrix/kubernetes`, the plugin's id in its manifest.
    pub plugin: String,
    pub version: String,
    /// `sha256:` and 64 hexadecimal digits of the component.
    pub digest: String,
    pub config: serde_json::Value,
    pub grant: Grant,
    /// By the name the manifest declares.
    pub secrets: BTreeMap<String, SecretBinding>,
    pub is_enabled: bool,
}

/// What the admin allows. Nothing that is absent here is allowed, whatever the manifest asks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grant {
    pub http: Vec<HttpGrant>,
    /// `tcp://host:port`, each exact.
    pub sockets: Vec<String>,
    /// `metrics`, `logs`, `traces`, `events`: what may be read of the tenant's telemetry.
    pub telemetry: Vec<crate::Signal>,
    /// Bytes of durable state; 0 is none.
    pub state_bytes: u64,
    /// Whether the plugin may read its secrets in clear. High risk.
    pub reveal: bool,
}

/// Egress allowed: every part must match. An empty list of methods allows GET, HEAD and OPTIONS only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpGrant {
    /// `scheme://host` or `scheme://host:port`; `*.example.com` covers one label or more.
    pub hosts: Vec<String>,
    #[serde(default)]
    pub methods: Vec<String>,
    #[serde(default = "root")]
    pub path_prefix: String,
}

fn root() -> String {
    "/".into()
}

/// Which stored secret stands behind a name of the manifest. The secret's own row says to which hosts it may travel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretBinding {
    pub secret: String,
}
