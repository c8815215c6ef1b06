//! What the types of the manifest can't say: each finding is a sentence with its place.

use super::{HttpPermission, Kind, Manifest};
use crate::{grant::HostPattern, schema};
use model::limits;
use std::collections::BTreeSet;

/// Everything that is wrong with the manifest; empty when it is good.
pub(super) fn check(manifest: &Manifest) -> Vec<String> {
    let mut findings = Vec::new();
    identity(manifest, &mut findings);
    permissions(manifest, &mut findings);
    operations(manifest, &mut findings);
    ceilings(manifest, &mut findings);
    findings
}

fn identity(m: &Manifest, out: &mut Vec<String>) {
    let is_part = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b))
            && part.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
    };
    if m.id.split('/').count() < 2 || !m.id.split('/').all(is_part) || m.id.len() > 128 {
        out.push(format!("id {:?} must be publisher/name in a-z, 0-9, '-', '_' and '.'", m.id));
    }
    if !is_version(&m.version) {
        out.push(format!(
            "version {:?} must be three numbers such as 1.2.0, with a pre-release part if any, without a build part",
            m.version
        ));
    }
    if m.contract != "0.1" {
        out.push(format!("contract {:?} is unknown to this host, which has \"0.1\": build with an SDK of 0.1", m.contract));
    }
    if m.kinds.is_empty() {
        out.push(
            "kinds is empty: name at least one of detector, stream-detector, transform, action, source, webhook, sink".into(),
        );
    }
    schema_is_valid("config.schema", &m.config.schema, out);
    schema_is_valid("detector.params", &m.detector.params, out);
}

fn permissions(m: &Manifest, out: &mut Vec<String>) {
    let secrets: BTreeSet<&str> = m.secrets.iter().map(|s| s.name.as_str()).collect();
    if secrets.len() != m.secrets.len() {
        out.push("secrets: a name is declared twice".into());
    }
    for (i, secret) in m.secrets.iter().enumerate() {
        if let Some(inject) = &secret.inject {
            if inject.header.is_some() == inject.query.is_some() {
                out.push(format!("secrets[{i}].inject needs either header or query"));
            }
            if !inject.format.contains("{secret}") && !inject.format.contains("{basic:") {
                out.push(format!("secrets[{i}].inject.format {:?} holds neither {{secret}} nor {{basic:USER}}", inject.format));
            }
            host_is_valid(&format!("secrets[{i}].inject.host"), &inject.host, out);
        }
    }
    let known = |name: &Option<String>| name.as_deref().is_none_or(|n| secrets.contains(n));
    for (i, http) in m.permissions.http.iter().enumerate() {
        let HttpPermission { hosts, path_prefix, ca, client_cert, .. } = http;
        if hosts.is_empty() {
            out.push(format!("permissions.http[{i}].hosts is empty"));
        }
        hosts.iter().for_each(|host| host_is_valid(&format!("permissions.http[{i}].hosts"), host, out));
        if !path_prefix.starts_with('/') {
            out.push(format!("permissions.http[{i}].path_prefix {path_prefix:?} must begin with '/'"));
        }
        if !known(ca) || !known(client_cert) {
            out.push(format!("permissions.http[{i}]: ca and client_cert name a secret that [[secrets]] doesn't declare"));
        }
    }
    for (i, socket) in m.permissions.sockets.iter().enumerate() {
        if !socket.address.starts_with("tcp://") && !socket.address.starts_with("{config.") {
            out.push(format!("permissions.sockets[{i}] {:?} must be tcp://host:port", socket.address));
        }
        if !known(&socket.ca) || !known(&socket.client_cert) {
            out.push(format!("permissions.sockets[{i}]: ca and client_cert name a secret that [[secrets]] doesn't declare"));
        }
        if socket.starttls.as_deref().is_some_and(|s| s != "postgres") {
            out.push(format!("permissions.sockets[{i}].starttls: only \"postgres\" is known"));
        }
    }
    let is_pure = m.kinds.iter().all(|kind| kind.is_pure() || *kind == Kind::Lifecycle);
    if is_pure && (!m.permissions.http.is_empty() || !m.permissions.sockets.is_empty() || !m.secrets.is_empty()) {
        out.push(
            "detectors and transforms have neither network nor secrets: remove permissions.http, permissions.sockets and secrets"
                .into(),
        );
    }
}

fn operations(m: &Manifest, out: &mut Vec<String>) {
    let kinds: BTreeSet<&str> = m.effects.iter().map(|e| e.kind.as_str()).collect();
    let mut names = BTreeSet::new();
    for operation in &m.operations {
        let at = format!("operations.{}", operation.name);
        if !names.insert(operation.name.as_str()) {
            out.push(format!("{at} is declared twice"));
        }
        schema_is_valid(&format!("{at}.input"), &operation.input, out);
        schema_is_valid(&format!("{at}.output"), &operation.output, out);
        for kind in operation.effects.iter().filter(|k| !kinds.contains(k.as_str())) {
            out.push(format!("{at}.effects: {kind:?} has no [[effects]] entry"));
        }
        if operation.timeout.is_some_and(|t| t.0 > limits::ACTION_WALL_MS_CEILING) {
            out.push(format!("{at}.timeout is over {} ms", limits::ACTION_WALL_MS_CEILING));
        }
    }
    if m.kinds.contains(&Kind::Action) && m.operations.is_empty() {
        out.push("an action needs at least one [[operations]]".into());
    }
    for (i, effect) in m.effects.iter().enumerate() {
        if effect.path.as_deref().is_some_and(|p| !p.starts_with('/')) {
            out.push(format!("effects[{i}].path must begin with '/'"));
        }
        if effect.kind.is_empty() || effect.target.is_empty() {
            out.push(format!("effects[{i}] needs a kind and a target"));
        }
    }
}

fn ceilings(m: &Manifest, out: &mut Vec<String>) {
    let is_pure = m.kinds.iter().all(|kind| kind.is_pure() || *kind == Kind::Lifecycle);
    let (memory, cpu, wall) = if is_pure {
        (limits::DETECTOR_MEMORY_BYTES_MAX, limits::DETECTOR_CPU_MS_MAX, limits::DETECTOR_WALL_MS_MAX)
    } else {
        (limits::ACTION_MEMORY_BYTES_MAX, limits::ACTION_CPU_MS_MAX, limits::ACTION_WALL_MS_CEILING)
    };
    if m.limits.memory.is_some_and(|b| b.0 > memory as u64) {
        out.push(format!("limits.memory is over {memory} bytes"));
    }
    if m.limits.cpu.is_some_and(|c| c.0 > cpu) {
        out.push(format!("limits.cpu is over {cpu} ms"));
    }
    if m.limits.wall.is_some_and(|w| w.0 > wall) {
        out.push(format!("limits.wall is over {wall} ms"));
    }
    if m.limits.concurrency == Some(0) {
        out.push("limits.concurrency must be at least 1".into());
    }
}

fn schema_is_valid(at: &str, value: &serde_json::Value, out: &mut Vec<String>) {
    if let Err(why) = schema::Schema::compile(value) {
        out.push(format!("{at} is no JSON Schema: {why}"));
    }
}

fn host_is_valid(at: &str, host: &str, out: &mut Vec<String>) {
    // A templated host is known only with a config.
    if !host.contains("{config.")
        && let Err(why) = HostPattern::parse(host)
    {
        out.push(format!("{at}: {why}"));
    }
}

fn is_version(version: &str) -> bool {
    let (numbers, pre) = version.split_once('-').map_or((version, None), |(n, p)| (n, Some(p)));
    let is_number =
        |n: &str| !n.is_empty() && n.len() <= 9 && n.bytes().all(|b| b.is_ascii_digit()) && (n == "0" || !n.starts_with('0'));
    numbers.split('.').count() == 3
        && numbers.split('.').all(is_number)
        && pre.is_none_or(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-'))
}
