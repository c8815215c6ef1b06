//! The DSL's lifecycle events, and times as it writes them.

use crate::state::State;
use model::{Event, Timestamp};
use serde_json::{Value, json};

pub(crate) fn rfc3339(at: Timestamp) -> String {
    match jiff::Timestamp::from_nanosecond(i128::from(at.nanos())) {
        Ok(at) => at.to_string(),
        Err(_) => at.nanos().to_string(),
    }
}

/// The DSL's date-time descriptor.
pub(crate) fn instant(at: Timestamp) -> Value {
    json!({"iso8601": rfc3339(at), "epoch": {"seconds": at.millis().div_euclid(1000), "milliseconds": at.millis()}})
}

/// `io.serverlessworkflow.<what>.v1` about a run.
pub(crate) fn event(state: &State, id: &str, what: &str, data: Value, now: Timestamp) -> Event {
    let mut event = Event::new(id, format!("/workflows/{}", state.full_name()), format!("io.serverlessworkflow.{what}.v1"), data);
    event.subject = Some(state.run.to_string());
    event.time = Some(rfc3339(now));
    event
}
