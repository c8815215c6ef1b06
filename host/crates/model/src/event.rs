//! CloudEvents 1.0, the shape of everything on the event bus.

use crate::Timestamp;
use serde::{Deserialize, Serialize};

/// A CloudEvent in its JSON form. Extension attributes are flattened beside the standard ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub specversion: String,
    pub id: String,
    pub source: String,
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datacontenttype: Option<String>,
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub data: serde_json::Value,
    #[serde(flatten)]
    pub extensions: serde_json::Map<String, serde_json::Value>,
    /// When the host took it in; not part of the CloudEvent.
    #[serde(skip)]
    pub received: Timestamp,
}

impl Event {
    pub fn new(id: impl Into<String>, source: impl Into<String>, kind: impl Into<String>, data: serde_json::Value) -> Self {
        Self {
            specversion: "1.0".into(),
            id: id.into(),
            source: source.into(),
            kind: kind.into(),
            subject: None,
            time: None,
            datacontenttype: Some("application/json".into()),
            data,
            extensions: serde_json::Map::new(),
            received: Timestamp::default(),
        }
    }
}
