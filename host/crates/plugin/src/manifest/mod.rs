//! The manifest: what a plugin is, what it asks for and what it offers. Authors write `plugin.toml`; a
//! component carries the same document as JSON in its custom section `orchestrix:manifest`.

mod check;
mod text;

pub(crate) use text::nearest;
pub use text::{ByteSize, Millis};

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Name of the custom section that carries the manifest.
pub const SECTION: &str = "orchestrix:manifest";
/// A manifest with schemas and examples is some KiB; a MiB is a mistake or an attack.
pub const MANIFEST_BYTES_MAX: usize = 1 << 20;

/// What a component exports, by interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Lifecycle,
    Detector,
    StreamDetector,
    Transform,
    Action,
    Verification,
    Source,
    Webhook,
    Sink,
}

impl Kind {
    pub const ALL: [Self; 9] = [
        Self::Lifecycle,
        Self::Detector,
        Self::StreamDetector,
        Self::Transform,
        Self::Action,
        Self::Verification,
        Self::Source,
        Self::Webhook,
        Self::Sink,
    ];

    /// The interface's name in the package `orchestrix:plugin`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lifecycle => "lifecycle",
            Self::Detector => "detector",
            Self::StreamDetector => "stream-detector",
            Self::Transform => "transform",
            Self::Action => "action",
            Self::Verification => "verification",
            Self::Source => "source",
            Self::Webhook => "webhook",
            Self::Sink => "sink",
        }
    }

    /// No network, no secrets, no effects; clock and randomness fixed by the call.
    pub fn is_pure(self) -> bool {
        matches!(self, Self::Detector | Self::StreamDetector | Self::Transform)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// `publisher/name`, the OCI repository path.
    pub id: String,
    /// Semantic version without a build part.
    pub version: String,
    pub name: String,
    #[serde(default)]
    pub description: String,
    #[serde(default)]
    pub license: String,
    #[serde(default)]
    pub repository: String,
    /// What it exports. `lifecycle` and `verification` need not be named.
    pub kinds: Vec<Kind>,
    /// Version of the contract it is built for: `0.1`.
    pub contract: String,
    /// Hosts it is known to run on, such as `>=0.1`; informative.
    #[serde(default)]
    pub host: String,
    #[serde(default)]
    pub config: Config,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<Secret>,
    #[serde(default)]
    pub permissions: Permissions,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub effects: Vec<EffectRule>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<Operation>,
    #[serde(default)]
    pub detector: Detector,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub monitors: Vec<Monitor>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<EventType>,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub failure: Failure,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub version: u32,
    /// JSON Schema of an installation's config; the UI's form comes from it.
    pub schema: serde_json::Value,
}

impl Default for Config {
    fn default() -> Self {
        Self { version: 1, schema: serde_json::json!({"type": "object", "additionalProperties": false}) }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secret {
    pub name: String,
    #[serde(default)]
    pub description: String,
    #[serde(default = "yes")]
    pub required: bool,
    /// Where the host puts it by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inject: Option<Inject>,
    /// Asks to read the secret in clear.
    #[serde(default)]
    pub reveal: bool,
}

/// Puts a secret into every request to `host`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inject {
    /// A host pattern as in `permissions.http.hosts`; `{config.…}` is replaced.
    pub host: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// `{secret}` is the secret, `{basic:USER}` is base64 of `USER:secret`.
    #[serde(default = "secret_format")]
    pub format: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Permissions {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub http: Vec<HttpPermission>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sockets: Vec<SocketPermission>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub telemetry: Vec<model::Signal>,
    pub state_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpPermission {
    /// `scheme://host[:port]`; the host may be `*` or `*.example.com`, the port `*`. `{config.key}` is replaced
    /// by the installation's config, where a whole URL's origin counts.
    pub hosts: Vec<String>,
    /// Empty is GET, HEAD and OPTIONS.
    #[serde(default)]
    pub methods: Vec<String>,
    #[serde(default = "root")]
    pub path_prefix: String,
    /// Requests that read although their method is unsafe: `POST /api/search`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub safe: Vec<String>,
    #[serde(default)]
    pub why: String,
    #[serde(default)]
    pub optional: bool,
    /// Name of a secret that holds a CA bundle (PEM) to trust beside the public ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// Name of a secret that holds a client certificate and its key (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_cert: Option<String>,
}

/// In `plugin.toml` either the address alone or a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "SocketText")]
pub struct SocketPermission {
    /// `tcp://host:port`; `{config.key}` is replaced.
    pub address: String,
    #[serde(default)]
    pub why: String,
    #[serde(default)]
    pub optional: bool,
    /// What the protocol says before TLS starts: only `postgres` is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starttls: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_cert: Option<String>,
}

/// How an announced effect shows in the request that performs it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EffectRule {
    pub kind: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// `/a/{name}/b`: a name takes one segment, `{name..}` the rest. Absent for sockets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Built from the path's names, `{scheme}`, `{host}`, `{port}`, `{path}`, `{method}`, `{query.key}` and
    /// `{body.a.b}`. It is what budgets and the ledger count.
    pub target: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Risk {
    #[default]
    Low,
    Medium,
    High,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    pub name: String,
    #[serde(default)]
    pub title: String,
    #[serde(default)]
    pub description: String,
    /// JSON Schemas.
    #[serde(default = "any_object")]
    pub input: serde_json::Value,
    #[serde(default = "anything")]
    pub output: serde_json::Value,
    #[serde(default)]
    pub risk: Risk,
    /// Doing it twice is the same as doing it once: may be repeated after a crash.
    #[serde(default)]
    pub idempotent: bool,
    /// Not the same, but harmless to repeat (a chat message): at least once, said so.
    #[serde(default)]
    pub repeatable: bool,
    #[serde(default)]
    pub reversible: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Millis>,
    /// An output as it would be; the answer in plan mode.
    #[serde(default)]
    pub example: serde_json::Value,
    /// Kinds of effect it may begin.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub effects: Vec<String>,
}

/// What a detector or stream detector takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Detector {
    /// JSON Schema of a monitor's params.
    pub params: serde_json::Value,
    /// Attributes a stream detector wants to see as columns; `{params.key}` is replaced, and a list spreads.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<String>,
}

impl Default for Detector {
    fn default() -> Self {
        Self { params: any_object(), fields: Vec::new() }
    }
}

/// A template an admin can start a monitor from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Monitor {
    pub name: String,
    #[serde(default)]
    pub title: String,
    #[serde(default)]
    pub description: String,
    #[serde(default)]
    pub spec: serde_json::Value,
}

/// An event an integration emits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventType {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub title: String,
    #[serde(default)]
    pub schema: serde_json::Value,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Millis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wall: Option<Millis>,
    /// Calls of one installation at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    pub instance: Instance,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Instance {
    /// A fresh instance for each call.
    #[default]
    Ephemeral,
    Warm {
        max_invocations: u64,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Failure {
    /// Failures of the plugin itself in a row after which its calls are refused for `open_for`; 0 is never.
    pub breaker: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_for: Option<Millis>,
}

impl Manifest {
    /// Reads `plugin.toml`.
    pub fn from_toml(toml: &str) -> Result<Self, crate::Error> {
        let value = toml::from_str::<serde_json::Value>(toml).map_err(|e| crate::Error::Manifest(vec![e.to_string()]))?;
        Self::from_value(&value)
    }

    /// Reads the JSON of the custom section.
    pub fn from_json(json: &[u8]) -> Result<Self, crate::Error> {
        if json.len() > MANIFEST_BYTES_MAX {
            return Err(crate::Error::Manifest(vec![format!("it is over {MANIFEST_BYTES_MAX} bytes")]));
        }
        let value = serde_json::from_slice(json).map_err(|e| crate::Error::Manifest(vec![format!("no JSON: {e}")]))?;
        Self::from_value(&value)
    }

    pub fn from_value(value: &serde_json::Value) -> Result<Self, crate::Error> {
        let manifest: Self = serde_path_to_error::deserialize(value).map_err(|e| {
            let path = e.path().to_string();
            crate::Error::Manifest(vec![text::with_nearest_key(&path, &e.into_inner().to_string())])
        })?;
        let findings = check::check(&manifest);
        if findings.is_empty() { Ok(manifest) } else { Err(crate::Error::Manifest(findings)) }
    }

    /// The JSON for the custom section.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a manifest has string keys only")
    }

    pub fn operation(&self, name: &str) -> Option<&Operation> {
        self.operations.iter().find(|o| o.name == name)
    }

    pub fn secret(&self, name: &str) -> Option<&Secret> {
        self.secrets.iter().find(|s| s.name == name)
    }

    /// Effect kinds with their rules.
    pub fn effect_rules(&self) -> BTreeMap<&str, Vec<&EffectRule>> {
        let mut rules: BTreeMap<&str, Vec<&EffectRule>> = BTreeMap::new();
        for rule in &self.effects {
            rules.entry(&rule.kind).or_default().push(rule);
        }
        rules
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum SocketText {
    Address(String),
    Table(SocketTable),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SocketTable {
    address: String,
    #[serde(default)]
    why: String,
    #[serde(default)]
    optional: bool,
    #[serde(default)]
    starttls: Option<String>,
    #[serde(default)]
    ca: Option<String>,
    #[serde(default)]
    client_cert: Option<String>,
}

impl From<SocketText> for SocketPermission {
    fn from(text: SocketText) -> Self {
        match text {
            SocketText::Address(address) => {
                Self { address, why: String::new(), optional: false, starttls: None, ca: None, client_cert: None }
            }
            SocketText::Table(SocketTable { address, why, optional, starttls, ca, client_cert }) => {
                Self { address, why, optional, starttls, ca, client_cert }
            }
        }
    }
}

fn yes() -> bool {
    true
}
fn root() -> String {
    "/".into()
}
fn secret_format() -> String {
    "{secret}".into()
}
fn any_object() -> serde_json::Value {
    serde_json::json!({"type": "object"})
}
fn anything() -> serde_json::Value {
    serde_json::Value::Bool(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) const EXAMPLE: &str = r#"
id = "acme/pagerduty"
version = "1.2.0"
name = "PagerDuty"
kinds = ["action"]
contract = "0.1"

[config.schema]
type = "object"
properties.region = { type = "string" }

[[secrets]]
name = "token"
inject = { host = "https://api.pagerduty.com", header = "authorization", format = "Token {secret}" }

[permissions]
http = [{ hosts = ["https://api.pagerduty.com"], methods = ["POST"], path_prefix = "/incidents", why = "opens incidents" }]
sockets = ["tcp://{config.host}:5432", { address = "tcp://db:5433", starttls = "postgres" }]

[[effects]]
kind = "pagerduty.incident.create"
methods = ["POST"]
path = "/incidents"
target = "{host}/incident"

[[operations]]
name = "create-incident"
input = { type = "object", required = ["title"] }
risk = "medium"
timeout = "30s"
effects = ["pagerduty.incident.create"]

[limits]
memory = "64MiB"
instance = "ephemeral"
"#;

    fn refusal(toml: &str) -> String {
        Manifest::from_toml(toml).unwrap_err().to_string()
    }

    #[test]
    fn an_example_is_read_and_survives_the_custom_section() {
        let manifest = Manifest::from_toml(EXAMPLE).unwrap();
        assert_eq!(manifest.operation("create-incident").unwrap().timeout, Some(Millis(30_000)));
        assert_eq!(manifest.limits.memory, Some(ByteSize(64 << 20)));
        assert_eq!(manifest.permissions.sockets[1].starttls.as_deref(), Some("postgres"));
        assert_eq!(Manifest::from_json(&manifest.to_json()).unwrap(), manifest);
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_known_one() {
        let message = refusal(&EXAMPLE.replace("path_prefix", "path_prefx"));
        assert!(message.contains("permissions.http[0]"), "{message}");
        assert!(message.contains(r#"unknown key "path_prefx", did you mean "path_prefix""#), "{message}");
    }

    #[test]
    fn every_finding_is_told_at_once() {
        let message = refusal(&EXAMPLE.replace("1.2.0", "1.2").replace("acme/pagerduty", "PagerDuty"));
        assert!(message.contains("id \"PagerDuty\"") && message.contains("version \"1.2\""), "{message}");
    }

    #[test]
    fn hostile_json_is_refused_without_a_panic() {
        for bad in [&b""[..], b"{", b"[]", b"null", b"{\"id\": 1}", &[0xff; 64], &vec![b'['; 200_000]] {
            assert!(Manifest::from_json(bad).is_err());
        }
        let huge = vec![b' '; MANIFEST_BYTES_MAX + 1];
        assert!(Manifest::from_json(&huge).unwrap_err().to_string().contains("bytes"));
    }
}
