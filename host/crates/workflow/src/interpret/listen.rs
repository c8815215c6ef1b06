//! `listen`: consumes events until its strategy is satisfied.

use super::{Flow, Local, Machine, Progress};
use crate::definition::{EventFilter, Listen, Read, Strategy, Task, Until};
use crate::journal::Entry;
use crate::state::{Body, Frame, RunError, Sequence, Signal};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The event by which a person answers an approval step. It is delivered only to the run and step it names.
pub const APPROVAL_ANSWERED: &str = "io.orchestrix.approval.answered";
/// Events one listener may hold: a listener without end consumes them one by one.
const CONSUMED_MAX: usize = 10_000;

impl<'d> Machine<'d> {
    pub(super) fn listen(&mut self, path: &str, task: &'d Task, listen: &'d Listen, frame: &mut Frame) -> Progress {
        let (input, started) = (frame.input.clone(), frame.started);
        let local = Local { task: Some(task), input: &input, output: None, started };
        if let Some(Signal::Event(event)) = &self.signal {
            let event = event.clone();
            // A listener that began within this transition came after the event.
            if frame.is_told
                && is_for(&event, self.state.run, path)
                && let Err(error) = self.consume(path, listen, &event, &mut frame.body, local)
            {
                return Progress::Failed(error);
            }
        }
        let Body::Listen { consumed, is_done, handled, sequence, .. } = &mut frame.body else {
            return Progress::Failed(RunError::runtime("the checkpoint does not fit its definition"));
        };
        let Some(foreach) = &listen.foreach else {
            return if *is_done { Progress::Done(Value::Array(std::mem::take(consumed)), Flow::Next) } else { Progress::Blocked };
        };
        // One event after the other, in the order they came.
        while handled.len() < consumed.len() {
            let index = handled.len();
            let item = consumed[index].clone();
            let open = sequence.get_or_insert_with(|| Sequence::new(item.clone()));
            self.variables.push((foreach.item.clone(), item));
            self.variables.push((foreach.at.clone(), json!(index)));
            let progress = self.sequence(open, &foreach.tasks, &format!("{path}/foreach/do#{index}"));
            let progress = match progress {
                Progress::Done(output, flow) => match self.foreach_output(foreach, &output, local) {
                    Ok(output) => Progress::Done(output, flow),
                    Err(error) => Progress::Failed(error),
                },
                other => other,
            };
            self.variables.truncate(self.variables.len() - 2);
            match progress {
                Progress::Done(output, Flow::End) => return Progress::Done(output, Flow::End),
                Progress::Done(output, flow) => {
                    handled.push(output);
                    *sequence = None;
                    if flow == Flow::Exit {
                        return Progress::Done(Value::Array(std::mem::take(handled)), Flow::Next);
                    }
                }
                other => return other,
            }
        }
        if *is_done { Progress::Done(Value::Array(std::mem::take(handled)), Flow::Next) } else { Progress::Blocked }
    }

    fn foreach_output(
        &mut self,
        foreach: &'d crate::definition::Foreach,
        output: &Value,
        local: Local<'_>,
    ) -> Result<Value, RunError> {
        let local = Local { output: Some(output), ..local };
        let shaped = self.shaped(&foreach.output, output, local)?;
        if foreach.export.r#as.is_some() {
            let context = self.shaped(&foreach.export, &shaped, Local { output: Some(&shaped), ..local })?;
            self.state.context = context;
        }
        Ok(shaped)
    }

    fn consume(&mut self, path: &str, listen: &Listen, event: &Value, body: &mut Body, local: Local<'_>) -> Result<(), RunError> {
        let Body::Listen { consumed, matched, keys, until_matched, is_done, .. } = body else { return Ok(()) };
        if *is_done {
            return Ok(());
        }
        let mut is_taken = false;
        match &listen.to {
            Strategy::One(filter) => {
                if self.admits(filter, event, keys, local)? {
                    is_taken = true;
                    *is_done = true;
                }
            }
            Strategy::All(filters) => {
                for (index, filter) in filters.iter().enumerate() {
                    if !matched.contains(&index) && self.admits(filter, event, keys, local)? {
                        matched.push(index);
                        is_taken = true;
                        break;
                    }
                }
                *is_done = matched.len() == filters.len();
            }
            Strategy::Any { filters, until } => {
                // What ends the listening is not part of what was heard.
                if let Some(Until::Consumed(strategy)) = until
                    && self.satisfies(strategy, event, keys, until_matched, local)?
                {
                    *is_done = true;
                    return Ok(());
                }
                let is_heard = if filters.is_empty() {
                    !event["type"].as_str().is_some_and(|kind| kind.starts_with("io.serverlessworkflow."))
                } else {
                    let mut is_heard = false;
                    for filter in filters {
                        is_heard = is_heard || self.admits(filter, event, keys, local)?;
                    }
                    is_heard
                };
                is_taken = is_heard;
                if is_heard && until.is_none() {
                    *is_done = true;
                }
            }
        }
        if is_taken {
            if consumed.len() >= CONSUMED_MAX {
                return Err(RunError::runtime(format!("the listener consumed more than {CONSUMED_MAX} events")));
            }
            consumed.push(match listen.read {
                Read::Data => event["data"].clone(),
                Read::Envelope => event.clone(),
            });
            self.journal.push(Entry::Consumed {
                step: path.to_owned(),
                id: event["id"].as_str().unwrap_or_default().to_owned(),
                kind: event["type"].as_str().unwrap_or_default().to_owned(),
            });
            if event["type"] == APPROVAL_ANSWERED && event["data"]["approved"] == true {
                self.state.approval = Some(format!("{} at {path}", event["data"]["by"].as_str().unwrap_or("somebody")));
            }
            if let Strategy::Any { until: Some(Until::Condition(condition)), .. } = &listen.to {
                let so_far = Value::Array(consumed.clone());
                *is_done = self.is_true(condition, &so_far, local)?;
            }
        }
        Ok(())
    }

    fn admits(
        &self,
        filter: &EventFilter,
        event: &Value,
        keys: &mut BTreeMap<String, Value>,
        local: Local<'_>,
    ) -> Result<bool, RunError> {
        let task = self.task_value(&local);
        let scope = self.scope(&local, &task);
        match filter.admits(event, self.engine, &scope, keys).map_err(RunError::expression)? {
            Some(brought) => {
                for (key, value) in brought {
                    keys.entry(key).or_insert(value);
                }
                Ok(true)
            }
            None => Ok(false),
        }
    }

    fn satisfies(
        &self,
        strategy: &Strategy,
        event: &Value,
        keys: &mut BTreeMap<String, Value>,
        matched: &mut Vec<usize>,
        local: Local<'_>,
    ) -> Result<bool, RunError> {
        match strategy {
            Strategy::One(filter) => self.admits(filter, event, keys, local),
            Strategy::Any { filters, .. } => {
                for filter in filters {
                    if self.admits(filter, event, keys, local)? {
                        return Ok(true);
                    }
                }
                Ok(filters.is_empty())
            }
            Strategy::All(filters) => {
                for (index, filter) in filters.iter().enumerate() {
                    if !matched.contains(&index) && self.admits(filter, event, keys, local)? {
                        matched.push(index);
                        break;
                    }
                }
                Ok(matched.len() == filters.len())
            }
        }
    }
}

/// An answer to an approval belongs to one step of one run; all other events to whoever listens.
fn is_for(event: &Value, run: model::RunId, path: &str) -> bool {
    event["type"] != APPROVAL_ANSWERED || (event["data"]["run"] == run.to_string() && event["data"]["step"] == path)
}
