//! `try`: attempts, back-off, and the handler of what was caught.

use super::{Flow, Local, Machine, Progress, derived};
use crate::definition::{Backoff, Catch, Retry, Task};
use crate::journal::Entry;
use crate::lifecycle;
use crate::state::{Body, Frame, Phase, RunError, Sequence};
use model::Timestamp;
use serde_json::{Value, json};

/// Longest wait between two attempts: exponential growth ends somewhere.
const DELAY_MS_MAX: i64 = 24 * 3_600_000;

impl<'d> Machine<'d> {
    pub(super) fn first_attempt(&mut self, frame: &Frame) -> Result<Body, RunError> {
        Ok(Body::Try {
            attempt: 0,
            first: self.now,
            attempt_deadline: None,
            phase: Phase::Trying,
            sequence: Sequence::new(frame.input.clone()),
            error: None,
        })
    }

    pub(super) fn attempt(
        &mut self,
        path: &str,
        task: &'d Task,
        tasks: &'d [Task],
        catch: &'d Catch,
        frame: &mut Frame,
    ) -> Progress {
        let Frame { input, started, body, .. } = frame;
        let Body::Try { attempt, first, attempt_deadline, phase, sequence, error } = body else {
            return Progress::Failed(RunError::runtime("the checkpoint does not fit its definition"));
        };
        let local = Local { task: Some(task), input, output: None, started: *started };
        loop {
            match phase {
                Phase::Trying => {
                    if attempt_deadline.is_none()
                        && sequence.index == 0
                        && sequence.child.is_none()
                        && let Some(time) = catch.retry.as_ref().and_then(|retry| retry.attempt_time.as_ref())
                    {
                        match self.milliseconds(time, local) {
                            Ok(ms) => *attempt_deadline = Some(self.now.plus_millis(ms)),
                            Err(error) => return Progress::Failed(error),
                        }
                    }
                    let progress = if !self.state.is_paused && attempt_deadline.is_some_and(|deadline| deadline <= self.now) {
                        self.drop_frames(&format!("{path}/"));
                        Progress::Failed(RunError {
                            instance: Some(task.pointer.clone()),
                            ..RunError::timeout("the attempt took longer than its limit")
                        })
                    } else {
                        self.sequence(sequence, tasks, &format!("{path}/try"))
                    };
                    let failure = match progress {
                        Progress::Failed(failure) => failure,
                        Progress::Done(output, Flow::Exit | Flow::Goto(_)) => return Progress::Done(output, Flow::Next),
                        other => return other,
                    };
                    self.variables.push((catch.r#as.clone(), failure.to_json()));
                    let next = self.caught(path, catch, &failure, (*attempt, *first), local);
                    self.variables.pop();
                    match next {
                        Err(failure) => return Progress::Failed(failure),
                        Ok(Next::Retry(delay_ms)) => {
                            *attempt += 1;
                            *phase = Phase::Backoff { until: self.now.plus_millis(delay_ms) };
                            self.journal.push(Entry::Retried {
                                step: path.to_owned(),
                                attempt: *attempt,
                                delay_ms,
                                error: failure.to_json(),
                            });
                            self.task_event(
                                "retried",
                                path,
                                json!({"retriedAt": lifecycle::rfc3339(self.now), "attempt": *attempt}),
                            );
                            *error = Some(failure);
                        }
                        Ok(Next::Handle) => {
                            if catch.tasks.is_none() {
                                return Progress::Done(input.clone(), Flow::Next);
                            }
                            *phase = Phase::Catching;
                            *sequence = Sequence::new(input.clone());
                            *error = Some(failure);
                        }
                    }
                }
                Phase::Backoff { until } => {
                    if *until > self.now || self.state.is_paused {
                        return Progress::Blocked;
                    }
                    *phase = Phase::Trying;
                    *attempt_deadline = None;
                    *sequence = Sequence::new(input.clone());
                }
                Phase::Catching => {
                    let value = error.as_ref().map_or(Value::Null, RunError::to_json);
                    self.variables.push((catch.r#as.clone(), value));
                    let tasks = catch.tasks.as_deref().unwrap_or_default();
                    let progress = self.sequence(sequence, tasks, &format!("{path}/catch/do"));
                    self.variables.pop();
                    return match progress {
                        Progress::Done(output, Flow::Exit | Flow::Goto(_)) => Progress::Done(output, Flow::Next),
                        other => other,
                    };
                }
            }
        }
    }

    /// What to do about a failure; the failure itself when it isn't caught.
    fn caught(
        &mut self,
        path: &str,
        catch: &Catch,
        failure: &RunError,
        (attempt, first): (u32, Timestamp),
        local: Local<'_>,
    ) -> Result<Next, RunError> {
        let error = failure.to_json();
        if !catch.with.is_empty() {
            let Value::Object(with) = self.filled(&Value::Object(catch.with.clone()), &error, local)? else {
                return Err(failure.clone());
            };
            if !failure.has(&with) {
                return Err(failure.clone());
            }
        }
        if let Some(when) = &catch.when
            && !self.is_true(when, &error, local)?
        {
            return Err(failure.clone());
        }
        if let Some(except) = &catch.except_when
            && self.is_true(except, &error, local)?
        {
            return Err(failure.clone());
        }
        let Some(retry) = &catch.retry else { return Ok(Next::Handle) };
        match self.retry_delay(path, retry, failure, &error, (attempt, first), local)? {
            Some(delay_ms) => Ok(Next::Retry(delay_ms)),
            // All attempts are used up: the handler decides; without one the error goes on.
            None if catch.tasks.is_some() => Ok(Next::Handle),
            None => Err(failure.clone()),
        }
    }

    fn retry_delay(
        &mut self,
        path: &str,
        retry: &Retry,
        failure: &RunError,
        error: &Value,
        (attempt, first): (u32, Timestamp),
        local: Local<'_>,
    ) -> Result<Option<i64>, RunError> {
        if let Some(when) = &retry.when
            && !self.is_true(when, error, local)?
        {
            return Ok(None);
        }
        if let Some(except) = &retry.except_when
            && self.is_true(except, error, local)?
        {
            return Ok(None);
        }
        if retry.attempts_max.is_some_and(|max| attempt >= max) {
            return Ok(None);
        }
        let base = match &retry.delay {
            Some(time) => self.milliseconds(time, local)?,
            None => 0,
        };
        let delay = match retry.backoff {
            Backoff::Constant => base,
            Backoff::Linear => base.saturating_mul(i64::from(attempt) + 1),
            Backoff::Exponential => base.saturating_mul(1i64.checked_shl(attempt.min(40)).unwrap_or(i64::MAX)),
        };
        let mut delay = delay.max(failure.retry_after_ms.and_then(|ms| i64::try_from(ms).ok()).unwrap_or(0));
        if let Some((from, to)) = &retry.jitter {
            let (from, to) = (self.milliseconds(from, local)?, self.milliseconds(to, local)?);
            // Spread over runs, the same for the same attempt: the interpreter has no randomness of its own.
            let bytes = derived(&[self.state.run.to_string().as_bytes(), path.as_bytes(), &attempt.to_be_bytes(), b"jitter"]);
            let random = u64::from_be_bytes(std::array::from_fn(|index| bytes[index]));
            let width = u64::try_from(to.saturating_sub(from)).unwrap_or(0) + 1;
            delay = delay.saturating_add(from).saturating_add((random % width) as i64);
        }
        let delay = delay.min(DELAY_MS_MAX);
        if let Some(total) = &retry.total_time {
            let total = self.milliseconds(total, local)?;
            if self.now.plus_millis(delay).millis_since(first) > total {
                return Ok(None);
            }
        }
        Ok(Some(delay))
    }
}

enum Next {
    Retry(i64),
    Handle,
}
