//! Tasks: one reader a kind.

use super::field::{At, Reader, escape, nearest};
use super::{
    Backoff, Call, Case, Catch, Foreach, Http, HttpOutput, Kind, Listen, Read, Retry, Subflow, Task, Then, Time, Transform,
};
use crate::expression;
use crate::yaml::Content;
use serde_json::{Map, Value, json};

const BASE: [&str; 7] = ["if", "input", "output", "export", "timeout", "then", "metadata"];
/// What names a task's kind, and the keys that go with it.
const KINDS: [(&str, &[&str]); 12] = [
    ("call", &["call", "with"]),
    ("for", &["for", "while", "do"]),
    ("fork", &["fork"]),
    ("emit", &["emit"]),
    ("listen", &["listen", "foreach"]),
    ("raise", &["raise"]),
    ("run", &["run"]),
    ("set", &["set"]),
    ("switch", &["switch"]),
    ("try", &["try", "catch"]),
    ("wait", &["wait"]),
    // Last, because `for` has a `do` too.
    ("do", &["do"]),
];
const UNSUPPORTED_CALLS: [&str; 5] = ["grpc", "openapi", "asyncapi", "a2a", "mcp"];

impl<'n> Reader<'n> {
    pub(super) fn tasks(&mut self, at: &At<'n>) -> Vec<Task> {
        let items = self.items(at);
        // Names first: a directive may point forward.
        let names: Vec<&str> = items
            .iter()
            .map(|item| match &item.content {
                Content::Mapping(entries) if entries.len() == 1 => entries[0].0.text.as_str(),
                _ => "",
            })
            .collect();
        let mut tasks = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let item = at.child(&index.to_string(), item);
            let Some((key, at)) = self.single(&item) else { continue };
            if names[..index].contains(&key.text.as_str()) {
                self.note(key.place, &at.pointer, format!("a second task {:?} in this list", key.text), None);
            }
            if matches!(key.text.as_str(), "continue" | "exit" | "end") {
                self.note(key.place, &at.pointer, format!("{:?} is a flow directive and can't name a task", key.text), None);
            }
            tasks.extend(self.task(&key.text, &at, &names));
        }
        tasks
    }

    pub(super) fn task(&mut self, name: &str, at: &At<'n>, siblings: &[&str]) -> Option<Task> {
        let entries = self.entries(at);
        if !matches!(at.node.content, Content::Mapping(_)) {
            return None;
        }
        let Some((kind, keys)) = KINDS.iter().find(|(kind, _)| at.has(kind)) else {
            let kinds = KINDS.iter().map(|(kind, _)| *kind);
            match entries.iter().find_map(|(key, _)| {
                Some((key, nearest(&key.text, kinds.clone()).filter(|_| !BASE.contains(&key.text.as_str()))?))
            }) {
                Some((key, near)) => self.note(
                    key.place,
                    &format!("{}/{}", at.pointer, escape(&key.text)),
                    format!("unknown key {:?}", key.text),
                    Some(format!("did you mean {near:?}?")),
                ),
                None => self.complain(
                    at,
                    format!("task {name:?} says not what to do: one of {} is missing", kinds.collect::<Vec<_>>().join(", ")),
                ),
            }
            return None;
        };
        let known: Vec<&str> = BASE.iter().chain(keys.iter()).copied().collect();
        self.mapping(
            at,
            &known,
            if *kind == "for" {
                &["do"]
            } else if *kind == "try" {
                &["catch"]
            } else {
                &[]
            },
        );
        let condition = self.expression_of(at, "if");
        let input = self.input_of(at);
        let timeout = self.timeout_of(at);
        let then = at.get("then").map(|then| self.then(&then, siblings)).unwrap_or_default();
        let body = self.kind(kind, at, siblings);
        let output = self.output_of(at, "output");
        let export = self.output_of(at, "export");
        let metadata = self.template_of(at, "metadata").unwrap_or(Value::Null);
        Some(Task {
            name: name.to_owned(),
            pointer: at.pointer.clone(),
            condition,
            input,
            output,
            export,
            timeout,
            then,
            metadata,
            kind: body?,
        })
    }

    fn then(&mut self, at: &At<'n>, siblings: &[&str]) -> Then {
        match self.text(at) {
            Some("continue") | None => Then::Continue,
            Some("exit") => Then::Exit,
            Some("end") => Then::End,
            Some(name) => match siblings.iter().position(|sibling| *sibling == name) {
                Some(index) => Then::Task(index),
                None => {
                    let words = siblings.iter().copied().filter(|s| !s.is_empty()).chain(["continue", "exit", "end"]);
                    let hint = nearest(name, words).map(|near| format!("did you mean {near:?}?"));
                    self.complain_with(at, format!("there is no task {name:?} in this list"), hint);
                    Then::Continue
                }
            },
        }
    }

    fn kind(&mut self, kind: &str, at: &At<'n>, siblings: &[&str]) -> Option<Kind> {
        let body = at.get(kind)?;
        match kind {
            "do" => Some(Kind::Do(self.tasks(&body))),
            "set" => self.set(&body),
            "call" => self.call(&body, at).map(Kind::Call),
            "switch" => Some(Kind::Switch(self.cases(&body, siblings))),
            "for" => self.r#for(&body, at),
            "fork" => self.fork(&body),
            "try" => Some(Kind::Try { tasks: self.tasks(&body), catch: self.catch(at) }),
            "wait" => self.time(&body).map(Kind::Wait),
            "emit" => self.emit(&body),
            "listen" => self.listen(&body, at).map(Kind::Listen),
            "raise" => self.raise(&body),
            _ => self.run(&body).map(Kind::Run),
        }
    }

    fn set(&mut self, at: &At<'n>) -> Option<Kind> {
        match &at.node.content {
            Content::Mapping(entries) if !entries.is_empty() => Some(Kind::Set(self.template(at))),
            Content::Scalar(Value::String(text)) if expression::inner(text).is_some() => Some(Kind::Set(self.template(at))),
            Content::Scalar(Value::String(text)) => {
                self.complain_with(
                    at,
                    "a mapping or an expression is expected here",
                    Some(format!("did you mean \"${{ {text} }}\"?")),
                );
                None
            }
            _ => {
                self.complain(at, format!("a mapping or an expression is expected here, not {}", at.node.kind()));
                None
            }
        }
    }

    fn call(&mut self, at: &At<'n>, task: &At<'n>) -> Option<Call> {
        let name = self.text(at)?;
        if name == "http" {
            return self.http(task).map(Call::Http);
        }
        if UNSUPPORTED_CALLS.contains(&name) {
            self.complain(
                at,
                format!("call: {name} is not supported yet; call an operation of a plugin as INSTALLATION/OPERATION"),
            );
            return None;
        }
        let with = match task.get("with") {
            Some(with) => {
                if !matches!(with.node.content, Content::Mapping(_))
                    && with.node.as_str().is_none_or(|text| expression::inner(text).is_none())
                {
                    self.complain(&with, format!("a mapping is expected here, not {}", with.node.kind()));
                }
                self.template(&with)
            }
            None => json!({}),
        };
        if name.contains("://") || name.contains('@') {
            self.complain(
                at,
                "functions from catalogs and URLs are not supported yet; call an operation of a plugin as INSTALLATION/OPERATION",
            );
            return None;
        }
        if let Some((installation, operation)) = name.split_once('/') {
            let is_name = |text: &str| {
                !text.is_empty()
                    && text.len() <= 100
                    && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
            };
            if !is_name(installation) || !is_name(operation) {
                self.complain(at, format!("{name:?} is no INSTALLATION/OPERATION such as kubernetes/scale"));
                return None;
            }
            return Some(Call::Action { installation: installation.into(), operation: operation.into(), with });
        }
        let functions: Vec<&str> = self.declared.functions.iter().map(|(key, _)| key.text.as_str()).collect();
        if functions.contains(&name) {
            return Some(Call::Function { name: name.into(), with });
        }
        let hint = nearest(name, functions.into_iter().chain(["http"]))
            .map(|near| format!("did you mean {near:?}?"))
            .unwrap_or_else(|| "an operation of a plugin is called as INSTALLATION/OPERATION".into());
        self.complain_with(at, format!("there is no function {name:?} under use.functions"), Some(hint));
        None
    }

    fn http(&mut self, task: &At<'n>) -> Option<Http> {
        let Some(at) = task.get("with") else {
            self.complain(task, "\"with\" is missing");
            return None;
        };
        if !self.mapping(&at, &["method", "endpoint", "headers", "body", "query", "output", "redirect"], &["method", "endpoint"])
        {
            return None;
        }
        let method = self.text_of(&at, "method");
        let endpoint = at.get("endpoint")?;
        let mut authentication = None;
        let uri = match &endpoint.node.content {
            Content::Mapping(_) => {
                self.mapping(&endpoint, &["uri", "authentication"], &["uri"]);
                authentication = endpoint.get("authentication").and_then(|at| self.authentication(&at));
                endpoint.get("uri")?
            }
            _ => endpoint,
        };
        let text = self.text(&uri)?;
        self.template(&uri);
        if expression::inner(text).is_none() && !text.starts_with("http://") && !text.starts_with("https://") {
            self.complain(&uri, format!("{text:?} is no http:// or https:// address and no expression"));
        }
        let mut parts = |key: &str| {
            let part = at.get(key)?;
            if !matches!(part.node.content, Content::Mapping(_))
                && part.node.as_str().is_none_or(|text| expression::inner(text).is_none())
            {
                self.complain(&part, format!("a mapping or an expression is expected here, not {}", part.node.kind()));
            }
            Some(self.template(&part))
        };
        let (headers, query) = (parts("headers").unwrap_or(Value::Null), parts("query").unwrap_or(Value::Null));
        let output = match at.get("output").and_then(|at| self.word(&at, &["raw", "content", "response"])) {
            Some("raw") => HttpOutput::Raw,
            Some("response") => HttpOutput::Response,
            _ => HttpOutput::Content,
        };
        Some(Http {
            method: method?.to_uppercase(),
            uri: text.to_owned(),
            headers,
            query,
            body: self.template_of(&at, "body"),
            authentication,
            output,
            is_redirect_ok: self.boolean_of(&at, "redirect", false),
        })
    }

    /// Checked for its shape and passed on to the action.
    pub(super) fn authentication(&mut self, at: &At<'n>) -> Option<Value> {
        const POLICIES: [(&str, &[&str]); 6] = [
            ("basic", &["username", "password", "use"]),
            ("bearer", &["token", "use"]),
            ("digest", &["username", "password", "use"]),
            (
                "oauth2",
                &[
                    "authority",
                    "endpoints",
                    "grant",
                    "client",
                    "request",
                    "issuers",
                    "scopes",
                    "audiences",
                    "username",
                    "password",
                    "subject",
                    "actor",
                    "use",
                ],
            ),
            (
                "oidc",
                &[
                    "authority",
                    "grant",
                    "client",
                    "request",
                    "issuers",
                    "scopes",
                    "audiences",
                    "username",
                    "password",
                    "subject",
                    "actor",
                    "use",
                ],
            ),
            ("use", &[]),
        ];
        let names: Vec<&str> = POLICIES.iter().map(|(name, _)| *name).collect();
        if !self.mapping(at, &names, &[]) {
            return None;
        }
        if let Some(name) = self.text_of_present(at, "use") {
            let declared = self.declared_node(at, name, "authentications", |d| &d.authentications)?;
            // One step only, so that policies can't refer to each other in a circle.
            if declared.has("use") {
                self.complain(&declared, "an authentication under use.authentications can't refer to another");
                return None;
            }
            return self.authentication(&declared);
        }
        let [(policy, known)] = POLICIES.iter().filter(|(name, _)| at.has(name)).collect::<Vec<_>>()[..] else {
            self.complain(at, "exactly one of basic, bearer, digest, oauth2, oidc and use is expected here");
            return None;
        };
        let body = at.get(policy)?;
        self.mapping(&body, known, &[]);
        if let Some(secret) = self.text_of_present(&body, "use") {
            let secrets = self.declared.secrets.clone();
            let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
            self.known_name(&body, secret, &secrets, "secret under use.secrets called");
        }
        Some(self.template(at))
    }

    fn text_of_present(&mut self, at: &At<'n>, key: &str) -> Option<&'n str> {
        if at.has(key) { self.text_of(at, key) } else { None }
    }

    fn cases(&mut self, at: &At<'n>, siblings: &[&str]) -> Vec<Case> {
        let items = self.items(at);
        if items.is_empty() {
            self.complain(at, "at least one case is expected here");
        }
        let mut cases = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let Some((key, at)) = self.single(&at.child(&index.to_string(), item)) else { continue };
            if self.mapping(&at, &["when", "then"], &["then"]) {
                let when = self.expression_of(&at, "when");
                let then = at.get("then").map(|then| self.then(&then, siblings)).unwrap_or_default();
                cases.push(Case { name: key.text.clone(), when, then });
            }
        }
        cases
    }

    fn r#for(&mut self, at: &At<'n>, task: &At<'n>) -> Option<Kind> {
        if !self.mapping(at, &["each", "in", "at"], &["in"]) {
            return None;
        }
        let each = self.variable_of(at, "each", "item");
        let index = self.variable_of(at, "at", "index");
        let over = self.expression_of(at, "in");
        self.variables.extend([each.clone(), index.clone()]);
        let condition = self.expression_of(task, "while");
        let tasks = task.get("do").map(|at| self.tasks(&at));
        self.variables.truncate(self.variables.len() - 2);
        Some(Kind::For { each, at: index, over: over?, condition, tasks: tasks? })
    }

    fn variable_of(&mut self, at: &At<'n>, key: &str, default: &str) -> String {
        let Some(name) = self.text_of_present(at, key) else { return default.to_owned() };
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        let is_taken = expression::VARIABLES.contains(&name) && !matches!(name, "item" | "index" | "error");
        if !is_name || is_taken {
            let at = at.get(key).unwrap_or_else(|| at.clone());
            self.complain(&at, if is_taken { format!("${name} is taken") } else { format!("{name:?} is no variable name") });
            return default.to_owned();
        }
        name.to_owned()
    }

    fn fork(&mut self, at: &At<'n>) -> Option<Kind> {
        if !self.mapping(at, &["branches", "compete"], &["branches"]) {
            return None;
        }
        let branches = at.get("branches").map(|at| self.tasks(&at))?;
        for branch in &branches {
            if matches!(branch.then, Then::Task(_)) {
                self.complain(at, format!("branch {:?} can't lead to another branch", branch.name));
            }
        }
        Some(Kind::Fork { branches, is_race: self.boolean_of(at, "compete", false) })
    }

    fn catch(&mut self, task: &At<'n>) -> Catch {
        let Some(at) = task.get("catch") else { return Catch { r#as: "error".into(), ..Catch::default() } };
        if !self.mapping(&at, &["errors", "as", "when", "exceptWhen", "retry", "do"], &[]) {
            return Catch { r#as: "error".into(), ..Catch::default() };
        }
        let mut with = Map::new();
        if let Some(errors) = at.get("errors")
            && self.mapping(&errors, &["with"], &[])
            && let Some(filter) = errors.get("with")
            && self.mapping(&filter, &["type", "status", "instance", "title", "detail", "details"], &[])
            && let Value::Object(entries) = self.template(&filter)
        {
            with = entries;
        }
        let r#as = self.variable_of(&at, "as", "error");
        self.variables.push(r#as.clone());
        let when = self.expression_of(&at, "when");
        let except_when = self.expression_of(&at, "exceptWhen");
        let retry = at.get("retry").and_then(|at| match at.node.as_str() {
            Some(name) => {
                let declared = self.declared_node(&at, name, "retries", |d| &d.retries)?;
                self.retry(&declared)
            }
            None => self.retry(&at),
        });
        let tasks = at.get("do").map(|at| self.tasks(&at));
        self.variables.pop();
        Catch { with, r#as, when, except_when, retry, tasks }
    }

    pub(super) fn retry(&mut self, at: &At<'n>) -> Option<Retry> {
        if !self.mapping(at, &["when", "exceptWhen", "delay", "backoff", "limit", "jitter"], &[]) {
            return None;
        }
        let mut retry = Retry {
            when: self.expression_of(at, "when"),
            except_when: self.expression_of(at, "exceptWhen"),
            delay: self.time_of(at, "delay"),
            ..Retry::default()
        };
        if let Some(backoff) = at.get("backoff")
            && self.mapping(&backoff, &["constant", "linear", "exponential"], &[])
        {
            retry.backoff =
                match ["constant", "linear", "exponential"].into_iter().filter(|key| backoff.has(key)).collect::<Vec<_>>()[..] {
                    ["linear"] => Backoff::Linear,
                    ["exponential"] => Backoff::Exponential,
                    ["constant"] => Backoff::Constant,
                    _ => {
                        self.complain(&backoff, "exactly one of constant, linear and exponential is expected here");
                        Backoff::Constant
                    }
                };
        }
        if let Some(limit) = at.get("limit")
            && self.mapping(&limit, &["attempt", "duration"], &[])
        {
            retry.total_time = self.time_of(&limit, "duration");
            if let Some(attempt) = limit.get("attempt")
                && self.mapping(&attempt, &["count", "duration"], &[])
            {
                retry.attempt_time = self.time_of(&attempt, "duration");
                if let Some(count) = attempt.get("count") {
                    match &count.node.content {
                        Content::Scalar(Value::Number(n)) if n.as_u64().is_some_and(|n| n <= u64::from(u32::MAX)) => {
                            retry.attempts_max = n.as_u64().and_then(|n| u32::try_from(n).ok());
                        }
                        _ => self.complain(&count, format!("a whole number is expected here, not {}", count.node.kind())),
                    }
                }
            }
        }
        if let Some(jitter) = at.get("jitter")
            && self.mapping(&jitter, &["from", "to"], &["from", "to"])
        {
            retry.jitter = self.time_of(&jitter, "from").zip(self.time_of(&jitter, "to"));
            if let Some((Time::Ms(from), Time::Ms(to))) = &retry.jitter
                && from > to
            {
                self.complain(&jitter, "\"from\" is longer than \"to\"");
            }
        }
        Some(retry)
    }

    fn emit(&mut self, at: &At<'n>) -> Option<Kind> {
        self.mapping(at, &["event"], &["event"]);
        let event = at.get("event")?;
        self.mapping(&event, &["with"], &["with"]);
        let with = event.get("with")?;
        let entries = self.entries(&with);
        for key in ["source", "type"] {
            if !with.has(key) {
                self.complain(&with, format!("{key:?} is missing"));
            }
        }
        for (key, node) in entries {
            let is_text = matches!(&node.content, Content::Scalar(Value::String(_)));
            if matches!(key.text.as_str(), "id" | "source" | "type" | "time" | "subject" | "datacontenttype" | "dataschema")
                && !is_text
            {
                self.complain(&with.child(&key.text, node), format!("a text is expected here, not {}", node.kind()));
            }
        }
        Some(Kind::Emit(self.template(&with)))
    }

    fn listen(&mut self, at: &At<'n>, task: &At<'n>) -> Option<Listen> {
        if !self.mapping(at, &["to", "read"], &["to"]) {
            return None;
        }
        let to = at.get("to").and_then(|at| self.strategy(&at));
        let read = match at.get("read").and_then(|at| self.word(&at, &["data", "envelope", "raw"])) {
            Some("envelope") => Read::Envelope,
            _ => Read::Data,
        };
        let foreach = task.get("foreach").and_then(|at| {
            if !self.mapping(&at, &["item", "at", "do", "output", "export"], &[]) {
                return None;
            }
            let item = self.variable_of(&at, "item", "item");
            let index = self.variable_of(&at, "at", "index");
            self.variables.extend([item.clone(), index.clone()]);
            let tasks = at.get("do").map(|at| self.tasks(&at)).unwrap_or_default();
            let foreach =
                Foreach { item, at: index, tasks, output: self.output_of(&at, "output"), export: self.output_of(&at, "export") };
            self.variables.truncate(self.variables.len() - 2);
            Some(foreach)
        });
        Some(Listen { to: to?, read, foreach })
    }

    fn raise(&mut self, at: &At<'n>) -> Option<Kind> {
        self.mapping(at, &["error"], &["error"]);
        let error = at.get("error")?;
        let error = match error.node.as_str() {
            Some(name) => self.declared_node(&error, name, "errors", |d| &d.errors)?,
            None => error,
        };
        self.error(&error).map(Kind::Raise)
    }

    pub(super) fn error(&mut self, at: &At<'n>) -> Option<Value> {
        if !self.mapping(at, &["type", "status", "instance", "title", "detail"], &["type", "status"]) {
            return None;
        }
        if let Some(status) = at.get("status")
            && !matches!(&status.node.content, Content::Scalar(Value::Number(n)) if n.is_u64())
            && status.node.as_str().is_none_or(|text| expression::inner(text).is_none())
        {
            self.complain(&status, format!("a whole number is expected here, not {}", status.node.kind()));
        }
        for key in ["type", "instance", "title", "detail"] {
            self.text_of_present(at, key);
        }
        Some(self.template(at))
    }

    fn run(&mut self, at: &At<'n>) -> Option<Subflow> {
        if !self.mapping(at, &["workflow", "container", "script", "shell", "await", "return"], &[]) {
            return None;
        }
        for key in ["container", "script", "shell"] {
            if let Some(at) = at.get(key) {
                self.complain(
                    &at,
                    format!("run: {key} is refused: nothing runs outside the sandbox; call an operation of a plugin"),
                );
                return None;
            }
        }
        let Some(workflow) = at.get("workflow") else {
            self.complain(at, "\"workflow\" is missing");
            return None;
        };
        if let Some(word) = at.get("return") {
            self.word(&word, &["stdout", "stderr", "code", "all", "none"]);
        }
        if !self.mapping(&workflow, &["namespace", "name", "version", "input"], &["namespace", "name"]) {
            return None;
        }
        let version = self.text_of_present(&workflow, "version").filter(|version| *version != "latest");
        Some(Subflow {
            namespace: self.text_of(&workflow, "namespace")?.to_owned(),
            name: self.text_of(&workflow, "name")?.to_owned(),
            version: version.map(str::to_owned),
            input: self.template_of(&workflow, "input"),
            is_awaited: self.boolean_of(at, "await", true),
        })
    }
}

impl Transform {
    /// Whether it changes nothing.
    pub(crate) fn is_identity(&self) -> bool {
        matches!(self, Self::Expression(text) if text == ".")
    }
}
