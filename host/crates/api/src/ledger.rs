//! The effect ledger, for people to read and auditors to check.

use crate::{
    error::{Problem, Result},
    extract::{Caller, Query},
    state::State,
    time::rfc3339,
};
use axum::{Json, Router, routing};
use db::ledger::LedgerRow;
use serde::Deserialize;
use serde_json::{Value, json};

const LIMIT_DEFAULT: i64 = 100;
const LIMIT_MAX: i64 = 1_000;

pub fn routes() -> Router<State> {
    Router::new().route("/api/v1/ledger", routing::get(list)).route("/api/v1/ledger/verify", routing::get(verify))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    before: Option<i64>,
    limit: Option<i64>,
    request: Option<String>,
}

async fn list(state: axum::extract::State<State>, Caller(who): Caller, Query(page): Query<Page>) -> Result<Json<Value>> {
    let rows = match &page.request {
        Some(id) => {
            let request = id.parse().map_err(|e: model::IdError| Problem::parameter("request", e))?;
            state.db.ledger_of_request(&who.tenant, request).await?
        }
        None => {
            let limit = page.limit.unwrap_or(LIMIT_DEFAULT).clamp(1, LIMIT_MAX);
            state.db.ledger_newest(&who.tenant, page.before.unwrap_or(i64::MAX), limit).await?
        }
    };
    Ok(Json(json!({ "items": rows.into_iter().map(shown).collect::<Vec<_>>() })))
}

async fn verify(state: axum::extract::State<State>, Caller(who): Caller) -> Result<Json<Value>> {
    let verified = state.db.verify_ledger(&who.tenant).await?;
    Ok(Json(json!({ "isIntact": verified.broken_at.is_none(), "rows": verified.rows, "brokenAt": verified.broken_at })))
}

/// `body` is what the stage `action` wrote: effect, caller and outcome.
fn shown(row: LedgerRow) -> Value {
    json!({
        "id": row.id,
        "at": rfc3339(row.at),
        "entry": row.entry,
        "begun": row.begun,
        "request": row.request.map(|r| r.to_string()),
        "hash": row.hash,
        "body": row.body,
    })
}
