//! One JSON object a line: `POST /api/v1/logs`. For whatever writes JSON logs and has no agent.
//!
//! The usual names are understood (see `docs/guide/ingest.md`); everything else becomes an attribute.
//! A bad line is refused by its number, the rest is kept.

use crate::{
    Refusal, Report, State,
    auth::sender,
    body::{self, Packing},
    refusal::excerpt,
    state::Counted,
};
use axum::{Router, response::Response, routing::post};
use http::HeaderMap;
use model::{AttributeValue, Attributes, LogRecord, Timestamp, limits};
use serde_json::Value;

/// Lines of one request: as many as an ingest body of short lines holds.
const LINES_MAX: usize = 200_000;

pub(crate) fn routes() -> Router<State> {
    Router::new().route("/api/v1/logs", post(push))
}

async fn push(axum::extract::State(state): axum::extract::State<State>, headers: HeaderMap, body: axum::body::Body) -> Response {
    let result = async {
        let principal = sender(&state, &headers).await?;
        match body::media_type(&headers).as_str() {
            // The last is what curl says when it is told nothing.
            ""
            | "application/x-ndjson"
            | "application/ndjson"
            | "application/jsonl"
            | "application/stream+json"
            | "application/json"
            | "text/plain"
            | "application/x-www-form-urlencoded" => {}
            other => {
                return Err(Refusal::unsupported(format!(
                    "content-type {other:?} is not taken; use application/x-ndjson, one JSON object a line"
                )));
            }
        }
        let packing = Packing::of(&headers, &[Packing::Gzip])?;
        let packed = body::read(&headers, body).await?;
        let now = state.now();
        let (records, mut report) = body::decode(packed, packing, move |bytes| decode(&bytes, now)).await?;
        report.add_appended(state.telemetry().logs.append(&principal.tenant, records).await?);
        state.count_items(Counted::Logs, &report);
        Ok(report)
    };
    match state.count(result.await) {
        Ok(report) => report.answer("lines"),
        Err(refusal) => refusal.problem(),
    }
}

/// Decodes lines; a body that is one JSON list is taken as well.
pub fn decode(bytes: &[u8], now: Timestamp) -> Result<(Vec<LogRecord>, Report), Refusal> {
    let mut records = Vec::new();
    let mut report = Report::default();
    let mut take = |item: String, object: Result<Value, serde_json::Error>| {
        let record = object.map_err(|e| format!("it is no JSON: {e}")).and_then(|object| record(object, now));
        match record {
            Ok(record) => records.push(record),
            Err(reason) => report.refuse(item, reason),
        }
    };
    let too_many = || Refusal::too_large(format!("the request has over {LINES_MAX} lines; send it in parts"));
    if bytes.trim_ascii_start().starts_with(b"[") {
        let list: Vec<Value> =
            serde_json::from_slice(bytes).map_err(|e| Refusal::malformed(format!("the body is no JSON list of objects: {e}")))?;
        if list.len() > LINES_MAX {
            return Err(too_many());
        }
        list.into_iter().enumerate().for_each(|(i, object)| take(format!("item {}", i + 1), Ok(object)));
    } else {
        let mut lines = 0;
        for (i, line) in bytes.split(|b| *b == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() {
                continue;
            }
            lines += 1;
            if lines > LINES_MAX {
                return Err(too_many());
            }
            take(format!("line {}", i + 1), serde_json::from_slice(line));
        }
    }
    Ok((records, report))
}

fn record(object: Value, now: Timestamp) -> Result<LogRecord, String> {
    let Value::Object(object) = object else { return Err("it must be a JSON object".into()) };
    if object.len() > limits::ATTRIBUTES_MAX {
        return Err(format!("it has {} fields, {} are allowed", object.len(), limits::ATTRIBUTES_MAX));
    }
    let mut record = LogRecord { time: now, observed: now, ..LogRecord::default() };
    let mut has_body = false;
    for (key, value) in object {
        match (key.as_str(), &value) {
            ("message" | "msg" | "body" | "log" | "_msg", Value::String(text)) if !has_body => {
                record.body = text.clone();
                has_body = true;
            }
            ("body", Value::Object(_) | Value::Array(_)) if !has_body => {
                record.body = value.to_string();
                has_body = true;
            }
            ("level" | "severity" | "lvl" | "severity_text" | "log.level", Value::String(text))
                if record.severity_text.is_empty() =>
            {
                record.severity_number = severity(text);
                record.severity_text = text.clone();
            }
            // pino and bunyan write levels as numbers.
            ("level" | "severity", Value::Number(n)) if record.severity_text.is_empty() => {
                record.severity_number = n.as_u64().map_or(0, |n| [0, 1, 5, 9, 13, 17, 21][(n / 10).min(6) as usize]);
            }
            ("time" | "timestamp" | "@timestamp" | "ts" | "_time", _) => {
                record.time = time(&value).ok_or_else(|| {
                    format!(
                        "its {key} {} is neither RFC 3339 nor seconds, ms, µs or ns since 1970",
                        excerpt(&value.to_string(), 40)
                    )
                })?;
            }
            ("trace_id" | "traceId" | "trace.id", Value::String(text)) if !text.is_empty() => {
                record.trace_id = id(text, 16).ok_or_else(|| format!("its {key} must be 32 hexadecimal digits"))?;
            }
            ("span_id" | "spanId" | "span.id", Value::String(text)) if !text.is_empty() => {
                record.span_id = id(text, 8).ok_or_else(|| format!("its {key} must be 16 hexadecimal digits"))?;
            }
            ("service" | "service.name" | "service_name", Value::String(text)) => {
                record.resource.insert("service.name".into(), text.clone().into());
            }
            ("host" | "host.name" | "hostname", Value::String(text)) => {
                record.resource.insert("host.name".into(), text.clone().into());
            }
            ("resource", Value::Object(fields)) => record.resource.extend(attributes(fields)),
            ("attributes" | "fields", Value::Object(fields)) => record.attributes.extend(attributes(fields)),
            _ => {
                if let Some(value) = attribute(&value) {
                    record.attributes.insert(key, value);
                }
            }
        }
    }
    if !has_body {
        return Err("it has no message; put the text into message, msg, body or log".into());
    }
    if record.attributes.len() > limits::ATTRIBUTES_MAX {
        return Err(format!("it has {} attributes, {} are allowed", record.attributes.len(), limits::ATTRIBUTES_MAX));
    }
    if record.resource.len() > limits::LABELS_MAX {
        return Err(format!("its resource has {} attributes, {} are allowed", record.resource.len(), limits::LABELS_MAX));
    }
    check_time(record.time, now)?;
    cut_body(&mut record);
    Ok(record)
}

fn attributes(fields: &serde_json::Map<String, Value>) -> impl Iterator<Item = (String, AttributeValue)> {
    fields.iter().filter_map(|(key, value)| Some((key.clone(), attribute(value)?)))
}

/// JSON's `null` says that there is nothing to say.
fn attribute(value: &Value) -> Option<AttributeValue> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(b) => AttributeValue::Bool(*b),
        Value::Number(n) => {
            n.as_i64().map_or_else(|| AttributeValue::Double(n.as_f64().unwrap_or(f64::NAN)), AttributeValue::Int)
        }
        Value::String(s) => AttributeValue::String(s.clone()),
        Value::Array(list) => AttributeValue::List(list.iter().filter_map(attribute).collect()),
        Value::Object(fields) => AttributeValue::Map(attributes(fields).collect::<Attributes>()),
    })
}

fn time(value: &Value) -> Option<Timestamp> {
    match value {
        Value::String(text) => match text.parse::<jiff::Timestamp>() {
            Ok(t) => i64::try_from(t.as_nanosecond()).ok().map(Timestamp),
            Err(_) => number_time(&text.parse().ok()?),
        },
        Value::Number(n) => number_time(n),
        _ => None,
    }
}

/// The unit follows from the size: until the year 5138 seconds stay under 10^11, and so on by thousands.
fn number_time(n: &serde_json::Number) -> Option<Timestamp> {
    let scale = |magnitude: f64| match magnitude {
        m if m < 1e11 => 1_000_000_000,
        m if m < 1e14 => 1_000_000,
        m if m < 1e17 => 1_000,
        _ => 1,
    };
    if let Some(n) = n.as_i64() {
        return n.checked_mul(scale(n.unsigned_abs() as f64)).map(Timestamp);
    }
    let f = n.as_f64().filter(|f| f.is_finite())?;
    Some(Timestamp((f * scale(f.abs()) as f64) as i64))
}

/// A time that can't be: far ahead of the clock, or before 1970.
pub(crate) fn check_time(time: Timestamp, now: Timestamp) -> Result<(), String> {
    let ahead_ms = time.millis_since(now);
    if ahead_ms > limits::FUTURE_MS_MAX {
        return Err(format!(
            "its time lies {} min in the future, {} are allowed; check the sender's clock",
            ahead_ms / 60_000,
            limits::FUTURE_MS_MAX / 60_000
        ));
    }
    if time.nanos() < 0 { Err("its time lies before 1970; check the unit".into()) } else { Ok(()) }
}

/// Cuts a body that is too long, at a character's end, and says so in `log.truncated`.
pub(crate) fn cut_body(record: &mut LogRecord) {
    if record.body.len() > limits::LOG_LINE_BYTES_MAX {
        let end = (0..=limits::LOG_LINE_BYTES_MAX).rev().find(|i| record.body.is_char_boundary(*i)).unwrap_or(0);
        record.body.truncate(end);
        record.attributes.insert("log.truncated".into(), AttributeValue::Bool(true));
    }
}

/// An id of `bytes` bytes in hexadecimal; one of zeros only is as good as none.
pub(crate) fn id(text: &str, bytes: usize) -> Option<Vec<u8>> {
    let id = hex::decode(text).ok().filter(|id| id.len() == bytes)?;
    if id.iter().all(|b| *b == 0) { Some(Vec::new()) } else { Some(id) }
}

/// OpenTelemetry's severity number of a level's usual names; 0 when the name says nothing.
pub(crate) fn severity(level: &str) -> u8 {
    let is = |names: &[&str]| names.iter().any(|n| n.eq_ignore_ascii_case(level));
    if is(&["trace", "verbose", "finest", "T"]) {
        1
    } else if is(&["debug", "dbg", "fine", "D"]) {
        5
    } else if is(&["info", "information", "informational", "notice", "I"]) {
        9
    } else if is(&["warn", "warning", "W"]) {
        13
    } else if is(&["error", "err", "severe", "E"]) {
        17
    } else if is(&["fatal", "critical", "crit", "panic", "alert", "emerg", "emergency", "F"]) {
        21
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

    fn one(line: &str) -> Result<LogRecord, String> {
        let (mut records, report) = decode(line.as_bytes(), NOW).unwrap();
        records.pop().ok_or_else(|| report.items[0].reason.clone())
    }

    #[test]
    fn the_usual_fields_are_understood() {
        let r = one(r#"{"msg":"hi","level":"WARN","ts":1699999999.5,"trace_id":"0af7651916cd43dd8448eb211c80319c","service":"api","n":3,"no":null}"#).unwrap();
        assert_eq!((r.body.as_str(), r.severity_number, r.time.nanos()), ("hi", 13, 1_699_999_999_500_000_000));
        assert_eq!((r.service(), r.trace_id.len(), r.attributes.len()), ("api", 16, 1));
        assert_eq!(r.attributes["n"], AttributeValue::Int(3));
        assert_eq!(one(r#"{"log":"pino","level":50}"#).unwrap().severity_number, 17);
    }

    #[test]
    fn a_time_may_be_text_or_a_number_of_any_unit() {
        for time in [
            "\"2023-11-14T22:13:20Z\"",
            "\"2023-11-14T23:13:20+01:00\"",
            "1700000000",
            "1700000000000",
            "1700000000000000",
            "1700000000000000000",
            "\"1700000000\"",
        ] {
            assert_eq!(one(&format!(r#"{{"message":"m","time":{time}}}"#)).unwrap().time, NOW, "{time}");
        }
        for bad in ["\"yesterday\"", "true", "{}", "1e300", "1900000000", "-5"] {
            assert!(one(&format!(r#"{{"message":"m","time":{bad}}}"#)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bad_line_is_named_by_number_and_the_rest_is_kept() {
        let (records, report) =
            decode(b"{\"msg\":\"a\"}\n\n{oops\n[1]\n{\"x\":1}\n{\"msg\":\"b\",\"span_id\":\"12\"}\n{\"msg\":\"c\"}", NOW)
                .unwrap();
        assert_eq!(records.len(), 2);
        let lines: Vec<_> = report.items.iter().map(|i| i.item.as_str()).collect();
        assert_eq!(lines, ["line 3", "line 4", "line 5", "line 6"]);
        assert!(report.items[2].reason.contains("no message"), "{report:?}");
    }

    #[test]
    fn a_long_line_is_cut_at_a_character_and_marked() {
        let text = "é".repeat(limits::LOG_LINE_BYTES_MAX / 2 + 10);
        let r = one(&format!(r#"{{"msg":"x{text}"}}"#)).unwrap();
        assert!(r.body.len() <= limits::LOG_LINE_BYTES_MAX && r.body.len() > limits::LOG_LINE_BYTES_MAX - 4);
        assert_eq!(r.attributes["log.truncated"], AttributeValue::Bool(true));
    }

    #[test]
    fn deep_json_and_too_many_fields_are_refused_as_lines() {
        assert!(
            one(&format!("{{\"msg\":\"m\",\"a\":{}1{}}}", "[".repeat(5_000), "]".repeat(5_000))).unwrap_err().contains("no JSON")
        );
        let fields: Vec<_> = (0..300).map(|n| format!("\"f{n}\":1")).collect();
        assert!(one(&format!("{{\"msg\":\"m\",{}}}", fields.join(","))).unwrap_err().contains("301 fields"));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes, NOW);
        }
        #[test]
        fn no_time_makes_it_panic(n: f64, i: i64) {
            let _ = decode(format!("{{\"msg\":\"m\",\"time\":{n}}}\n{{\"msg\":\"m\",\"time\":{i}}}").as_bytes(), NOW);
        }
    }
}
