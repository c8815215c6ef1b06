//! Permissions: effective is manifest ∩ grant ∩ host policy, checked at each call. A denial says which side
//! refused and what to add there.

use crate::{
    address::AddressPolicy,
    manifest::{HttpPermission, Manifest, SocketPermission},
};
use model::{Grant, Signal};
use serde_json::Value;

/// What this machine's operator allows, whoever grants what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostPolicy {
    /// Addresses or networks that are reachable although they are loopback, link-local or metadata:
    /// `127.0.0.1`, `10.0.0.0/8`, `::1`.
    pub allow_private: Vec<String>,
    /// Host patterns that nobody reaches.
    pub deny_hosts: Vec<String>,
}

/// Where a request goes, spelt one way only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub scheme: String,
    /// Lower case, without a trailing dot, without brackets.
    pub host: String,
    pub port: u16,
}

impl Target {
    pub(crate) fn http(uri: &http::Uri) -> Result<Self, String> {
        let scheme = uri.scheme_str().unwrap_or("https").to_ascii_lowercase();
        let authority = uri.authority().ok_or("the request names no host")?;
        if authority.as_str().contains('@') {
            return Err("a host with a user name before it is not taken: put credentials into a secret".into());
        }
        let default = default_port(&scheme).ok_or_else(|| format!("scheme {scheme:?} is neither http nor https"))?;
        Ok(Self { port: authority.port_u16().unwrap_or(default), host: normal_host(authority.host()), scheme })
    }

    pub(crate) fn tcp(host: &str, port: u16) -> Self {
        Self { scheme: "tcp".into(), host: normal_host(host), port }
    }

    /// `scheme://host`, with the port when it isn't the scheme's own.
    pub(crate) fn origin(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if default_port(&self.scheme) == Some(self.port) {
            format!("{}://{host}", self.scheme)
        } else {
            format!("{}://{host}:{}", self.scheme, self.port)
        }
    }
}

/// A host pattern of a manifest, a grant, a policy or a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPattern {
    scheme: Option<String>,
    host: HostMatch,
    port: PortMatch,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum HostMatch {
    Any,
    Exact(String),
    /// With its leading dot.
    Suffix(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum PortMatch {
    OfScheme,
    Any,
    Exact(u16),
}

impl HostPattern {
    /// `*`, `host`, `scheme://host`, `scheme://host:port`, `scheme://*.example.com:*`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self { scheme: None, host: HostMatch::Any, port: PortMatch::Any });
        }
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme @ ("http" | "https" | "tcp"), rest)) => (Some(scheme.to_owned()), rest),
            Some((scheme, _)) => return Err(format!("{text:?}: scheme {scheme:?} is none of http, https, tcp")),
            None => (None, text),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.is_empty() || rest.contains(['/', '@', '?', '#', ' ']) {
            return Err(format!("{text:?} must be scheme://host or scheme://host:port, without a path"));
        }
        let (host, port) = match rest.rfind(':') {
            Some(at) if !rest[at..].contains(']') => (&rest[..at], Some(&rest[at + 1..])),
            _ => (rest, None),
        };
        let port = match port {
            None if scheme.is_none() => PortMatch::Any,
            None => PortMatch::OfScheme,
            Some("*") => PortMatch::Any,
            Some(port) => PortMatch::Exact(port.parse().map_err(|_| format!("{text:?}: {port:?} is no port"))?),
        };
        let host = normal_host(host);
        let host = match host.strip_prefix('*') {
            Some("") => HostMatch::Any,
            Some(suffix) if suffix.starts_with('.') && !suffix[1..].contains('*') && suffix.len() > 1 => {
                HostMatch::Suffix(suffix.into())
            }
            None if !host.contains('*') => HostMatch::Exact(host),
            _ => return Err(format!("{text:?}: a wildcard is `*` alone or `*.` before a name")),
        };
        Ok(Self { scheme, host, port })
    }

    pub(crate) fn matches(&self, target: &Target) -> bool {
        let scheme = self.scheme.as_ref().is_none_or(|s| *s == target.scheme);
        let host = match &self.host {
            HostMatch::Any => true,
            HostMatch::Exact(host) => *host == target.host,
            HostMatch::Suffix(suffix) => target.host.len() > suffix.len() && target.host.ends_with(suffix.as_str()),
        };
        let port = match self.port {
            PortMatch::Any => true,
            PortMatch::Exact(port) => port == target.port,
            PortMatch::OfScheme => default_port(&target.scheme) == Some(target.port),
        };
        scheme && host && port
    }
}

/// A request that all three sides allow.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HttpPass {
    /// Reads only: by its method, or because the manifest says so.
    pub is_safe: bool,
    pub ca: Option<String>,
    pub client_cert: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SocketPass {
    pub starttls: Option<String>,
    pub ca: Option<String>,
    pub client_cert: Option<String>,
    /// The admin trusts this plugin to only read there: no permit needed.
    pub is_read_only: bool,
}

/// The three sides of one installation.
pub(crate) struct Rights<'a> {
    pub manifest: &'a Manifest,
    pub config: &'a Value,
    pub grant: &'a Grant,
    pub policy: &'a AddressPolicy,
}

impl Rights<'_> {
    pub(crate) fn http(&self, method: &http::Method, target: &Target, path: &str) -> Result<HttpPass, String> {
        let what = format!("{method} {}{path}", target.origin());
        path_is_plain(path)?;
        let asked = self.manifest.permissions.http.iter().find(|p| self.asks(p, method, target, path)).ok_or_else(|| {
            format!(
                "the plugin's manifest doesn't ask for {what}: its author must add {{ hosts = [{:?}], methods = [{:?}], path_prefix = {path:?} }} to permissions.http",
                target.origin(),
                method.as_str()
            )
        })?;
        let granted = self.grant.http.iter().any(|g| {
            method_is_in(&g.methods, method)
                && prefix_covers(&g.path_prefix, path)
                && any_host(g.hosts.iter().map(String::as_str), target)
        });
        if !granted {
            return Err(format!(
                "the admin's grant doesn't allow {what}: add {} to grant.http",
                serde_json::json!({"hosts": [target.origin()], "methods": [method.as_str()], "path_prefix": path})
            ));
        }
        self.policy.host_is_allowed(target)?;
        let is_safe = is_safe_method(method) || asked.safe.iter().any(|rule| safe_rule_covers(rule, method, path));
        Ok(HttpPass { is_safe, ca: asked.ca.clone(), client_cert: asked.client_cert.clone() })
    }

    pub(crate) fn socket(&self, target: &Target) -> Result<SocketPass, String> {
        let what = format!("tcp://{}:{}", target.host, target.port);
        let asks =
            |p: &&SocketPermission| expand(&p.address, self.config).iter().any(|a| exact_socket(a).is_some_and(|t| t == *target));
        let asked = self.manifest.permissions.sockets.iter().find(asks).ok_or_else(|| {
            format!("the plugin's manifest doesn't ask for {what}: its author must add {what:?} to permissions.sockets")
        })?;
        let granted = self.grant.sockets.iter().find_map(|entry| {
            let (address, options) = entry.split_once('?').map_or((entry.as_str(), ""), |(a, o)| (a, o));
            (exact_socket(address)? == *target).then_some(options == "read-only=trusted")
        });
        let is_read_only =
            granted.ok_or_else(|| format!("the admin's grant doesn't allow {what}: add {what:?} to grant.sockets"))?;
        self.policy.host_is_allowed(target)?;
        Ok(SocketPass {
            starttls: asked.starttls.clone(),
            ca: asked.ca.clone(),
            client_cert: asked.client_cert.clone(),
            is_read_only,
        })
    }

    pub(crate) fn telemetry(&self, signal: Signal) -> Result<(), String> {
        let name = serde_json::to_value(signal).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
        if !self.manifest.permissions.telemetry.contains(&signal) {
            return Err(format!(
                "the plugin's manifest doesn't ask to read {name}: its author must add {name:?} to permissions.telemetry"
            ));
        }
        if !self.grant.telemetry.contains(&signal) {
            return Err(format!("the admin's grant doesn't allow reading {name}: add {name:?} to grant.telemetry"));
        }
        Ok(())
    }

    /// Bytes of state both sides allow; why not, when it is none.
    pub(crate) fn state_bytes(&self) -> Result<u64, String> {
        let (asked, granted) = (self.manifest.permissions.state_bytes, self.grant.state_bytes);
        match (asked, granted) {
            (0, _) => Err("the plugin's manifest doesn't ask for state: its author must set permissions.state_bytes".into()),
            (_, 0) => Err(format!("the admin's grant allows no state: set grant.state_bytes to {asked}")),
            _ => Ok(asked.min(granted)),
        }
    }

    pub(crate) fn reveal(&self, secret: &str) -> Result<(), String> {
        if !self.manifest.secret(secret).is_some_and(|s| s.reveal) {
            return Err(format!(
                "the plugin's manifest doesn't ask to read secret {secret:?} in clear: its author must set reveal = true on it"
            ));
        }
        if !self.grant.reveal {
            return Err("the admin's grant doesn't allow reading secrets in clear: set grant.reveal to true (high risk)".into());
        }
        Ok(())
    }

    fn asks(&self, permission: &HttpPermission, method: &http::Method, target: &Target, path: &str) -> bool {
        let is_listed =
            method_is_in(&permission.methods, method) || permission.safe.iter().any(|rule| safe_rule_covers(rule, method, path));
        is_listed
            && prefix_covers(&permission.path_prefix, path)
            && permission.hosts.iter().any(|h| any_host(expand(h, self.config).iter().map(String::as_str), target))
    }
}

/// Whether any of the patterns covers the target; one that can't be read covers nothing.
pub(crate) fn any_host<'a>(mut patterns: impl Iterator<Item = &'a str>, target: &Target) -> bool {
    patterns.any(|p| HostPattern::parse(p).is_ok_and(|p| p.matches(target)))
}

/// Replaces `{config.a.b}`. A text that is one template alone may stand for a list, and a URL counts by its
/// origin. What the config doesn't hold gives nothing.
pub(crate) fn expand(text: &str, config: &Value) -> Vec<String> {
    let look_up = |path: &str| path.split('.').try_fold(config, |value, key| value.get(key));
    let plain = |value: &Value| match value {
        Value::String(s) => Some(s.clone()),
        Value::Number(n) => Some(n.to_string()),
        _ => None,
    };
    if let Some(path) = text.strip_prefix("{config.").and_then(|t| t.strip_suffix('}'))
        && !path.contains('{')
    {
        let values = match look_up(path) {
            Some(Value::Array(values)) => values.iter().collect(),
            Some(value) => vec![value],
            None => vec![],
        };
        return values.into_iter().filter_map(plain).map(|v| origin_of(&v)).collect();
    }
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("{config.") {
        let Some(end) = rest[start..].find('}') else { break };
        let Some(value) = look_up(&rest[start + 8..start + end]).and_then(plain) else { return Vec::new() };
        out.push_str(&rest[..start]);
        out.push_str(&value);
        rest = &rest[start + end + 1..];
    }
    out.push_str(rest);
    vec![out]
}

fn origin_of(text: &str) -> String {
    match text.split_once("://") {
        Some((scheme, rest)) => format!("{scheme}://{}", rest.split(['/', '?', '#']).next().unwrap_or_default()),
        None => text.to_owned(),
    }
}

fn exact_socket(text: &str) -> Option<Target> {
    let (host, port) = text.strip_prefix("tcp://")?.rsplit_once(':')?;
    Some(Target::tcp(host, port.parse().ok()?))
}

fn normal_host(host: &str) -> String {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

pub(crate) fn is_safe_method(method: &http::Method) -> bool {
    matches!(*method, http::Method::GET | http::Method::HEAD | http::Method::OPTIONS)
}

fn method_is_in(methods: &[String], method: &http::Method) -> bool {
    if methods.is_empty() {
        is_safe_method(method)
    } else {
        methods.iter().any(|m| m == "*" || m.eq_ignore_ascii_case(method.as_str()))
    }
}

/// By whole segments: `/v1` covers `/v1` and `/v1/a`, not `/v10`.
fn prefix_covers(prefix: &str, path: &str) -> bool {
    match path.strip_prefix(prefix) {
        Some(rest) => prefix.ends_with('/') || rest.is_empty() || rest.starts_with('/'),
        None => prefix.strip_suffix('/') == Some(path),
    }
}

/// `POST /api/search`: this method, at this path or below it.
fn safe_rule_covers(rule: &str, method: &http::Method, path: &str) -> bool {
    rule.split_once(' ').is_some_and(|(m, prefix)| m.eq_ignore_ascii_case(method.as_str()) && prefix_covers(prefix.trim(), path))
}

/// A path that servers and proxies can't read in two ways: no dot segments, not even encoded ones.
fn path_is_plain(path: &str) -> Result<(), String> {
    let decoded = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
    if decoded.split(['/', '\\']).any(|segment| segment == "." || segment == "..") || path.contains('\\') {
        return Err(format!(
            "the path {path:?} holds dot segments or backslashes, which a server may read otherwise than the grant does"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::HttpGrant;
    use serde_json::json;

    fn target(url: &str) -> Target {
        Target::http(&url.parse().unwrap()).unwrap()
    }

    fn covers(pattern: &str, url: &str) -> bool {
        HostPattern::parse(pattern).unwrap().matches(&target(url))
    }

    #[test]
    fn a_host_pattern_covers_scheme_name_and_port_exactly() {
        assert!(covers("https://api.example.com", "https://API.example.com./x"));
        assert!(covers("https://api.example.com:443", "https://api.example.com/"));
        assert!(!covers("https://api.example.com", "http://api.example.com/"));
        assert!(!covers("https://api.example.com", "https://api.example.com:8443/"));
        assert!(!covers("https://api.example.com", "https://api.example.com.evil.io/"));
        assert!(covers("https://*.example.com", "https://a.b.example.com/"));
        assert!(!covers("https://*.example.com", "https://example.com/"));
        assert!(!covers("https://*.example.com", "https://evilexample.com/"));
        assert!(covers("http://[::1]:8080", "http://[::1]:8080/"));
        assert!(covers("*", "http://anything:1/"));
        for bad in ["", "ftp://x", "https://", "https://a/b", "https://u@a", "https://a*b", "https://a:b", "https://*x.com"] {
            assert!(HostPattern::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_user_name_in_the_host_is_refused() {
        assert!(Target::http(&"https://api.example.com@evil.io/".parse().unwrap()).is_err());
    }

    #[test]
    fn a_path_prefix_covers_whole_segments_only() {
        assert!(prefix_covers("/v1", "/v1/x") && prefix_covers("/v1", "/v1") && prefix_covers("/", "/any"));
        assert!(prefix_covers("/v1/", "/v1") && !prefix_covers("/v1", "/v10") && !prefix_covers("/v1/", "/v2/"));
        for sly in ["/v1/../admin", "/v1/%2e%2e/admin", "/v1/..%2fadmin", "/v1/.%2E/x", "/v1\\..\\x", "/./v1"] {
            assert!(path_is_plain(sly).is_err(), "{sly}");
        }
        assert!(path_is_plain("/repos/a%2Fb/..x").is_ok());
    }

    #[test]
    fn config_fills_in_hosts() {
        let config =
            json!({"server": "https://k8s:6443/base", "db": {"host": "pg", "port": 5432}, "hosts": ["https://a", "https://b"]});
        assert_eq!(expand("{config.server}", &config), ["https://k8s:6443"]);
        assert_eq!(expand("tcp://{config.db.host}:{config.db.port}", &config), ["tcp://pg:5432"]);
        assert_eq!(expand("{config.hosts}", &config), ["https://a", "https://b"]);
        assert_eq!(expand("{config.none}", &config), [""; 0]);
        assert_eq!(expand("https://{config.none}", &config), [""; 0]);
    }

    fn manifest(permissions: Value) -> Manifest {
        let value = json!({"id": "t/t", "version": "1.0.0", "name": "t", "kinds": ["source"], "contract": "0.1", "permissions": permissions,
            "secrets": [{"name": "open", "reveal": true}, {"name": "closed"}]});
        Manifest::from_value(&value).unwrap()
    }

    fn http_answer(asked: Value, granted: Vec<HttpGrant>, method: &str, url: &str) -> Result<HttpPass, String> {
        let manifest = manifest(json!({"http": [asked]}));
        let grant = Grant { http: granted, ..Grant::default() };
        let uri: http::Uri = url.parse().unwrap();
        let policy =
            AddressPolicy::parse(&HostPolicy { deny_hosts: vec!["https://banned.io".into()], ..HostPolicy::default() }).unwrap();
        let rights = Rights { manifest: &manifest, config: &Value::Null, grant: &grant, policy: &policy };
        rights.http(&method.parse().unwrap(), &Target::http(&uri).unwrap(), uri.path())
    }

    fn grant(host: &str, methods: &[&str], prefix: &str) -> HttpGrant {
        HttpGrant { hosts: vec![host.into()], methods: methods.iter().map(|m| (*m).into()).collect(), path_prefix: prefix.into() }
    }

    #[test]
    fn a_request_needs_all_three_sides_and_a_denial_names_the_side() {
        let asked = json!({"hosts": ["https://api.io", "https://banned.io"], "methods": ["GET", "POST"], "path_prefix": "/v1", "safe": ["POST /v1/search"]});
        let full = vec![grant("https://*", &["GET", "POST"], "/")];
        let pass = http_answer(asked.clone(), full.clone(), "POST", "https://api.io/v1/x").unwrap();
        assert!(!pass.is_safe);
        assert!(http_answer(asked.clone(), full.clone(), "POST", "https://api.io/v1/search").unwrap().is_safe);
        assert!(http_answer(asked.clone(), full.clone(), "GET", "https://api.io/v1/x?q").unwrap().is_safe);
        let not_asked = http_answer(asked.clone(), full.clone(), "DELETE", "https://api.io/v1/x").unwrap_err();
        assert!(not_asked.contains("manifest doesn't ask for DELETE https://api.io/v1/x"), "{not_asked}");
        assert!(http_answer(asked.clone(), full.clone(), "GET", "https://api.io/v2").unwrap_err().contains("manifest"));
        let not_granted =
            http_answer(asked.clone(), vec![grant("https://api.io", &[], "/v1")], "POST", "https://api.io/v1/x").unwrap_err();
        assert!(
            not_granted.contains(r#"add {"hosts":["https://api.io"],"methods":["POST"],"path_prefix":"/v1/x"} to grant.http"#),
            "{not_granted}"
        );
        let banned = http_answer(asked, full, "GET", "https://banned.io/v1/x").unwrap_err();
        assert!(banned.contains("host policy"), "{banned}");
    }

    #[test]
    fn sockets_state_telemetry_and_reveal_need_manifest_and_grant() {
        let manifest = manifest(json!({"sockets": ["tcp://db:5432"], "telemetry": ["logs"], "state_bytes": 100}));
        let policy = AddressPolicy::default();
        let none = Grant::default();
        let denied = Rights { manifest: &manifest, config: &Value::Null, grant: &none, policy: &policy };
        let db = Target::tcp("DB", 5432);
        assert!(denied.socket(&db).unwrap_err().contains(r#"add "tcp://db:5432" to grant.sockets"#));
        assert!(denied.telemetry(Signal::Logs).unwrap_err().contains("grant.telemetry"));
        assert!(denied.telemetry(Signal::Metrics).unwrap_err().contains("manifest"));
        assert!(denied.state_bytes().unwrap_err().contains("grant.state_bytes to 100"));
        assert!(denied.reveal("open").unwrap_err().contains("grant.reveal"));
        let some = Grant {
            sockets: vec!["tcp://db:5432?read-only=trusted".into()],
            telemetry: vec![Signal::Logs],
            state_bytes: 60,
            reveal: true,
            ..Grant::default()
        };
        let allowed = Rights { grant: &some, ..denied };
        assert!(allowed.socket(&db).unwrap().is_read_only);
        assert!(allowed.socket(&Target::tcp("db", 5433)).unwrap_err().contains("manifest"));
        assert_eq!((allowed.telemetry(Signal::Logs), allowed.state_bytes()), (Ok(()), Ok(60)));
        assert_eq!(allowed.reveal("open"), Ok(()));
        assert!(allowed.reveal("closed").unwrap_err().contains("reveal = true"));
    }
}
