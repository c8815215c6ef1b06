//! Runs: shown with their steps, and what people do to them.

use crate::{
    error::{Problem, Result},
    extract::{Caller, Json, Path, Query},
    state::State,
    time::rfc3339,
};
use ::workflow::{Decision, Step};
use axum::{Router, routing};
use db::run::{RunFilter, RunRow};
use model::{Principal, RunId};
use serde::Deserialize;
use serde_json::{Value, json};

const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1_000;

pub fn routes() -> Router<State> {
    Router::new()
        .route("/api/v1/runs", routing::get(list))
        .route("/api/v1/runs/{id}", routing::get(show))
        .route("/api/v1/runs/{id}/cancel", routing::post(cancel))
        .route("/api/v1/runs/{id}/pause", routing::post(pause))
        .route("/api/v1/runs/{id}/resume", routing::post(resume))
        .route("/api/v1/runs/{id}/retry", routing::post(retry))
        .route("/api/v1/runs/{id}/answer", routing::post(answer))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    workflow: Option<String>,
    status: Option<String>,
    alert: Option<String>,
    /// Only those in which a person is asked.
    asks: Option<bool>,
    limit: Option<usize>,
}

async fn list(
    state: axum::extract::State<State>,
    Caller(who): Caller,
    Query(filter): Query<Filter>,
) -> Result<axum::Json<Value>> {
    let filter = RunFilter {
        name: filter.workflow,
        status: filter.status,
        alert: filter.alert,
        parent: None,
        asks: filter.asks.unwrap_or(false),
        before: None,
        limit: Some(filter.limit.unwrap_or(LIMIT_DEFAULT).clamp(1, LIMIT_MAX)),
    };
    let runs = state.workflows.runs(&who.tenant, &filter).await?;
    Ok(axum::Json(json!({ "items": runs.iter().map(shown).collect::<Vec<_>>() })))
}

async fn show(state: axum::extract::State<State>, Caller(who): Caller, Path(id): Path<String>) -> Result<axum::Json<Value>> {
    let page = state.workflows.run(&who.tenant, id_of(&id)?).await?;
    // The run's own fields stand at the top too, for programs that only want its status.
    let mut value = shown(&page.run);
    value["run"] = shown(&page.run);
    value["steps"] = page.steps.iter().map(step).collect();
    value["isTruncated"] = json!(page.is_truncated);
    Ok(axum::Json(value))
}

#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Reason {
    pub reason: String,
}

async fn cancel(
    state: axum::extract::State<State>,
    Caller(who): Caller,
    Path(id): Path<String>,
    Json(why): Json<Reason>,
) -> Result<axum::Json<Value>> {
    let run = id_of(&id)?;
    state.workflows.cancel(&who.tenant, run, &who.name).await?;
    done(&state, &who, "cancel run", run, json!({ "reason": why.reason })).await
}

async fn pause(state: axum::extract::State<State>, Caller(who): Caller, Path(id): Path<String>) -> Result<axum::Json<Value>> {
    let run = id_of(&id)?;
    state.workflows.pause(&who.tenant, run, &who.name).await?;
    done(&state, &who, "pause run", run, json!({})).await
}

async fn resume(state: axum::extract::State<State>, Caller(who): Caller, Path(id): Path<String>) -> Result<axum::Json<Value>> {
    let run = id_of(&id)?;
    state.workflows.resume(&who.tenant, run, &who.name).await?;
    done(&state, &who, "resume run", run, json!({})).await
}

/// Decides about a call in doubt: `retry` (the default), `skip` with an output, or `fail`.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    pub step: String,
    #[serde(default)]
    pub decision: Option<String>,
    #[serde(default)]
    #[schema(value_type = Object)]
    pub output: Value,
}

async fn retry(
    state: axum::extract::State<State>,
    Caller(who): Caller,
    Path(id): Path<String>,
    Json(body): Json<Retry>,
) -> Result<axum::Json<Value>> {
    let run = id_of(&id)?;
    let decision = match body.decision.as_deref() {
        None | Some("retry") => Decision::Retry,
        Some("skip") => Decision::Skip { output: body.output },
        Some("fail") => Decision::Fail,
        Some(other) => return Err(Problem::invalid("/decision", format!("{other:?} is none of retry, skip, fail"))),
    };
    state.workflows.decide(&who.tenant, run, &body.step, decision, &who.name).await?;
    done(&state, &who, "decide step", run, json!({ "step": body.step, "decision": body.decision })).await
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    pub approved: bool,
    #[serde(default)]
    pub step: Option<String>,
    #[serde(default)]
    pub comment: String,
}

async fn answer(
    state: axum::extract::State<State>,
    Caller(who): Caller,
    Path(id): Path<String>,
    Json(body): Json<Answer>,
) -> Result<axum::Json<Value>> {
    let run = id_of(&id)?;
    state.workflows.answer(&who.tenant, run, body.step.as_deref(), &who.name, body.approved, &body.comment).await?;
    done(&state, &who, "answer run", run, json!({ "step": body.step, "approved": body.approved, "comment": body.comment })).await
}

/// The engine has made the change; the audit says who asked for it.
async fn done(state: &State, who: &Principal, action: &'static str, run: RunId, detail: Value) -> Result<axum::Json<Value>> {
    state.change(who, action, &run.to_string(), detail, |_| Box::pin(async { Ok(()) })).await?;
    let page = state.workflows.run(&who.tenant, run).await?;
    Ok(axum::Json(shown(&page.run)))
}

pub fn id_of(text: &str) -> Result<RunId> {
    text.parse().map_err(|_| Problem::not_found(format_args!("run {text:?}")))
}

pub fn shown(run: &RunRow) -> Value {
    json!({
        "id": run.id.to_string(),
        "workflow": run.name,
        "name": run.name,
        "namespace": run.namespace,
        "version": run.version,
        "revision": run.revision,
        "status": run.status,
        "alert": run.alert,
        "parent": run.parent.map(|p| p.to_string()),
        "cause": run.cause,
        "waits": run.waits,
        "asks": run.asks,
        "started": rfc3339(run.started),
        "updated": rfc3339(run.updated),
        "ended": run.ended.map(rfc3339),
        "input": run.input,
        "output": run.output,
        "error": run.error,
        "stepCount": run.steps,
    })
}

fn step(step: &Step) -> Value {
    json!({
        "path": step.path,
        "parent": step.parent,
        "name": step.name,
        "kind": step.kind,
        "status": step.status,
        "input": step.input,
        "output": step.output,
        "error": step.error,
        "started": rfc3339(step.started),
        "ended": step.ended.map(rfc3339),
        "attempts": step.attempts,
        "request": step.request,
    })
}
