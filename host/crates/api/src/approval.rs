//! Approval by a signed link: whoever holds it may answer one step of one run, once, until it expires.

use crate::{
    error::{Code, Problem, Result},
    extract::{Caller, Form, Json, Path},
    run,
    state::State,
    time::{parse_duration_ms, rfc3339},
};
use axum::{
    Router,
    http::header,
    response::{IntoResponse, Response},
    routing,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac};
use model::{Principal, Role, RunId, TenantId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::Sha256;

const EXPIRES_DEFAULT: &str = "24h";
const EXPIRES_MS_MAX: i64 = 7 * 24 * 3_600_000;
/// A link longer than this was not made here.
const LINK_BYTES_MAX: usize = 2_048;

/// What a link says. Signed, not secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Ticket {
    tenant: String,
    run: String,
    step: Option<String>,
    expires_ns: i64,
    by: String,
}

#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct LinkNew {
    pub step: Option<String>,
    /// `1h`; a day without, a week at most.
    pub expires_in: Option<String>,
    /// Who will get it, for the audit.
    pub recipient: Option<String>,
}

pub fn routes() -> Router<State> {
    Router::new().route("/api/v1/runs/{id}/link", routing::post(make)).route("/approve/{token}", routing::get(page).post(answer))
}

async fn make(
    state: axum::extract::State<State>,
    Caller(who): Caller,
    Path(id): Path<String>,
    Json(new): Json<LinkNew>,
) -> Result<axum::Json<Value>> {
    let run = run::id_of(&id)?;
    // The run must be the tenant's own.
    state.workflows.run(&who.tenant, run).await?;
    let ms = parse_duration_ms("expiresIn", new.expires_in.as_deref().unwrap_or(EXPIRES_DEFAULT))
        .map_err(|p| Problem::invalid("/expiresIn", p.detail))?;
    if !(1..=EXPIRES_MS_MAX).contains(&ms) {
        return Err(Problem::invalid("/expiresIn", "must be above nothing and at most 7d"));
    }
    let expires = state.now().plus_millis(ms);
    let by = new.recipient.unwrap_or_else(|| format!("link of {}", who.name));
    let ticket = Ticket { tenant: who.tenant.to_string(), run: run.to_string(), step: new.step, expires_ns: expires.nanos(), by };
    let link = sign(&state.vault.link_key(), &ticket);
    state
        .change(
            &who,
            "make approval link",
            &run.to_string(),
            json!({ "step": ticket.step, "for": ticket.by, "expires": rfc3339(expires) }),
            |_| Box::pin(async { Ok(()) }),
        )
        .await?;
    let base = state.public_url.clone().unwrap_or_default();
    Ok(axum::Json(json!({ "url": format!("{base}/approve/{link}"), "expires": rfc3339(expires) })))
}

async fn page(state: axum::extract::State<State>, Path(token): Path<String>) -> Result<Response> {
    let ticket = verify(&state.vault.link_key(), &token, state.now())?;
    let (tenant, run) = parts(&ticket)?;
    let page = state.workflows.run(&tenant, run).await?;
    let body = format!(
        "<h1>{}</h1><p>Run <code>{run}</code> of workflow {} waits for an answer{}.</p>\
         <form method=\"post\"><p><label>Comment<br><input name=\"comment\" maxlength=\"500\" size=\"50\"></label></p>\
         <p><button name=\"approved\" value=\"true\">Approve</button> <button name=\"approved\" value=\"false\">Refuse</button></p></form>",
        escape(&page.run.name),
        escape(&page.run.name),
        ticket.step.as_deref().map(|s| format!(" at <code>{}</code>", escape(s))).unwrap_or_default(),
    );
    Ok(html(&body))
}

async fn answer(state: axum::extract::State<State>, Path(token): Path<String>, form: Form) -> Result<Response> {
    let ticket = verify(&state.vault.link_key(), &token, state.now())?;
    let (tenant, run) = parts(&ticket)?;
    let is_approved = match form.required("approved")? {
        "true" => true,
        "false" => false,
        other => return Err(Problem::parameter("approved", format!("{other:?} is neither true nor false"))),
    };
    let comment = form.get("comment").unwrap_or("");
    state.workflows.answer(&tenant, run, ticket.step.as_deref(), &ticket.by, is_approved, comment).await?;
    let who = Principal { tenant, name: ticket.by.clone(), role: Role::Operator };
    let detail = json!({ "step": ticket.step, "approved": is_approved, "comment": comment, "by": "signed link" });
    state.change(&who, "answer run", &run.to_string(), detail, |_| Box::pin(async { Ok(()) })).await?;
    Ok(html(if is_approved { "<h1>Approved</h1><p>The run goes on.</p>" } else { "<h1>Refused</h1><p>The run was told.</p>" }))
}

fn parts(ticket: &Ticket) -> Result<(TenantId, RunId)> {
    match (ticket.tenant.parse(), ticket.run.parse()) {
        (Ok(tenant), Ok(run)) => Ok((tenant, run)),
        _ => Err(bad_link()),
    }
}

fn sign(key: &[u8; 32], ticket: &Ticket) -> String {
    let body = URL_SAFE_NO_PAD.encode(serde_json::to_vec(ticket).expect("a ticket has text keys only"));
    format!("{body}.{}", URL_SAFE_NO_PAD.encode(mac(key, &body).finalize().into_bytes()))
}

fn verify(key: &[u8; 32], token: &str, now: Timestamp) -> Result<Ticket> {
    if token.len() > LINK_BYTES_MAX {
        return Err(bad_link());
    }
    let (body, signature) = token.split_once('.').ok_or_else(bad_link)?;
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| bad_link())?;
    // Compared in constant time by the crate.
    mac(key, body).verify_slice(&signature).map_err(|_| bad_link())?;
    let ticket: Ticket =
        URL_SAFE_NO_PAD.decode(body).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).ok_or_else(bad_link)?;
    if ticket.expires_ns <= now.nanos() {
        return Err(Problem::new(Code::BadLink, "this link has expired; ask for a new one"));
    }
    Ok(ticket)
}

fn mac(key: &[u8; 32], body: &str) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(body.as_bytes());
    mac
}

fn bad_link() -> Problem {
    Problem::new(Code::BadLink, "this link was altered or cut; open it as it was sent")
}

fn html(body: &str) -> Response {
    let page = format!("<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Orchestrix</title>{body}</html>");
    let policy = "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CONTENT_SECURITY_POLICY, policy)], page).into_response()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket() -> Ticket {
        Ticket {
            tenant: "default".into(),
            run: RunId::generate().to_string(),
            step: Some("/do/0".into()),
            expires_ns: 100,
            by: "ann".into(),
        }
    }

    #[test]
    fn a_link_is_valid_until_it_expires() {
        let link = sign(&[1; 32], &ticket());
        assert_eq!(verify(&[1; 32], &link, Timestamp(99)).unwrap().by, "ann");
        assert!(verify(&[1; 32], &link, Timestamp(100)).unwrap_err().detail.contains("expired"));
    }

    #[test]
    fn an_altered_link_is_refused_whatever_was_altered() {
        let link = sign(&[1; 32], &ticket());
        assert!(verify(&[2; 32], &link, Timestamp(0)).is_err());
        for i in [0, link.len() / 2, link.len() - 1] {
            let mut bytes = link.clone().into_bytes();
            bytes[i] = if bytes[i] == b'A' { b'B' } else { b'A' };
            assert!(verify(&[1; 32], &String::from_utf8(bytes).unwrap(), Timestamp(0)).is_err(), "byte {i}");
        }
        for bad in ["", ".", "a.b", &link[..link.len() - 4], &"x".repeat(5_000)] {
            assert_eq!(verify(&[1; 32], bad, Timestamp(0)).unwrap_err().code, Code::BadLink);
        }
    }

    #[test]
    fn a_workflow_s_name_cannot_bring_markup_into_the_page() {
        assert_eq!(escape("<b a=\"x\">&"), "&lt;b a=&quot;x&quot;&gt;&amp;");
    }
}
