//! `fork`: branches side by side. In a race the first that succeeds wins and the others are given up;
//! the race is lost when all failed.

use super::{Flow, Machine, Progress, child_path};
use crate::definition::Task;
use crate::state::Branch;
use serde_json::Value;

impl<'d> Machine<'d> {
    pub(super) fn fork(
        &mut self,
        path: &str,
        tasks: &'d [Task],
        is_race: bool,
        branches: &mut [Branch],
        input: &Value,
    ) -> Progress {
        for (index, (task, branch)) in tasks.iter().zip(branches.iter_mut()).enumerate() {
            if branch.is_done || branch.error.is_some() {
                continue;
            }
            let progress = match &branch.child {
                Some(child) => {
                    let child = child.clone();
                    self.resume(&child, task)
                }
                None => {
                    if !self.may_enter() {
                        continue;
                    }
                    let child = child_path(&format!("{path}/fork/branches"), index, &task.name, 0);
                    branch.child = Some(child.clone());
                    self.enter(&child, task, input.clone())
                }
            };
            match progress {
                Progress::Blocked => {}
                Progress::Done(output, Flow::End) => return Progress::Done(output, Flow::End),
                Progress::Done(output, _) if is_race => {
                    self.drop_frames(&format!("{path}/"));
                    return Progress::Done(output, Flow::Next);
                }
                Progress::Done(output, _) => (branch.is_done, branch.output) = (true, output),
                Progress::Failed(error) if is_race => branch.error = Some(error),
                Progress::Failed(error) => return Progress::Failed(error),
            }
        }
        if branches.iter().any(|branch| !branch.is_done && branch.error.is_none()) {
            return Progress::Blocked;
        }
        match branches.iter_mut().rev().find_map(|branch| branch.error.take()) {
            Some(error) => Progress::Failed(error),
            None => {
                let outputs = branches.iter_mut().map(|branch| std::mem::take(&mut branch.output)).collect();
                Progress::Done(Value::Array(outputs), Flow::Next)
            }
        }
    }
}
