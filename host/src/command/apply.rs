//! `orchestrix apply`: every YAML document becomes one PUT.

use super::Context;
use crate::client::{Failure, Result, Send, segment};
use anyhow::{Context as _, anyhow, bail};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Bytes of one file; a component has its own command.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// One document, ready to be sent.
#[derive(Debug, PartialEq)]
pub struct Document {
    pub kind: String,
    pub name: String,
    pub path: String,
    pub body: Body,
    /// Line in the file at which it begins, from 1.
    pub line: usize,
}

#[derive(Debug, PartialEq)]
pub enum Body {
    Json(Value),
    /// A workflow goes as it was written, so that mistakes are told with their lines.
    Workflow(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Resource {
    api_version: String,
    kind: String,
    metadata: Metadata,
    #[serde(default)]
    spec: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    name: String,
}

/// Kinds and the plural under which the API keeps them.
pub const KINDS: &[(&str, &str)] = &[
    ("Monitor", "monitors"),
    ("Plugin", "plugins"),
    ("Secret", "secrets"),
    ("Guardrail", "guardrails"),
    ("Silence", "silences"),
    ("Scrape", "scrapes"),
    ("Webhook", "webhooks"),
];

pub async fn run(context: &Context, files: &[PathBuf], is_dry: bool) -> Result<()> {
    let mut documents = Vec::new();
    for file in files {
        let text = read(file)?;
        let base = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let found = parse(&text, base, &|name| std::env::var(name).ok()).with_context(|| format!("{}", file.display()))?;
        documents.extend(found.into_iter().map(|d| (file, d)));
    }
    // What others refer to comes first, whatever the order in the file.
    documents.sort_by_key(|(_, d)| rank(&d.kind));
    let mut applied = Vec::new();
    let mut failed = None;
    for (file, document) in documents {
        let label = format!("{} {}", document.kind.to_lowercase(), document.name);
        if is_dry {
            context.say(format_args!("would apply {label}"));
            applied.push(json!({ "kind": document.kind, "name": document.name, "path": document.path }));
            continue;
        }
        let send = match document.body {
            Body::Json(value) => Send::Json(value),
            Body::Workflow(text) => Send::Raw { content_type: "application/yaml", bytes: text.into_bytes() },
        };
        match context.client.call(Method::PUT, &document.path, &[], send).await {
            Ok(_) => {
                context.say(format_args!("applied {label}"));
                applied.push(json!({ "kind": document.kind, "name": document.name }));
            }
            // Another document may well be right: say all that is wrong in one go.
            Err(error @ (Failure::Refused(_) | Failure::NotFound(_))) => {
                eprintln!("{}, document at line {}: {label}: {error}", file.display(), document.line);
                failed = Some(error);
            }
            Err(other) => return Err(other),
        }
    }
    if context.format != crate::output::Format::Table {
        context.print(&json!({ "applied": applied }), &[]);
    }
    match failed {
        None => Ok(()),
        Some(_) => Err(Failure::Refused("not everything was applied; see above".into())),
    }
}

/// Cuts a file into documents and reads each.
pub fn parse(text: &str, base: &Path, environment: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<Vec<Document>> {
    let mut documents = Vec::new();
    for (line, text) in split(text) {
        if text.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#')) {
            continue;
        }
        let document = read_document(&text, base, environment).map_err(|e| anyhow!("document at line {line}: {e:#}"))?;
        documents.push(Document { line, ..document });
    }
    if documents.is_empty() {
        bail!("there is no document in it");
    }
    Ok(documents)
}

fn read_document(text: &str, base: &Path, environment: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<Document> {
    let value: Value = serde_saphyr::from_str(text).map_err(|e| anyhow!("not YAML: {e}"))?;
    if value.pointer("/document/dsl").is_some() {
        let name = value.pointer("/document/name").and_then(Value::as_str).context("a workflow needs document.name")?;
        let path = format!("/api/v1/workflows/{}", segment(name));
        return Ok(Document { kind: "Workflow".into(), name: name.into(), path, body: Body::Workflow(text.into()), line: 0 });
    }
    let resource: Resource = serde_path_to_error::deserialize(value).map_err(|e| {
        let message = e.inner().to_string();
        match api::error::unknown_field(&message) {
            Some((field, Some(near))) => anyhow!("unknown field `{field}`: did you mean `{near}`?"),
            _ => anyhow!("{}: {message}", e.path()),
        }
    })?;
    if resource.api_version != "orchestrix/v1" {
        bail!("apiVersion is {:?}; this version reads orchestrix/v1", resource.api_version);
    }
    let kinds: Vec<&str> = KINDS.iter().map(|(kind, _)| *kind).collect();
    let Some((kind, plural)) = KINDS.iter().find(|(kind, _)| *kind == resource.kind) else {
        let hint = api::error::nearest(&resource.kind, &kinds).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
        bail!("kind {:?} is none of {}{hint}", resource.kind, kinds.join(", "));
    };
    let name = resource.metadata.name;
    let spec = if *kind == "Secret" { secret(resource.spec, base, environment)? } else { resource.spec };
    Ok(Document {
        path: format!("/api/v1/{plural}/{}", segment(&name)),
        kind: resource.kind,
        name,
        body: Body::Json(spec),
        line: 0,
    })
}

/// The value of a secret may stand in the environment or in a file beside the YAML.
fn secret(mut spec: Value, base: &Path, environment: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<Value> {
    let fields = spec.as_object_mut().context("a Secret needs a spec with value, valueFromEnv or valueFromFile")?;
    let from_environment = fields.remove("valueFromEnv");
    let from_file = fields.remove("valueFromFile");
    if [fields.contains_key("value"), from_environment.is_some(), from_file.is_some()].iter().filter(|given| **given).count() != 1
    {
        bail!("a Secret needs exactly one of value, valueFromEnv and valueFromFile");
    }
    if let Some(variable) = from_environment {
        let variable = variable.as_str().context("valueFromEnv is the name of a variable")?.to_owned();
        let value = environment(&variable).with_context(|| format!("the variable {variable} is not set"))?;
        fields.insert("value".into(), value.into());
    }
    if let Some(file) = from_file {
        let file = base.join(file.as_str().context("valueFromFile is a path")?);
        let value = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        fields.insert("value".into(), value.trim_end_matches(['\r', '\n']).into());
    }
    Ok(spec)
}

/// Documents with the line at which each begins.
fn split(text: &str) -> Vec<(usize, String)> {
    let mut documents = vec![(1, String::new())];
    for (i, line) in text.lines().enumerate() {
        if line == "---" || line.starts_with("--- ") {
            documents.push((i + 2, String::new()));
            continue;
        }
        if line == "..." {
            continue;
        }
        let (_, current) = documents.last_mut().expect("it begins with one");
        current.push_str(line);
        current.push('\n');
    }
    documents
}

fn rank(kind: &str) -> usize {
    ["Secret", "Plugin", "Guardrail", "Scrape", "Webhook", "Silence", "Workflow", "Monitor"]
        .iter()
        .position(|k| *k == kind)
        .unwrap_or(9)
}

fn read(file: &Path) -> anyhow::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().take(FILE_BYTES_MAX).read_to_string(&mut text).context("cannot read standard input")?;
    } else {
        let opened = std::fs::File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
        opened.take(FILE_BYTES_MAX).read_to_string(&mut text).with_context(|| format!("cannot read {}", file.display()))?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> anyhow::Result<Vec<Document>> {
        parse(text, Path::new("."), &|name| (name == "SLACK").then(|| "xoxb".to_owned()))
    }

    #[test]
    fn a_file_may_hold_resources_and_workflows() {
        let text = "# all of it\napiVersion: orchestrix/v1\nkind: Monitor\nmetadata: {name: high-cpu}\nspec: {every: 15s}\n---\n\
                    document: {dsl: 1.0.3, namespace: d, name: scale, version: 0.1.0}\ndo: []\n---\n\
                    apiVersion: orchestrix/v1\nkind: Secret\nmetadata: {name: slack}\nspec: {valueFromEnv: SLACK, hosts: ['https://slack.com']}\n";
        let documents = parsed(text).unwrap();
        assert_eq!(
            documents.iter().map(|d| (d.path.as_str(), d.line)).collect::<Vec<_>>(),
            [("/api/v1/monitors/high-cpu", 1), ("/api/v1/workflows/scale", 7), ("/api/v1/secrets/slack", 10)]
        );
        assert!(matches!(&documents[1].body, Body::Workflow(text) if text.starts_with("document:")));
        assert_eq!(documents[2].body, Body::Json(json!({ "hosts": ["https://slack.com"], "value": "xoxb" })));
    }

    #[test]
    fn mistakes_are_told_with_their_document_and_the_nearest_word() {
        for (text, says) in [
            ("apiVersion: orchestrix/v1\nkind: Moniter\nmetadata: {name: x}\n", "did you mean Monitor?"),
            ("apiVersion: orchestrix/v1\nkind: Monitor\nmetdata: {name: x}\n", "did you mean `metadata`?"),
            ("apiVersion: v1\nkind: Monitor\nmetadata: {name: x}\n", "orchestrix/v1"),
            ("apiVersion: orchestrix/v1\nkind: Secret\nmetadata: {name: x}\nspec: {}\n", "exactly one of"),
            ("apiVersion: orchestrix/v1\nkind: Secret\nmetadata: {name: x}\nspec: {valueFromEnv: NONE}\n", "NONE is not set"),
            ("a: [1", "not YAML"),
            ("# nothing\n---\n", "no document"),
        ] {
            let error = format!("{:#}", parsed(text).unwrap_err());
            assert!(error.contains(says), "{text:?} says {error}");
        }
    }
}
