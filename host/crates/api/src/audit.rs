//! The audit, for admins to read.

use crate::{
    error::Result,
    extract::{Caller, Query},
    state::State,
    time::rfc3339,
};
use axum::{Json, Router, routing};
use serde::{Deserialize, Serialize};

const LIMIT_DEFAULT: i64 = 100;
const LIMIT_MAX: i64 = 1_000;

#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct AuditShown {
    pub id: i64,
    pub at: String,
    /// The token's name.
    pub actor: String,
    pub action: String,
    pub target: String,
    #[schema(value_type = Object)]
    pub detail: serde_json::Value,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct AuditList {
    pub items: Vec<AuditShown>,
}

pub fn routes() -> Router<State> {
    Router::new().route("/api/v1/audit", routing::get(list))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    before: Option<i64>,
    limit: Option<i64>,
}

async fn list(state: axum::extract::State<State>, Caller(who): Caller, Query(page): Query<Page>) -> Result<Json<AuditList>> {
    let limit = page.limit.unwrap_or(LIMIT_DEFAULT).clamp(1, LIMIT_MAX);
    let rows = state.db.audit(&who.tenant, page.before.unwrap_or(i64::MAX), limit).await?;
    let items = rows
        .into_iter()
        .map(|r| AuditShown { id: r.id, at: rfc3339(r.at), actor: r.actor, action: r.action, target: r.target, detail: r.detail })
        .collect();
    Ok(Json(AuditList { items }))
}
