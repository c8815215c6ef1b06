//! Which events a listener or a schedule consumes.

use super::field::{At, Reader};
use crate::expression::{self, Engine, Scope};
use crate::yaml::Content;
use regex::Regex;
use serde_json::Value;
use std::collections::BTreeMap;

/// Prefix of the engine's own lifecycle events. A filter sees them only if it names a type.
pub const LIFECYCLE_PREFIX: &str = "io.serverlessworkflow.";

#[derive(Debug)]
pub enum Strategy {
    One(EventFilter),
    /// No filter at all: any event.
    Any {
        filters: Vec<EventFilter>,
        until: Option<Until>,
    },
    All(Vec<EventFilter>),
}

#[derive(Debug)]
pub enum Until {
    /// Judged on the list of what was consumed, after each event.
    Condition(String),
    Consumed(Box<Strategy>),
}

#[derive(Debug)]
pub struct EventFilter {
    pub with: Vec<(String, Pattern)>,
    /// Key, how to get the value from the event, and what it must be.
    pub correlate: Vec<(String, String, Option<String>)>,
}

#[derive(Debug)]
pub enum Pattern {
    /// The same text, or a regular expression that matches all of it.
    Text(String, Option<Regex>),
    /// Judged on the attribute's value.
    Expression(String),
    /// Each key given must match; others don't matter.
    Object(Vec<(String, Pattern)>),
    Value(Value),
}

impl Strategy {
    /// Event types that can matter; an empty text is any.
    pub fn kinds(&self) -> Vec<String> {
        let (filters, until): (Vec<&EventFilter>, _) = match self {
            Self::One(filter) => (vec![filter], None),
            Self::Any { filters, until } => (filters.iter().collect(), until.as_ref()),
            Self::All(filters) => (filters.iter().collect(), None),
        };
        let mut kinds: Vec<String> = filters.iter().map(|f| f.kind().unwrap_or_default().to_owned()).collect();
        if kinds.is_empty() {
            kinds.push(String::new());
        }
        if let Some(Until::Consumed(strategy)) = until {
            kinds.extend(strategy.kinds());
        }
        kinds.sort();
        kinds.dedup();
        kinds
    }

    /// Whether any filter names this event type.
    pub fn names_kind(&self, kind: &str) -> bool {
        self.kinds().iter().any(|k| k == kind)
    }
}

impl EventFilter {
    /// The event type, where the filter names exactly one.
    pub fn kind(&self) -> Option<&str> {
        self.with.iter().find_map(|(name, pattern)| match pattern {
            Pattern::Text(text, None) if name == "type" => Some(text.as_str()),
            _ => None,
        })
    }

    /// Whether the event (as JSON) passes, and the correlation values it brings. `known` are those of
    /// events consumed before.
    pub fn admits(
        &self,
        event: &Value,
        engine: &Engine,
        scope: &Scope<'_>,
        known: &BTreeMap<String, Value>,
    ) -> Result<Option<BTreeMap<String, Value>>, String> {
        let names_type = self.with.iter().any(|(name, _)| name == "type");
        if !names_type && event["type"].as_str().is_some_and(|kind| kind.starts_with(LIFECYCLE_PREFIX)) {
            return Ok(None);
        }
        for (name, pattern) in &self.with {
            if !pattern.admits(&event[name.as_str()], engine, scope)? {
                return Ok(None);
            }
        }
        let mut brought = BTreeMap::new();
        for (key, from, expect) in &self.correlate {
            let value = engine.evaluate(from, &event["data"], scope)?;
            let expected = match expect {
                Some(text) => match expression::inner(text) {
                    Some(inner) => Some(engine.evaluate(inner, &event["data"], scope)?),
                    None => Some(Value::String(text.clone())),
                },
                None => known.get(key).cloned(),
            };
            if expected.is_some_and(|expected| expected != value) {
                return Ok(None);
            }
            brought.insert(key.clone(), value);
        }
        Ok(Some(brought))
    }
}

impl Pattern {
    fn admits(&self, value: &Value, engine: &Engine, scope: &Scope<'_>) -> Result<bool, String> {
        Ok(match self {
            Self::Text(text, regex) => match value {
                Value::String(value) => value == text || regex.as_ref().is_some_and(|regex| regex.is_match(value)),
                _ => false,
            },
            // A value that the expression can't read is not the one that is waited for.
            Self::Expression(text) => engine.is_true(text, value, scope).unwrap_or(false),
            Self::Object(entries) => {
                for (key, pattern) in entries {
                    if !pattern.admits(&value[key.as_str()], engine, scope)? {
                        return Ok(false);
                    }
                }
                true
            }
            Self::Value(expected) => value == expected,
        })
    }
}

impl<'n> Reader<'n> {
    pub(super) fn strategy(&mut self, at: &At<'n>) -> Option<Strategy> {
        if !self.mapping(at, &["one", "any", "all", "until"], &[]) {
            return None;
        }
        let given: Vec<&str> = ["one", "any", "all"].into_iter().filter(|key| at.has(key)).collect();
        let [key] = given[..] else {
            self.complain(at, "exactly one of \"one\", \"any\" and \"all\" is expected here");
            return None;
        };
        if at.has("until") && key != "any" {
            self.complain(at, "\"until\" goes only with \"any\"");
        }
        let filters = at.get(key)?;
        match key {
            "one" => self.filter(&filters).map(Strategy::One),
            "all" => Some(Strategy::All(self.filters(&filters))),
            _ => {
                let until = at.get("until").and_then(|until| match until.node.content {
                    Content::Mapping(_) => self.strategy(&until).map(|strategy| Until::Consumed(Box::new(strategy))),
                    _ => self.expression(&until).map(Until::Condition),
                });
                Some(Strategy::Any { filters: self.filters(&filters), until })
            }
        }
    }

    fn filters(&mut self, at: &At<'n>) -> Vec<EventFilter> {
        let items = self.items(at);
        items.iter().enumerate().filter_map(|(index, item)| self.filter(&at.child(&index.to_string(), item))).collect()
    }

    fn filter(&mut self, at: &At<'n>) -> Option<EventFilter> {
        if !self.mapping(at, &["with", "correlate"], &["with"]) {
            return None;
        }
        let with = at.get("with")?;
        let entries = self.entries(&with);
        if entries.is_empty() {
            self.complain(&with, "at least one attribute is expected here, such as type");
        }
        let mut patterns = Vec::new();
        for (key, node) in entries {
            let pattern = self.pattern(&with.child(&key.text, node))?;
            patterns.push((key.text.clone(), pattern));
        }
        let mut correlate = Vec::new();
        if let Some(at) = at.get("correlate") {
            for (key, node) in self.entries(&at) {
                let at = at.child(&key.text, node);
                if self.mapping(&at, &["from", "expect"], &["from"])
                    && let Some(from) = self.expression_of(&at, "from")
                {
                    self.template_of(&at, "expect");
                    correlate.push((key.text.clone(), from, self.text_of(&at, "expect").map(str::to_owned)));
                }
            }
        }
        Some(EventFilter { with: patterns, correlate })
    }

    fn pattern(&mut self, at: &At<'n>) -> Option<Pattern> {
        match &at.node.content {
            Content::Scalar(Value::String(text)) => {
                if expression::inner(text).is_some() {
                    return self.expression(at).map(Pattern::Expression);
                }
                // Dots alone make no pattern: types and host names are full of them.
                if !text.contains(['*', '+', '?', '[', ']', '(', ')', '|', '^', '$', '\\']) {
                    return Some(Pattern::Text(text.clone(), None));
                }
                match Regex::new(&format!("^(?:{text})$")) {
                    Ok(regex) => Some(Pattern::Text(text.clone(), Some(regex))),
                    // A query string or the like: equal it must be.
                    Err(_) => Some(Pattern::Text(text.clone(), None)),
                }
            }
            Content::Mapping(entries) => {
                let mut patterns = Vec::new();
                for (key, node) in entries {
                    patterns.push((key.text.clone(), self.pattern(&at.child(&key.text, node))?));
                }
                Some(Pattern::Object(patterns))
            }
            _ => Some(Pattern::Value(at.node.to_json())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml;
    use serde_json::json;

    fn admits(filter: &str, event: Value) -> bool {
        let node = yaml::parse(filter).unwrap();
        let mut reader = Reader::default();
        let filter = reader.filter(&At::root(&node)).unwrap();
        assert!(reader.diagnostics.is_empty(), "{:?}", reader.diagnostics);
        filter
            .admits(&event, &Engine::default(), &Scope::default(), &BTreeMap::from([("room".into(), json!(7))]))
            .unwrap()
            .is_some()
    }

    #[test]
    fn a_filter_compares_texts_patterns_expressions_and_parts_of_data() {
        let event = json!({"type": "a.b", "source": "/m/cpu", "data": {"t": 39, "labels": {"app": "web", "x": 1}}});
        for (filter, expected) in [
            ("with: {type: a.b}", true),
            ("with: {type: a.c}", false),
            ("with: {type: axb}", false),
            ("with: {type: a.*, source: /m/.+}", true),
            ("with: {type: a.b, data: '${ .t > 38 }'}", true),
            ("with: {type: a.b, data: '${ .t > 40 }'}", false),
            ("with: {type: a.b, data: '${ .t.x.y }'}", false),
            ("with: {type: a.b, data: {labels: {app: web}}}", true),
            ("with: {type: a.b, data: {labels: {app: '${ startswith(\"db\") }'}}}", false),
            ("with: {type: a.b, subject: x}", false),
            ("with: {type: a.b}\ncorrelate: {room: {from: .t}}", false),
            ("with: {type: a.b}\ncorrelate: {other: {from: .t}}", true),
            ("with: {type: a.b}\ncorrelate: {room: {from: .t, expect: '${ 39 }'}}", true),
        ] {
            assert_eq!(admits(filter, event.clone()), expected, "{filter}");
        }
    }

    #[test]
    fn lifecycle_events_are_seen_only_by_who_names_a_type() {
        let event = json!({"type": "io.serverlessworkflow.task.started.v1", "source": "x", "data": {}});
        assert!(!admits("with: {source: x}", event.clone()));
        assert!(admits("with: {type: 'io.serverlessworkflow.task.started.v1'}", event));
    }
}
