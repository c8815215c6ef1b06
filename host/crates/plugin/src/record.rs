//! What a call did: every import with arguments and result, the outcome, and what it cost. Capped, and free of
//! secrets, because it is taken on the guest's side of the substitution. The stored form is described in
//! `docs/formats/recording.md`.

use crate::port::Cause;
use model::{ErrorRecord, InvocationId, TenantId, Timestamp, limits};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Host calls kept of one call; the rest is counted.
const CALLS_MAX: usize = 2_000;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recording {
    pub invocation: InvocationId,
    pub tenant: TenantId,
    pub installation: String,
    pub plugin: String,
    pub version: String,
    pub digest: String,
    /// `detector.evaluate`, `action.execute scale`, …
    pub function: String,
    pub idempotency_key: String,
    pub traceparent: String,
    pub cause: Cause,
    /// The clock the guest saw.
    pub now: Timestamp,
    pub started: Timestamp,
    pub wall_us: u64,
    pub cpu_us: u64,
    pub memory_bytes_peak: u64,
    pub request: Value,
    pub calls: Vec<HostCall>,
    /// Host calls that were made but not kept.
    pub calls_dropped: u64,
    pub outcome: Outcome,
    /// Something was shortened or left out.
    pub is_truncated: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostCall {
    /// Interface and function: `state.put`, `http.send`.
    pub import: String,
    /// Since the call began.
    pub at_us: u64,
    pub took_us: u64,
    pub arguments: Value,
    pub result: Outcome,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "kebab-case")]
pub enum Outcome {
    Ok { value: Value },
    Err { error: ErrorRecord },
}

impl From<Result<Value, ErrorRecord>> for Outcome {
    fn from(result: Result<Value, ErrorRecord>) -> Self {
        match result {
            Ok(value) => Self::Ok { value },
            Err(error) => Self::Err { error },
        }
    }
}

/// Collects the host calls of one running call.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    pub calls: Vec<HostCall>,
    pub calls_dropped: u64,
    pub is_truncated: bool,
    bytes: usize,
}

impl Recorder {
    pub(crate) fn add(&mut self, mut call: HostCall) {
        let mut bytes = self.cap(&mut call.arguments);
        if let Outcome::Ok { value } = &mut call.result {
            bytes += self.cap(value);
        }
        if self.calls.len() >= CALLS_MAX || self.bytes + bytes > limits::RECORDING_BYTES_MAX {
            self.calls_dropped += 1;
            self.is_truncated = true;
            return;
        }
        self.bytes += bytes;
        self.calls.push(call);
    }

    /// Shortens a value over the limit to its first bytes; answers its size as JSON.
    pub(crate) fn cap(&mut self, value: &mut Value) -> usize {
        let text = value.to_string();
        if text.len() <= limits::RECORDED_VALUE_BYTES_MAX {
            return text.len();
        }
        self.is_truncated = true;
        let mut end = limits::RECORDED_VALUE_BYTES_MAX / 2;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        *value = json!({"$truncated": true, "bytes": text.len(), "head": &text[..end]});
        end
    }
}

/// Bytes as a recording shows them: text when they are text, else base64.
pub(crate) fn bytes_value(bytes: &[u8]) -> Value {
    use base64::Engine as _;
    let kept = &bytes[..bytes.len().min(limits::RECORDED_VALUE_BYTES_MAX)];
    let mut value = match std::str::from_utf8(kept) {
        Ok(text) => json!({ "text": text }),
        Err(_) => json!({ "base64": base64::engine::general_purpose::STANDARD.encode(kept) }),
    };
    if kept.len() < bytes.len() {
        value["$truncated"] = json!(true);
        value["bytes"] = json!(bytes.len());
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(bytes: usize) -> HostCall {
        HostCall {
            import: "state.put".into(),
            at_us: 0,
            took_us: 0,
            arguments: json!("é".repeat(bytes / 2)),
            result: Outcome::Ok { value: Value::Null },
        }
    }

    #[test]
    fn a_recording_is_bounded_whatever_a_guest_does() {
        let mut recorder = Recorder::default();
        for _ in 0..CALLS_MAX + 10 {
            recorder.add(call(3 * limits::RECORDED_VALUE_BYTES_MAX));
        }
        let bytes: usize = recorder.calls.iter().map(|c| c.arguments.to_string().len()).sum();
        assert!(bytes < 2 * limits::RECORDING_BYTES_MAX, "{bytes}");
        assert!(recorder.calls_dropped > 10 && recorder.is_truncated);
        assert_eq!(recorder.calls[0].arguments["$truncated"], true);
    }

    #[test]
    fn bytes_are_shown_as_text_where_they_are_text() {
        assert_eq!(bytes_value(b"hello"), json!({"text": "hello"}));
        assert_eq!(bytes_value(&[0xff]), json!({"base64": "/w=="}));
    }
}
