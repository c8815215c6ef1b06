//! What handlers take out of a request, with failures told as problems.

use crate::{
    error::{Code, Problem, read_json},
    state::State,
};
use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Request},
    http::request::Parts,
};
use model::Principal;
use serde::de::DeserializeOwned;

/// A JSON body whose unknown fields are refused with the nearest known one.
pub struct Json<T>(pub T);

impl<T: DeserializeOwned> FromRequest<State> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &State) -> Result<Self, Problem> {
        let Body(bytes) = Body::from_request(request, state).await?;
        Ok(Self(read_json(&bytes)?))
    }
}

/// The body as it came, within the router's limit.
pub struct Body(pub Bytes);

impl FromRequest<State> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &State) -> Result<Self, Problem> {
        Bytes::from_request(request, state).await.map(Self).map_err(|rejection| {
            if rejection.status() == http::StatusCode::PAYLOAD_TOO_LARGE {
                Problem::new(Code::TooLarge, "the body is larger than this endpoint takes")
            } else {
                Problem::new(Code::Malformed, "the body broke off")
            }
        })
    }
}

/// Query parameters, of which unknown ones are refused where the type says so.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<State> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &State) -> Result<Self, Problem> {
        axum::extract::Query::<T>::from_request_parts(parts, state)
            .await
            .map(|q| Self(q.0))
            .map_err(|e| Problem::new(Code::Parameter, inner_message(&e)))
    }
}

/// Parameters of the query string and, with POST, of a form body: as Prometheus' and Loki's clients send them.
/// Repeated names are kept in order.
#[derive(Debug, Default)]
pub struct Form(Vec<(String, String)>);

impl Form {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, v)| n == name && !v.is_empty()).map(|(_, v)| v.as_str())
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn required(&self, name: &str) -> Result<&str, Problem> {
        self.get(name).ok_or_else(|| Problem::parameter(name, "is missing"))
    }

    fn parse(&mut self, text: &[u8]) {
        self.0.extend(url::form_urlencoded::parse(text).into_owned());
    }
}

impl FromRequest<State> for Form {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &State) -> Result<Self, Problem> {
        let mut form = Self::default();
        form.parse(request.uri().query().unwrap_or("").as_bytes());
        if request.method() == http::Method::POST {
            let Body(bytes) = Body::from_request(request, state).await?;
            form.parse(&bytes);
        }
        Ok(form)
    }
}

/// Path parameters.
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<State> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &State) -> Result<Self, Problem> {
        axum::extract::Path::<T>::from_request_parts(parts, state)
            .await
            .map(|p| Self(p.0))
            .map_err(|e| Problem::new(Code::Parameter, e.body_text()))
    }
}

/// The authenticated caller, put there by the router's guard.
pub struct Caller(pub Principal);

impl FromRequestParts<State> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &State) -> Result<Self, Problem> {
        parts
            .extensions
            .get::<Principal>()
            .cloned()
            .map(Self)
            .ok_or_else(|| Problem::new(Code::NoCredentials, "this endpoint needs a token"))
    }
}

/// Names of monitors, plugins, secrets and the like: they stand in paths and in definitions.
pub fn check_name(name: &str) -> Result<(), Problem> {
    let ok = name.len() <= 63
        && name.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.' || b == b'_');
    if ok {
        return Ok(());
    }
    Err(Problem::parameter(
        "name",
        format!("{name:?} must be 1 to 63 of a-z, 0-9, '-', '_' and '.', beginning with a letter or digit"),
    ))
}

fn inner_message(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => inner_message(source),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_can_stand_in_a_path() {
        assert!(check_name("high-cpu.v2").is_ok());
        for bad in ["", "-a", "A", "a/b", "..", "a b", &"x".repeat(64)] {
            assert_eq!(check_name(bad).unwrap_err().code, Code::Parameter, "{bad:?}");
        }
    }

    #[test]
    fn a_form_keeps_repeated_names_and_decodes() {
        let mut form = Form::default();
        form.parse(b"match[]=up%7Ba%3D%22b%22%7D&match[]=x&start=");
        assert_eq!(form.all("match[]").collect::<Vec<_>>(), ["up{a=\"b\"}", "x"]);
        assert_eq!(form.get("start"), None);
        assert_eq!(form.required("start").unwrap_err().code, Code::Parameter);
    }
}
