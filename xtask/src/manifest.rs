//! From `plugin.toml` and the derived `schema.json` to the manifest that a component carries.
//!
//! The host is the judge of manifests; here only what the two files must agree on is checked.

use crate::{guest, project::Project, shell};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::{fs, path::Path};

/// Has the SDK's test write the file instead of comparing.
const WRITE_SCHEMAS: &str = "ORCHESTRIX_WRITE_SCHEMAS";

/// The manifest of the plugin in `folder`.
pub fn read(folder: &Path) -> Result<Value> {
    let path = folder.join("plugin.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("{} can't be read", path.display()))?;
    let table: toml::Table = toml::from_str(&text).with_context(|| format!("{} is no TOML", path.display()))?;
    let manifest = serde_json::to_value(table).with_context(|| format!("{} can't be JSON", path.display()))?;
    let path = folder.join("schema.json");
    let schemas = match fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))?,
        Err(_) => Value::Null,
    };
    merge(manifest, &schemas).with_context(|| format!("{}", folder.display()))
}

/// Runs the native tests of every plugin with leave to write `schema.json`.
pub fn write_schemas(project: &Project) -> Result<()> {
    let mut command = shell::cargo();
    command.current_dir(&project.root).env(WRITE_SCHEMAS, "1").args(["test", "--quiet"]);
    let mut count = 0;
    for guest in guest::find(project)? {
        // A plugin without the SDK (a hostile guest, say) writes its schemas by hand.
        let is_native = fs::read_to_string(guest.folder.join("Cargo.toml"))?.contains("orchestrix-sdk");
        if is_native {
            count += 1;
            command.args(["-p", &guest.package]);
        }
    }
    if count == 0 {
        return Ok(());
    }
    shell::run(command.arg("the_manifest_and_the_types_agree"))
}

fn merge(mut manifest: Value, schemas: &Value) -> Result<Value> {
    if let Some(config) = schemas.get("config") {
        if manifest.pointer("/config/schema").is_some() {
            bail!("plugin.toml has config.schema, which schema.json derives from the code: remove it");
        }
        *entry(&mut manifest, "config", "schema") = config.clone();
    }
    if let Some(params) = schemas.get("params") {
        if manifest.pointer("/detector/params").is_some() {
            bail!("plugin.toml has detector.params, which schema.json derives from the code: remove it");
        }
        *entry(&mut manifest, "detector", "params") = params.clone();
    }
    let Some(derived) = schemas.get("operations").and_then(Value::as_object) else { return Ok(manifest) };
    let mut left: Vec<&String> = derived.keys().collect();
    for operation in manifest.get_mut("operations").and_then(Value::as_array_mut).into_iter().flatten() {
        let name = operation.get("name").and_then(Value::as_str).context("an operation has no name")?.to_owned();
        let Some(schema) = derived.get(&name) else {
            bail!("plugin.toml declares the operation {name:?}, which the code doesn't have; run: cargo xtask schemas");
        };
        operation["input"] = schema["input"].clone();
        operation["output"] = schema["output"].clone();
        left.retain(|known| **known != name);
    }
    if let Some(name) = left.first() {
        bail!("the code has the operation {name:?}, which plugin.toml doesn't declare: add an [[operations]] table for it");
    }
    Ok(manifest)
}

fn entry<'a>(manifest: &'a mut Value, table: &str, key: &str) -> &'a mut Value {
    let table = &mut manifest[table];
    if !table.is_object() {
        *table = json!({});
    }
    &mut table[key]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_land_where_the_host_reads_them() {
        let manifest = json!({ "id": "a/b", "operations": [{ "name": "post", "risk": "low" }] });
        let schemas =
            json!({ "config": { "type": "object" }, "operations": { "post": { "input": { "x": 1 }, "output": true } } });
        let merged = merge(manifest, &schemas).unwrap();
        assert_eq!(merged["config"]["schema"], json!({ "type": "object" }));
        assert_eq!(merged["operations"][0], json!({ "name": "post", "risk": "low", "input": { "x": 1 }, "output": true }));
        let merged = merge(json!({ "id": "a/b" }), &json!({ "params": { "type": "object" } })).unwrap();
        assert_eq!(merged["detector"]["params"], json!({ "type": "object" }));
        assert_eq!(merge(json!({ "id": "a/b" }), &Value::Null).unwrap(), json!({ "id": "a/b" }));
    }

    #[test]
    fn two_sources_of_one_schema_and_unequal_operations_are_refused() {
        let post = json!({ "operations": { "post": { "input": {}, "output": {} } } });
        for (manifest, schemas, said) in [
            (json!({ "config": { "schema": {} } }), json!({ "config": {} }), "remove it"),
            (json!({ "detector": { "params": {} } }), json!({ "params": {} }), "remove it"),
            (json!({ "operations": [{ "name": "get" }] }), post.clone(), "which the code doesn't have"),
            (json!({}), post, "which plugin.toml doesn't declare"),
            (json!({ "operations": [{}] }), json!({ "operations": {} }), "has no name"),
        ] {
            let error = merge(manifest, &schemas).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
