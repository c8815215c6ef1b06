//! Workflow definitions: stored as their authors wrote them, judged with lines and columns.

use crate::{
    error::{Code, FieldProblem, Problem, Result},
    extract::{Body, Caller, Form, Path},
    run,
    state::State,
    time::rfc3339,
};
use ::workflow::{Cause, Diagnostic};
use axum::{
    Json, Router,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing,
};
use db::definition::DefinitionRow;
use model::limits;
use serde_json::{Value, json};

pub fn routes() -> Router<State> {
    Router::new()
        .route("/api/v1/workflows", routing::get(list))
        .route("/api/v1/workflows/validate", routing::post(validate))
        .route("/api/v1/workflows/{name}", routing::get(show).put(store).delete(remove))
        .route("/api/v1/workflows/{name}/runs", routing::post(start))
}

async fn list(state: axum::extract::State<State>, Caller(who): Caller) -> Result<Json<Value>> {
    let rows = state.workflows.definitions(&who.tenant).await?;
    Ok(Json(json!({ "items": rows.iter().map(shown).collect::<Vec<_>>() })))
}

/// The text as it was stored; with `Accept: application/json` its facts beside it.
async fn show(
    state: axum::extract::State<State>,
    Caller(who): Caller,
    Path(name): Path<String>,
    headers: axum::http::HeaderMap,
    form: Form,
) -> Result<Response> {
    let row = state.workflows.definition(&who.tenant, &name, form.get("version")).await?;
    let wants_text =
        headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).is_some_and(|v| v.contains("yaml") || v.contains("text/plain"));
    if wants_text {
        return Ok(([(header::CONTENT_TYPE, "application/yaml")], row.text).into_response());
    }
    let mut value = shown(&row);
    value["text"] = json!(row.text);
    Ok(Json(value).into_response())
}

async fn store(
    state: axum::extract::State<State>,
    Caller(who): Caller,
    Path(name): Path<String>,
    Body(bytes): Body,
) -> Result<Json<Value>> {
    let text = text(&bytes)?;
    let named = name.rsplit('/').next().unwrap_or(&name);
    // Judged before the names are compared: a text that doesn't parse has no name.
    state.workflows.validate(text).map_err(invalid)?;
    let document: Value = serde_saphyr::from_str(text).unwrap_or_default();
    let own = document.pointer("/document/name").and_then(Value::as_str).unwrap_or_default();
    if own != named {
        return Err(Problem::invalid("/document/name", format!("is {own:?}, but the path says {named:?}; make them the same")));
    }
    let put = state.workflows.put_definition(&who.tenant, text).await?;
    if put.is_new {
        let detail = json!({ "version": put.version, "revision": put.revision });
        state.change(&who, "put workflow", &put.name, detail, |_| Box::pin(async { Ok(()) })).await?;
    }
    Ok(Json(
        json!({ "name": put.name, "namespace": put.namespace, "version": put.version, "revision": put.revision, "isNew": put.is_new }),
    ))
}

async fn remove(state: axum::extract::State<State>, Caller(who): Caller, Path(name): Path<String>) -> Result<StatusCode> {
    state.workflows.delete_definition(&who.tenant, &name).await?;
    state.change(&who, "delete workflow", &name, json!({}), |_| Box::pin(async { Ok(()) })).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn validate(state: axum::extract::State<State>, Body(bytes): Body) -> Result<Json<Value>> {
    state.workflows.validate(text(&bytes)?).map_err(invalid)?;
    Ok(Json(json!({ "valid": true })))
}

async fn start(
    state: axum::extract::State<State>,
    Caller(who): Caller,
    Path(name): Path<String>,
    form: axum::extract::RawQuery,
    Body(bytes): Body,
) -> Result<(StatusCode, Json<Value>)> {
    let input: Value = if bytes.is_empty() { json!({}) } else { crate::error::read_json(&bytes)? };
    let version =
        form.0.and_then(|q| url::form_urlencoded::parse(q.as_bytes()).find(|(n, _)| n == "version").map(|(_, v)| v.into_owned()));
    let cause =
        Cause { kind: "manual".into(), principal: Some(who.name.clone()), event: Value::Null, alert: None, fingerprint: None };
    let id = state.workflows.start(&who.tenant, &name, version.as_deref(), input, cause).await?;
    state.change(&who, "start run", &id.to_string(), json!({ "workflow": name }), |_| Box::pin(async { Ok(()) })).await?;
    let page = state.workflows.run(&who.tenant, id).await?;
    Ok((StatusCode::CREATED, Json(run::shown(&page.run))))
}

fn text(bytes: &[u8]) -> Result<&str> {
    if bytes.len() > limits::DEFINITION_BYTES_MAX {
        return Err(Problem::new(Code::TooLarge, format!("a definition has at most {} bytes", limits::DEFINITION_BYTES_MAX)));
    }
    std::str::from_utf8(bytes).map_err(|e| Problem::new(Code::Malformed, format!("the definition is not UTF-8: {e}")))
}

fn invalid(diagnostics: Vec<Diagnostic>) -> Problem {
    let errors: Vec<FieldProblem> = diagnostics
        .into_iter()
        .map(|d| FieldProblem {
            pointer: d.pointer,
            line: Some(d.line),
            column: Some(d.column),
            message: d.message,
            hint: d.hint,
        })
        .collect();
    let first = errors.first().map(|e| format!("line {}: {}", e.line.unwrap_or(0), e.message)).unwrap_or_default();
    let more = if errors.len() > 1 { format!(", and {} more", errors.len() - 1) } else { String::new() };
    Problem::new(Code::Definition, format!("{first}{more}")).with_errors(errors)
}

impl From<::workflow::Error> for Problem {
    fn from(error: ::workflow::Error) -> Self {
        use ::workflow::Error as E;
        match error {
            E::Invalid(diagnostics) => invalid(diagnostics),
            E::Refused(why) => Self::new(Code::State, why),
            E::TooLarge { .. } => Self::new(Code::TooLarge, error.to_string()),
            E::InFlight { .. } => Self::new(Code::Conflict, error.to_string()),
            E::Db(inner) => inner.into(),
            E::Closed => Self { retry_after_s: Some(1), ..Self::new(Code::Busy, "the host is shutting down") },
            other => Self::internal(&other),
        }
    }
}

fn shown(row: &DefinitionRow) -> Value {
    json!({ "name": row.name, "namespace": row.namespace, "version": row.version, "revision": row.revision,
            "enabled": row.is_enabled, "created": rfc3339(row.created) })
}
