//! What other rooms call.

use crate::definition::{self, Diagnostic};
use crate::interpret::APPROVAL_ANSWERED;
use crate::journal::{Step, steps};
use crate::lifecycle;
use crate::service::{Ask, Stats, StatsCells};
use crate::state::{Cause, Decision};
use crate::{Command, Error, Result};
use db::Db;
use db::definition::{DefinitionRow, Pick};
use db::run::{RunFilter, RunRow};
use model::{Clock, Event, RunId, TenantId, limits};
use serde::Serialize;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// A cheap-clone handle on the engine. Writes are on disk when they answer.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(crate) asks: mpsc::Sender<Ask>,
    pub(crate) db: Db,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) stats: Arc<StatsCells>,
}

/// What became of a definition that was put.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PutDefinition {
    pub namespace: String,
    pub name: String,
    pub version: String,
    pub revision: i64,
    /// False when the text was the newest already.
    pub is_new: bool,
}

/// A run with its steps.
#[derive(Clone, Debug)]
pub struct RunPage {
    pub run: RunRow,
    pub steps: Vec<Step>,
    /// Whether older journal rows than `JOURNAL_ROWS_MAX` were left out.
    pub is_truncated: bool,
}

/// Journal rows read for one page: each may hold a thousand steps.
const JOURNAL_ROWS_MAX: i64 = 2_000;

impl Handle {
    /// Judges a definition without storing it.
    pub fn validate(&self, text: &str) -> Result<(), Vec<Diagnostic>> {
        definition::parse(text).map(drop)
    }

    /// Stores a definition and turns its triggers on. The same text again changes nothing.
    pub async fn put_definition(&self, tenant: &TenantId, text: &str) -> Result<PutDefinition> {
        let owned = text.to_owned();
        let parsed = tokio::task::spawn_blocking(move || definition::parse(&owned)).await.map_err(|_| Error::Closed)?;
        let definition = Arc::new(parsed.map_err(Error::Invalid)?);
        let (tenant, text) = (tenant.clone(), text.to_owned());
        self.ask(|reply| Ask::Put { tenant, text, definition, reply }).await
    }

    pub async fn definitions(&self, tenant: &TenantId) -> Result<Vec<DefinitionRow>> {
        Ok(self.db.definitions(tenant).await?)
    }

    /// `name` is `namespace/name` or the bare name.
    pub async fn definition(&self, tenant: &TenantId, name: &str, version: Option<&str>) -> Result<DefinitionRow> {
        Ok(self.db.definition(tenant, name, &pick(version)).await?)
    }

    /// Stops its triggers; runs in flight go on.
    pub async fn delete_definition(&self, tenant: &TenantId, name: &str) -> Result<()> {
        let row = self.db.definition(tenant, name, &Pick::Newest).await?;
        self.ask(|reply| Ask::Delete { row, reply }).await
    }

    /// Turns a definition's triggers on or off.
    pub async fn enable_definition(&self, tenant: &TenantId, name: &str, is_enabled: bool) -> Result<()> {
        let row = self.db.definition(tenant, name, &Pick::Newest).await?;
        self.ask(|reply| Ask::Enable { row, is_enabled, reply }).await
    }

    /// Starts a run of the newest revision, or of the newest with `version`.
    pub async fn start(&self, tenant: &TenantId, name: &str, version: Option<&str>, input: Value, cause: Cause) -> Result<RunId> {
        let bytes = input.to_string().len();
        if bytes > limits::STEP_PAYLOAD_BYTES_MAX {
            return Err(Error::TooLarge { bytes, max: limits::STEP_PAYLOAD_BYTES_MAX });
        }
        let row = self.db.definition(tenant, name, &pick(version)).await?;
        self.ask(|reply| Ask::Start { row, input, cause, reply }).await
    }

    pub async fn cancel(&self, tenant: &TenantId, run: RunId, by: &str) -> Result<()> {
        self.command(tenant, run, Command::Cancel { by: by.into() }, "has ended already").await
    }

    pub async fn pause(&self, tenant: &TenantId, run: RunId, by: &str) -> Result<()> {
        self.command(tenant, run, Command::Pause { by: by.into() }, "is paused already or has ended").await
    }

    pub async fn resume(&self, tenant: &TenantId, run: RunId, by: &str) -> Result<()> {
        self.command(tenant, run, Command::Resume { by: by.into() }, "is not paused").await
    }

    /// Asks an action in doubt again, with the same idempotency key.
    pub async fn retry(&self, tenant: &TenantId, run: RunId, step: &str, by: &str) -> Result<()> {
        self.decide(tenant, run, step, Decision::Retry, by).await
    }

    /// Decides about a call of which nobody can tell whether it happened.
    pub async fn decide(&self, tenant: &TenantId, run: RunId, step: &str, decision: Decision, by: &str) -> Result<()> {
        let command = Command::Decide { step: step.into(), decision, by: by.into() };
        self.command(tenant, run, command, &format!("has no call in doubt at {step}")).await
    }

    /// Answers an approval step. `step` may be left out when only one waits.
    pub async fn answer(
        &self,
        tenant: &TenantId,
        run: RunId,
        step: Option<&str>,
        by: &str,
        approved: bool,
        comment: &str,
    ) -> Result<()> {
        let row = self.db.run(tenant, run).await?;
        let steps: Vec<&str> = row
            .waits
            .as_array()
            .into_iter()
            .flatten()
            .filter(|wait| wait["for"] == "approval")
            .filter_map(|wait| wait["step"].as_str())
            .filter(|waiting| step.is_none_or(|step| step == *waiting))
            .collect();
        let step = match steps[..] {
            [step] => step,
            [] => return Err(Error::Refused(format!("run {run} does not wait for this approval"))),
            _ => return Err(Error::Refused(format!("run {run} waits for several approvals: name one of {}", steps.join(", ")))),
        };
        let data = json!({"run": run.to_string(), "step": step, "approved": approved, "by": by, "comment": comment});
        let now = self.clock.now();
        let mut event = Event::new(format!("{run}:{step}:{}", now.nanos()), format!("/runs/{run}"), APPROVAL_ANSWERED, data);
        event.subject = Some(run.to_string());
        event.time = Some(lifecycle::rfc3339(now));
        let tenant = tenant.clone();
        self.ask(|reply| Ask::Answer { tenant, run, event, reply }).await
    }

    /// Newest first.
    pub async fn runs(&self, tenant: &TenantId, filter: &RunFilter) -> Result<Vec<RunRow>> {
        Ok(self.db.runs(tenant, filter).await?)
    }

    /// Runs in which a person is asked: `waits` says what and at which step.
    pub async fn runs_asking(&self, tenant: &TenantId) -> Result<Vec<RunRow>> {
        Ok(self.db.runs(tenant, &RunFilter { asks: true, ..RunFilter::default() }).await?)
    }

    pub async fn run(&self, tenant: &TenantId, run: RunId) -> Result<RunPage> {
        let row = self.db.run(tenant, run).await?;
        let rows = self.db.journal(tenant, run, 0, JOURNAL_ROWS_MAX).await?;
        let is_truncated = i64::try_from(rows.len()).unwrap_or(i64::MAX) >= JOURNAL_ROWS_MAX;
        Ok(RunPage { run: row, steps: steps(&rows), is_truncated })
    }

    /// Lets the engine look at once, instead of at its next hint or scan: for whoever moves the clock.
    pub async fn poke(&self) {
        let _ = self.asks.send(Ask::Look).await;
    }

    pub fn stats(&self) -> Stats {
        self.stats.read()
    }

    async fn command(&self, tenant: &TenantId, run: RunId, command: Command, refusal: &str) -> Result<()> {
        // The tenant's right to the run is judged on its row.
        self.db.run(tenant, run).await?;
        let is_changed = self.ask(|reply| Ask::Command { run, command, reply }).await?;
        if is_changed { Ok(()) } else { Err(Error::Refused(format!("run {run} {refusal}"))) }
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<Result<T>>) -> Ask) -> Result<T> {
        let (reply, answered) = oneshot::channel();
        self.asks.send(ask(reply)).await.map_err(|_| Error::Closed)?;
        answered.await.map_err(|_| Error::Closed)?
    }
}

fn pick(version: Option<&str>) -> Pick {
    match version {
        None | Some("latest") => Pick::Newest,
        Some(version) => Pick::Version(version.to_owned()),
    }
}
