//! From a buffered request to the effect it performs: the manifest says which method and path belong to which
//! kind of effect, and how the target is spelt. What a guest claims is compared with what is derived here.

use crate::{grant::Target, manifest::EffectRule};
use serde_json::Value;
use std::collections::BTreeMap;

/// What is known of a request before any secret is in it.
pub(crate) struct Facts<'a> {
    pub method: &'a str,
    pub target: &'a Target,
    pub path: &'a str,
    pub query: &'a str,
    pub body: &'a [u8],
}

/// The target of the effect, if the rule covers the request.
pub(crate) fn derive(rule: &EffectRule, facts: &Facts<'_>) -> Option<String> {
    let is_method = rule.methods.is_empty() || rule.methods.iter().any(|m| m == "*" || m.eq_ignore_ascii_case(facts.method));
    if !is_method {
        return None;
    }
    let names = match_path(rule.path.as_deref()?, facts.path)?;
    fill(&rule.target, facts, &names)
}

/// A socket's effect has no path: its target is the address.
pub(crate) fn socket_target(target: &Target) -> String {
    format!("tcp://{}:{}", target.host, target.port)
}

fn match_path<'t>(template: &'t str, path: &str) -> Option<BTreeMap<&'t str, String>> {
    let mut names = BTreeMap::new();
    let mut segments = path.split('/');
    let mut parts = template.split('/');
    loop {
        match (parts.next(), segments.next()) {
            (None, None) => return Some(names),
            (Some(part), Some(segment)) => match part.strip_prefix('{').and_then(|p| p.strip_suffix('}')) {
                Some(name) if name.ends_with("..") => {
                    let rest: Vec<&str> = std::iter::once(segment).chain(segments).collect();
                    names.insert(name.trim_end_matches('.'), rest.join("/"));
                    return parts.next().is_none().then_some(names);
                }
                Some(name) if !segment.is_empty() => {
                    names.insert(name, percent_encoding::percent_decode_str(segment).decode_utf8_lossy().into_owned());
                }
                None if part == segment => {}
                _ => return None,
            },
            _ => return None,
        }
    }
}

fn fill(template: &str, facts: &Facts<'_>, names: &BTreeMap<&str, String>) -> Option<String> {
    let mut body: Option<Value> = None;
    let mut out = String::new();
    let mut rest = template;
    while let Some(start) = rest.find('{') {
        let end = start + rest[start..].find('}')?;
        out.push_str(&rest[..start]);
        let name = &rest[start + 1..end];
        let value = match name {
            "scheme" => facts.target.scheme.clone(),
            "host" => facts.target.host.clone(),
            "port" => facts.target.port.to_string(),
            "path" => facts.path.to_owned(),
            "method" => facts.method.to_owned(),
            _ => match name.split_once('.') {
                Some(("query", key)) => {
                    url::form_urlencoded::parse(facts.query.as_bytes()).find(|(k, _)| k == key)?.1.into_owned()
                }
                Some(("body", pointer)) => {
                    let body = body.get_or_insert_with(|| serde_json::from_slice(facts.body).unwrap_or_default());
                    match pointer.split('.').try_fold(&*body, |value, key| value.get(key))? {
                        Value::String(text) => text.clone(),
                        Value::Number(number) => number.to_string(),
                        _ => return None,
                    }
                }
                _ => names.get(name)?.clone(),
            },
        };
        out.push_str(&value);
        rest = &rest[end + 1..];
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn derived(path: &str, target: &str, request: &str, body: &str) -> Option<String> {
        let rule = EffectRule { kind: "k".into(), methods: vec!["PATCH".into()], path: Some(path.into()), target: target.into() };
        let uri: http::Uri = request.parse().unwrap();
        let target = Target::http(&uri).unwrap();
        let facts =
            Facts { method: "PATCH", target: &target, path: uri.path(), query: uri.query().unwrap_or(""), body: body.as_bytes() };
        derive(&rule, &facts)
    }

    #[test]
    fn the_target_comes_from_path_query_and_body() {
        let scale = "/apis/apps/v1/namespaces/{ns}/deployments/{name}/scale";
        let url = "https://k8s:6443/apis/apps/v1/namespaces/shop/deployments/cart/scale";
        assert_eq!(derived(scale, "{host}/{ns}/deployment/{name}", url, "").as_deref(), Some("k8s/shop/deployment/cart"));
        assert_eq!(
            derived("/{all..}", "{scheme}://{host}:{port}/{all}", "http://h/a/b?x=1", "").as_deref(),
            Some("http://h:80/a/b")
        );
        assert_eq!(
            derived("/post", "chat/{body.channel.id}/{query.t}", "https://s/post?t=7", r#"{"channel":{"id":"C1"}}"#).as_deref(),
            Some("chat/C1/7")
        );
    }

    #[test]
    fn what_a_rule_does_not_cover_has_no_target() {
        assert_eq!(derived("/a/{x}", "{x}", "https://h/a/b/c", ""), None);
        assert_eq!(derived("/a/{x}", "{x}", "https://h/a/", ""), None);
        assert_eq!(derived("/post", "{body.channel}", "https://h/post", "no json"), None);
        assert_eq!(derived("/post", "{body.channel}", "https://h/post", r#"{"channel":["a"]}"#), None);
        assert_eq!(derived("/post", "{unclosed", "https://h/post", ""), None);
    }
}
