//! Runtime expressions: jq, by jaq.
//!
//! An expression sees no clock, environment, file or network: `now`, `env`, `input` and `debug` are not
//! there. Compiled filters are kept, since a definition evaluates the same few again and again.

use jaq_core::load::{Arena, File, Loader};
use jaq_core::{Compiler, Ctx, Vars, data::JustLut, unwrap_valr};
use jaq_json::{Num, Val};
use model::limits;
use parking_lot::Mutex;
use serde_json::{Map, Number, Value};
use std::{collections::HashMap, sync::Arc};

/// Variables that are always there; those without a value are null.
pub const VARIABLES: [&str; 11] =
    ["context", "input", "output", "secrets", "authorization", "task", "workflow", "runtime", "error", "item", "index"];
/// Compiled filters kept; beyond it all are dropped and made anew, at about a millisecond each.
const CACHE_LEN_MAX: usize = 4_096;
/// Nesting of a value that an expression gives; JSON readers stop at 128.
const DEPTH_MAX: usize = 90;

type Filter = jaq_core::Filter<JustLut<Val>>;

/// Values by variable name, without the `$`; of a repeated name the last counts.
#[derive(Clone, Default)]
pub struct Scope<'v>(Vec<(&'v str, &'v Value)>);

impl<'v> Scope<'v> {
    pub fn set(&mut self, name: &'v str, value: &'v Value) {
        self.0.push((name, value));
    }

    fn get(&self, name: &str) -> Option<&'v Value> {
        self.0.iter().rev().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }

    /// Names beyond the constant ones, sorted: what a filter is compiled for.
    fn own(&self) -> Vec<String> {
        let mut own: Vec<String> =
            self.0.iter().map(|(name, _)| *name).filter(|name| !VARIABLES.contains(name)).map(str::to_owned).collect();
        own.sort();
        own.dedup();
        own
    }
}

/// Compiles and runs expressions. Cheap to share.
#[derive(Default)]
pub struct Engine {
    filters: Mutex<HashMap<String, Arc<Compiled>>>,
}

struct Compiled {
    filter: Filter,
    /// Variables in the order of the filter, and whether the text mentions them at all.
    variables: Vec<(String, bool)>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Engine")
    }
}

/// The jq text inside `${ … }`, or `None` when the text is no expression.
pub fn inner(text: &str) -> Option<&str> {
    let inner = text.trim().strip_prefix("${")?.strip_suffix('}')?.trim();
    (!inner.is_empty()).then_some(inner)
}

/// The jq text of a place where an expression is meant anyway: with `${ }` or without.
pub fn bare(text: &str) -> &str {
    inner(text).unwrap_or_else(|| text.trim())
}

/// Whether the text compiles with these variables beside the constant ones.
pub fn check(text: &str, variables: &[String]) -> Result<(), String> {
    compile(text, variables).map(drop)
}

impl Engine {
    /// The first value that the expression gives; `null` when it gives none.
    pub fn evaluate(&self, text: &str, input: &Value, scope: &Scope<'_>) -> Result<Value, String> {
        // The commonest expressions need no jq.
        if text == "." {
            return Ok(input.clone());
        }
        let compiled = self.compiled(text, scope)?;
        let values = compiled.variables.iter().map(|(name, is_used)| match scope.get(name) {
            Some(value) if *is_used => to_val(value),
            _ => Val::Null,
        });
        let context = Ctx::<JustLut<Val>>::new(&compiled.filter.lut, Vars::new(values));
        match compiled.filter.id.run((context, to_val(input))).map(unwrap_valr).next() {
            None => Ok(Value::Null),
            Some(Ok(value)) => from_val(&value, 0),
            Some(Err(error)) => Err(shortened(&error.to_string())),
        }
    }

    pub fn is_true(&self, text: &str, input: &Value, scope: &Scope<'_>) -> Result<bool, String> {
        let value = self.evaluate(text, input, scope)?;
        Ok(!matches!(value, Value::Null | Value::Bool(false)))
    }

    /// Replaces each `${ … }` text within `template` by its value; all else stays.
    pub fn fill(&self, template: &Value, input: &Value, scope: &Scope<'_>) -> Result<Value, String> {
        Ok(match template {
            Value::String(text) => match inner(text) {
                Some(expression) => self.evaluate(expression, input, scope)?,
                None => template.clone(),
            },
            Value::Array(items) => {
                Value::Array(items.iter().map(|item| self.fill(item, input, scope)).collect::<Result<_, _>>()?)
            }
            Value::Object(entries) => {
                let mut filled = Map::with_capacity(entries.len());
                for (key, value) in entries {
                    filled.insert(key.clone(), self.fill(value, input, scope)?);
                }
                Value::Object(filled)
            }
            other => other.clone(),
        })
    }

    fn compiled(&self, text: &str, scope: &Scope<'_>) -> Result<Arc<Compiled>, String> {
        let own = scope.own();
        let key = if own.is_empty() { text.to_owned() } else { format!("{}\u{0}{text}", own.join(",")) };
        if let Some(found) = self.filters.lock().get(&key) {
            return Ok(found.clone());
        }
        let compiled = Arc::new(compile(text, &own)?);
        let mut filters = self.filters.lock();
        if filters.len() >= CACHE_LEN_MAX {
            filters.clear();
        }
        filters.insert(key, compiled.clone());
        Ok(compiled)
    }
}

fn compile(text: &str, own: &[String]) -> Result<Compiled, String> {
    if text.len() > limits::RECORDED_VALUE_BYTES_MAX {
        return Err(format!("the expression has {} bytes, more than {}", text.len(), limits::RECORDED_VALUE_BYTES_MAX));
    }
    let nesting = text.bytes().filter(|b| matches!(b, b'(' | b'[' | b'{')).count();
    if nesting > 1_000 {
        return Err("the expression has more than 1000 brackets".into());
    }
    let names: Vec<String> = VARIABLES.iter().map(|v| (*v).to_owned()).chain(own.iter().cloned()).collect();
    let dollars: Vec<String> = names.iter().map(|name| format!("${name}")).collect();
    let arena = Arena::default();
    let definitions = jaq_core::defs().chain(jaq_std::defs().filter(|d| !is_forbidden_def(d.name))).chain(jaq_json::defs());
    let functions = jaq_core::funs().chain(jaq_std::funs()).chain(jaq_json::funs());
    let functions = functions.filter(|(name, _, _)| {
        !matches!(*name, "now" | "env" | "input" | "inputs" | "halt" | "repl" | "getpath_file" | "localtime" | "strflocaltime")
    });
    let modules =
        Loader::new(definitions).load(&arena, File { code: text, path: () }).map_err(|errors| load_message(text, errors))?;
    let filter = Compiler::default()
        .with_funs(functions)
        .with_global_vars(dollars.iter().map(String::as_str))
        .compile(modules)
        .map_err(|errors| compile_message(text, errors, &dollars))?;
    let variables = names
        .into_iter()
        .map(|name| {
            let is_used = mentions(text, &name);
            (name, is_used)
        })
        .collect();
    Ok(Compiled { filter, variables })
}

/// Definitions that stop or talk to the outside of the program.
fn is_forbidden_def(name: &str) -> bool {
    matches!(name, "halt" | "halt_error" | "env" | "inputs" | "todate_now" | "now" | "localtime" | "strflocaltime")
}

fn mentions(text: &str, name: &str) -> bool {
    text.match_indices('$').any(|(at, _)| text[at + 1..].starts_with(name))
}

fn load_message(text: &str, errors: jaq_core::load::Errors<&str, ()>) -> String {
    use jaq_core::load::Error;
    let found = errors.into_iter().next().map(|(_, error)| error);
    let (expected, rest) = match &found {
        Some(Error::Lex(list)) => list.first().map_or(("", ""), |(expect, rest)| (expect.as_str(), *rest)),
        Some(Error::Parse(list)) => list.first().map_or(("", ""), |(expect, rest)| (expect.as_str(), *rest)),
        Some(Error::Io(_)) => return "an expression can't import files".into(),
        None => ("", ""),
    };
    let place = if rest.is_empty() { "at its end".to_owned() } else { format!("at character {}", offset(text, rest) + 1) };
    format!("the expression is no jq: expected {expected} {place}")
}

fn compile_message(text: &str, errors: jaq_core::compile::Errors<&str, ()>, known: &[String]) -> String {
    let Some((name, what)) = errors.into_iter().flat_map(|(_, list)| list).next() else {
        return "the expression is no jq".into();
    };
    let nearest = known
        .iter()
        .map(|k| (strsim::osa_distance(k, name), k))
        .filter(|(distance, k)| *distance <= k.len() / 3 + 1 && name.starts_with('$'))
        .min()
        .map(|(_, k)| format!("; did you mean {k}?"))
        .unwrap_or_default();
    format!("there is no {} {name} at character {}{nearest}", what.as_str(), offset(text, name) + 1)
}

fn offset(whole: &str, part: &str) -> usize {
    let start = (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize);
    if start <= whole.len() && whole.is_char_boundary(start) { whole[..start].chars().count() } else { 0 }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(300) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

fn to_val(value: &Value) -> Val {
    match value {
        Value::Null => Val::Null,
        Value::Bool(b) => Val::Bool(*b),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(i), _) => Val::Num(Num::from_integral(i)),
            (None, Some(u)) => Val::Num(Num::from_integral(u)),
            _ => Val::Num(Num::Float(number.as_f64().unwrap_or(f64::NAN))),
        },
        Value::String(text) => Val::from(text.clone()),
        Value::Array(items) => items.iter().map(to_val).collect(),
        Value::Object(entries) => Val::obj(entries.iter().map(|(key, value)| (Val::from(key.clone()), to_val(value))).collect()),
    }
}

fn from_val(value: &Val, depth: usize) -> Result<Value, String> {
    if depth > DEPTH_MAX {
        return Err(format!("the value is nested deeper than {DEPTH_MAX} levels"));
    }
    Ok(match value {
        Val::Null => Value::Null,
        Val::Bool(b) => Value::Bool(*b),
        Val::Num(number) => match number {
            Num::Int(i) => Value::Number((*i as i64).into()),
            // jq prints whole floats without a fraction; so do we, or 1 + 0.0 would differ from 1.
            Num::Float(f) if f.fract() == 0.0 && f.abs() < 9e15 => Value::Number((*f as i64).into()),
            Num::Float(f) => Number::from_f64(*f).map_or(Value::Null, Value::Number),
            big => serde_json::from_str(&big.to_string()).unwrap_or(Value::Null),
        },
        Val::TStr(text) | Val::BStr(text) => Value::String(String::from_utf8_lossy(text).into_owned()),
        Val::Arr(items) => Value::Array(items.iter().map(|item| from_val(item, depth + 1)).collect::<Result<_, _>>()?),
        Val::Obj(entries) => {
            let mut map = Map::with_capacity(entries.len());
            for (key, value) in entries.iter() {
                let key = match from_val(key, depth + 1)? {
                    Value::String(text) => text,
                    other => other.to_string(),
                };
                map.insert(key, from_val(value, depth + 1)?);
            }
            Value::Object(map)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check_value(text: &str, input: Value, expected: Value) {
        let (context, pet) = (json!({"a": 1}), json!("rex"));
        let mut scope = Scope::default();
        scope.set("context", &context);
        scope.set("pet", &pet);
        assert_eq!(Engine::default().evaluate(text, &input, &scope), Ok(expected), "{text}");
    }

    #[test]
    fn expressions_see_their_input_and_variables() {
        check_value(".a.b", json!({"a": {"b": [1, 2.5, "x", null, true]}}), json!([1, 2.5, "x", null, true]));
        check_value("$context.a + 1", json!(null), json!(2));
        check_value("\"\\($pet) barks\"", json!(null), json!("rex barks"));
        check_value(".colors + [\"red\"]", json!(null), json!(["red"]));
        check_value("empty", json!(1), json!(null));
        check_value("1 / 2 * 4", json!(null), json!(2));
        check_value("$error", json!(null), json!(null));
        check_value("12345678901234567890", json!(null), json!(12345678901234567890u64));
    }

    #[test]
    fn only_a_whole_text_is_an_expression() {
        assert_eq!(inner("${ .a }"), Some(".a"));
        assert_eq!(inner("  ${.a}  "), Some(".a"));
        assert_eq!(inner("x ${ .a }"), None);
        assert_eq!(inner("${}"), None);
        assert_eq!(bare(".a"), ".a");
        let filled =
            Engine::default().fill(&json!({"a": ["${ .x }", ".x", {"b": "${ .x + 1 }"}]}), &json!({"x": 1}), &Scope::default());
        assert_eq!(filled, Ok(json!({"a": [1, ".x", {"b": 2}]})));
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        let none: &[String] = &[];
        assert_eq!(
            check(".a | $contxt", none),
            Err("there is no variable $contxt at character 6; did you mean $context?".into())
        );
        assert!(check("foo(1)", none).unwrap_err().starts_with("there is no filter foo at character 1"));
        assert!(check(".a |", none).unwrap_err().contains("no jq"));
        assert!(check(".a ) ", none).is_err());
        assert!(check("\"unterminated", none).is_err());
        assert!(check(&"[".repeat(100_000), none).is_err());
        assert!(check(&"(".repeat(2_000), none).is_err());
        assert_eq!(check("$pet", &["pet".into()]), Ok(()));
    }

    #[test]
    fn an_expression_has_no_clock_no_environment_and_no_exit() {
        for text in ["now", "env", "$ENV", "input", "inputs", "halt", "halt_error", "import \"a\" as a; 1", "include \"a\"; 1"] {
            assert!(check(text, &[]).is_err(), "{text}");
        }
    }

    #[test]
    fn what_fails_at_run_time_is_an_error_not_a_panic() {
        let engine = Engine::default();
        assert!(engine.evaluate(".a.b", &json!({"a": 1}), &Scope::default()).is_err());
        assert!(engine.evaluate("error(\"x\")", &json!(1), &Scope::default()).unwrap_err().contains('x'));
        assert_eq!(engine.evaluate("nan", &json!(1), &Scope::default()), Ok(json!(null)));
    }
}
