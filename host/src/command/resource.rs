//! `orchestrix get` and `delete`: any resource by kind and name.

use super::Context;
use crate::client::{Failure, Result, Send, segment};
use reqwest::Method;

struct Kind {
    /// Names a person may type.
    names: &'static [&'static str],
    path: &'static str,
    columns: &'static [&'static str],
    can_delete: bool,
}

const fn kind(names: &'static [&'static str], path: &'static str, columns: &'static [&'static str], can_delete: bool) -> Kind {
    Kind { names, path, columns, can_delete }
}

const KINDS: &[Kind] = &[
    kind(&["monitor", "monitors"], "/api/v1/monitors", &["name", "spec/detector", "spec/every", "spec/query"], true),
    kind(&["plugin", "plugins"], "/api/v1/plugins", &["name", "plugin", "version", "enabled"], true),
    kind(&["package", "packages"], "/api/v1/packages", &["plugin", "version", "bytes", "digest"], false),
    kind(&["secret", "secrets"], "/api/v1/secrets", &["name", "hosts", "updated"], true),
    kind(&["guardrail", "guardrails"], "/api/v1/guardrails", &["name", "spec"], true),
    kind(&["silence", "silences"], "/api/v1/silences", &["name", "status", "endsAt", "comment"], true),
    kind(&["scrape", "scrapes"], "/api/v1/scrapes", &["name", "spec"], true),
    kind(&["webhook", "webhooks"], "/api/v1/webhooks", &["name", "spec"], true),
    kind(&["workflow", "workflows"], "/api/v1/workflows", &["name", "version", "title"], true),
    kind(&["run", "runs"], "/api/v1/runs", &["id", "workflow", "status", "started", "ended"], false),
    kind(
        &["alert", "alerts"],
        "/api/v1/alerts",
        &["labels/alertname", "state", "severity", "activeAt", "annotations/summary", "id"],
        false,
    ),
    kind(&["event", "events"], "/api/v1/events", &["time", "type", "source", "subject", "id"], false),
    kind(
        &["ledger"],
        "/api/v1/ledger",
        &["id", "at", "entry", "body/effect/kind", "body/effect/target", "body/caller/installation"],
        false,
    ),
    kind(&["audit"], "/api/v1/audit", &["at", "actor", "action", "target"], false),
    kind(&["token", "tokens"], "/api/v1/tokens", &["id", "name", "role", "expires", "revoked"], true),
];

pub async fn get(context: &Context, kind: &str, name: Option<&str>) -> Result<()> {
    let kind = find(kind)?;
    let mut value = match name {
        None => context.client.get(kind.path).await?,
        Some(name) => context.client.get(&format!("{}/{}", kind.path, segment(name))).await?,
    };
    // Prometheus' shape of alerts: status, data, alerts.
    if let Some(alerts) = value.pointer_mut("/data/alerts") {
        value = alerts.take();
    }
    context.print(&value, if name.is_none() { kind.columns } else { &[] });
    Ok(())
}

pub async fn delete(context: &Context, kind: &str, name: &str) -> Result<()> {
    let kind = find(kind)?;
    if !kind.can_delete {
        return Err(Failure::Refused(format!("{} cannot be deleted", kind.names.last().unwrap_or(&""))));
    }
    context.client.call(Method::DELETE, &format!("{}/{}", kind.path, segment(name)), &[], Send::Nothing).await?;
    context.say(format_args!("deleted {} {name}", kind.names[0]));
    Ok(())
}

fn find(word: &str) -> Result<&'static Kind> {
    let lower = word.to_lowercase();
    KINDS.iter().find(|k| k.names.contains(&lower.as_str())).ok_or_else(|| {
        let known: Vec<&str> = KINDS.iter().map(|k| k.names[0]).collect();
        let hint = api::error::nearest(&lower, &known).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
        Failure::Refused(format!("kind {word:?} is none of {}{hint}", known.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_may_be_singular_plural_or_capital_and_a_typo_is_helped() {
        assert_eq!(find("Monitors").unwrap().path, "/api/v1/monitors");
        let error = find("moniter").err().unwrap().to_string();
        assert!(error.contains("did you mean monitor?"), "{error}");
    }

    #[test]
    fn what_can_be_applied_can_be_shown_and_deleted() {
        for (applied, plural) in super::super::apply::KINDS {
            let kind = find(applied).unwrap();
            assert!(kind.can_delete && kind.path.ends_with(plural), "{applied}");
        }
    }
}
