//! Who is asking: tokens in, principals out.
//!
//! A token is 256 random bits, so its plain SHA-256 is stored: there is nothing to guess and no salt is needed.

use crate::error::{Code, Problem};
use axum::http::{HeaderMap, header};
use base64::Engine as _;
use db::{Db, token::Token};
use model::{Clock, Principal, Timestamp};
use rand::Rng as _;
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};
use subtle::ConstantTimeEq;

/// How long a token that was looked up is believed without asking the database. A revocation through this
/// host acts at once; through another host, after this long.
const CACHE_MS: i64 = 2_000;
/// Tokens remembered; beyond it all are forgotten and looked up anew.
const CACHE_LEN: usize = 10_000;
const PREFIX: &str = "orx_";

/// Checks credentials. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Authenticator {
    db: Db,
    clock: Arc<dyn Clock>,
    cache: Arc<Mutex<HashMap<String, (Token, Timestamp)>>>,
}

/// A fresh token, to be shown once.
pub fn generate_token() -> String {
    let mut bytes = [0; 32];
    rand::rng().fill_bytes(&mut bytes);
    format!("{PREFIX}{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes))
}

/// What is stored of a token.
pub fn hash_token(token: &str) -> String {
    hex::encode(Sha256::digest(token.as_bytes()))
}

impl Authenticator {
    pub fn new(db: Db, clock: Arc<dyn Clock>) -> Self {
        Self { db, clock, cache: Arc::default() }
    }

    /// `Authorization: Bearer TOKEN`, or `Basic` with the token as password, for clients that know nothing else.
    pub async fn principal(&self, headers: &HeaderMap) -> Result<Principal, Problem> {
        let sent = credential(headers)?;
        let now = self.clock.now();
        let hash = hash_token(&sent);
        let token = self.look_up(&hash, now).await?;
        // The database compared the hash already, through an index; this comparison takes no hint from time.
        let token = token.filter(|t| bool::from(t.hash.as_bytes().ct_eq(hash.as_bytes())) && t.revoked.is_none());
        let Some(token) = token else {
            return Err(Problem::new(
                Code::BadToken,
                "this token is unknown or was revoked; an admin makes a new one with `orchestrix token create`",
            ));
        };
        if token.expires.is_some_and(|at| at <= now) {
            return Err(Problem::new(
                Code::ExpiredToken,
                format!("token {:?} has expired; an admin makes a new one with `orchestrix token create`", token.name),
            ));
        }
        Ok(Principal { tenant: token.tenant, name: token.name, role: token.role })
    }

    /// Forgets what was looked up: tokens have changed.
    pub fn forget(&self) {
        self.cache.lock().expect("nothing panics while it holds this lock").clear();
    }

    async fn look_up(&self, hash: &str, now: Timestamp) -> Result<Option<Token>, Problem> {
        if let Some((token, at)) = self.cache.lock().expect("nothing panics while it holds this lock").get(hash)
            && now.millis_since(*at).unsigned_abs() < CACHE_MS.unsigned_abs()
        {
            return Ok(Some(token.clone()));
        }
        let token = self.db.token_by_hash(hash).await?;
        if let Some(token) = &token {
            let mut cache = self.cache.lock().expect("nothing panics while it holds this lock");
            if cache.len() >= CACHE_LEN {
                cache.clear();
            }
            cache.insert(hash.to_owned(), (token.clone(), now));
        }
        Ok(token)
    }
}

#[async_trait::async_trait]
impl ingest::Authenticate for Authenticator {
    async fn authenticate(&self, headers: &HeaderMap) -> Result<Principal, ingest::AuthError> {
        self.principal(headers).await.map_err(|problem| {
            problem.log();
            match problem.code {
                Code::NoCredentials => ingest::AuthError::Missing,
                Code::BadToken => ingest::AuthError::Unknown,
                Code::ExpiredToken => ingest::AuthError::Expired,
                _ => ingest::AuthError::Unavailable(problem.detail),
            }
        })
    }
}

fn credential(headers: &HeaderMap) -> Result<String, Problem> {
    let none = || {
        Problem::new(
            Code::NoCredentials,
            "send `Authorization: Bearer TOKEN`, or Basic authentication with the token as password",
        )
    };
    let value = headers.get(header::AUTHORIZATION).ok_or_else(none)?.to_str().map_err(|_| none())?;
    let (scheme, rest) = value.split_once(' ').ok_or_else(none)?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") && !rest.is_empty() {
        return Ok(rest.to_owned());
    }
    if scheme.eq_ignore_ascii_case("basic") {
        let decoded = base64::engine::general_purpose::STANDARD.decode(rest).map_err(|_| none())?;
        let text = String::from_utf8(decoded).map_err(|_| none())?;
        let (_, password) = text.split_once(':').ok_or_else(none)?;
        return Ok(password.to_owned());
    }
    Err(none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())])
    }

    #[test]
    fn a_token_may_come_as_bearer_or_as_basic_password() {
        assert_eq!(credential(&headers("Bearer abc")).unwrap(), "abc");
        assert_eq!(credential(&headers("bearer  abc")).unwrap(), "abc");
        assert_eq!(credential(&headers("Basic dTphYmM=")).unwrap(), "abc");
    }

    #[test]
    fn anything_else_is_no_credential() {
        for bad in ["", "Bearer", "Bearer ", "Basic !!", "Basic YWJj", "Digest x"] {
            assert_eq!(credential(&headers(bad)).unwrap_err().code, Code::NoCredentials, "{bad:?}");
        }
        assert_eq!(credential(&HeaderMap::new()).unwrap_err().code, Code::NoCredentials);
    }

    #[test]
    fn tokens_are_long_and_never_the_same() {
        let (a, b) = (generate_token(), generate_token());
        assert!(a != b && a.starts_with(PREFIX) && a.len() > 40, "{a}");
    }
}
