//! `call`: an action request handed off, or a reusable task of the definition.

use super::{Flow, Local, Machine, Progress, bounded, derived};
use crate::definition::{Call, Http, Task};
use crate::expression;
use crate::journal::Entry;
use crate::state::{Body, Decision, Frame, RunError, Signal};
use model::{ActionOutcome, ActionRequest, RequestId};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

/// Unreserved characters of RFC 3986 stay.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

impl<'d> Machine<'d> {
    /// Begins a call: the request is part of this transition's writes.
    pub(super) fn call(&mut self, path: &str, call: &'d Call, local: Local<'_>) -> Result<Body, RunError> {
        let (installation, operation, with) = match call {
            Call::Action { installation, operation, with } => {
                (installation.clone(), operation.clone(), self.filled(with, local.input, local)?)
            }
            Call::Http(http) => ("http".to_owned(), "request".to_owned(), self.http_request(http, local)?),
            Call::Function { name, with } => {
                let args = self.filled(with, local.input, local)?;
                return Ok(Body::Function { child: format!("{path}/call/{name}"), args, is_entered: false });
            }
        };
        bounded(&with, "the call's input")?;
        let request = self.request(path, &installation, &operation, &with, local.started);
        Ok(Body::Call { request, installation, operation, with, in_doubt: None })
    }

    fn request(
        &mut self,
        path: &str,
        installation: &str,
        operation: &str,
        with: &Value,
        _started: model::Timestamp,
    ) -> RequestId {
        let id = RequestId::from_uuid(self.derived_uuid("request"));
        let run = self.state.run;
        let span = derived(&[path.as_bytes(), id.to_string().as_bytes()]);
        let span: String = span[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let request = ActionRequest {
            id,
            run: Some(run),
            step: path.to_owned(),
            alert: self.state.cause.alert,
            approval: self.state.approval.clone(),
            installation: installation.to_owned(),
            operation: operation.to_owned(),
            input: with.clone(),
            idempotency_key: format!("{run}:{path}"),
            deadline: self.deadline(),
            traceparent: format!("00-{}-{span}-01", run.as_uuid().simple()),
        };
        self.journal.push(Entry::Requested {
            step: path.to_owned(),
            request: id,
            installation: installation.to_owned(),
            operation: operation.to_owned(),
            input: crate::journal::shown(with),
            key: request.idempotency_key.clone(),
        });
        self.requests.push(request);
        id
    }

    pub(super) fn calling(&mut self, path: &str, task: &'d Task, call: &'d Call, frame: &mut Frame) -> Progress {
        let started = frame.started;
        let (request, installation, operation, with, in_doubt) = match &mut frame.body {
            Body::Function { child, args, is_entered } => {
                let Call::Function { name, .. } = call else { return mismatch() };
                let Some(function) = self.definition.functions.get(name) else { return mismatch() };
                let child = child.clone();
                let progress = if *is_entered {
                    self.resume(&child, function)
                } else {
                    *is_entered = true;
                    let args = std::mem::take(args);
                    self.enter(&child, function, args)
                };
                return match progress {
                    Progress::Done(output, Flow::End) => Progress::Done(output, Flow::End),
                    Progress::Done(output, _) => Progress::Done(output, Flow::Next),
                    other => other,
                };
            }
            Body::Call { request, installation, operation, with, in_doubt } => (request, installation, operation, with, in_doubt),
            _ => return mismatch(),
        };
        match self.signal.take() {
            Some(Signal::Result { step, request: answered, outcome }) if step == path && answered == *request => match outcome {
                ActionOutcome::Done { output } => {
                    self.journal.push(Entry::Result {
                        step: path.to_owned(),
                        request: answered,
                        status: "done".into(),
                        error: None,
                    });
                    match bounded(&output, "the action's output") {
                        Ok(()) => Progress::Done(output, Flow::Next),
                        Err(error) => Progress::Failed(error),
                    }
                }
                ActionOutcome::Failed { error } => {
                    self.journal.push(Entry::Result {
                        step: path.to_owned(),
                        request: answered,
                        status: "failed".into(),
                        error: Some(error.message.clone()),
                    });
                    Progress::Failed(RunError::from_record(&error))
                }
                ActionOutcome::InDoubt { error } => {
                    if in_doubt.is_none() {
                        self.journal.push(Entry::Result {
                            step: path.to_owned(),
                            request: answered,
                            status: "in-doubt".into(),
                            error: Some(error.message.clone()),
                        });
                        let data = json!({"suspendedAt": crate::lifecycle::rfc3339(self.now), "error": error});
                        *in_doubt = Some(error);
                        self.task_event("suspended", path, data);
                    }
                    Progress::Blocked
                }
            },
            Some(Signal::Decided { step, decision }) if step == path && in_doubt.is_some() => match decision {
                Decision::Retry => {
                    *in_doubt = None;
                    let (installation, operation, with) = (installation.clone(), operation.clone(), with.clone());
                    *request = self.request(path, &installation, &operation, &with, started);
                    Progress::Blocked
                }
                Decision::Skip { output } => Progress::Done(output, Flow::Next),
                Decision::Fail => {
                    let record = in_doubt.take().expect("it was just seen");
                    Progress::Failed(RunError { instance: Some(task.pointer.clone()), ..RunError::from_record(&record) })
                }
            },
            signal => {
                self.signal = signal;
                Progress::Blocked
            }
        }
    }

    /// The input of the `http` plugin's `request`: the `with` of the DSL, its expressions filled in. The plugin
    /// shapes the answer as `output` says and fails on a status that is none.
    fn http_request(&self, http: &Http, local: Local<'_>) -> Result<Value, RunError> {
        let uri = match expression::inner(&http.uri) {
            Some(inner) => match self.value(inner, local.input, local)? {
                Value::String(uri) => uri,
                other => return Err(RunError::expression(format!("the endpoint is {other}, no text"))),
            },
            None => expanded(&http.uri, local.input)?,
        };
        let mut request =
            json!({"method": http.method, "endpoint": uri, "output": http.output.as_str(), "redirect": http.is_redirect_ok});
        for (key, template) in [("headers", &http.headers), ("query", &http.query)] {
            if !template.is_null() {
                let mut parts = self.filled(template, local.input, local)?;
                if let Value::Object(entries) = &mut parts {
                    for value in entries.values_mut() {
                        if !matches!(value, Value::String(_) | Value::Array(_)) {
                            *value = Value::String(value.to_string());
                        }
                    }
                }
                request[key] = parts;
            }
        }
        if let Some(body) = &http.body {
            request["body"] = self.filled(body, local.input, local)?;
        }
        if let Some(authentication) = &http.authentication {
            request["endpoint"] = json!({"uri": uri, "authentication": self.filled(authentication, local.input, local)?});
        }
        Ok(request)
    }
}

fn mismatch() -> Progress {
    Progress::Failed(RunError::runtime("the checkpoint does not fit its definition"))
}

/// `{name}` replaced by the input's top-level value of that name, encoded.
fn expanded(template: &str, input: &Value) -> Result<String, RunError> {
    let mut uri = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(open) = rest.find('{') {
        let Some(close) = rest[open..].find('}') else { break };
        let name = &rest[open + 1..open + close];
        let value = match &input[name] {
            Value::String(text) => text.clone(),
            Value::Null | Value::Array(_) | Value::Object(_) => {
                return Err(RunError::expression(format!(
                    "the endpoint needs {name:?}, and the input has no such text or number"
                )));
            }
            other => other.to_string(),
        };
        uri.push_str(&rest[..open]);
        uri.extend(utf8_percent_encode(&value, ENCODED));
        rest = &rest[open + close + 1..];
    }
    uri.push_str(rest);
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_takes_top_level_values_encoded() {
        assert_eq!(expanded("http://h/{a}/x?q={b}", &json!({"a": 1, "b": "é /?"})).unwrap(), "http://h/1/x?q=%C3%A9%20%2F%3F");
        assert!(expanded("http://h/{a}", &json!({})).is_err());
        assert_eq!(expanded("http://h/{a", &json!({})).unwrap(), "http://h/{a");
    }
}
