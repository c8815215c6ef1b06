//! Secrets: written, listed, deleted, and never shown.

use crate::{
    error::{Problem, Result},
    extract::{Caller, Json, Path, check_name},
    state::State,
    time::rfc3339,
};
use axum::{Router, http::StatusCode, routing};
use db::secret::SecretRow;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Certificates with their keys fit; files don't.
const VALUE_BYTES_MAX: usize = 64 << 10;
const HOSTS_MAX: usize = 64;

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretNew {
    pub value: String,
    /// `https://api.example.com`: where it may travel. Without one it travels nowhere.
    #[serde(default)]
    pub hosts: Vec<String>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct SecretShown {
    pub name: String,
    pub hosts: Vec<String>,
    pub updated: String,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct SecretList {
    pub items: Vec<SecretShown>,
}

pub fn routes() -> Router<State> {
    Router::new()
        .route("/api/v1/secrets", routing::get(list))
        .route("/api/v1/secrets/{name}", routing::get(show).put(store).delete(remove))
}

async fn list(state: axum::extract::State<State>, Caller(who): Caller) -> Result<axum::Json<SecretList>> {
    let rows = state.db.secrets(&who.tenant).await?;
    Ok(axum::Json(SecretList { items: rows.into_iter().map(shown).collect() }))
}

async fn show(
    state: axum::extract::State<State>,
    Caller(who): Caller,
    Path(name): Path<String>,
) -> Result<axum::Json<SecretShown>> {
    Ok(axum::Json(shown(state.db.secret(&who.tenant, &name).await?)))
}

async fn store(
    state: axum::extract::State<State>,
    Caller(who): Caller,
    Path(name): Path<String>,
    Json(new): Json<SecretNew>,
) -> Result<axum::Json<SecretShown>> {
    check_name(&name)?;
    if new.value.is_empty() || new.value.len() > VALUE_BYTES_MAX {
        return Err(Problem::invalid("/value", format!("must have 1 to {VALUE_BYTES_MAX} bytes")));
    }
    if new.hosts.len() > HOSTS_MAX {
        return Err(Problem::invalid("/hosts", format!("at most {HOSTS_MAX} hosts")));
    }
    for (i, host) in new.hosts.iter().enumerate() {
        check_host(host).map_err(|why| Problem::invalid(&format!("/hosts/{i}"), why))?;
    }
    let sealed = state.vault.seal(&who.tenant, &name, new.value.as_bytes());
    let row = SecretRow { name: name.clone(), nonce: sealed.nonce, sealed: sealed.bytes, hosts: new.hosts, updated: state.now() };
    let answer = shown(row.clone());
    let tenant = who.tenant.clone();
    state
        .change(&who, "put secret", &name, json!({ "hosts": row.hosts }), move |tx| {
            Box::pin(async move { tx.put_secret(&tenant, &row).await })
        })
        .await?;
    Ok(axum::Json(answer))
}

async fn remove(state: axum::extract::State<State>, Caller(who): Caller, Path(name): Path<String>) -> Result<StatusCode> {
    let (tenant, target) = (who.tenant.clone(), name.clone());
    state
        .change(&who, "delete secret", &target, json!({}), move |tx| {
            Box::pin(async move { tx.delete_secret(&tenant, &name).await })
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `scheme://host` or `scheme://host:port`, the host maybe `*.example.com`.
fn check_host(host: &str) -> Result<(), String> {
    let bad = |why: &str| Err(format!("{host:?} {why}; write scheme://host or scheme://host:port"));
    let Some((scheme, rest)) = host.split_once("://") else { return bad("has no scheme") };
    if !matches!(scheme, "http" | "https" | "tcp") {
        return bad("has a scheme that is none of http, https, tcp");
    }
    if rest.is_empty() || rest.contains(['/', '?', '#', '@', ' ']) {
        return bad("is not only a host and a port");
    }
    Ok(())
}

fn shown(row: SecretRow) -> SecretShown {
    SecretShown { name: row.name, hosts: row.hosts, updated: rfc3339(row.updated) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_bound_to_whole_hosts() {
        for good in ["https://slack.com", "http://127.0.0.1:8080", "https://*.example.com", "tcp://db:5432"] {
            assert_eq!(check_host(good), Ok(()), "{good}");
        }
        for bad in ["slack.com", "ftp://x", "https://", "https://x/path", "https://user@x", ""] {
            assert!(check_host(bad).is_err(), "{bad}");
        }
    }
}
