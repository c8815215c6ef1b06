//! `emit` and `raise`.

use super::{Local, Machine};
use crate::lifecycle;
use crate::state::RunError;
use model::Event;
use serde_json::{Value, json};

impl Machine<'_> {
    /// Puts the event on the bus with the transition; its output is the event itself.
    pub(super) fn emitted(&mut self, template: &Value, local: Local<'_>) -> Result<Value, RunError> {
        let with = self.filled(template, local.input, local)?;
        let Value::Object(mut with) = with else {
            return Err(RunError::expression("the event is no mapping"));
        };
        let id = self.derived_uuid("emit").to_string();
        let mut event = serde_json::Map::new();
        event.insert("specversion".into(), json!("1.0"));
        event.insert("id".into(), with.remove("id").unwrap_or_else(|| json!(id)));
        event.insert("time".into(), with.remove("time").unwrap_or_else(|| json!(lifecycle::rfc3339(self.now))));
        event.insert("datacontenttype".into(), with.remove("datacontenttype").unwrap_or_else(|| json!("application/json")));
        event.extend(with);
        let event = Value::Object(event);
        let on_bus: Event = serde_json::from_value(event.clone())
            .map_err(|e| RunError::validation(format!("the event is no CloudEvent: {e}")))?;
        if on_bus.kind.starts_with("io.orchestrix.") || on_bus.kind.starts_with("io.serverlessworkflow.") {
            return Err(RunError::new(
                "authorization",
                403,
                "Authorization Error",
                format!("events of type {:?} are the host's own", on_bus.kind),
            ));
        }
        self.events.push(on_bus);
        Ok(event)
    }

    pub(super) fn raised(&self, template: &Value, local: Local<'_>) -> Result<RunError, RunError> {
        let mut error = self.filled(template, local.input, local)?;
        if let Some(status) = error["status"].as_str().and_then(|s| s.parse::<i64>().ok()) {
            error["status"] = json!(status);
        }
        serde_json::from_value(error).map_err(|e| RunError::expression(format!("the raised error is none: {e}")))
    }
}
