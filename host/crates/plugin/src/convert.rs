//! Between the model's types and the contract's. Times are milliseconds in a series of the model and
//! nanoseconds in the contract.

use crate::{
    bindings::import::{telemetry as wt, types as w},
    error::CallError,
    schema::FieldError,
};
use model::{
    Attributes, ErrorRecord, Finding, FindingStatus, LabelSet, LogRecord, RetryAdvice, Series, Span, SpanKind, SpanStatus,
    Timestamp,
};
use serde_json::Value;

const NANOS_PER_MS: i64 = 1_000_000;

pub(crate) fn nanos(time: Timestamp) -> u64 {
    u64::try_from(time.nanos()).unwrap_or(0)
}

pub(crate) fn timestamp(nanos: u64) -> Timestamp {
    Timestamp(i64::try_from(nanos).unwrap_or(i64::MAX))
}

pub(crate) fn labels(set: &LabelSet) -> Vec<w::Label> {
    set.iter().map(|(name, value)| w::Label { name: name.into(), value: value.into() }).collect()
}

pub(crate) fn pairs(labels: Vec<w::Label>) -> Vec<(String, String)> {
    labels.into_iter().map(|l| (l.name, l.value)).collect()
}

pub(crate) fn series(all: &[Series]) -> Vec<wt::Series> {
    all.iter()
        .map(|s| wt::Series {
            labels: labels(&s.labels),
            times: s.times.iter().map(|ms| u64::try_from(ms.saturating_mul(NANOS_PER_MS)).unwrap_or(0)).collect(),
            values: s.values.clone(),
        })
        .collect()
}

/// `fields` are looked up among the attributes, then the resource; `service`, `trace_id`, `span_id`, `scope` and
/// `severity_text` are known besides. What a record lacks is the empty text.
pub(crate) fn log_batch(records: &[LogRecord], fields: &[String]) -> wt::LogBatch {
    wt::LogBatch {
        times: records.iter().map(|r| nanos(r.time)).collect(),
        severities: records.iter().map(|r| r.severity_number).collect(),
        bodies: column(records.iter().map(|r| r.body.as_str())),
        fields: fields
            .iter()
            .map(|name| wt::FieldColumn {
                name: name.clone(),
                values: column(records.iter().map(|r| {
                    attribute(&r.attributes, &r.resource, name).unwrap_or_else(|| match name.as_str() {
                        "service" => r.service().to_owned(),
                        "trace_id" => hex::encode(&r.trace_id),
                        "span_id" => hex::encode(&r.span_id),
                        "scope" => r.scope.clone(),
                        "severity_text" => r.severity_text.clone(),
                        _ => String::new(),
                    })
                })),
            })
            .collect(),
    }
}

pub(crate) fn span_batch(spans: &[Span], fields: &[String]) -> wt::SpanBatch {
    wt::SpanBatch {
        starts: spans.iter().map(|s| nanos(s.start)).collect(),
        durations_ns: spans.iter().map(|s| nanos(s.end).saturating_sub(nanos(s.start))).collect(),
        trace_ids: fixed(spans.iter().map(|s| &s.trace_id[..]), 16),
        span_ids: fixed(spans.iter().map(|s| &s.span_id[..]), 8),
        parent_ids: fixed(spans.iter().map(|s| &s.parent_span_id[..]), 8),
        names: column(spans.iter().map(|s| s.name.as_str())),
        services: column(spans.iter().map(Span::service)),
        kinds: spans.iter().map(|s| kind(s.kind)).collect(),
        statuses: spans.iter().map(|s| status(s.status)).collect(),
        fields: fields
            .iter()
            .map(|name| wt::FieldColumn {
                name: name.clone(),
                values: column(spans.iter().map(|s| {
                    attribute(&s.attributes, &s.resource, name).unwrap_or_else(|| match name.as_str() {
                        "status_message" => s.status_message.clone(),
                        "scope" => s.scope.clone(),
                        _ => String::new(),
                    })
                })),
            })
            .collect(),
    }
}

/// As OpenTelemetry numbers them.
fn kind(kind: SpanKind) -> u8 {
    match kind {
        SpanKind::Unspecified => 0,
        SpanKind::Internal => 1,
        SpanKind::Server => 2,
        SpanKind::Client => 3,
        SpanKind::Producer => 4,
        SpanKind::Consumer => 5,
    }
}

fn status(status: SpanStatus) -> u8 {
    match status {
        SpanStatus::Unset => 0,
        SpanStatus::Ok => 1,
        SpanStatus::Error => 2,
    }
}

/// By its own name, else by the name it has as a label (`service.name` is `service_name`).
fn attribute(attributes: &Attributes, resource: &Attributes, name: &str) -> Option<String> {
    let as_label = |key: &str| {
        key.len() == name.len() && key.bytes().zip(name.bytes()).all(|(k, n)| k == n || (n == b'_' && !k.is_ascii_alphanumeric()))
    };
    let by_label = |map: &Attributes| map.iter().find(|(key, _)| as_label(key)).map(|(_, value)| value.to_text());
    let by_name = attributes.get(name).or_else(|| resource.get(name)).map(model::AttributeValue::to_text);
    by_name.or_else(|| by_label(attributes)).or_else(|| by_label(resource))
}

fn column<T: AsRef<str>>(texts: impl Iterator<Item = T>) -> wt::TextColumn {
    let mut column = wt::TextColumn { bytes: Vec::new(), ends: Vec::new() };
    for text in texts {
        column.bytes.extend_from_slice(text.as_ref().as_bytes());
        column.ends.push(u32::try_from(column.bytes.len()).unwrap_or(u32::MAX));
    }
    column
}

fn fixed<'a>(ids: impl Iterator<Item = &'a [u8]>, len: usize) -> Vec<u8> {
    ids.flat_map(|id| (0..len).map(|i| id.get(i).copied().unwrap_or(0)).collect::<Vec<_>>()).collect()
}

pub(crate) fn error_record(error: w::PluginError) -> ErrorRecord {
    ErrorRecord {
        code: error.code,
        message: error.message,
        retry: match error.retry {
            w::RetryAdvice::Never => RetryAdvice::Never,
            w::RetryAdvice::Now => RetryAdvice::Now,
            w::RetryAdvice::AfterMs(ms) => RetryAdvice::AfterMs(ms),
        },
        details: error.details.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default(),
    }
}

pub(crate) fn plugin_error(record: &ErrorRecord) -> w::PluginError {
    w::PluginError {
        code: record.code.clone(),
        message: record.message.clone(),
        retry: match record.retry {
            RetryAdvice::Never => w::RetryAdvice::Never,
            RetryAdvice::Now => w::RetryAdvice::Now,
            RetryAdvice::AfterMs(ms) => w::RetryAdvice::AfterMs(ms),
        },
        details: (!record.details.is_null()).then(|| record.details.to_string()),
    }
}

/// A guest's JSON; null for what it left out.
pub(crate) fn optional_json(text: Option<&str>) -> Result<Option<Value>, String> {
    text.map(|t| serde_json::from_str(t).map_err(|e| e.to_string())).transpose()
}

pub(crate) fn findings(function: &str, all: Vec<w::Finding>) -> Result<Vec<Finding>, CallError> {
    let invalid = |i: usize, field: &str, message: String| CallError::InvalidOutput {
        function: function.into(),
        errors: vec![FieldError { pointer: format!("/{i}/{field}"), message }],
    };
    all.into_iter()
        .enumerate()
        .map(|(i, f)| {
            let status = match f.status.as_str() {
                "firing" => FindingStatus::Firing,
                "holding" => FindingStatus::Holding,
                "ok" => FindingStatus::Ok,
                "no-data" => FindingStatus::NoData,
                other => return Err(invalid(i, "status", format!("{other:?} is none of firing, holding, ok, no-data"))),
            };
            if !(0.0..=1.0).contains(&f.score) {
                return Err(invalid(i, "score", format!("{} is not between 0 and 1", f.score)));
            }
            let evidence = if f.evidence.is_empty() { Ok(Value::Null) } else { serde_json::from_str(&f.evidence) };
            Ok(Finding {
                labels: LabelSet::from_pairs(pairs(f.labels)),
                status,
                score: f.score,
                severity: f.severity,
                summary: f.summary,
                value: f.value,
                evidence: evidence.map_err(|e| invalid(i, "evidence", format!("no JSON: {e}")))?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_hold_the_texts_end_to_end_and_only_the_fields_asked_for() {
        let record = |body: &str, user: &str| LogRecord {
            body: body.into(),
            attributes: [("user".to_owned(), user.into())].into_iter().collect(),
            resource: [("service.name".to_owned(), "s".into())].into_iter().collect(),
            ..LogRecord::default()
        };
        let batch = log_batch(&[record("é", "a"), record("", "bc")], &["user".into(), "none".into(), "service_name".into()]);
        assert_eq!((batch.bodies.bytes, batch.bodies.ends), ("é".as_bytes().to_vec(), vec![2, 2]));
        assert_eq!(batch.fields[0].values.ends, [1, 3]);
        assert_eq!(batch.fields[1].values.ends, [0, 0]);
        assert_eq!(batch.fields[2].values.bytes, b"ss");
        assert_eq!(fixed([&[1_u8, 2][..], &[]].into_iter(), 2), [1, 2, 0, 0]);
    }

    #[test]
    fn a_finding_out_of_range_is_the_plugins_fault_with_its_place() {
        let finding = |status: &str, score: f64| w::Finding {
            labels: vec![],
            status: status.into(),
            score,
            severity: String::new(),
            summary: String::new(),
            value: None,
            evidence: String::new(),
        };
        assert_eq!(findings("f", vec![finding("firing", 1.0)]).unwrap()[0].status, FindingStatus::Firing);
        for (bad, place) in
            [(finding("fireing", 0.0), "/0/status"), (finding("ok", 1.5), "/0/score"), (finding("ok", f64::NAN), "/0/score")]
        {
            assert!(findings("f", vec![bad]).unwrap_err().to_string().contains(place));
        }
    }
}
