//! YAML 1.2 and JSON as a tree in which each node knows its place.
//!
//! Built from the parser's events with a stack of our own, so that depth, nodes and the copies that
//! aliases make are all bounded, and nothing recurses over what a stranger sent.

use crate::definition::Diagnostic;
use model::limits;
use saphyr::Scalar;
use saphyr_parser::{Event, Marker, Parser};
use serde_json::{Map, Number, Value};
use std::collections::HashMap;

/// Nesting of mappings and sequences. Real definitions stay under 30.
const DEPTH_MAX: usize = 100;
/// Nodes of one document, those that aliases copy included. A definition of 1 MiB has at most about this many.
const NODES_MAX: usize = 200_000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// From 1.
    pub line: usize,
    pub column: usize,
}

#[derive(Clone, Debug)]
pub struct Node {
    pub place: Place,
    pub content: Content,
}

#[derive(Clone, Debug)]
pub enum Content {
    /// All but mappings and sequences.
    Scalar(Value),
    Sequence(Vec<Node>),
    /// In the order of the text, each key once.
    Mapping(Vec<(Key, Node)>),
}

#[derive(Clone, Debug)]
pub struct Key {
    pub text: String,
    pub place: Place,
}

impl Node {
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.content {
            Content::Mapping(entries) => entries.iter().find(|(k, _)| k.text == key).map(|(_, node)| node),
            _ => None,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match &self.content {
            Content::Scalar(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    /// What it is, for a message.
    pub fn kind(&self) -> &'static str {
        match &self.content {
            Content::Scalar(Value::Null) => "nothing",
            Content::Scalar(Value::Bool(_)) => "a boolean",
            Content::Scalar(Value::Number(_)) => "a number",
            Content::Scalar(_) => "a text",
            Content::Sequence(_) => "a list",
            Content::Mapping(_) => "a mapping",
        }
    }

    pub fn to_json(&self) -> Value {
        match &self.content {
            Content::Scalar(value) => value.clone(),
            Content::Sequence(items) => Value::Array(items.iter().map(Node::to_json).collect()),
            Content::Mapping(entries) => {
                let mut map = Map::with_capacity(entries.len());
                for (key, node) in entries {
                    map.insert(key.text.clone(), node.to_json());
                }
                Value::Object(map)
            }
        }
    }
}

/// Reads exactly one document.
pub fn parse(text: &str) -> Result<Node, Diagnostic> {
    if text.len() > limits::DEFINITION_BYTES_MAX {
        return Err(whole(format!("the text has {} bytes, more than the {} allowed", text.len(), limits::DEFINITION_BYTES_MAX)));
    }
    if let Some(at) = text.find('\0') {
        let line = text[..at].matches('\n').count() + 1;
        return Err(Diagnostic {
            line,
            column: 1,
            pointer: String::new(),
            message: "the text contains a NUL byte".into(),
            hint: None,
        });
    }
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| at(place(error.marker()), error.info().to_owned()))?;
        builder.take(event, place(&span.start))?;
    }
    builder.root.ok_or_else(|| whole("the text is empty".into()))
}

#[derive(Default)]
struct Builder {
    stack: Vec<Open>,
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
    documents: usize,
    root: Option<Node>,
}

struct Open {
    node: Node,
    anchor: usize,
    key: Option<Key>,
    nodes_before: usize,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, place: Place) -> Result<(), Diagnostic> {
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(at(place, "a second document begins here; one definition is one document".into()));
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                let scalar = Scalar::parse_from_cow_and_metadata(text.clone(), style, tag.as_ref())
                    .ok_or_else(|| at(place, format!("{text:?} is not what its tag says")))?;
                let value = match scalar {
                    Scalar::Null => Value::Null,
                    Scalar::Boolean(b) => Value::Bool(b),
                    Scalar::Integer(i) => Value::Number(i.into()),
                    Scalar::FloatingPoint(f) => Number::from_f64(f.into_inner())
                        .map(Value::Number)
                        .ok_or_else(|| at(place, format!("{text} has no JSON form")))?,
                    Scalar::String(s) => Value::String(s.into_owned()),
                };
                self.count(1, place)?;
                let node = Node { place, content: Content::Scalar(value) };
                if anchor > 0 {
                    self.anchors.insert(anchor, (node.clone(), 1));
                }
                self.add(node)?;
            }
            Event::SequenceStart(anchor, _) => self.open(Content::Sequence(Vec::new()), anchor, place)?,
            Event::MappingStart(anchor, _) => self.open(Content::Mapping(Vec::new()), anchor, place)?,
            Event::SequenceEnd | Event::MappingEnd => {
                let open = self.stack.pop().expect("the parser pairs starts and ends");
                if open.anchor > 0 {
                    let size = self.nodes - open.nodes_before;
                    self.anchors.insert(open.anchor, (open.node.clone(), size));
                }
                self.add(open.node)?;
            }
            Event::Alias(anchor) => {
                let Some((node, size)) = self.anchors.get(&anchor) else {
                    return Err(at(place, "this alias stands inside its own anchor".into()));
                };
                // Counted before the copy: a bomb is refused while it is still small.
                let (node, size) = (node, *size);
                if self.nodes + size > NODES_MAX {
                    return Err(too_many(place));
                }
                let mut node = node.clone();
                node.place = place;
                self.nodes += size;
                self.add(node)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn count(&mut self, nodes: usize, place: Place) -> Result<(), Diagnostic> {
        self.nodes += nodes;
        if self.nodes > NODES_MAX { Err(too_many(place)) } else { Ok(()) }
    }

    fn open(&mut self, content: Content, anchor: usize, place: Place) -> Result<(), Diagnostic> {
        if self.stack.len() >= DEPTH_MAX {
            return Err(at(place, format!("nested deeper than {DEPTH_MAX} levels")));
        }
        let nodes_before = self.nodes;
        self.count(1, place)?;
        self.stack.push(Open { node: Node { place, content }, anchor, key: None, nodes_before });
        Ok(())
    }

    fn add(&mut self, node: Node) -> Result<(), Diagnostic> {
        let Some(open) = self.stack.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut open.node.content {
            Content::Sequence(items) => items.push(node),
            Content::Mapping(entries) => match open.key.take() {
                Some(key) => entries.push((key, node)),
                None => {
                    let text = match &node.content {
                        Content::Scalar(Value::String(text)) => text.clone(),
                        Content::Scalar(value) => value.to_string(),
                        _ => return Err(at(node.place, "a key must be a text".into())),
                    };
                    if entries.iter().any(|(k, _)| k.text == text) {
                        return Err(at(node.place, format!("the key {text:?} stands here a second time")));
                    }
                    open.key = Some(Key { text, place: node.place });
                }
            },
            Content::Scalar(_) => unreachable!("only mappings and sequences are opened"),
        }
        Ok(())
    }
}

fn place(marker: &Marker) -> Place {
    Place { line: marker.line(), column: marker.col() + 1 }
}

fn at(place: Place, message: String) -> Diagnostic {
    Diagnostic { line: place.line, column: place.column, pointer: String::new(), message, hint: None }
}

fn whole(message: String) -> Diagnostic {
    at(Place { line: 1, column: 1 }, message)
}

fn too_many(place: Place) -> Diagnostic {
    at(place, format!("more than {NODES_MAX} nodes, those that aliases repeat included"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(text: &str) -> String {
        let error = parse(text).unwrap_err();
        format!("{}:{} {}", error.line, error.column, error.message)
    }

    #[test]
    fn yaml_1_2_keeps_on_and_yes_as_texts() {
        let node = parse("on: yes\nno: off\nn: 0x1F\nf: 1.5\nempty:\nv: 0.1.0\n").unwrap();
        assert_eq!(node.to_json(), json!({"on": "yes", "no": "off", "n": 31, "f": 1.5, "empty": null, "v": "0.1.0"}));
        assert_eq!(node.get("n").unwrap().place, Place { line: 3, column: 4 });
    }

    #[test]
    fn json_is_yaml_too() {
        assert_eq!(parse("{\"a\": [1, {\"b\": null}]}").unwrap().to_json(), json!({"a": [1, {"b": null}]}));
    }

    #[test]
    fn an_alias_is_a_copy_and_a_bomb_of_aliases_is_refused() {
        assert_eq!(parse("a: &x [1, 2]\nb: *x").unwrap().to_json(), json!({"a": [1, 2], "b": [1, 2]}));
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for n in 1..12 {
            let aliases = vec![format!("*a{}", n - 1); 10].join(", ");
            bomb += &format!("a{n}: &a{n} [{aliases}]\n");
        }
        assert!(refused(&bomb).contains("more than 200000 nodes"));
        assert!(refused("a: &a [*a]").contains("inside its own anchor"));
    }

    #[test]
    fn hostile_texts_are_refused_with_their_place() {
        assert!(refused(&"[".repeat(101)).contains("nested deeper than 100 levels"));
        for deep in ["[", "{a: ", "- ", "? ", "a:\n "] {
            // By us or, further in, by the parser.
            assert!(refused(&deep.repeat(50_000)).len() > 5, "{deep:?}");
        }
        assert!(refused(&"x".repeat(10 << 20)).contains("more than the 1048576 allowed"));
        assert_eq!(refused("a: 1\nb: \0"), "2:1 the text contains a NUL byte");
        assert_eq!(refused("a: 1\na: 2"), "2:1 the key \"a\" stands here a second time");
        assert_eq!(refused("a: 1\n---\nb: 2"), "2:1 a second document begins here; one definition is one document");
        assert_eq!(refused(""), "1:1 the text is empty");
        assert!(refused("a: [1, 2").starts_with("1:") || refused("a: [1, 2").starts_with("2:"));
        assert!(refused("a: !!int x").contains("not what its tag says"));
        assert!(refused("a: .nan").contains("no JSON form"));
        assert!(refused("? [a]\n: b").contains("a key must be a text"));
    }
}
