//! API tokens: made, listed, revoked.

use crate::{
    auth::{generate_token, hash_token},
    error::{Code, Problem, Result},
    extract::{Caller, Json, Path},
    state::State,
    time::{parse_duration_ms, rfc3339},
};
use axum::{Router, http::StatusCode, routing};
use db::token::Token;
use model::Role;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Tokens of a tenant that one answer lists.
const LIST_MAX: i64 = 1_000;
const NAME_BYTES_MAX: usize = 128;

#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TokenNew {
    pub name: String,
    /// ingest, viewer, operator or admin
    pub role: String,
    /// `12h`, `30d`; absent is for ever.
    #[serde(default)]
    pub expires_in: Option<String>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenShown {
    pub id: String,
    pub name: String,
    pub role: String,
    pub created: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked: Option<String>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct TokenList {
    pub items: Vec<TokenShown>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenMade {
    /// Shown this once.
    pub token: String,
    pub id: String,
    pub name: String,
    pub role: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Me {
    pub tenant: String,
    pub name: String,
    pub role: String,
}

pub fn routes() -> Router<State> {
    Router::new()
        .route("/api/v1/me", routing::get(me))
        .route("/api/v1/tokens", routing::get(list).post(create))
        .route("/api/v1/tokens/{id}", routing::delete(revoke))
}

async fn me(Caller(who): Caller) -> axum::Json<Me> {
    axum::Json(Me { tenant: who.tenant.to_string(), name: who.name, role: who.role.as_str().into() })
}

async fn list(state: axum::extract::State<State>, Caller(who): Caller) -> Result<axum::Json<TokenList>> {
    let tokens = state.db.tokens(&who.tenant, LIST_MAX).await?;
    Ok(axum::Json(TokenList { items: tokens.into_iter().map(shown).collect() }))
}

async fn create(
    state: axum::extract::State<State>,
    Caller(who): Caller,
    Json(new): Json<TokenNew>,
) -> Result<(StatusCode, axum::Json<TokenMade>)> {
    let role: Role = new.role.parse().map_err(|why| Problem::invalid("/role", why))?;
    if new.name.trim().is_empty() || new.name.len() > NAME_BYTES_MAX {
        return Err(Problem::invalid("/name", format!("must have 1 to {NAME_BYTES_MAX} bytes")));
    }
    let now = state.now();
    let expires = match &new.expires_in {
        None => None,
        Some(text) => {
            let ms = parse_duration_ms("expiresIn", text).map_err(|p| Problem::invalid("/expiresIn", p.detail))?;
            if ms <= 0 {
                return Err(Problem::invalid("/expiresIn", "must be longer than nothing"));
            }
            Some(now.plus_millis(ms))
        }
    };
    let clear = generate_token();
    let token = Token {
        id: uuid::Uuid::now_v7().to_string(),
        tenant: who.tenant.clone(),
        name: new.name,
        role,
        hash: hash_token(&clear),
        created: now,
        expires,
        revoked: None,
    };
    let detail = json!({ "role": role.as_str(), "id": token.id });
    let row = token.clone();
    state.change(&who, "create token", &token.name, detail, move |tx| Box::pin(async move { tx.add_token(&row).await })).await?;
    let made =
        TokenMade { token: clear, id: token.id, name: token.name, role: role.as_str().into(), expires: expires.map(rfc3339) };
    Ok((StatusCode::CREATED, axum::Json(made)))
}

async fn revoke(state: axum::extract::State<State>, Caller(who): Caller, Path(id): Path<String>) -> Result<StatusCode> {
    let (tenant, now) = (who.tenant.clone(), state.now());
    if id.len() > NAME_BYTES_MAX {
        return Err(Problem::new(Code::NotFound, "there is no such token"));
    }
    let target = id.clone();
    state
        .change(&who, "revoke token", &target, json!({}), move |tx| {
            Box::pin(async move { tx.revoke_token(&tenant, &id, now).await })
        })
        .await?;
    state.auth.forget();
    Ok(StatusCode::NO_CONTENT)
}

fn shown(token: Token) -> TokenShown {
    TokenShown {
        id: token.id,
        name: token.name,
        role: token.role.as_str().into(),
        created: rfc3339(token.created),
        expires: token.expires.map(rfc3339),
        revoked: token.revoked.map(rfc3339),
    }
}
