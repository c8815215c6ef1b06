//! JSON Schema as the host uses it: compiled once, errors as pointer and sentence.

use serde_json::Value;

/// One thing wrong with a JSON document.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FieldError {
    /// JSON pointer; empty for the whole document.
    pub pointer: String,
    pub message: String,
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.pointer.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.pointer, self.message) }
    }
}

/// Errors told at once; more would not be read.
const ERRORS_MAX: usize = 20;

#[derive(Debug)]
pub(crate) struct Schema(jsonschema::Validator);

impl Schema {
    /// Remote references are never fetched.
    pub(crate) fn compile(schema: &Value) -> Result<Self, String> {
        jsonschema::validator_for(schema).map(Self).map_err(|e| e.to_string())
    }

    pub(crate) fn errors(&self, value: &Value) -> Vec<FieldError> {
        self.0
            .iter_errors(value)
            .take(ERRORS_MAX)
            .map(|e| FieldError { pointer: e.instance_path().to_string(), message: e.to_string() })
            .collect()
    }
}
