//! Telemetry as the OpenTelemetry and Prometheus data models have it.

use crate::{LabelSet, Timestamp};
use serde::{Deserialize, Serialize};

/// Prometheus' staleness marker: this exact NaN says that a series has ended.
pub const STALE_NAN_BITS: u64 = 0x7ff0_0000_0000_0002;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Signal {
    Metrics,
    Logs,
    Traces,
    Events,
}

/// One metric sample. `t` is milliseconds since the epoch, as in Prometheus.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub t: i64,
    pub v: f64,
}

/// A series as columns of equal length, ordered by time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Series {
    pub labels: LabelSet,
    pub times: Vec<i64>,
    pub values: Vec<f64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MetricKind {
    Counter,
    Gauge,
    Histogram,
    GaugeHistogram,
    Summary,
    Info,
    StateSet,
    #[default]
    Unknown,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetricMetadata {
    pub name: String,
    pub kind: MetricKind,
    pub help: String,
    pub unit: String,
}

/// An attribute value with its type kept, as OpenTelemetry's AnyValue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AttributeValue {
    Bool(bool),
    Int(i64),
    Double(f64),
    String(String),
    List(Vec<AttributeValue>),
    Map(Attributes),
}

impl AttributeValue {
    /// The value as one text: a string as it is, all else as JSON.
    pub fn to_text(&self) -> String {
        match self {
            Self::String(s) => s.clone(),
            other => serde_json::to_string(other).expect("attribute values have string keys only"),
        }
    }
}

impl From<&str> for AttributeValue {
    fn from(s: &str) -> Self {
        Self::String(s.into())
    }
}
impl From<String> for AttributeValue {
    fn from(s: String) -> Self {
        Self::String(s)
    }
}

pub type Attributes = indexmap::IndexMap<String, AttributeValue>;

/// A log record of the OpenTelemetry data model. `resource` holds what names the source
/// (`service.name`, …); Loki stream labels land there too.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LogRecord {
    pub time: Timestamp,
    pub observed: Timestamp,
    /// 1 to 24 as OpenTelemetry numbers them; 0 is unknown.
    pub severity_number: u8,
    pub severity_text: String,
    pub body: String,
    pub resource: Attributes,
    pub scope: String,
    pub attributes: Attributes,
    /// 16 bytes, or empty.
    pub trace_id: Vec<u8>,
    /// 8 bytes, or empty.
    pub span_id: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpanKind {
    #[default]
    Unspecified,
    Internal,
    Server,
    Client,
    Producer,
    Consumer,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpanStatus {
    #[default]
    Unset,
    Ok,
    Error,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Span {
    pub trace_id: Vec<u8>,
    pub span_id: Vec<u8>,
    pub parent_span_id: Vec<u8>,
    pub trace_state: String,
    pub name: String,
    pub kind: SpanKind,
    pub start: Timestamp,
    pub end: Timestamp,
    pub status: SpanStatus,
    pub status_message: String,
    pub resource: Attributes,
    pub scope: String,
    pub attributes: Attributes,
    pub events: Vec<SpanEvent>,
    pub links: Vec<SpanLink>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SpanEvent {
    pub time: Timestamp,
    pub name: String,
    pub attributes: Attributes,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SpanLink {
    pub trace_id: Vec<u8>,
    pub span_id: Vec<u8>,
    pub attributes: Attributes,
}

/// The text of `service.name`, or `unknown_service` as OpenTelemetry says.
pub fn service_name(resource: &Attributes) -> &str {
    match resource.get("service.name") {
        Some(AttributeValue::String(s)) => s,
        _ => "unknown_service",
    }
}

impl LogRecord {
    pub fn service(&self) -> &str {
        service_name(&self.resource)
    }
}
impl Span {
    pub fn service(&self) -> &str {
        service_name(&self.resource)
    }
}
