//! The loop: requests in by cursor, plugin calls beside each other within bounds, answers out.

use crate::{
    Error,
    doubt::{self, Next},
    executor::{Executor, Facts},
};
use db::{Db, Topic};
use model::{
    ActionOutcome, ActionRequest, ActionResult, Clock, ErrorRecord, Installation, InvocationId, RetryAdvice, TenantId, limits,
};
use parking_lot::Mutex;
use plugin::{ActionCall, CallContext, Caller, Cause, EffectPort, PermitId, Verdict};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const CONSUMER: &str = "action";
/// After a failed transaction: the database may be locked or full; the cursor has not moved.
const RETRY: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Calls under way at once for one tenant, so that one that hangs can't hold up another tenant.
    pub calls_per_tenant_max: usize,
    /// How long a stop waits for calls under way; what is cut off is looked at again at the next start.
    pub drain: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { calls_per_tenant_max: 32, drain: Duration::from_secs(10) }
    }
}

/// What the stage did since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub requests: u64,
    pub done: u64,
    pub failed: u64,
    pub in_doubt: u64,
}

#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    done: AtomicU64,
    failed: AtomicU64,
    in_doubt: AtomicU64,
}

#[derive(Clone)]
pub struct Service {
    db: Db,
    executor: Arc<dyn Executor>,
    effects: Arc<dyn EffectPort>,
    clock: Arc<dyn Clock>,
    config: Config,
    slots: Arc<Mutex<HashMap<TenantId, Arc<Semaphore>>>>,
    calls: TaskTracker,
    counters: Arc<Counters>,
}

impl Service {
    pub fn new(db: Db, executor: Arc<dyn Executor>, effects: Arc<dyn EffectPort>, clock: Arc<dyn Clock>, config: Config) -> Self {
        Self { db, executor, effects, clock, config, slots: Arc::default(), calls: TaskTracker::new(), counters: Arc::default() }
    }

    pub fn stats(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            requests: read(&self.counters.requests),
            done: read(&self.counters.done),
            failed: read(&self.counters.failed),
            in_doubt: read(&self.counters.in_doubt),
        }
    }

    /// Runs until cancelled, then gives calls under way `Config::drain` to end.
    pub async fn run(self, cancel: CancellationToken) {
        let mut wake = self.db.subscribe(Topic::ActionRequest);
        let mut resumed = false;
        loop {
            let outcome = match resumed {
                true => self.consume().await,
                false => self.resume().await.map(|()| {
                    resumed = true;
                    limits::HANDOFF_BATCH_ROWS
                }),
            };
            let pause = match outcome {
                Ok(limits::HANDOFF_BATCH_ROWS..) => continue,
                Ok(_) => None,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "action stage failed, trying again");
                    Some(RETRY)
                }
            };
            tokio::select! {
                () = cancel.cancelled() => break,
                () = async { match pause { Some(pause) => tokio::time::sleep(pause).await, None => wake.wait().await } } => {}
            }
        }
        self.calls.close();
        if tokio::time::timeout(self.config.drain, self.calls.wait()).await.is_err() {
            tracing::warn!(
                calls = self.calls.len(),
                "actions were cut off by the stop; they are looked at again at the next start"
            );
        }
    }

    /// Looks again at what was taken over and never answered.
    pub async fn resume(&self) -> Result<(), Error> {
        for call in self.db.open_actions().await? {
            tracing::info!(request = %call.request.id, operation = call.request.operation, "an action was under way when the host stopped");
            self.spawn(call.tenant, call.request, true);
        }
        Ok(())
    }

    /// Takes one batch of requests over; answers how many there were.
    pub async fn consume(&self) -> Result<i64, Error> {
        let after = self.db.cursor(CONSUMER, Topic::ActionRequest).await?;
        let rows = self.db.handed::<ActionRequest>(Topic::ActionRequest, after, limits::HANDOFF_BATCH_ROWS).await?;
        let (Some(last), count) = (rows.last().map(|r| r.id), rows.len()) else { return Ok(0) };
        let now = self.clock.now();
        let fresh = self
            .db
            .write::<Vec<(TenantId, ActionRequest)>, Error, _>(move |tx| {
                Box::pin(async move {
                    let mut fresh = Vec::new();
                    for row in rows {
                        if tx.take_action(&row.tenant, &row.payload, now).await? {
                            fresh.push((row.tenant, row.payload));
                        }
                    }
                    tx.set_cursor(CONSUMER, Topic::ActionRequest, last).await?;
                    Ok(fresh)
                })
            })
            .await?;
        for (tenant, request) in fresh {
            self.counters.requests.fetch_add(1, Ordering::Relaxed);
            self.spawn(tenant, request, false);
        }
        Ok(count as i64)
    }

    /// Waits until no call is under way.
    pub async fn idle(&self) {
        self.calls.close();
        self.calls.wait().await;
        self.calls.reopen();
    }

    fn spawn(&self, tenant: TenantId, request: ActionRequest, after_crash: bool) {
        let slots = self
            .slots
            .lock()
            .entry(tenant.clone())
            .or_insert_with(|| Arc::new(Semaphore::new(self.config.calls_per_tenant_max)))
            .clone();
        let service = self.clone();
        self.calls.spawn(async move {
            let Ok(_slot) = slots.acquire_owned().await else { return };
            let outcome = service.perform(&tenant, &request, after_crash).await;
            service.answer(tenant, request, outcome).await;
        });
    }

    async fn perform(&self, tenant: &TenantId, request: &ActionRequest, after_crash: bool) -> ActionOutcome {
        if request.deadline.is_some_and(|deadline| deadline <= self.clock.now()) && !after_crash {
            return failed(
                "action.deadline",
                format!("{} was not begun before its deadline", request.operation),
                RetryAdvice::Never,
            );
        }
        let installation = match self.db.installation(tenant, &request.installation).await {
            Ok(installation) => installation,
            Err(db::Error::NotFound { .. }) => {
                let message = format!(
                    "no plugin is installed under the name {:?}; install it with `orchestrix apply` (kind: Plugin)",
                    request.installation
                );
                return failed("plugin.not_installed", message, RetryAdvice::Never);
            }
            Err(error) => {
                return failed("host.database", format!("the installation can't be read: {error}"), RetryAdvice::AfterMs(1_000));
            }
        };
        if !installation.is_enabled {
            let message = format!("installation {:?} is disabled; an admin can enable it", installation.name);
            return failed("plugin.disabled", message, RetryAdvice::Never);
        }
        let call = ActionCall { operation: request.operation.clone(), input: request.input.clone() };
        if after_crash && let Some(outcome) = self.settle_doubt(tenant, request, &installation, &call).await {
            return outcome;
        }
        match self.executor.execute(&installation, self.context(tenant, request), &call).await {
            Ok(output) => ActionOutcome::Done { output },
            Err(error) => ActionOutcome::Failed { error: error.to_record() },
        }
    }

    /// After a crash: the answer, or None when the call may be made (again).
    async fn settle_doubt(
        &self,
        tenant: &TenantId,
        request: &ActionRequest,
        installation: &Installation,
        call: &ActionCall,
    ) -> Option<ActionOutcome> {
        let rows = match self.db.ledger_of_request(tenant, request.id).await {
            Ok(rows) => rows,
            Err(error) => return Some(in_doubt(format!("the ledger can't be read: {error}"), Value::Null)),
        };
        let facts = self.executor.facts(installation, call).unwrap_or(Facts { repeat: doubt::Repeat::Never, can_probe: false });
        let open = doubt::unsettled(&rows);
        let begun: Vec<_> =
            rows.iter().filter(|r| r.entry == db::ledger::Entry::Begun).map(|r| r.body["effect"].clone()).collect();
        let verdict = match doubt::next(&rows, facts.can_probe, facts.repeat) {
            Next::Execute => {
                self.settle_all(tenant, request, installation, &open, "in-doubt", json!({ "then": "repeated" })).await;
                return None;
            }
            Next::Park => Verdict::Unknown,
            Next::Probe => match self.executor.probe(installation, self.context(tenant, request), call).await {
                Ok(verdict) => verdict,
                Err(error) => {
                    tracing::warn!(request = %request.id, error = %error, "the probe of an action in doubt failed");
                    Verdict::Unknown
                }
            },
        };
        match verdict {
            Verdict::Done(output) => {
                self.settle_all(tenant, request, installation, &open, "done", json!({ "probed": true })).await;
                Some(ActionOutcome::Done { output })
            }
            Verdict::NotDone => {
                self.settle_all(tenant, request, installation, &open, "not-done", json!({ "probed": true })).await;
                None
            }
            Verdict::Unknown if doubt::next_if_unknown(facts.repeat) == Next::Execute => {
                self.settle_all(tenant, request, installation, &open, "in-doubt", json!({ "then": "repeated" })).await;
                None
            }
            Verdict::Unknown => {
                self.settle_all(tenant, request, installation, &open, "in-doubt", json!({ "then": "parked" })).await;
                let message = format!(
                    "the host stopped while {} was under way, and it can't be told whether it happened; look at the target, then retry or skip the step",
                    request.operation
                );
                Some(in_doubt(message, json!({ "effects": begun })))
            }
        }
    }

    async fn settle_all(
        &self,
        tenant: &TenantId,
        request: &ActionRequest,
        installation: &Installation,
        open: &[i64],
        status: &str,
        detail: Value,
    ) {
        let who = Caller {
            tenant: tenant.clone(),
            installation: installation.name.clone(),
            plugin: installation.plugin.clone(),
            version: installation.version.clone(),
            digest: installation.digest.clone(),
            invocation: InvocationId::generate(),
            idempotency_key: request.idempotency_key.clone(),
            cause: cause(request),
        };
        for begun in open {
            self.effects.settle(&who, PermitId(*begun), status, detail.clone()).await;
        }
    }

    fn context(&self, tenant: &TenantId, request: &ActionRequest) -> CallContext {
        CallContext {
            tenant: tenant.clone(),
            invocation: InvocationId::generate(),
            idempotency_key: request.idempotency_key.clone(),
            now: self.clock.now(),
            deadline: request.deadline,
            traceparent: request.traceparent.clone(),
            cause: cause(request),
        }
    }

    /// Tries until the answer is on disk or the host stops; unanswered, the call is looked at again at the next start.
    async fn answer(&self, tenant: TenantId, request: ActionRequest, outcome: ActionOutcome) {
        let counter = match &outcome {
            ActionOutcome::Done { .. } => &self.counters.done,
            ActionOutcome::Failed { error } => {
                tracing::info!(request = %request.id, installation = request.installation, operation = request.operation, code = error.code, message = error.message, "action failed");
                &self.counters.failed
            }
            ActionOutcome::InDoubt { .. } => {
                tracing::error!(request = %request.id, installation = request.installation, operation = request.operation, "action in doubt, a person must decide");
                &self.counters.in_doubt
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
        loop {
            let now = self.clock.now();
            let (tenant, result) = (
                tenant.clone(),
                ActionResult { request: request.id, run: request.run, step: request.step.clone(), outcome: outcome.clone() },
            );
            let written = self
                .db
                .write::<(), Error, _>(move |tx| {
                    Box::pin(async move {
                        if tx.answer_action(&tenant, result.request, &result.outcome, now).await? {
                            tx.hand_off(Topic::ActionResult, &tenant, now, &result).await?;
                        }
                        Ok(())
                    })
                })
                .await;
            match written {
                Ok(()) | Err(Error::Db(db::Error::Closed)) => return,
                Err(error) => {
                    tracing::warn!(request = %request.id, error = &error as &dyn std::error::Error, "an action's answer could not be stored, trying again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

fn cause(request: &ActionRequest) -> Cause {
    Cause {
        run: request.run,
        step: Some(request.step.clone()),
        request: Some(request.id),
        alert: request.alert,
        approval: request.approval.clone(),
    }
}

fn failed(code: &str, message: String, retry: RetryAdvice) -> ActionOutcome {
    ActionOutcome::Failed { error: ErrorRecord { code: code.into(), message, retry, details: Value::Null } }
}

fn in_doubt(message: String, details: Value) -> ActionOutcome {
    ActionOutcome::InDoubt { error: ErrorRecord { code: "action.in_doubt".into(), message, retry: RetryAdvice::Never, details } }
}

#[cfg(test)]
mod tests;
