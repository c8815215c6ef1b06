//! Triggers: which definition a time or an event starts.

use crate::definition::{Definition, EventFilter, Schedule, Strategy};
use crate::expression::{Engine, Scope};
use crate::state::Cause;
use chrono::DateTime;
use db::definition::ScheduleRow;
use model::{TenantId, Timestamp};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, sync::Arc};

/// A definition in force that can start by itself.
pub(crate) struct Trigger {
    pub tenant: TenantId,
    pub definition: Arc<Definition>,
    pub revision: i64,
    /// Next start by time.
    pub due: Option<Timestamp>,
    /// `schedule.on.all`: the event that each filter got, by its index.
    pub gathered: Map<String, Value>,
}

impl Trigger {
    pub fn new(tenant: TenantId, definition: Arc<Definition>, revision: i64, row: Option<&ScheduleRow>, now: Timestamp) -> Self {
        let mut trigger = Self { tenant, definition, revision, due: None, gathered: Map::new() };
        trigger.due = match row {
            Some(row) if row.due.is_some() => row.due,
            _ => trigger.next_due(now),
        };
        if let Some(Value::Object(gathered)) = row.and_then(|row| serde_json::from_str(&row.gathered).ok()) {
            trigger.gathered = gathered;
        }
        trigger
    }

    pub fn row(&self) -> ScheduleRow {
        ScheduleRow {
            tenant: self.tenant.clone(),
            namespace: self.definition.document.namespace.clone(),
            name: self.definition.document.name.clone(),
            due: self.due,
            gathered: Value::Object(self.gathered.clone()).to_string(),
        }
    }

    /// When it starts next by time, seen from `now`. Starts missed while nobody ran are not made up for.
    pub fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        match &self.definition.schedule {
            Some(Schedule::Every(ms) | Schedule::After(ms)) => Some(now.plus_millis(*ms)),
            Some(Schedule::Cron(cron)) => {
                let from = DateTime::from_timestamp_nanos(now.nanos());
                let next = cron.find_next_occurrence(&from, false).ok()?;
                next.timestamp_nanos_opt().map(Timestamp)
            }
            _ => None,
        }
    }

    /// The input that this event completes, if it does: the list of the consumed events.
    pub fn consume(&mut self, event: &Value, engine: &Engine) -> Option<Value> {
        let definition = self.definition.clone();
        let Some(Schedule::On(strategy)) = &definition.schedule else { return None };
        let admits = |filter: &EventFilter| {
            filter.admits(event, engine, &Scope::default(), &BTreeMap::new()).unwrap_or_default().is_some()
        };
        match strategy {
            Strategy::One(filter) => admits(filter).then(|| json!([event])),
            Strategy::Any { filters, .. } => filters.iter().any(admits).then(|| json!([event])),
            Strategy::All(filters) => {
                let index = filters
                    .iter()
                    .enumerate()
                    .position(|(index, filter)| !self.gathered.contains_key(&index.to_string()) && admits(filter))?;
                self.gathered.insert(index.to_string(), event.clone());
                if self.gathered.len() < filters.len() {
                    return None;
                }
                Some(Value::Array(std::mem::take(&mut self.gathered).into_iter().map(|(_, event)| event).collect()))
            }
        }
    }
}

/// What an event that started a run leaves in its cause.
pub(crate) fn cause(event: &Value) -> Cause {
    let kind = event["type"].as_str().unwrap_or_default();
    let is_alert = kind.starts_with("io.orchestrix.alert.");
    Cause {
        kind: "event".into(),
        principal: None,
        event: json!({"id": event["id"], "type": event["type"], "source": event["source"], "subject": event["subject"]}),
        alert: if is_alert { event["data"]["alert"]["id"].as_str().and_then(|id| id.parse().ok()) } else { None },
        fingerprint: if is_alert { event["subject"].as_str().map(str::to_owned) } else { None },
    }
}
