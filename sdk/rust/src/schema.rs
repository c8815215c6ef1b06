//! JSON Schemas of a plugin, derived from its types on the author's machine and kept in `schema.json` beside
//! `plugin.toml`, from where they go into the manifest. Kept in a file, so that a change of the contract with
//! workflows shows in review.

use schemars::{JsonSchema, Schema, generate::SchemaSettings};
use serde_json::{Map, Value, json};
use std::path::Path;

/// The environment variable that has [`check`] write the file instead of comparing.
pub const WRITE: &str = "ORCHESTRIX_WRITE_SCHEMAS";

/// `{"config": …, "operations": {name: {"input": …, "output": …}}}` or `{"params": …}`.
#[derive(Clone, Debug, PartialEq)]
pub struct Schemas(Map<String, Value>);

impl Schemas {
    pub fn action<Config: JsonSchema>() -> Self {
        let mut map = Map::new();
        map.insert("config".into(), of::<Config>());
        map.insert("operations".into(), json!({}));
        Self(map)
    }

    pub fn detector<Params: JsonSchema>() -> Self {
        let mut map = Map::new();
        map.insert("params".into(), of::<Params>());
        Self(map)
    }

    #[must_use]
    pub fn operation<Input: JsonSchema, Output: JsonSchema>(mut self, name: &str) -> Self {
        self.0["operations"][name] = json!({ "input": of::<Input>(), "output": of_output::<Output>() });
        self
    }

    pub fn operation_names(&self) -> Vec<&str> {
        self.0.get("operations").and_then(Value::as_object).map(|o| o.keys().map(String::as_str).collect()).unwrap_or_default()
    }
}

/// Compares `schema.json` in `folder` with what the types say, and the operations of `plugin.toml` with the code's.
/// With [`WRITE`] in the environment the file is written first.
pub fn check(folder: &Path, schemas: &Schemas) -> Result<(), String> {
    compare(folder, schemas, std::env::var_os(WRITE).is_some())
}

fn compare(folder: &Path, schemas: &Schemas, is_write: bool) -> Result<(), String> {
    let path = folder.join("schema.json");
    let derived = serde_json::to_string_pretty(&schemas.0).expect("a schema is JSON") + "\n";
    if is_write {
        std::fs::write(&path, &derived).map_err(|e| format!("schema.json can't be written: {e}"))?;
    }
    let kept = std::fs::read_to_string(&path).map_err(|e| format!("schema.json can't be read: {e}"))?;
    let kept: Value = serde_json::from_str(&kept).map_err(|e| format!("schema.json is no JSON: {e}"))?;
    if kept != Value::Object(schemas.0.clone()) {
        return Err("schema.json is not what the types say".into());
    }
    let manifest = std::fs::read_to_string(folder.join("plugin.toml")).map_err(|e| format!("plugin.toml can't be read: {e}"))?;
    let mut declared = operations_of(&manifest);
    let mut coded: Vec<String> = schemas.operation_names().into_iter().map(Into::into).collect();
    declared.sort();
    coded.sort();
    if declared != coded {
        return Err(format!("plugin.toml declares the operations {declared:?}, the code has {coded:?}"));
    }
    Ok(())
}

/// The `name` of each `[[operations]]` table. Only xtask and the host read the whole manifest; this much needs no TOML parser.
fn operations_of(manifest: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut is_inside = false;
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            is_inside = line == "[[operations]]";
        } else if is_inside
            && let Some((key, value)) = line.split_once('=')
            && key.trim() == "name"
        {
            names.push(value.trim().trim_matches('"').to_owned());
        }
    }
    names
}

fn of<T: JsonSchema>() -> Value {
    plain(SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>())
}

fn of_output<T: JsonSchema>() -> Value {
    plain(SchemaSettings::draft2020_12().for_serialize().into_generator().into_root_schema_for::<T>())
}

fn plain(schema: Schema) -> Value {
    let mut value = schema.to_value();
    if let Some(object) = value.as_object_mut() {
        object.remove("$schema");
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_read_from_their_own_tables_only() {
        let manifest = "name = \"x\"\n[[operations]]\nname = \"post\"\ntitle = \"P\"\n[[operations]]\n  name=\"get\"\n[[secrets]]\nname = \"token\"\n";
        assert_eq!(operations_of(manifest), ["post", "get"]);
        assert!(operations_of("").is_empty());
    }

    #[test]
    fn a_missing_or_stale_file_is_named() {
        let folder = std::env::temp_dir().join(format!("orchestrix-sdk-schema-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let schemas = Schemas::action::<u8>().operation::<String, bool>("say");
        assert!(compare(&folder, &schemas, false).unwrap_err().contains("can't be read"));
        std::fs::write(folder.join("schema.json"), "{}").unwrap();
        assert_eq!(compare(&folder, &schemas, false).unwrap_err(), "schema.json is not what the types say");
        std::fs::write(folder.join("schema.json"), serde_json::to_string(&schemas.0).unwrap()).unwrap();
        std::fs::write(folder.join("plugin.toml"), "[[operations]]\nname = \"shout\"\n").unwrap();
        assert!(compare(&folder, &schemas, false).unwrap_err().contains("shout"));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
