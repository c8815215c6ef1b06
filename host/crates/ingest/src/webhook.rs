//! Webhooks in: `POST /api/v1/webhooks/{name}` puts the body on the bus as a CloudEvent.
//!
//! A sender proves itself by a token, or by an HMAC-SHA256 of the body under the webhook's secret: most
//! services that send webhooks can do only the latter. Then the tenant is named by `?tenant=`.

use crate::{Refusal, Report, State, auth::sender, body, cloud_event, state::Counted};
use axum::{
    Router,
    extract::{Path, Query},
    response::{IntoResponse, Response},
    routing::post,
};
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, StatusCode, header};
use model::{Event, TenantId, limits};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// A webhook as an admin configures it (`kind: Webhook`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Spec {
    /// Name of the stored secret that is the HMAC key. Without it only a token lets a sender in.
    pub secret: Option<String>,
    /// The header that carries the signature. GitHub: `X-Hub-Signature-256`.
    pub header: Option<String>,
    /// What stands before the signature in the header. GitHub: `sha256=`.
    pub prefix: Option<String>,
    pub encoding: Encoding,
    /// The event's type; `webhook.<name>` when absent.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// A header whose value is added to the type after a dot. GitHub: `X-GitHub-Event`.
    pub type_header: Option<String>,
    /// A header whose value is the event's id. GitHub: `X-GitHub-Delivery`.
    pub id_header: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    #[default]
    Hex,
    Base64,
}

impl Spec {
    const HEADER: &str = "X-Hub-Signature-256";

    /// Reads and checks a spec; the message says where it is wrong.
    pub fn parse(spec: &serde_json::Value) -> Result<Self, String> {
        let spec: Self = serde_path_to_error::deserialize(spec).map_err(|e| e.to_string())?;
        for name in [&spec.header, &spec.type_header, &spec.id_header].into_iter().flatten() {
            name.parse::<http::HeaderName>().map_err(|_| format!("{name:?} is no header's name"))?;
        }
        if spec.secret.is_none() && (spec.header.is_some() || spec.prefix.is_some()) {
            return Err("header and prefix say where the signature is, but secret, its key, is missing".into());
        }
        if let Some(kind) = &spec.kind
            && (kind.is_empty() || kind.starts_with("io.orchestrix."))
        {
            return Err("type must not be empty or begin with io.orchestrix., which is the host's own".into());
        }
        Ok(spec)
    }

    /// Whether the header's signature is the body's, compared in constant time.
    pub fn is_signed(&self, headers: &HeaderMap, body: &[u8], key: &[u8]) -> Result<(), String> {
        let name = self.header.as_deref().unwrap_or(Self::HEADER);
        let value = headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .ok_or_else(|| format!("the header {name} with the signature is missing"))?;
        let default_prefix = if self.header.is_none() { "sha256=" } else { "" };
        let prefix = self.prefix.as_deref().unwrap_or(default_prefix);
        let text = value.trim().strip_prefix(prefix).ok_or_else(|| format!("the header {name} must begin with {prefix:?}"))?;
        let signature = match self.encoding {
            Encoding::Hex => hex::decode(text).ok(),
            Encoding::Base64 => {
                use base64::{Engine as _, engine::general_purpose::STANDARD};
                STANDARD.decode(text).ok()
            }
        };
        let signature = signature.ok_or_else(|| format!("the signature in {name} is not {:?}", self.encoding).to_lowercase())?;
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
        mac.update(body);
        mac.verify_slice(&signature).map_err(|_| "the signature is not the body's under the configured secret".to_owned())
    }

    fn event(&self, name: &str, headers: &HeaderMap, body: &[u8]) -> Event {
        let header =
            |name: &Option<String>| headers.get(name.as_ref()?)?.to_str().ok().filter(|v| !v.is_empty()).map(str::to_owned);
        let mut kind = self.kind.clone().unwrap_or_else(|| format!("webhook.{name}"));
        if let Some(more) = header(&self.type_header) {
            kind = format!("{kind}.{more}");
        }
        let id = header(&self.id_header).unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
        let mut event = Event::new(id, format!("/webhooks/{name}"), kind, serde_json::Value::Null);
        cloud_event::set_data(&mut event, headers, body);
        event
    }
}

pub(crate) fn routes() -> Router<State> {
    Router::new().route("/api/v1/webhooks/{name}", post(receive))
}

#[derive(Deserialize)]
struct Parameters {
    tenant: Option<String>,
}

async fn receive(
    axum::extract::State(state): axum::extract::State<State>,
    Path(name): Path<String>,
    Query(parameters): Query<Parameters>,
    headers: HeaderMap,
    body: axum::body::Body,
) -> Response {
    let result = take(&state, &name, parameters, &headers, body).await;
    match state.count(result) {
        Ok(()) => StatusCode::ACCEPTED.into_response(),
        Err(refusal) => refusal.problem(),
    }
}

async fn take(
    state: &State,
    name: &str,
    parameters: Parameters,
    headers: &HeaderMap,
    body: axum::body::Body,
) -> Result<(), Refusal> {
    let is_by_token = headers.contains_key(header::AUTHORIZATION);
    let tenant = if is_by_token {
        sender(state, headers).await?.tenant
    } else {
        match parameters.tenant {
            Some(tenant) => TenantId::new(&tenant).map_err(|e| Refusal::malformed(e.to_string()))?,
            None => TenantId::default_tenant(),
        }
    };
    let spec = match state.db().webhook(&tenant, name).await {
        Ok(webhook) => Some(Spec::parse(&webhook.spec).map_err(|e| {
            tracing::error!(tenant = %tenant, webhook = name, error = e, "a stored webhook is invalid");
            Refusal::unavailable(format!("the stored webhook {name:?} is invalid: {e}"))
        })?),
        Err(db::Error::NotFound { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    // Without a token, "no such webhook" and "bad signature" must look alike: names are not for strangers.
    let unknown = || {
        Refusal::unauthenticated(format!(
            "no webhook {name:?} of this tenant lets this request in: send a token, or sign the body with the secret of a configured webhook"
        ))
    };
    let body = body::read_up_to(headers, body, limits::EVENT_BYTES_MAX).await?;
    match spec.as_ref().map(|s| (s, &s.secret)) {
        Some((spec, Some(secret))) => {
            let key = state
                .secrets()
                .secret(&tenant, secret)
                .await
                .map_err(|why| Refusal::unavailable(format!("secrets can't be read now: {why}")))?;
            let checked = match key {
                Some(key) => spec.is_signed(headers, &body, &key),
                None => Err(format!("the secret {secret:?} of this webhook does not exist")),
            };
            if let Err(why) = checked {
                tracing::warn!(tenant = %tenant, webhook = name, reason = why, "a webhook was refused");
                return Err(if is_by_token { Refusal::forbidden(why) } else { unknown() });
            }
        }
        _ if is_by_token => {}
        _ => return Err(unknown()),
    }
    let events = match cloud_event::mode(headers) {
        Some(mode) => cloud_event::decode(mode, headers, &body)?.0,
        None => {
            let event = spec.unwrap_or_default().event(name, headers, &body);
            // The sender wrote a part of the type and the id: together with the spec's they must still be a sender's.
            cloud_event::check(&event).map_err(|why| Refusal::malformed(format!("the event is refused: {why}")))?;
            vec![event]
        }
    };
    let stored = cloud_event::publish(state, &tenant, events).await?;
    state.count_items(Counted::Events, &Report { stored, ..Report::default() });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (http::HeaderName::from_static(n), v.parse().unwrap())).collect()
    }

    #[test]
    fn githubs_own_example_signature_is_right_and_any_other_wrong() {
        let spec = Spec { secret: Some("s".into()), ..Spec::default() };
        let signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        let signed = headers(&[("x-hub-signature-256", signature)]);
        assert_eq!(spec.is_signed(&signed, b"Hello, World!", b"It's a Secret to Everybody"), Ok(()));
        for (headers, body, why) in [
            (signed, &b"Hello, World?"[..], "not the body's"),
            (headers(&[]), b"Hello, World!", "missing"),
            (headers(&[("x-hub-signature-256", "757107")]), b"Hello, World!", "must begin with"),
            (headers(&[("x-hub-signature-256", "sha256=zz")]), b"Hello, World!", "not hex"),
            (headers(&[("x-hub-signature-256", "sha256=")]), b"Hello, World!", "not the body's"),
        ] {
            assert!(spec.is_signed(&headers, body, b"It's a Secret to Everybody").unwrap_err().contains(why), "{why}");
        }
    }

    #[test]
    fn the_event_is_named_by_the_spec_and_the_headers() {
        let spec = Spec::parse(
            &json!({"secret": "s", "type": "com.github", "typeHeader": "X-GitHub-Event", "idHeader": "X-GitHub-Delivery"}),
        )
        .unwrap();
        let headers = headers(&[("x-github-event", "push"), ("x-github-delivery", "42"), ("content-type", "application/json")]);
        let event = spec.event("github", &headers, br#"{"ref":"main"}"#);
        assert_eq!(
            (event.kind.as_str(), event.id.as_str(), event.source.as_str()),
            ("com.github.push", "42", "/webhooks/github")
        );
        assert_eq!(event.data["ref"], "main");
    }

    #[test]
    fn a_header_cannot_complete_a_type_to_one_of_the_hosts_own() {
        let spec = Spec::parse(&json!({"type": "io", "typeHeader": "X-Kind", "idHeader": "X-Id"})).unwrap();
        for (kind, id, why) in [
            ("orchestrix.alert.firing", "1", "host's own"),
            ("orchestrix.alert.firing", "", "host's own"),
            ("fine", &*"i".repeat(limits::LABEL_NAME_BYTES_MAX + 1), "\"id\""),
            (&*"k".repeat(limits::LABEL_NAME_BYTES_MAX), "1", "\"type\""),
        ] {
            let event = spec.event("w", &headers(&[("x-kind", kind), ("x-id", id)]), b"{}");
            assert!(cloud_event::check(&event).unwrap_err().contains(why), "{why}");
        }
        assert_eq!(cloud_event::check(&spec.event("w", &headers(&[("x-kind", "fine")]), b"{}")), Ok(()));
    }

    #[test]
    fn a_misspelt_key_a_bad_header_or_a_forged_type_is_refused() {
        for (spec, why) in [
            (json!({"secrt": "s"}), "secrt"),
            (json!({"header": "X Y", "secret": "s"}), "no header's name"),
            (json!({"header": "X-Sig"}), "secret"),
            (json!({"type": "io.orchestrix.alert.firing"}), "host's own"),
        ] {
            assert!(Spec::parse(&spec).unwrap_err().contains(why), "{spec}");
        }
    }
}
