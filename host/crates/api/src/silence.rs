//! Silences by name, as resources; Alertmanager's own way is in `alertmanager.rs`.

use crate::{
    error::{Problem, Result},
    extract::{Caller, Json, Path, check_name},
    state::State,
    time::{parse_duration_ms, parse_time, rfc3339},
};
use axum::{Router, http::StatusCode, routing};
use db::silence::Silence;
use model::{MatchOp, Matcher, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

const LIST_MAX: i64 = 1_000;
const MATCHERS_MAX: usize = 32;
/// A silence without an end is a monitor that was deleted quietly.
const DURATION_DEFAULT: &str = "2h";

/// What `kind: Silence` takes. A matcher is `name=value`, with `!=`, `=~` or `!~` too.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schema(as = Silence)]
pub struct SilenceSpec {
    pub matchers: Vec<String>,
    #[serde(default)]
    pub starts_at: Option<String>,
    #[serde(default)]
    pub ends_at: Option<String>,
    /// Instead of an end.
    #[serde(default)]
    pub duration: Option<String>,
    #[serde(default)]
    pub comment: String,
}

pub fn routes() -> Router<State> {
    Router::new()
        .route("/api/v1/silences", routing::get(list))
        .route("/api/v1/silences/{name}", routing::get(show).put(store).delete(end))
}

async fn list(state: axum::extract::State<State>, Caller(who): Caller) -> Result<axum::Json<Value>> {
    let silences = state.db.silences(&who.tenant, LIST_MAX).await?;
    let now = state.now();
    Ok(axum::Json(json!({ "items": silences.iter().map(|s| shown(s, now)).collect::<Vec<_>>() })))
}

async fn show(state: axum::extract::State<State>, Caller(who): Caller, Path(name): Path<String>) -> Result<axum::Json<Value>> {
    let silence = find(&state, &who.tenant, &name).await?;
    Ok(axum::Json(shown(&silence, state.now())))
}

async fn store(
    state: axum::extract::State<State>,
    Caller(who): Caller,
    Path(name): Path<String>,
    Json(spec): Json<SilenceSpec>,
) -> Result<axum::Json<Value>> {
    check_name(&name)?;
    let now = state.now();
    let matchers = spec
        .matchers
        .iter()
        .enumerate()
        .map(|(i, text)| parse_matcher(text).map_err(|why| Problem::invalid(&format!("/matchers/{i}"), why)))
        .collect::<Result<Vec<_>>>()?;
    let starts = match &spec.starts_at {
        Some(text) => parse_time("startsAt", text).map_err(|p| Problem::invalid("/startsAt", p.detail))?,
        None => now,
    };
    let ends = match (&spec.ends_at, &spec.duration) {
        (Some(_), Some(_)) => return Err(Problem::invalid("/duration", "give either endsAt or duration")),
        (Some(text), None) => parse_time("endsAt", text).map_err(|p| Problem::invalid("/endsAt", p.detail))?,
        (None, duration) => {
            let text = duration.as_deref().unwrap_or(DURATION_DEFAULT);
            starts.plus_millis(parse_duration_ms("duration", text).map_err(|p| Problem::invalid("/duration", p.detail))?)
        }
    };
    let silence = Silence {
        id: id_of(&who.tenant, &name),
        matchers,
        starts,
        ends,
        created_by: who.name.clone(),
        comment: named(&name, &spec.comment),
        updated: now,
    };
    check(&silence)?;
    let answer = shown(&silence, now);
    put(&state, &who, silence).await?;
    Ok(axum::Json(answer))
}

async fn end(state: axum::extract::State<State>, Caller(who): Caller, Path(name): Path<String>) -> Result<StatusCode> {
    let silence = find(&state, &who.tenant, &name).await?;
    expire(&state, &who, silence.id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Stores a silence that was checked.
pub async fn put(state: &State, who: &model::Principal, silence: Silence) -> Result<()> {
    let (tenant, id) = (who.tenant.clone(), silence.id.clone());
    let matchers: Vec<String> = silence.matchers.iter().map(ToString::to_string).collect();
    let detail = json!({ "matchers": matchers, "endsAt": rfc3339(silence.ends) });
    state
        .change(who, "put silence", &id, detail, move |tx| Box::pin(async move { tx.put_silence(&tenant, &silence).await }))
        .await
}

pub async fn expire(state: &State, who: &model::Principal, id: String) -> Result<()> {
    let (tenant, target, now) = (who.tenant.clone(), id.clone(), state.now());
    state
        .change(who, "end silence", &target, json!({}), move |tx| {
            Box::pin(async move { tx.expire_silence(&tenant, &id, now).await })
        })
        .await
}

/// What every silence must keep to, whichever way it came.
pub fn check(silence: &Silence) -> Result<()> {
    if silence.matchers.is_empty() || silence.matchers.len() > MATCHERS_MAX {
        return Err(Problem::invalid("/matchers", format!("must be 1 to {MATCHERS_MAX}")));
    }
    if silence.ends <= silence.starts {
        return Err(Problem::invalid("/endsAt", "must lie after the start"));
    }
    ::alert::matching::Matchers::compile(&silence.matchers).map_err(|why| Problem::invalid("/matchers", why))?;
    let matches_all =
        ::alert::matching::Matchers::compile(&silence.matchers).is_ok_and(|m| m.matches(&model::LabelSet::default()));
    if matches_all {
        return Err(Problem::invalid(
            "/matchers",
            "at least one must refuse an empty label, or the silence would cover everything",
        ));
    }
    Ok(())
}

/// `name=value`, `name="value"`, and the other three operators.
pub fn parse_matcher(text: &str) -> std::result::Result<Matcher, String> {
    let bad = || format!("{text:?} is no matcher such as job=api, job!=api, job=~\"a.*\" or job!~\"a.*\"");
    let end = text.find(['=', '!']).ok_or_else(bad)?;
    let (name, rest) = (text[..end].trim(), &text[end..]);
    let (op, value) = [("=~", MatchOp::Regex), ("!~", MatchOp::NotRegex), ("!=", MatchOp::NotEqual), ("=", MatchOp::Equal)]
        .into_iter()
        .find_map(|(sign, op)| rest.strip_prefix(sign).map(|value| (op, value.trim())))
        .ok_or_else(bad)?;
    let value = match value.strip_prefix('"') {
        Some(_) => serde_json::from_str::<String>(value).map_err(|_| bad())?,
        None => value.to_owned(),
    };
    let is_name = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.') && !name.is_empty();
    if is_name { Ok(Matcher::new(name, op, value)) } else { Err(bad()) }
}

/// A silence's id is its name for good: applying a file twice makes one silence.
fn id_of(tenant: &model::TenantId, name: &str) -> String {
    use sha2::{Digest, Sha256};
    let hash = Sha256::digest(format!("silence\0{tenant}\0{name}"));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string()
}

/// The name is kept in front of the comment, where Alertmanager's clients see it too.
fn named(name: &str, comment: &str) -> String {
    format!("[{name}] {comment}").trim_end().to_owned()
}

async fn find(state: &State, tenant: &model::TenantId, name: &str) -> Result<Silence> {
    let id = if Uuid::parse_str(name).is_ok() { name.to_owned() } else { id_of(tenant, name) };
    state.db.silence(tenant, &id).await.map_err(|error| match error {
        db::Error::NotFound { .. } => Problem::not_found(format_args!("silence {name}")),
        other => other.into(),
    })
}

pub fn status(silence: &Silence, now: Timestamp) -> &'static str {
    match () {
        () if silence.ends <= now => "expired",
        () if silence.starts > now => "pending",
        () => "active",
    }
}

fn shown(silence: &Silence, now: Timestamp) -> Value {
    let (name, comment) = match silence.comment.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, comment)) => (name, comment.trim_start()),
        None => (silence.id.as_str(), silence.comment.as_str()),
    };
    json!({
        "name": name,
        "id": silence.id,
        "status": status(silence, now),
        "matchers": silence.matchers.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "startsAt": rfc3339(silence.starts),
        "endsAt": rfc3339(silence.ends),
        "createdBy": silence.created_by,
        "comment": comment,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matcher_has_one_of_four_operators() {
        for (text, wanted) in [
            ("job=api", Matcher::equal("job", "api")),
            ("job != \"a b\"", Matcher::new("job", MatchOp::NotEqual, "a b")),
            ("job=~\"a.*\"", Matcher::new("job", MatchOp::Regex, "a.*")),
            ("job!~x", Matcher::new("job", MatchOp::NotRegex, "x")),
        ] {
            assert_eq!(parse_matcher(text), Ok(wanted), "{text}");
        }
        for bad in ["", "job", "=x", "a b=c", "job!x", "job=\"x"] {
            assert!(parse_matcher(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_silence_of_everything_is_refused() {
        let silence = |matcher| Silence {
            id: String::new(),
            matchers: vec![matcher],
            starts: Timestamp(0),
            ends: Timestamp(1),
            created_by: String::new(),
            comment: String::new(),
            updated: Timestamp(0),
        };
        assert!(check(&silence(Matcher::new("job", MatchOp::Regex, ".*"))).is_err());
        assert!(check(&silence(Matcher::new("job", MatchOp::Regex, "("))).is_err());
        assert!(check(&silence(Matcher::equal("job", "api"))).is_ok());
    }
}
