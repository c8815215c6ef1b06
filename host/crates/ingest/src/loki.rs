//! Loki's push API: `POST /loki/api/v1/push`, JSON or snappy-packed protobuf.
//!
//! Stream labels become resource attributes, structured metadata becomes attributes. The level comes from
//! a label or metadata `level`, `detected_level` or `severity`.

use crate::{
    Refusal, Report, State,
    auth::sender,
    body::{self, Packing},
    json_lines::{self, severity},
    protobuf::{Fields, WireError},
    state::Counted,
};
use axum::{
    Router,
    response::{IntoResponse, Response},
    routing::post,
};
use http::{HeaderMap, StatusCode};
use model::{AttributeValue, Attributes, LogRecord, Timestamp, limits};
use serde::Deserialize;

pub(crate) fn routes() -> Router<State> {
    Router::new().route("/loki/api/v1/push", post(push))
}

async fn push(axum::extract::State(state): axum::extract::State<State>, headers: HeaderMap, body: axum::body::Body) -> Response {
    let result = async {
        let principal = sender(&state, &headers).await?;
        let is_json = match body::media_type(&headers).as_str() {
            "application/json" => true,
            "application/x-protobuf" | "" => false,
            other => {
                return Err(Refusal::unsupported(format!(
                    "content-type {other:?} is not taken; use application/json or application/x-protobuf"
                )));
            }
        };
        // A protobuf push is always packed with snappy, with or without a header that says so.
        let allowed: &[_] = if is_json { &[Packing::Gzip] } else { &[Packing::Snappy] };
        let packing =
            if is_json { Packing::of(&headers, allowed)? } else { Packing::of(&headers, allowed).map(|_| Packing::Snappy)? };
        let packed = body::read(&headers, body).await?;
        let now = state.now();
        let decode = if is_json { decode_json } else { decode_protobuf };
        let (records, mut report) = body::decode(packed, packing, move |bytes| decode(&bytes, now)).await?;
        report.add_appended(state.telemetry().logs.append(&principal.tenant, records).await?);
        state.count_items(Counted::Logs, &report);
        Ok(report)
    };
    match state.count(result.await) {
        Ok(report) if report.is_clean() => StatusCode::NO_CONTENT.into_response(),
        Ok(report) => shaped(&Refusal::malformed(report.message("entries"))),
        Err(refusal) => shaped(&refusal),
    }
}

fn shaped(refusal: &Refusal) -> Response {
    refusal.respond("application/json", serde_json::json!({ "message": refusal.message }).to_string())
}

#[derive(Deserialize)]
struct JsonPush {
    streams: Vec<JsonStream>,
}
#[derive(Deserialize)]
struct JsonStream {
    stream: indexmap::IndexMap<String, String>,
    values: Vec<serde_json::Value>,
}

/// Decodes `{"streams": [{"stream": {…}, "values": [["NANOSECONDS", "line", {…}]]}]}`.
pub fn decode_json(bytes: &[u8], now: Timestamp) -> Result<(Vec<LogRecord>, Report), Refusal> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let push: JsonPush = serde_path_to_error::deserialize(&mut reader)
        .map_err(|e| Refusal::malformed(format!("the body is no Loki push: {e}")))?;
    let mut out = Out { now, ..Out::default() };
    for (s, stream) in push.streams.into_iter().enumerate() {
        let count = stream.values.len();
        if let Some(resource) = out.stream(s, stream.stream.into_iter(), count) {
            for (v, value) in stream.values.iter().enumerate() {
                match json_entry(value) {
                    Ok((time, line, metadata)) => out.entry(s, v, &resource, time, line, metadata),
                    Err(reason) => out.report.refuse(format!("streams[{s}].values[{v}]"), reason),
                }
            }
        }
    }
    Ok((out.records, out.report))
}

fn json_entry(value: &serde_json::Value) -> Result<(i64, &str, Attributes), String> {
    let parts = value.as_array().ok_or("it must be a list: [\"NANOSECONDS\", \"line\"]")?;
    let (time, line) = match parts.as_slice() {
        [time, line] | [time, line, _] => (time, line),
        _ => return Err(format!("it has {} parts; it must have time, line and perhaps metadata", parts.len())),
    };
    let time = time.as_str().and_then(|t| t.parse().ok()).ok_or("its time must be a string of nanoseconds since 1970")?;
    let line = line.as_str().ok_or("its line must be a string")?;
    let mut metadata = Attributes::new();
    if let Some(third) = parts.get(2) {
        let third = third.as_object().ok_or("its metadata must be an object of strings")?;
        for (key, value) in third {
            metadata.insert(key.clone(), value.as_str().ok_or_else(|| format!("its metadata {key:?} must be a string"))?.into());
        }
    }
    Ok((time, line, metadata))
}

/// Decodes an unpacked `logproto.PushRequest`.
pub fn decode_protobuf(bytes: &[u8], now: Timestamp) -> Result<(Vec<LogRecord>, Report), Refusal> {
    let mut out = Out { now, ..Out::default() };
    walk(bytes, &mut out).map_err(|e| Refusal::malformed(format!("the body is no logproto.PushRequest: {e}")))?;
    Ok((out.records, out.report))
}

fn walk(bytes: &[u8], out: &mut Out) -> Result<(), WireError> {
    let mut s = 0;
    for field in Fields::new(bytes) {
        let field = field?;
        if field.number != 1 {
            continue;
        }
        let (mut labels, mut entries) = ("", Vec::new());
        for part in Fields::new(field.bytes()?) {
            let part = part?;
            match part.number {
                1 => labels = part.text()?,
                2 => entries.push(part.bytes()?),
                _ => {}
            }
        }
        match stream_labels(labels) {
            Err(reason) => out.report.refuse_many(entries.len() as u64, format!("streams[{s}]"), reason),
            Ok(labels) => {
                if let Some(resource) = out.stream(s, labels.into_iter(), entries.len()) {
                    for (v, entry) in entries.into_iter().enumerate() {
                        let (time, line, metadata) = protobuf_entry(entry)?;
                        out.entry(s, v, &resource, time, line, metadata);
                    }
                }
            }
        }
        s += 1;
    }
    Ok(())
}

fn protobuf_entry(bytes: &[u8]) -> Result<(i64, &str, Attributes), WireError> {
    let (mut time, mut line, mut metadata) = (0i64, "", Attributes::new());
    for field in Fields::new(bytes) {
        let field = field?;
        match field.number {
            1 => {
                for part in Fields::new(field.bytes()?) {
                    let part = part?;
                    match part.number {
                        1 => time = time.saturating_add((part.varint()? as i64).saturating_mul(1_000_000_000)),
                        2 => time = time.saturating_add(part.varint()? as i64),
                        _ => {}
                    }
                }
            }
            2 => line = field.text()?,
            3 => {
                let (mut name, mut value) = ("", "");
                for part in Fields::new(field.bytes()?) {
                    let part = part?;
                    match part.number {
                        1 => name = part.text()?,
                        2 => value = part.text()?,
                        _ => {}
                    }
                }
                metadata.insert(name.into(), value.into());
            }
            _ => {}
        }
    }
    Ok((time, line, metadata))
}

/// `{app="web", env="prod"}` as clients write it: PromQL's equality matchers with Go's string escapes.
fn stream_labels(text: &str) -> Result<Vec<(String, String)>, String> {
    let bad = || format!("its labels {:?} are not like {{name=\"value\"}}", crate::refusal::excerpt(text, 80));
    let mut rest = text.trim().strip_prefix('{').ok_or_else(bad)?.trim_start();
    let mut labels = Vec::new();
    while !rest.starts_with('}') {
        let (name, after) = rest.split_once('=').ok_or_else(bad)?;
        let after = after.trim_start();
        let mut quoted = serde_json::Deserializer::from_str(after).into_iter::<String>();
        let value = quoted.next().and_then(Result::ok).ok_or_else(bad)?;
        labels.push((name.trim().to_owned(), value));
        rest = after[quoted.byte_offset()..].trim_start();
        match rest.strip_prefix(',') {
            Some(after) => rest = after.trim_start(),
            None if rest.starts_with('}') => {}
            None => return Err(bad()),
        }
    }
    if rest == "}" { Ok(labels) } else { Err(bad()) }
}

#[derive(Default)]
struct Out {
    now: Timestamp,
    records: Vec<LogRecord>,
    report: Report,
}

impl Out {
    /// The stream's labels as resource attributes, or none when the stream is refused.
    fn stream(&mut self, s: usize, labels: impl Iterator<Item = (String, String)>, entries: usize) -> Option<Attributes> {
        let mut resource = Attributes::new();
        for (name, value) in labels {
            if value.len() > limits::LABEL_VALUE_BYTES_MAX || name.len() > limits::LABEL_NAME_BYTES_MAX {
                let reason =
                    format!("the label {:?} is over {} bytes", crate::refusal::excerpt(&name, 40), limits::LABEL_VALUE_BYTES_MAX);
                self.report.refuse_many(entries as u64, format!("streams[{s}]"), reason);
                return None;
            }
            // What others call the service is the service here too.
            let name = if name == "service_name" { "service.name".to_owned() } else { name };
            resource.insert(name, AttributeValue::String(value));
        }
        if resource.is_empty() || resource.len() > limits::LABELS_MAX {
            let reason = format!("it has {} labels; 1 to {} are allowed", resource.len(), limits::LABELS_MAX);
            self.report.refuse_many(entries as u64, format!("streams[{s}]"), reason);
            return None;
        }
        Some(resource)
    }

    fn entry(&mut self, s: usize, v: usize, resource: &Attributes, time: i64, line: &str, attributes: Attributes) {
        let item = || format!("streams[{s}].values[{v}]");
        if attributes.len() > limits::ATTRIBUTES_MAX {
            let reason = format!("it has {} metadata entries, {} are allowed", attributes.len(), limits::ATTRIBUTES_MAX);
            return self.report.refuse(item(), reason);
        }
        let level = ["level", "detected_level", "severity"]
            .into_iter()
            .find_map(|key| match attributes.get(key).or_else(|| resource.get(key)) {
                Some(AttributeValue::String(level)) => Some(level.as_str()),
                _ => None,
            })
            .unwrap_or("");
        let mut record = LogRecord {
            time: Timestamp(if time == 0 { self.now.nanos() } else { time }),
            observed: self.now,
            severity_number: severity(level),
            severity_text: level.to_owned(),
            body: line.to_owned(),
            resource: resource.clone(),
            attributes,
            ..LogRecord::default()
        };
        if let Some(AttributeValue::String(id)) = record.attributes.get("trace_id") {
            record.trace_id = json_lines::id(id, 16).unwrap_or_default();
        }
        json_lines::cut_body(&mut record);
        match json_lines::check_time(record.time, self.now) {
            Ok(()) => self.records.push(record),
            Err(reason) => self.report.refuse(item(), reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protobuf::write;

    const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

    fn shown(result: Result<(Vec<LogRecord>, Report), Refusal>) -> String {
        let (records, report) = result.unwrap();
        let mut out = String::new();
        for r in records {
            out += &format!("{} {} {:?} {:?} {:?}\n", r.time.nanos(), r.severity_number, r.body, r.resource, r.attributes);
        }
        report.items.iter().fold(out, |out, item| out + &format!("refused {}: {}\n", item.item, item.reason))
    }

    #[test]
    fn a_json_push_keeps_labels_and_metadata_and_names_bad_entries() {
        let body = br#"{"streams":[
          {"stream":{"app":"web","level":"error"},"values":[
            ["1700000000000000001","boom",{"trace_id":"0af7651916cd43dd8448eb211c80319c"}],["x","late"],["1",2],[1,"n"],["1"]]},
          {"stream":{},"values":[["1700000000000000002","nobody's"]]}]}"#;
        expect_test::expect![[r#"
            1700000000000000001 17 "boom" {"app": String("web"), "level": String("error")} {"trace_id": String("0af7651916cd43dd8448eb211c80319c")}
            refused streams[0].values[1]: its time must be a string of nanoseconds since 1970
            refused streams[0].values[2]: its line must be a string
            refused streams[0].values[3]: its time must be a string of nanoseconds since 1970
            refused streams[0].values[4]: it has 1 parts; it must have time, line and perhaps metadata
            refused streams[1]: it has 0 labels; 1 to 64 are allowed
        "#]]
        .assert_eq(&shown(decode_json(body, NOW)));
    }

    fn protobuf_push() -> Vec<u8> {
        let (mut time, mut meta, mut entry, mut stream, mut push) = (vec![], vec![], vec![], vec![], vec![]);
        write::number(&mut time, 1, 1_700_000_000);
        write::number(&mut time, 2, 5);
        write::bytes(&mut meta, 1, "pod");
        write::bytes(&mut meta, 2, "p-1");
        write::bytes(&mut entry, 1, &time);
        write::bytes(&mut entry, 2, "hello");
        write::bytes(&mut entry, 3, &meta);
        write::bytes(&mut stream, 1, r#"{app="we\"b", env="prod"}"#);
        write::bytes(&mut stream, 2, &entry);
        write::bytes(&mut push, 1, &stream);
        push
    }

    #[test]
    fn a_protobuf_push_says_the_same() {
        expect_test::expect![[r#"
            1700000000000000005 0 "hello" {"app": String("we\"b"), "env": String("prod")} {"pod": String("p-1")}
        "#]]
        .assert_eq(&shown(decode_protobuf(&protobuf_push(), NOW)));
    }

    #[test]
    fn a_protobuf_push_cut_anywhere_is_refused_and_nothing_panics() {
        let push = protobuf_push();
        for end in 1..push.len() {
            assert!(decode_protobuf(&push[..end], NOW).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn deep_or_wrongly_typed_json_is_refused() {
        let deep = format!("{{\"streams\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(decode_json(deep.as_bytes(), NOW).unwrap_err().status, 400);
        let wrong = decode_json(br#"{"streams":[{"stream":{"a":1},"values":[]}]}"#, NOW).unwrap_err();
        assert!(wrong.message.contains("streams[0].stream.a"), "{}", wrong.message);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_decoders_panic(bytes: Vec<u8>) {
            let _ = decode_protobuf(&bytes, NOW);
            let _ = decode_json(&bytes, NOW);
        }
        #[test]
        fn no_label_text_makes_the_parser_panic(text in "[\\{\\}a-z=\", \\\\é]{0,60}") {
            let _ = stream_labels(&text);
        }
    }
}
