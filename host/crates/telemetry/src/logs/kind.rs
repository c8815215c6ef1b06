//! What a log record is to the store: its bytes, stream labels, fields and limits.

use crate::store::codec::{self, Malformed, put_attributes, put_bytes, put_i64, put_u64};
use crate::store::{Kind, decode_record, label_name};
use model::{AttributeValue, Attributes, LabelSet, LogRecord, Timestamp, limits};
use std::borrow::Cow;

/// Set to true on a record whose line was cut to `limits::LOG_LINE_BYTES_MAX`.
pub const TRUNCATED_ATTRIBUTE: &str = "log.truncated";

#[derive(Debug)]
pub enum LogKind {}

/// The band's lowest severity number; 0 for unknown.
pub fn severity_band(severity_number: u8) -> u8 {
    match severity_number {
        1..=24 => (severity_number - 1) / 4 * 4 + 1,
        _ => 0,
    }
}

/// `trace`, `debug`, `info`, `warn`, `error`, `fatal` or `unknown`.
pub fn severity_level(severity_number: u8) -> &'static str {
    match severity_band(severity_number) {
        1 => "trace",
        5 => "debug",
        9 => "info",
        13 => "warn",
        17 => "error",
        21 => "fatal",
        _ => "unknown",
    }
}

/// The number, or what the text says when there is none.
fn severity(record: &LogRecord) -> u8 {
    if record.severity_number != 0 {
        return record.severity_number;
    }
    let text = record.severity_text.as_bytes();
    let begins = |word: &str| text.len() >= word.len() && text[..word.len()].eq_ignore_ascii_case(word.as_bytes());
    let known = [
        ("trace", 1),
        ("debug", 5),
        ("info", 9),
        ("notice", 10),
        ("warn", 13),
        ("err", 17),
        ("crit", 18),
        ("alert", 19),
        ("fatal", 21),
        ("emerg", 21),
        ("panic", 21),
    ];
    known.iter().find(|(word, _)| begins(word)).map_or(0, |(_, number)| *number)
}

/// The labels of a record's stream: its resource attributes under label names, and `level`
/// unless the resource has one.
pub fn stream_labels(record: &LogRecord) -> LabelSet {
    LogKind::stream(record)
}

/// A resource as labels.
pub fn resource_labels(resource: &Attributes) -> LabelSet {
    LabelSet::from_pairs(resource.iter().map(|(name, value)| (label_name(name).into_owned(), value.to_text())))
}

/// Limits that logs, spans and events share.
pub fn admit_attributes(maps: &[(&str, &Attributes)]) -> Result<(), String> {
    let count: usize = maps.iter().map(|(_, m)| m.len()).sum();
    if count > limits::ATTRIBUTES_MAX {
        return Err(format!("{count} attributes; at most {} are taken", limits::ATTRIBUTES_MAX));
    }
    for (what, map) in maps {
        if codec::depth(map) > codec::DEPTH_MAX {
            return Err(format!("{what} attributes nest deeper than {} levels", codec::DEPTH_MAX));
        }
        let mut bytes = Vec::new();
        for (name, value) in *map {
            if name.is_empty() || name.len() > limits::LABEL_NAME_BYTES_MAX || name.contains('\0') {
                let name: String = name.chars().take(40).collect();
                return Err(format!(
                    "{what} attribute name {name:?} is empty, holds a NUL or is over {} bytes",
                    limits::LABEL_NAME_BYTES_MAX
                ));
            }
            bytes.clear();
            let mut one = Attributes::new();
            one.insert(String::new(), value.clone());
            put_attributes(&mut bytes, &one);
            let max = if *what == "resource" { limits::LABEL_VALUE_BYTES_MAX } else { limits::ATTRIBUTE_BYTES_MAX };
            if bytes.len() > max {
                return Err(format!("{what} attribute {name:?} has {} bytes; at most {max} are taken", bytes.len()));
            }
        }
    }
    Ok(())
}

/// An id of the right length, or none: all zeroes means none, as in OpenTelemetry.
pub fn admit_id(id: &mut Vec<u8>, bytes: usize, what: &str) -> Result<(), String> {
    if id.iter().all(|b| *b == 0) {
        id.clear();
    }
    if id.is_empty() || id.len() == bytes { Ok(()) } else { Err(format!("{what} has {} bytes instead of {bytes}", id.len())) }
}

pub fn admit_time(time: Timestamp, arrival: Timestamp) -> Result<(), String> {
    if time.0 < 0 {
        return Err("its time lies before 1970".into());
    }
    let ahead = time.millis_since(arrival);
    if ahead > limits::FUTURE_MS_MAX {
        return Err(format!("its time lies {} s in the future; check the sender's clock", ahead / 1000));
    }
    Ok(())
}

/// Cuts a text to at most `bytes_max` at a character's border; true if something was cut.
pub fn truncate(text: &mut String, bytes_max: usize) -> bool {
    if text.len() <= bytes_max {
        return false;
    }
    let end = (0..=bytes_max).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    text.truncate(end);
    true
}

/// Emits each attribute under its label name; maps also by the path of each value in them.
pub fn attribute_terms(attributes: &Attributes, emit: &mut dyn FnMut(&str, &str)) {
    fn walk(path: &str, value: &AttributeValue, emit: &mut dyn FnMut(&str, &str)) {
        match value {
            AttributeValue::String(text) => emit(path, text),
            AttributeValue::Map(map) => {
                for (name, value) in map {
                    walk(&format!("{path}_{}", label_name(name)), value, emit);
                }
            }
            other => emit(path, &other.to_text()),
        }
    }
    for (name, value) in attributes {
        walk(&label_name(name), value, emit);
    }
}

impl Kind for LogKind {
    type Record = LogRecord;
    const NAME: &'static str = "logs";

    fn admit(record: &mut LogRecord, arrival: Timestamp) -> Result<(), String> {
        if record.observed.0 <= 0 {
            record.observed = arrival;
        }
        if record.time.0 == 0 {
            record.time = record.observed;
        }
        admit_time(record.time, arrival)?;
        if record.severity_number > 24 {
            return Err(format!("severity number {} is above 24", record.severity_number));
        }
        admit_id(&mut record.trace_id, 16, "trace id")?;
        admit_id(&mut record.span_id, 8, "span id")?;
        admit_attributes(&[("resource", &record.resource), ("record", &record.attributes)])?;
        truncate(&mut record.severity_text, limits::LABEL_VALUE_BYTES_MAX);
        truncate(&mut record.scope, limits::LABEL_VALUE_BYTES_MAX);
        if truncate(&mut record.body, limits::LOG_LINE_BYTES_MAX) {
            record.attributes.insert(TRUNCATED_ATTRIBUTE.into(), AttributeValue::Bool(true));
        }
        Ok(())
    }

    fn describe(record: &LogRecord) -> String {
        let line: String = record.body.chars().take(60).collect();
        format!("{}: {line:?}", record.service().chars().take(60).collect::<String>())
    }

    fn time(record: &LogRecord) -> i64 {
        record.time.0
    }
    fn number(record: &LogRecord) -> u64 {
        u64::from(severity(record))
    }

    fn encode(r: &LogRecord, out: &mut Vec<u8>) {
        put_i64(out, r.time.0);
        put_i64(out, r.observed.0.wrapping_sub(r.time.0));
        put_u64(out, u64::from(r.severity_number));
        for bytes in [r.severity_text.as_bytes(), r.body.as_bytes(), r.scope.as_bytes(), &r.trace_id, &r.span_id] {
            put_bytes(out, bytes);
        }
        put_attributes(out, &r.resource);
        put_attributes(out, &r.attributes);
    }

    fn decode(bytes: &[u8]) -> Result<LogRecord, Malformed> {
        decode_record(bytes, |r| {
            let time = r.i64()?;
            Ok(LogRecord {
                time: Timestamp(time),
                observed: Timestamp(r.i64()?.wrapping_add(time)),
                severity_number: u8::try_from(r.u64()?).map_err(|_| r.fail("severity out of range"))?,
                severity_text: r.string()?,
                body: r.string()?,
                scope: r.string()?,
                trace_id: r.bytes()?.to_vec(),
                span_id: r.bytes()?.to_vec(),
                resource: r.attributes()?,
                attributes: r.attributes()?,
            })
        })
    }

    fn stream_key(record: &LogRecord, out: &mut Vec<u8>) {
        out.push(severity_band(severity(record)));
        put_attributes(out, &record.resource);
    }

    fn stream(record: &LogRecord) -> LabelSet {
        let mut labels = resource_labels(&record.resource);
        if labels.get("level").is_none() {
            labels.set("level", severity_level(severity(record)));
        }
        labels
    }

    fn ids(record: &LogRecord) -> [&[u8]; 2] {
        [&record.trace_id, &record.span_id]
    }
    fn text(record: &LogRecord) -> Cow<'_, str> {
        Cow::Borrowed(&record.body)
    }
    fn terms(record: &LogRecord, emit: &mut dyn FnMut(&str, &str)) {
        attribute_terms(&record.attributes, emit);
        if !record.scope.is_empty() {
            emit("scope", &record.scope);
        }
    }
}
