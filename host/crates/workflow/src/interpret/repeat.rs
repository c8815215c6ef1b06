//! `for`: each iteration goes on with what the one before it gave.

use super::{Flow, Local, Machine, Progress};
use crate::definition::Task;
use crate::state::Sequence;
use serde_json::{Value, json};

impl<'d> Machine<'d> {
    pub(super) fn repeat(
        &mut self,
        path: &str,
        (each, at, condition, tasks): (&str, &str, Option<&str>, &'d [Task]),
        (items, index, is_open, sequence): (&[Value], &mut usize, &mut bool, &mut Sequence),
        local: Local<'_>,
    ) -> Progress {
        loop {
            let Some(item) = items.get(*index) else {
                return Progress::Done(std::mem::take(&mut sequence.data), Flow::Next);
            };
            self.variables.push((each.to_owned(), item.clone()));
            self.variables.push((at.to_owned(), json!(*index)));
            let progress = self.iteration(path, condition, tasks, (*index, is_open, sequence), local);
            self.variables.truncate(self.variables.len() - 2);
            match progress {
                Progress::Done(data, Flow::Next | Flow::Goto(_)) => {
                    *sequence = Sequence::new(data);
                    *is_open = false;
                    *index += 1;
                }
                // `exit` leaves the loop, as does a condition that no longer holds.
                Progress::Done(data, Flow::Exit) => return Progress::Done(data, Flow::Next),
                other => return other,
            }
        }
    }

    fn iteration(
        &mut self,
        path: &str,
        condition: Option<&str>,
        tasks: &'d [Task],
        (index, is_open, sequence): (usize, &mut bool, &mut Sequence),
        local: Local<'_>,
    ) -> Progress {
        if !*is_open {
            if let Some(condition) = condition {
                match self.is_true(condition, &sequence.data, local) {
                    Ok(true) => {}
                    Ok(false) => return Progress::Done(std::mem::take(&mut sequence.data), Flow::Exit),
                    Err(error) => return Progress::Failed(error),
                }
            }
            *is_open = true;
        }
        self.sequence(sequence, tasks, &format!("{path}/do#{index}"))
    }
}
