//! The command line's side of the API.

use crate::cli::Remote;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use std::time::Duration;

/// Why a command failed; each kind has its exit code.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(
        "cannot reach the host at {url}: {why}\n  is it running? `orchestrix serve`; elsewhere? --server URL or ORCHESTRIX_URL"
    )]
    Unreachable { url: String, why: String },
    #[error("{0}")]
    NotFound(String),
    #[error("{message}{}", mend(.has_token))]
    NotAllowed { message: String, has_token: bool },
    #[error("{0}")]
    Refused(String),
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

fn mend(has_token: &bool) -> &'static str {
    if *has_token { "" } else { "\n  give a token: --token TOKEN or ORCHESTRIX_TOKEN; the first one is in DATA-DIR/admin-token" }
}

impl Failure {
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(_) | Self::Other(_) => 1,
            Self::NotFound(_) => 3,
            Self::NotAllowed { .. } => 4,
            Self::Unreachable { .. } => 5,
        }
    }
}

pub type Result<T> = std::result::Result<T, Failure>;

/// What goes along with a request.
pub enum Send {
    Nothing,
    Json(Value),
    Raw { content_type: &'static str, bytes: Vec<u8> },
}

pub struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
}

impl Client {
    pub fn new(remote: &Remote) -> Result<Self> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(60))
            .build()
            .map_err(|e| Failure::Other(e.into()))?;
        Ok(Self { http, base: remote.server.trim_end_matches('/').to_owned(), token: remote.token.clone() })
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    pub async fn get(&self, path: &str) -> Result<Value> {
        self.call(Method::GET, path, &[], Send::Nothing).await
    }

    pub async fn get_with(&self, path: &str, query: &[(&str, String)]) -> Result<Value> {
        self.call(Method::GET, path, query, Send::Nothing).await
    }

    /// Answers the body: JSON as it is, text as a string, nothing as null.
    pub async fn call(&self, method: Method, path: &str, query: &[(&str, String)], send: Send) -> Result<Value> {
        let (status, is_json, bytes) = self.raw(method, path, query, send).await?;
        let text = || String::from_utf8_lossy(&bytes).into_owned();
        if status.is_success() {
            return match bytes.is_empty() {
                true => Ok(Value::Null),
                false if is_json => serde_json::from_slice(&bytes)
                    .map_err(|e| Failure::Refused(format!("the host's answer is not the JSON it says it is: {e}"))),
                false => Ok(Value::String(text())),
            };
        }
        let problem: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        let message = explain(status, &problem, &text());
        Err(match status {
            StatusCode::NOT_FOUND => Failure::NotFound(message),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failure::NotAllowed { message, has_token: self.token.is_some() },
            _ => Failure::Refused(message),
        })
    }

    /// Status, whether the answer is JSON, and the answer.
    pub async fn raw(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        send: Send,
    ) -> Result<(StatusCode, bool, Vec<u8>)> {
        let mut request = self.http.request(method, format!("{}{path}", self.base)).query(query);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        request = match send {
            Send::Nothing => request,
            Send::Json(value) => request.json(&value),
            Send::Raw { content_type, bytes } => request.header("content-type", content_type).body(bytes),
        };
        let unreachable = |e: reqwest::Error| Failure::Unreachable { url: self.base.clone(), why: innermost(&e) };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let is_json = response.headers().get("content-type").and_then(|v| v.to_str().ok()).is_some_and(|v| v.contains("json"));
        let bytes = response.bytes().await.map_err(unreachable)?;
        Ok((status, is_json, bytes.to_vec()))
    }
}

/// A problem in words, each wrong place on its line.
fn explain(status: StatusCode, problem: &Value, text: &str) -> String {
    let code = problem["code"].as_str().unwrap_or("");
    let detail = problem["detail"].as_str().or_else(|| problem["error"].as_str()).unwrap_or(text);
    let mut message = if code.is_empty() { format!("{status}: {detail}") } else { format!("{detail} ({code})") };
    for error in problem["errors"].as_array().into_iter().flatten() {
        let place = match (error["line"].as_u64(), error["column"].as_u64()) {
            (Some(line), Some(column)) => format!("{line}:{column} "),
            _ => String::new(),
        };
        let pointer = error["pointer"].as_str().unwrap_or("");
        message.push_str(&format!("\n  {place}{pointer} {}", error["message"].as_str().unwrap_or("")));
        if let Some(hint) = error["hint"].as_str() {
            message.push_str(&format!("\n    {hint}"));
        }
    }
    message
}

fn innermost(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => innermost(source),
        None => error.to_string(),
    }
}

/// A name or id as one piece of a path.
pub fn segment(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_wrong_place_is_told_with_line_and_hint() {
        let problem = json!({ "code": "ORX-0401", "detail": "2 mistakes", "errors": [
            { "line": 3, "column": 5, "pointer": "/do/0", "message": "unknown task `cal`", "hint": "did you mean `call`?" }] });
        let told = explain(StatusCode::UNPROCESSABLE_ENTITY, &problem, "");
        assert_eq!(told, "2 mistakes (ORX-0401)\n  3:5 /do/0 unknown task `cal`\n    did you mean `call`?");
    }

    #[test]
    fn a_name_cannot_leave_its_place_in_the_path() {
        assert_eq!(segment("a/../b?c"), "a%2F..%2Fb%3Fc");
    }
}
