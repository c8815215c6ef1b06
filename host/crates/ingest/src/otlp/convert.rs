//! Attributes and ids of OTLP in the model's shapes.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use model::{AttributeValue, Attributes, Timestamp, limits};
use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
};

pub(super) fn attributes(pairs: Vec<KeyValue>) -> Attributes {
    pairs.into_iter().filter_map(|kv| Some((kv.key, value(kv.value?)?))).collect()
}

/// An empty value says nothing. Depth is bounded by prost (100) and serde_json (128).
pub(super) fn value(any: AnyValue) -> Option<AttributeValue> {
    Some(match any.value? {
        Value::StringValue(s) => AttributeValue::String(s),
        Value::BoolValue(b) => AttributeValue::Bool(b),
        Value::IntValue(i) => AttributeValue::Int(i),
        Value::DoubleValue(d) => AttributeValue::Double(d),
        Value::ArrayValue(list) => AttributeValue::List(list.values.into_iter().filter_map(value).collect()),
        Value::KvlistValue(map) => AttributeValue::Map(attributes(map.values)),
        Value::BytesValue(b) => AttributeValue::String(STANDARD.encode(b)),
        // An index into a dictionary that only the profiles signal has.
        Value::StringValueStrindex(_) => return None,
    })
}

pub(super) fn resource(resource: Option<Resource>) -> Result<Attributes, String> {
    let attributes = attributes(resource.unwrap_or_default().attributes);
    check_count(attributes.len(), "its resource")?;
    Ok(attributes)
}

pub(super) fn check_count(count: usize, whose: &str) -> Result<(), String> {
    if count > limits::ATTRIBUTES_MAX {
        return Err(format!("{whose} has {count} attributes, {} are allowed", limits::ATTRIBUTES_MAX));
    }
    Ok(())
}

pub(super) fn scope(scope: Option<InstrumentationScope>) -> String {
    scope.unwrap_or_default().name
}

/// An id of exactly `length` bytes; none and one of zeros only are the same.
pub(super) fn id(id: Vec<u8>, length: usize, what: &str) -> Result<Vec<u8>, String> {
    if id.iter().all(|b| *b == 0) {
        return Ok(Vec::new());
    }
    if id.len() == length { Ok(id) } else { Err(format!("its {what} has {} bytes; it must have {length}", id.len())) }
}

/// Nanoseconds as OTLP writes them, unsigned; beyond the year 2262 nothing is meant.
pub(super) fn time(nanos: u64) -> Timestamp {
    Timestamp(i64::try_from(nanos).unwrap_or(i64::MAX))
}
