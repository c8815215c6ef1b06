//! Monitors, scrape jobs, webhooks and guardrails: a name and a spec that its own room checks.

use crate::{
    error::{Code, FieldProblem, Problem, Result, nearest, unknown_field},
    extract::{Caller, Json, Path, check_name},
    state::State,
    time::rfc3339,
};
use axum::{Router, http::StatusCode, routing};
use db::{guardrail::GuardrailRow, monitor::Monitor, scrape::Scrape, webhook::Webhook};
use serde_json::{Value, json};

type Shared = axum::extract::State<State>;
type Answer = Result<axum::Json<Value>>;

pub fn routes() -> Router<State> {
    Router::new()
        .route("/api/v1/monitors", routing::get(monitors))
        .route("/api/v1/monitors/{name}", routing::get(monitor).put(put_monitor).delete(delete_monitor))
        .route("/api/v1/scrapes", routing::get(scrapes))
        .route("/api/v1/scrapes/{name}", routing::get(scrape).put(put_scrape).delete(delete_scrape))
        .route("/api/v1/webhooks", routing::get(webhooks))
        .route("/api/v1/webhooks/{name}", routing::get(webhook).put(put_webhook).delete(delete_webhook))
        .route("/api/v1/guardrails", routing::get(guardrails))
        .route("/api/v1/guardrails/{name}", routing::get(guardrail).put(put_guardrail).delete(delete_guardrail))
}

async fn monitors(state: Shared, Caller(who): Caller) -> Answer {
    let mut items = Vec::new();
    for monitor in state.db.monitors(&who.tenant).await? {
        items.push(show_monitor(&state, &monitor).await?);
    }
    Ok(axum::Json(json!({ "items": items })))
}

async fn monitor(state: Shared, Caller(who): Caller, Path(name): Path<String>) -> Answer {
    let monitor = state.db.monitor(&who.tenant, &name).await?;
    Ok(axum::Json(show_monitor(&state, &monitor).await?))
}

async fn show_monitor(state: &State, monitor: &Monitor) -> Result<Value> {
    let health = state.db.monitor_state(&monitor.tenant, monitor.id).await?;
    Ok(json!({ "name": monitor.name, "id": monitor.id.to_string(), "spec": monitor.spec,
               "failures": health.failures, "lastError": health.last_error }))
}

async fn put_monitor(state: Shared, Caller(who): Caller, Path(name): Path<String>, Json(spec): Json<Value>) -> Answer {
    check_name(&name)?;
    let parsed = ::detect::Spec::parse(&spec).map_err(wrong_spec)?;
    // A detector that is not there yet may come in the same `apply`; parameters are judged when it is known.
    if let Ok(installation) = state.db.installation(&who.tenant, &parsed.detector).await
        && let Some(package) = state.plugins.package(&installation.digest)
    {
        let errors: Vec<FieldProblem> = package
            .params_errors(&parsed.params)
            .into_iter()
            .map(|e| FieldProblem { pointer: format!("/params{}", e.pointer), message: e.message, ..FieldProblem::default() })
            .collect();
        if !errors.is_empty() {
            let detail = format!("the detector {} refuses these params: {}", parsed.detector, errors[0].message);
            return Err(Problem::new(Code::Invalid, detail).with_errors(errors));
        }
    }
    // The stage stores it, because it must hear of it at once.
    let stored = state.monitors.upsert(&who.tenant, &name, spec.clone()).await?;
    state.change(&who, "put monitor", &name, spec, |_| Box::pin(async { Ok(()) })).await?;
    Ok(axum::Json(json!({ "name": stored.name, "id": stored.id.to_string(), "spec": stored.spec })))
}

async fn delete_monitor(state: Shared, Caller(who): Caller, Path(name): Path<String>) -> Result<StatusCode> {
    state.monitors.remove(&who.tenant, &name).await?;
    state.change(&who, "delete monitor", &name, json!({}), |_| Box::pin(async { Ok(()) })).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn scrapes(state: Shared, Caller(who): Caller) -> Answer {
    let items: Vec<Value> = state.db.scrapes(&who.tenant).await?.into_iter().map(|s| row(&s.name, s.spec, s.updated)).collect();
    Ok(axum::Json(json!({ "items": items })))
}

async fn scrape(state: Shared, Caller(who): Caller, Path(name): Path<String>) -> Answer {
    let found = state.db.scrape(&who.tenant, &name).await?;
    Ok(axum::Json(row(&found.name, found.spec, found.updated)))
}

async fn put_scrape(state: Shared, Caller(who): Caller, Path(name): Path<String>, Json(spec): Json<Value>) -> Answer {
    check_name(&name)?;
    ::ingest::scrape::Job::parse(&name, &spec).map_err(wrong_spec)?;
    let (tenant, new) = (who.tenant.clone(), Scrape { name: name.clone(), spec: spec.clone(), updated: state.now() });
    let answer = row(&name, spec.clone(), new.updated);
    state.change(&who, "put scrape", &name, spec, move |tx| Box::pin(async move { tx.put_scrape(&tenant, &new).await })).await?;
    state.scrapes.reload();
    Ok(axum::Json(answer))
}

async fn delete_scrape(state: Shared, Caller(who): Caller, Path(name): Path<String>) -> Result<StatusCode> {
    let (tenant, target) = (who.tenant.clone(), name.clone());
    state
        .change(&who, "delete scrape", &target, json!({}), move |tx| {
            Box::pin(async move { tx.delete_scrape(&tenant, &name).await })
        })
        .await?;
    state.scrapes.reload();
    Ok(StatusCode::NO_CONTENT)
}

async fn webhooks(state: Shared, Caller(who): Caller) -> Answer {
    let items: Vec<Value> = state.db.webhooks(&who.tenant).await?.into_iter().map(|w| row(&w.name, w.spec, w.updated)).collect();
    Ok(axum::Json(json!({ "items": items })))
}

async fn webhook(state: Shared, Caller(who): Caller, Path(name): Path<String>) -> Answer {
    let found = state.db.webhook(&who.tenant, &name).await?;
    Ok(axum::Json(row(&found.name, found.spec, found.updated)))
}

async fn put_webhook(state: Shared, Caller(who): Caller, Path(name): Path<String>, Json(spec): Json<Value>) -> Answer {
    check_name(&name)?;
    ::ingest::webhook::Spec::parse(&spec).map_err(wrong_spec)?;
    let (tenant, new) = (who.tenant.clone(), Webhook { name: name.clone(), spec: spec.clone(), updated: state.now() });
    let answer = row(&name, spec.clone(), new.updated);
    state
        .change(&who, "put webhook", &name, spec, move |tx| Box::pin(async move { tx.put_webhook(&tenant, &new).await }))
        .await?;
    Ok(axum::Json(answer))
}

async fn delete_webhook(state: Shared, Caller(who): Caller, Path(name): Path<String>) -> Result<StatusCode> {
    let (tenant, target) = (who.tenant.clone(), name.clone());
    state
        .change(&who, "delete webhook", &target, json!({}), move |tx| {
            Box::pin(async move { tx.delete_webhook(&tenant, &name).await })
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn guardrails(state: Shared, Caller(who): Caller) -> Answer {
    let items: Vec<Value> =
        state.db.guardrails(&who.tenant).await?.into_iter().map(|g| row(&g.name, g.spec, g.updated)).collect();
    Ok(axum::Json(json!({ "items": items })))
}

async fn guardrail(state: Shared, Caller(who): Caller, Path(name): Path<String>) -> Answer {
    let found = state.db.guardrail(&who.tenant, &name).await?;
    Ok(axum::Json(row(&found.name, found.spec, found.updated)))
}

async fn put_guardrail(state: Shared, Caller(who): Caller, Path(name): Path<String>, Json(spec): Json<Value>) -> Answer {
    check_name(&name)?;
    let parsed: ::action::guardrail::Spec = crate::error::read_value(spec.clone())?;
    ::action::guardrail::Guardrail::compile(&name, &parsed).map_err(wrong_spec)?;
    let (tenant, new) = (who.tenant.clone(), GuardrailRow { name: name.clone(), spec: spec.clone(), updated: state.now() });
    let answer = row(&name, spec.clone(), new.updated);
    state
        .change(&who, "put guardrail", &name, spec, move |tx| Box::pin(async move { tx.put_guardrail(&tenant, &new).await }))
        .await?;
    Ok(axum::Json(answer))
}

async fn delete_guardrail(state: Shared, Caller(who): Caller, Path(name): Path<String>) -> Result<StatusCode> {
    let (tenant, target) = (who.tenant.clone(), name.clone());
    state
        .change(&who, "delete guardrail", &target, json!({}), move |tx| {
            Box::pin(async move { tx.delete_guardrail(&tenant, &name).await })
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

fn row(name: &str, spec: Value, updated: model::Timestamp) -> Value {
    json!({ "name": name, "spec": spec, "updated": rfc3339(updated) })
}

/// What a room says about a spec, as a problem; unknown fields with the nearest known one.
fn wrong_spec(message: String) -> Problem {
    match unknown_field(&message) {
        Some((field, near)) => {
            let hint = near.map(|near| format!("did you mean `{near}`?"));
            let detail = match &hint {
                Some(hint) => format!("unknown field `{field}`: {hint}"),
                None => message.clone(),
            };
            let place = FieldProblem { pointer: format!("/{field}"), message, hint, ..FieldProblem::default() };
            Problem::new(Code::UnknownField, detail).with_errors(vec![place])
        }
        None => Problem::invalid("", message),
    }
}

/// For messages about a word that is none of a set.
pub fn did_you_mean(word: &str, known: &[&str]) -> String {
    nearest(word, known).map(|near| format!("; did you mean {near}?")).unwrap_or_default()
}

impl From<::detect::Error> for Problem {
    fn from(error: ::detect::Error) -> Self {
        use ::detect::Error as E;
        match error {
            E::Spec { message, .. } => wrong_spec(message),
            E::NoMonitor(name) => Self::not_found(format_args!("monitor {name:?}")),
            E::Db(inner) => inner.into(),
            E::Closed => Self { retry_after_s: Some(1), ..Self::new(Code::Busy, "the host is shutting down") },
            other => Self::internal(&other),
        }
    }
}
