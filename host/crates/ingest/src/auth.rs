//! Who is sending, and for which tenant.

use crate::{Refusal, State};
use http::HeaderMap;
use model::{Principal, Role};

/// Tells who stands behind a request's headers: `Authorization: Bearer TOKEN`, or `Basic` with the token
/// as the password (Prometheus' `basic_auth`, Grafana agents). Implemented by the room that keeps tokens.
#[async_trait::async_trait]
pub trait Authenticate: Send + Sync {
    async fn authenticate(&self, headers: &HeaderMap) -> Result<Principal, AuthError>;
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    #[error("no token: send \"Authorization: Bearer TOKEN\", or Basic with the token as the password")]
    Missing,
    #[error("the token is not known or was revoked")]
    Unknown,
    #[error("the token has expired; ask an admin for a new one")]
    Expired,
    #[error("tokens cannot be checked now: {0}")]
    Unavailable(String),
}

/// The sender, if it may send at all and names no other tenant than its token's.
pub(crate) async fn sender(state: &State, headers: &HeaderMap) -> Result<Principal, Refusal> {
    let principal = state.auth().authenticate(headers).await.map_err(|error| match error {
        AuthError::Unavailable(ref why) => Refusal::unavailable(format!("tokens cannot be checked now: {why}")),
        AuthError::Missing => Refusal::unauthenticated(error.to_string()),
        AuthError::Unknown => Refusal { code: "ORX-0102", ..Refusal::unauthenticated(error.to_string()) },
        AuthError::Expired => Refusal { code: "ORX-0103", ..Refusal::unauthenticated(error.to_string()) },
    })?;
    // Today each role may send; the check stays so that a role below it can't slip in.
    if principal.role < Role::Ingest {
        return Err(Refusal::forbidden(format!(
            "role {} may not send data; a token of role ingest can",
            principal.role.as_str()
        )));
    }
    check_tenant(headers, &principal)?;
    Ok(principal)
}

fn check_tenant(headers: &HeaderMap, principal: &Principal) -> Result<(), Refusal> {
    for named in headers.get_all("x-scope-orgid") {
        if named.as_bytes() != principal.tenant.as_str().as_bytes() {
            return Err(Refusal::forbidden(format!(
                "X-Scope-OrgID names tenant {:?}, but the token belongs to {:?}; leave the header out or use that tenant's token",
                String::from_utf8_lossy(named.as_bytes()),
                principal.tenant.as_str()
            )));
        }
    }
    Ok(())
}
