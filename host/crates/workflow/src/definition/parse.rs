//! The document itself: head, `use`, `schedule`. Tasks are read in `task`.

use super::field::{At, Declared, Reader, nearest};
use super::{Call, Definition, Diagnostic, Document, Kind, Schedule, Strategy, Task, Until};
use crate::yaml::{self, Key, Node};
use indexmap::IndexMap;
use std::{str::FromStr, sync::Arc};

const ROOT: [&str; 9] = ["document", "input", "use", "do", "timeout", "output", "schedule", "evaluate", "metadata"];
const HEAD: [&str; 8] = ["dsl", "namespace", "name", "version", "title", "summary", "tags", "metadata"];

pub(super) fn parse(text: &str) -> Result<Definition, Vec<Diagnostic>> {
    let node = yaml::parse(text).map_err(|diagnostic| vec![diagnostic])?;
    let mut reader = Reader::default();
    let root = At::root(&node);
    let definition = reader.definition(&root);
    let mut diagnostics = reader.diagnostics;
    match definition {
        Some(mut definition) if diagnostics.is_empty() => {
            definition.mentions_task = text.contains("$task");
            definition.mentions_workflow = text.contains("$workflow");
            Ok(definition)
        }
        _ => {
            diagnostics.sort_by_key(|d| (d.line, d.column));
            Err(diagnostics)
        }
    }
}

impl<'n> Reader<'n> {
    fn definition(&mut self, root: &At<'n>) -> Option<Definition> {
        if !self.mapping(root, &ROOT, &["document", "do"]) {
            return None;
        }
        let document = root.get("document").and_then(|at| self.document(&at));
        self.declare(root);
        self.evaluate(root);
        let functions = self.functions();
        let input = self.input_of(root);
        let output = self.output_of(root, "output");
        let timeout = self.timeout_of(root);
        let schedule = root.get("schedule").and_then(|at| self.schedule(&at));
        let tasks = root.get("do").map(|at| self.tasks(&at));
        let definition = Definition {
            document: document?,
            input,
            output,
            tasks: tasks?,
            functions,
            secrets: std::mem::take(&mut self.declared.secrets),
            timeout,
            schedule,
            json: Arc::new(root.node.to_json()),
            mentions_task: true,
            mentions_workflow: true,
        };
        self.refuse_endless_functions(root, &definition.functions);
        Some(definition)
    }

    fn document(&mut self, at: &At<'n>) -> Option<Document> {
        self.mapping(at, &HEAD, &["dsl", "namespace", "name", "version"]);
        let dsl = self.text_of(at, "dsl").map(str::to_owned);
        if let (Some(dsl), Some(at)) = (&dsl, at.get("dsl")) {
            if !is_semver(dsl) {
                self.complain(&at, format!("{dsl:?} is no version such as 1.0.3"));
            } else if !dsl.starts_with("1.") {
                self.complain(&at, format!("DSL version {dsl} is not supported; 1.0.3 is"));
            }
        }
        let mut name = |key| {
            let text = self.text_of(at, key)?;
            if !is_dns_label(text) {
                let at = at.get(key)?;
                self.complain(
                    &at,
                    format!("{text:?} must be 1 to 63 letters, digits and '-', with a letter or digit at each end"),
                );
            }
            Some(text.to_owned())
        };
        let (namespace, name) = (name("namespace"), name("name"));
        let version = self.text_of(at, "version").map(str::to_owned);
        if let (Some(version), Some(at)) = (&version, at.get("version"))
            && !is_semver(version)
        {
            self.complain(&at, format!("{version:?} is no version such as 1.0.0"));
        }
        Some(Document {
            dsl: dsl?,
            namespace: namespace?,
            name: name?,
            version: version?,
            title: self.text_of(at, "title").map(str::to_owned),
            summary: self.text_of(at, "summary").map(str::to_owned),
        })
    }

    /// Notes what `use` declares, so that it can be referred to from anywhere.
    fn declare(&mut self, root: &At<'n>) {
        let Some(at) = root.get("use") else { return };
        self.mapping(
            &at,
            &["authentications", "errors", "extensions", "functions", "retries", "secrets", "timeouts", "catalogs"],
            &[],
        );
        for key in ["extensions", "catalogs"] {
            if let Some(at) = at.get(key) {
                self.complain(&at, format!("use.{key} is not supported yet"));
            }
        }
        let mut group = |key| {
            at.get(key)
                .map(|at| self.entries(&at).iter().map(|(k, n)| (k, n)).collect::<Vec<(&Key, &Node)>>())
                .unwrap_or_default()
        };
        let declared = Declared {
            functions: group("functions"),
            retries: group("retries"),
            errors: group("errors"),
            timeouts: group("timeouts"),
            authentications: group("authentications"),
            secrets: Vec::new(),
        };
        self.declared = declared;
        if let Some(at) = at.get("secrets") {
            for (index, item) in self.items(&at).iter().enumerate() {
                if let Some(name) = self.text(&at.child(&index.to_string(), item)) {
                    self.declared.secrets.push(name.to_owned());
                }
            }
        }
        // What nothing refers to is checked all the same.
        for (key, node) in self.declared.retries.clone() {
            self.retry(&At { node, pointer: format!("/use/retries/{}", super::field::escape(&key.text)) });
        }
        for (key, node) in self.declared.errors.clone() {
            self.error(&At { node, pointer: format!("/use/errors/{}", super::field::escape(&key.text)) });
        }
        for (key, node) in self.declared.authentications.clone() {
            self.authentication(&At { node, pointer: format!("/use/authentications/{}", super::field::escape(&key.text)) });
        }
    }

    fn evaluate(&mut self, root: &At<'n>) {
        let Some(at) = root.get("evaluate") else { return };
        self.mapping(&at, &["language", "mode"], &[]);
        if let Some(language) = at.get("language") {
            self.word(&language, &["jq"]);
        }
        if self.text_of(&at, "mode") == Some("loose") {
            self.complain(&at, "evaluation mode loose is not supported yet; strict is, with ${ } around each expression");
        } else if let Some(mode) = at.get("mode") {
            self.word(&mode, &["strict", "loose"]);
        }
    }

    fn functions(&mut self) -> IndexMap<String, Task> {
        let mut functions = IndexMap::new();
        for (key, node) in self.declared.functions.clone() {
            let at = At { node, pointer: format!("/use/functions/{}", super::field::escape(&key.text)) };
            if let Some(task) = self.task(&key.text, &at, &[]) {
                functions.insert(key.text.clone(), task);
            }
        }
        functions
    }

    /// A function that calls itself, over others or not, would nest without end.
    fn refuse_endless_functions(&mut self, root: &At<'n>, functions: &IndexMap<String, Task>) {
        fn callees(task: &Task) -> Vec<&str> {
            let mut found = Vec::new();
            let mut open = vec![task];
            while let Some(task) = open.pop() {
                if let Kind::Call(Call::Function { name, .. }) = &task.kind {
                    found.push(name.as_str());
                }
                open.extend(task.children());
            }
            found
        }
        for (name, task) in functions {
            let mut seen: Vec<&str> = Vec::new();
            let mut open = callees(task);
            while let Some(callee) = open.pop() {
                if callee == name {
                    self.complain(root, format!("function {name:?} calls itself"));
                    break;
                }
                if !seen.contains(&callee) {
                    seen.push(callee);
                    open.extend(functions.get(callee).map(callees).unwrap_or_default());
                }
            }
        }
    }

    fn schedule(&mut self, at: &At<'n>) -> Option<Schedule> {
        if !self.mapping(at, &["every", "cron", "after", "on"], &[]) {
            return None;
        }
        let given: Vec<&str> = ["every", "cron", "after", "on"].into_iter().filter(|key| at.has(key)).collect();
        let [key] = given[..] else {
            self.complain(at, "exactly one of \"every\", \"cron\", \"after\" and \"on\" is expected here");
            return None;
        };
        let at = at.get(key)?;
        match key {
            "on" => {
                let strategy = self.strategy(&at)?;
                if let Strategy::Any { until: Some(Until::Condition(_) | Until::Consumed(_)), .. } = &strategy {
                    self.complain(&at, "\"until\" in a schedule is not supported yet");
                }
                if let Strategy::Any { filters, .. } = &strategy
                    && filters.is_empty()
                {
                    self.complain(&at, "a schedule on any event at all would start a run for each; name a filter");
                }
                Some(Schedule::On(strategy))
            }
            "cron" => {
                let text = self.text(&at)?;
                match croner::Cron::from_str(text) {
                    Ok(cron) => Some(Schedule::Cron(Box::new(cron))),
                    Err(error) => {
                        self.complain(&at, format!("{text:?} is no cron expression: {error}"));
                        None
                    }
                }
            }
            _ => {
                let ms = match self.time(&at)? {
                    super::Time::Ms(ms) => ms,
                    super::Time::Template(_) => {
                        self.complain(&at, "a schedule's duration can't be an expression");
                        return None;
                    }
                };
                if ms < 1_000 {
                    self.complain(&at, "a schedule's duration must be at least one second");
                    return None;
                }
                Some(if key == "every" { Schedule::Every(ms) } else { Schedule::After(ms) })
            }
        }
    }

    /// Resolves the name of a reusable component, or complains with the nearest.
    pub(super) fn known_name(&mut self, at: &At<'n>, name: &str, names: &[&str], what: &str) -> Option<usize> {
        if let Some(index) = names.iter().position(|known| *known == name) {
            return Some(index);
        }
        let hint = nearest(name, names.iter().copied()).map(|near| format!("did you mean {near:?}?"));
        self.complain_with(at, format!("there is no {what} {name:?}"), hint);
        None
    }
}

fn is_dns_label(text: &str) -> bool {
    let is_end = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    text.len() <= 63
        && is_end(text.bytes().next())
        && is_end(text.bytes().last())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn is_semver(text: &str) -> bool {
    let core = text.split(['-', '+']).next().unwrap_or_default();
    let parts: Vec<&str> = core.split('.').collect();
    let is_number = |p: &&str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()) && (p.len() == 1 || !p.starts_with('0'));
    parts.len() == 3
        && parts.iter().all(is_number)
        && text[core.len()..].bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'+' | b'.'))
        && !text.ends_with(['-', '+', '.'])
}
