//! CloudEvents 1.0 in: `POST /api/v1/events`, in structured, batched or binary mode.

use crate::{Refusal, Report, State, auth::sender, body, refusal::excerpt, state::Counted};
use axum::{
    Router,
    response::{IntoResponse, Response},
    routing::post,
};
use db::Topic;
use http::{HeaderMap, StatusCode};
use model::{Event, TenantId, Timestamp, limits};
use serde_json::Value;

/// Types under this prefix are the host's own: an outsider who could send them could forge alerts and approvals.
const RESERVED_TYPE: &str = "io.orchestrix.";

pub(crate) fn routes() -> Router<State> {
    Router::new().route("/api/v1/events", post(push))
}

/// Which of the three modes a request is in; `None` when it is no CloudEvent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Structured,
    Batch,
    Binary,
}

pub(crate) fn mode(headers: &HeaderMap) -> Option<Mode> {
    match body::media_type(headers).as_str() {
        "application/cloudevents+json" => Some(Mode::Structured),
        "application/cloudevents-batch+json" => Some(Mode::Batch),
        _ if headers.contains_key("ce-specversion") => Some(Mode::Binary),
        _ => None,
    }
}

/// Decodes a request's events; the bad ones of a batch are named, the others kept.
pub fn decode(mode: Mode, headers: &HeaderMap, bytes: &[u8]) -> Result<(Vec<Event>, Report), Refusal> {
    let json = || serde_json::from_slice::<Value>(bytes).map_err(|e| Refusal::malformed(format!("the body is no JSON: {e}")));
    let mut report = Report::default();
    let events = match mode {
        Mode::Structured => vec![structured(json()?).map_err(Refusal::malformed)?],
        Mode::Binary => vec![binary(headers, bytes).map_err(Refusal::malformed)?],
        Mode::Batch => {
            let Value::Array(items) = json()? else { return Err(Refusal::malformed("a batch must be a JSON list of events")) };
            if items.len() > limits::EVENTS_PER_REQUEST_MAX {
                return Err(Refusal::too_large(format!(
                    "the batch has {} events, {} are allowed; send it in parts",
                    items.len(),
                    limits::EVENTS_PER_REQUEST_MAX
                )));
            }
            let mut events = Vec::with_capacity(items.len());
            for (i, item) in items.into_iter().enumerate() {
                match structured(item) {
                    Ok(event) => events.push(event),
                    Err(reason) => report.refuse(format!("event {i}"), reason),
                }
            }
            events
        }
    };
    Ok((events, report))
}

fn structured(value: Value) -> Result<Event, String> {
    if !value.is_object() {
        return Err("an event must be a JSON object".into());
    }
    for attribute in ["id", "source", "type", "specversion"] {
        if !value[attribute].is_string() {
            return Err(format!("the attribute {attribute:?} is missing or no string"));
        }
    }
    let event: Event = serde_json::from_value(value).map_err(|e| e.to_string())?;
    check(&event)?;
    Ok(event)
}

fn binary(headers: &HeaderMap, bytes: &[u8]) -> Result<Event, String> {
    let mut attributes = serde_json::Map::new();
    for (name, value) in headers {
        let Some(name) = name.as_str().strip_prefix("ce-") else { continue };
        let value = value.to_str().map_err(|_| format!("the header ce-{name} is no ASCII; percent-encode it"))?;
        let value =
            percent_encoding::percent_decode_str(value).decode_utf8().map_err(|_| format!("the header ce-{name} is no UTF-8"))?;
        attributes.insert(name.into(), Value::String(value.into_owned()));
    }
    attributes.retain(|name, _| name != "data" && name != "data_base64" && name != "datacontenttype");
    let mut event = structured(Value::Object(attributes))?;
    set_data(&mut event, headers, bytes);
    Ok(event)
}

/// The body as an event's data: JSON as it is, a form as an object, a text as a string, all else in base64.
pub(crate) fn set_data(event: &mut Event, headers: &HeaderMap, bytes: &[u8]) {
    let media = body::media_type(headers);
    event.datacontenttype = (!media.is_empty()).then(|| media.clone());
    if bytes.is_empty() {
        return;
    }
    let says_json = media == "application/json" || media.ends_with("+json") || media.is_empty();
    let text = std::str::from_utf8(bytes).ok();
    if let Some(data) = text.filter(|_| says_json).and_then(|t| serde_json::from_str(t).ok()) {
        event.data = data;
        event.datacontenttype.get_or_insert_with(|| "application/json".into());
    } else if media == "application/x-www-form-urlencoded" {
        let fields =
            url::form_urlencoded::parse(bytes).map(|(name, value)| (name.into_owned(), Value::String(value.into_owned())));
        event.data = Value::Object(fields.collect());
    } else if let Some(text) = text {
        event.data = Value::String(text.into());
    } else {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        event.extensions.insert("data_base64".into(), Value::String(STANDARD.encode(bytes)));
    }
}

/// Whether an event from outside may go on the bus; the message says what is wrong with it.
pub(crate) fn check(event: &Event) -> Result<(), String> {
    if event.specversion != "1.0" {
        return Err(format!("specversion {:?} is not known; use \"1.0\"", excerpt(&event.specversion, 20)));
    }
    for (name, value) in [("id", &event.id), ("source", &event.source), ("type", &event.kind)] {
        if value.is_empty() || value.len() > limits::LABEL_NAME_BYTES_MAX {
            return Err(format!("the attribute {name:?} must have 1 to {} bytes", limits::LABEL_NAME_BYTES_MAX));
        }
    }
    if event.kind.starts_with(RESERVED_TYPE) {
        return Err(format!("types under {RESERVED_TYPE} are the host's own; use a prefix of your own"));
    }
    if let Some(time) = &event.time {
        time.parse::<jiff::Timestamp>().map_err(|_| format!("its time {:?} is no RFC 3339 time", excerpt(time, 40)))?;
    }
    Ok(())
}

async fn push(axum::extract::State(state): axum::extract::State<State>, headers: HeaderMap, body: axum::body::Body) -> Response {
    let result = async {
        let principal = sender(&state, &headers).await?;
        let mode = mode(&headers).or_else(|| {
            // Plain JSON is taken as structured mode: what else could it be here?
            (body::media_type(&headers) == "application/json").then_some(Mode::Structured)
        });
        let mode = mode.ok_or_else(|| {
            Refusal::unsupported(
                "use content-type application/cloudevents+json or application/cloudevents-batch+json, or ce- headers",
            )
        })?;
        // A batch may be as large as its events together, but not larger than any ingest body.
        let bytes_max = if mode == Mode::Batch { limits::BODY_BYTES_MAX } else { limits::EVENT_BYTES_MAX };
        let bytes = body::read_up_to(&headers, body, bytes_max).await?;
        let (events, mut report) = decode(mode, &headers, &bytes)?;
        report.stored = publish(&state, &principal.tenant, events).await?;
        state.count_items(Counted::Events, &report);
        Ok(report)
    };
    match state.count(result.await) {
        Ok(report) if report.is_clean() => StatusCode::ACCEPTED.into_response(),
        Ok(report) => report.answer("events"),
        Err(refusal) => refusal.problem(),
    }
}

/// Puts events on the bus in one commit, stamped with the time they came in.
pub(crate) async fn publish(state: &State, tenant: &TenantId, mut events: Vec<Event>) -> Result<u64, Refusal> {
    if events.is_empty() {
        return Ok(0);
    }
    let now = state.now();
    for event in &mut events {
        event.received = now;
        if event.time.is_none() {
            event.time = Some(rfc3339(now));
        }
    }
    let count = events.len() as u64;
    let tenant = tenant.clone();
    state
        .db()
        .write::<_, db::Error, _>(move |tx| {
            Box::pin(async move {
                for event in &events {
                    tx.hand_off(Topic::Event, &tenant, now, event).await?;
                }
                Ok(())
            })
        })
        .await?;
    Ok(count)
}

pub(crate) fn rfc3339(time: Timestamp) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(time.nanos())).map_or_else(|_| String::new(), |t| t.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (http::HeaderName::from_static(n), v.parse().unwrap())).collect()
    }

    #[test]
    fn the_three_modes_say_the_same() {
        let json = br#"{"specversion":"1.0","id":"1","source":"/s","type":"t","ext":"e","datacontenttype":"application/json","data":{"a":1}}"#;
        let (structured, _) = decode(Mode::Structured, &HeaderMap::new(), json).unwrap();
        let (batch, _) = decode(Mode::Batch, &HeaderMap::new(), &[b"[", &json[..], b"]"].concat()).unwrap();
        let binary = headers(&[
            ("ce-specversion", "1.0"),
            ("ce-id", "1"),
            ("ce-source", "/s"),
            ("ce-type", "t"),
            ("ce-ext", "e"),
            ("content-type", "application/json"),
        ]);
        assert_eq!(mode(&binary), Some(Mode::Binary));
        let (binary, _) = decode(Mode::Binary, &binary, br#"{"a":1}"#).unwrap();
        assert_eq!(structured, batch);
        assert_eq!(structured, binary);
        assert_eq!(structured[0].extensions["ext"], "e");
    }

    #[test]
    fn a_bad_event_of_a_batch_is_named_and_the_rest_is_kept() {
        let good = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t"}"#;
        let forged = good.replace("\"t\"", "\"io.orchestrix.alert.firing\"");
        let batch = format!("[{good},{{}},3,{forged},{}]", good.replace("1.0", "0.3"));
        let (events, report) = decode(Mode::Batch, &HeaderMap::new(), batch.as_bytes()).unwrap();
        assert_eq!((events.len(), report.refused), (1, 4));
        assert!(report.items[2].reason.contains("the host's own"), "{report:?}");
    }

    #[test]
    fn an_event_cut_anywhere_or_wrongly_typed_is_refused() {
        let good = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","data":"é"}"#;
        for end in 0..good.len() {
            assert!(decode(Mode::Structured, &HeaderMap::new(), &good.as_bytes()[..end]).is_err(), "cut at {end}");
        }
        for bad in [good.replace("\"1\"", "1"), good.replace("\"/s\"", "null"), good.replace("\"data\"", "\"time\"")] {
            assert_eq!(decode(Mode::Structured, &HeaderMap::new(), bad.as_bytes()).unwrap_err().status, 400, "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes: Vec<u8>) {
            for mode in [Mode::Structured, Mode::Batch, Mode::Binary] {
                let _ = decode(mode, &HeaderMap::new(), &bytes);
            }
        }
    }
}
