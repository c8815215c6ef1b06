//! Reading of nodes with complaints: each reader answers what it could make of a node and notes what is wrong.

use super::{Diagnostic, Input, Output, Schema, Time, Transform};
use crate::{
    expression,
    yaml::{Content, Key, Node, Place},
};
use serde_json::Value;

/// Mistakes told at once; more would only be noise.
const DIAGNOSTICS_MAX: usize = 100;

/// Names that the document declares under `use`, with their nodes.
#[derive(Default)]
pub(super) struct Declared<'n> {
    pub functions: Vec<(&'n Key, &'n Node)>,
    pub retries: Vec<(&'n Key, &'n Node)>,
    pub errors: Vec<(&'n Key, &'n Node)>,
    pub timeouts: Vec<(&'n Key, &'n Node)>,
    pub authentications: Vec<(&'n Key, &'n Node)>,
    pub secrets: Vec<String>,
}

#[derive(Default)]
pub(super) struct Reader<'n> {
    pub diagnostics: Vec<Diagnostic>,
    /// Variables of the enclosing loops and catches.
    pub variables: Vec<String>,
    pub declared: Declared<'n>,
}

/// A place in the document: the node and its pointer.
#[derive(Clone)]
pub(super) struct At<'n> {
    pub node: &'n Node,
    pub pointer: String,
}

impl<'n> At<'n> {
    pub fn root(node: &'n Node) -> Self {
        Self { node, pointer: String::new() }
    }

    pub fn child(&self, segment: &str, node: &'n Node) -> Self {
        Self { node, pointer: format!("{}/{}", self.pointer, escape(segment)) }
    }

    pub fn get(&self, key: &str) -> Option<At<'n>> {
        self.node.get(key).map(|node| self.child(key, node))
    }

    pub fn has(&self, key: &str) -> bool {
        self.node.get(key).is_some()
    }
}

pub(super) fn escape(segment: &str) -> String {
    segment.replace('~', "~0").replace('/', "~1")
}

impl<'n> Reader<'n> {
    pub fn complain(&mut self, at: &At<'_>, message: impl Into<String>) {
        self.note(at.node.place, &at.pointer, message.into(), None);
    }

    pub fn complain_with(&mut self, at: &At<'_>, message: impl Into<String>, hint: Option<String>) {
        self.note(at.node.place, &at.pointer, message.into(), hint);
    }

    pub fn note(&mut self, place: Place, pointer: &str, message: String, hint: Option<String>) {
        if self.diagnostics.len() < DIAGNOSTICS_MAX {
            self.diagnostics.push(Diagnostic {
                line: place.line,
                column: place.column,
                pointer: pointer.to_owned(),
                message,
                hint,
            });
        }
    }

    /// The entries of a mapping; anything else is a complaint and no entries.
    pub fn entries(&mut self, at: &At<'n>) -> &'n [(Key, Node)] {
        match &at.node.content {
            Content::Mapping(entries) => entries,
            _ => {
                self.complain(at, format!("a mapping is expected here, not {}", at.node.kind()));
                &[]
            }
        }
    }

    pub fn items(&mut self, at: &At<'n>) -> &'n [Node] {
        match &at.node.content {
            Content::Sequence(items) => items,
            _ => {
                self.complain(at, format!("a list is expected here, not {}", at.node.kind()));
                &[]
            }
        }
    }

    /// A mapping with no keys but `known`, and all of `required`.
    pub fn mapping(&mut self, at: &At<'n>, known: &[&str], required: &[&str]) -> bool {
        let Content::Mapping(entries) = &at.node.content else {
            self.complain(at, format!("a mapping is expected here, not {}", at.node.kind()));
            return false;
        };
        let mut misspelt = Vec::new();
        for (key, _) in entries {
            if !known.contains(&key.text.as_str()) {
                let near = nearest(&key.text, known.iter().copied());
                misspelt.extend(near);
                let hint = near
                    .map(|near| format!("did you mean {near:?}?"))
                    .or_else(|| Some(format!("known here: {}", known.join(", "))));
                self.note(
                    key.place,
                    &format!("{}/{}", at.pointer, escape(&key.text)),
                    format!("unknown key {:?}", key.text),
                    hint,
                );
            }
        }
        for key in required {
            // A key that is only misspelt was complained about already.
            if !at.has(key) && !misspelt.contains(key) {
                self.complain(at, format!("{key:?} is missing"));
            }
        }
        true
    }

    /// The only entry of a mapping of one, as list items of tasks and cases are.
    pub fn single(&mut self, at: &At<'n>) -> Option<(&'n Key, At<'n>)> {
        match &at.node.content {
            Content::Mapping(entries) if entries.len() == 1 => {
                let (key, node) = &entries[0];
                Some((key, at.child(&key.text, node)))
            }
            Content::Mapping(entries) => {
                let hint =
                    (entries.len() > 1).then(|| "indent what belongs to the first name, or begin a new item with '-'".to_owned());
                self.complain_with(at, format!("one name with its content is expected here, not {} keys", entries.len()), hint);
                None
            }
            _ => {
                self.complain(at, format!("a name with its content is expected here, not {}", at.node.kind()));
                None
            }
        }
    }

    pub fn text(&mut self, at: &At<'n>) -> Option<&'n str> {
        let text = at.node.as_str();
        if text.is_none() {
            let hint = matches!(at.node.content, Content::Scalar(Value::Number(_) | Value::Bool(_)))
                .then(|| "put it in quotes".to_owned());
            self.complain_with(at, format!("a text is expected here, not {}", at.node.kind()), hint);
        }
        text
    }

    pub fn text_of(&mut self, at: &At<'n>, key: &str) -> Option<&'n str> {
        let at = at.get(key)?;
        self.text(&at)
    }

    pub fn boolean_of(&mut self, at: &At<'n>, key: &str, default: bool) -> bool {
        let Some(at) = at.get(key) else { return default };
        match &at.node.content {
            Content::Scalar(Value::Bool(b)) => *b,
            _ => {
                self.complain(&at, format!("true or false is expected here, not {}", at.node.kind()));
                default
            }
        }
    }

    /// One of a closed set of words.
    pub fn word(&mut self, at: &At<'n>, words: &[&str]) -> Option<&'n str> {
        let text = self.text(at)?;
        if words.contains(&text) {
            return Some(text);
        }
        let hint = nearest(text, words.iter().copied()).map(|near| format!("did you mean {near:?}?"));
        self.complain_with(at, format!("{text:?} is none of {}", words.join(", ")), hint);
        None
    }

    /// The jq text of a place that takes an expression with or without `${ }`.
    pub fn expression(&mut self, at: &At<'n>) -> Option<String> {
        let text = expression::bare(self.text(at)?).to_owned();
        self.check(at, &text);
        Some(text)
    }

    pub fn expression_of(&mut self, at: &At<'n>, key: &str) -> Option<String> {
        let at = at.get(key)?;
        self.expression(&at)
    }

    fn check(&mut self, at: &At<'_>, text: &str) {
        if let Err(message) = expression::check(text, &self.variables) {
            self.complain(at, message);
        }
    }

    /// Any value; the `${ }` texts within are checked.
    pub fn template(&mut self, at: &At<'n>) -> Value {
        match &at.node.content {
            Content::Scalar(Value::String(text)) => {
                if let Some(inner) = expression::inner(text) {
                    self.check(at, inner);
                }
            }
            Content::Scalar(_) => {}
            Content::Sequence(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.template(&at.child(&index.to_string(), item));
                }
            }
            Content::Mapping(entries) => {
                for (key, node) in entries {
                    self.template(&at.child(&key.text, node));
                }
            }
        }
        at.node.to_json()
    }

    pub fn template_of(&mut self, at: &At<'n>, key: &str) -> Option<Value> {
        let at = at.get(key)?;
        Some(self.template(&at))
    }

    fn transform(&mut self, at: &At<'n>) -> Option<Transform> {
        match &at.node.content {
            Content::Scalar(Value::String(_)) => self.expression(at).map(Transform::Expression),
            Content::Mapping(_) => Some(Transform::Template(self.template(at))),
            _ => {
                self.complain(at, format!("an expression or a mapping is expected here, not {}", at.node.kind()));
                None
            }
        }
    }

    pub fn input_of(&mut self, at: &At<'n>) -> Input {
        let Some(at) = at.get("input") else { return Input::default() };
        if !self.mapping(&at, &["schema", "from"], &[]) {
            return Input::default();
        }
        Input { schema: self.schema_of(&at), from: at.get("from").and_then(|from| self.transform(&from)) }
    }

    /// `output` or `export`.
    pub fn output_of(&mut self, at: &At<'n>, key: &str) -> Output {
        let Some(at) = at.get(key) else { return Output::default() };
        if !self.mapping(&at, &["schema", "as"], &[]) {
            return Output::default();
        }
        Output { schema: self.schema_of(&at), r#as: at.get("as").and_then(|r#as| self.transform(&r#as)) }
    }

    fn schema_of(&mut self, at: &At<'n>) -> Option<Schema> {
        let at = at.get("schema")?;
        if !self.mapping(&at, &["format", "document", "resource"], &[]) {
            return None;
        }
        if let Some(format) = self.text_of(&at, "format")
            && format.split(':').next() != Some("json")
        {
            self.complain(&at, format!("schema format {format:?} is not supported; json is"));
        }
        if at.has("resource") {
            self.complain(&at, "schemas from elsewhere (`resource`) are not supported yet; write it inline as `document`");
            return None;
        }
        let Some(document) = at.get("document") else {
            self.complain(&at, "\"document\" is missing");
            return None;
        };
        match jsonschema::draft202012::new(&document.node.to_json()) {
            Ok(validator) => Some(Schema { validator }),
            Err(error) => {
                self.complain(&document, format!("this is no JSON schema: {error}"));
                None
            }
        }
    }

    /// A duration: mapping, ISO 8601, or with expressions.
    pub fn time(&mut self, at: &At<'n>) -> Option<Time> {
        let json = at.node.to_json();
        let is_dynamic = match &json {
            Value::String(text) => expression::inner(text).is_some(),
            Value::Object(parts) => {
                parts.values().any(|part| part.as_str().is_some_and(|text| expression::inner(text).is_some()))
            }
            _ => false,
        };
        if is_dynamic {
            if let Value::Object(_) = &json {
                self.mapping(at, &["days", "hours", "minutes", "seconds", "milliseconds"], &[]);
            }
            return Some(Time::Template(self.template(at)));
        }
        if matches!(json, Value::Object(_)) {
            let before = self.diagnostics.len();
            self.mapping(at, &["days", "hours", "minutes", "seconds", "milliseconds"], &[]);
            if self.diagnostics.len() > before {
                return None;
            }
        }
        match Time::literal(&json) {
            Ok(time) => Some(time),
            Err(message) => {
                self.complain(at, message);
                None
            }
        }
    }

    pub fn time_of(&mut self, at: &At<'n>, key: &str) -> Option<Time> {
        let at = at.get(key)?;
        self.time(&at)
    }

    /// `timeout: {after: …}`, or the name of one under `use.timeouts`.
    pub fn timeout_of(&mut self, at: &At<'n>) -> Option<Time> {
        let at = at.get("timeout")?;
        let at = match at.node.as_str() {
            Some(name) => self.declared_node(&at, name, "timeouts", |d| &d.timeouts)?,
            None => at,
        };
        self.mapping(&at, &["after"], &["after"]).then(|| self.time_of(&at, "after")).flatten()
    }

    /// The node that `name` stands for under `use.<group>`.
    pub fn declared_node(
        &mut self,
        at: &At<'n>,
        name: &str,
        group: &str,
        of: impl for<'d> Fn(&'d Declared<'n>) -> &'d Vec<(&'n Key, &'n Node)>,
    ) -> Option<At<'n>> {
        let list = of(&self.declared).clone();
        if let Some((_, node)) = list.iter().find(|(key, _)| key.text == name) {
            return Some(At { node, pointer: format!("/use/{group}/{}", escape(name)) });
        }
        let hint = nearest(name, list.iter().map(|(key, _)| key.text.as_str())).map(|near| format!("did you mean {near:?}?"));
        self.complain_with(at, format!("{name:?} is not declared under use.{group}"), hint);
        None
    }
}

/// The word that was probably meant.
pub(super) fn nearest<'w>(word: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    words
        .map(|known| (strsim::osa_distance(&known.to_lowercase(), &word.to_lowercase()), known))
        .filter(|(distance, known)| *distance <= (known.len().max(word.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}
