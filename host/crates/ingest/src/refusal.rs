//! Refusals: of a whole request, and of items inside one that is otherwise kept.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

/// Items named in one answer; the rest is only counted.
const ITEMS_SHOWN_MAX: usize = 10;

/// A whole request refused. Each protocol gives it its own shape; the status and the words are the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: StatusCode,
    /// One of the API's stable codes, each with its page in `docs/errors/`.
    pub code: &'static str,
    pub message: String,
    pub retry_after_ms: Option<u64>,
}

/// One item refused: which, and why with the mend.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Item {
    pub item: String,
    pub reason: String,
}

/// What became of a request's items.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub stored: u64,
    pub refused: u64,
    /// The first few refused.
    pub items: Vec<Item>,
}

impl Refusal {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let code = match status.as_u16() {
            401 => "ORX-0101",
            403 => "ORX-0104",
            404 => "ORX-0201",
            413 => "ORX-0005",
            429 | 503 => "ORX-0901",
            507 => "ORX-0902",
            500..=599 => "ORX-0999",
            _ => "ORX-0001",
        };
        Self { status, code, message: message.into(), retry_after_ms: None }
    }
    pub fn malformed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }
    pub fn unauthenticated(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, message)
    }
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, message)
    }
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    }
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message)
    }
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self { retry_after_ms: Some(1_000), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message) }
    }

    /// Refused because the host can't take more now, not because of what was sent.
    pub fn is_shed(&self) -> bool {
        matches!(self.status.as_u16(), 429 | 503 | 507)
    }

    /// RFC 9457, for our own paths.
    pub fn problem(&self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("refused");
        let code = self.code;
        let body = json!({
            "type": format!("https://orchestrix.dev/errors/{code}"),
            "title": title,
            "status": self.status.as_u16(),
            "detail": self.message,
            "code": code,
        });
        self.respond("application/problem+json", body.to_string())
    }

    /// Prometheus' shape: the message and nothing else.
    pub fn plain(&self) -> Response {
        self.respond("text/plain; charset=utf-8", format!("{}\n", self.message))
    }

    /// Any other shape.
    pub fn respond(&self, content_type: &'static str, body: impl Into<axum::body::Body>) -> Response {
        let mut response = (self.status, [(header::CONTENT_TYPE, content_type)], body.into()).into_response();
        if let Some(ms) = self.retry_after_ms {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1_000).max(1)));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"orchestrix\""));
        }
        response
    }
}

impl From<telemetry::Error> for Refusal {
    fn from(error: telemetry::Error) -> Self {
        match error {
            telemetry::Error::Busy { retry_after_ms, .. } => Self {
                retry_after_ms: Some(retry_after_ms),
                ..Self::new(StatusCode::TOO_MANY_REQUESTS, "data comes in faster than the disk takes it; send again later")
            },
            telemetry::Error::DiskFull => Self {
                retry_after_ms: Some(30_000),
                ..Self::new(
                    StatusCode::INSUFFICIENT_STORAGE,
                    "the data disk is full; free space or shorten retention, then send again",
                )
            },
            other => {
                tracing::error!(error = &other as &dyn std::error::Error, "telemetry could not be stored");
                Self::unavailable("the telemetry store failed; the host's log says why")
            }
        }
    }
}

impl From<db::Error> for Refusal {
    fn from(error: db::Error) -> Self {
        if matches!(error, db::Error::DiskFull) {
            return telemetry::Error::DiskFull.into();
        }
        tracing::error!(error = &error as &dyn std::error::Error, "an event could not be stored");
        Self::unavailable("the database failed; the host's log says why")
    }
}

impl Report {
    pub fn refuse(&mut self, item: impl Into<String>, reason: impl Into<String>) {
        self.refuse_many(1, item, reason);
    }

    /// One reason for several items, such as all samples of a series.
    pub fn refuse_many(&mut self, count: u64, item: impl Into<String>, reason: impl Into<String>) {
        self.refused += count;
        if self.items.len() < ITEMS_SHOWN_MAX {
            self.items.push(Item { item: item.into(), reason: reason.into() });
        }
    }

    pub fn is_clean(&self) -> bool {
        self.refused == 0
    }

    /// Adds what the store made of the items that were decoded.
    pub fn add_appended(&mut self, appended: telemetry::Appended) {
        self.stored += appended.stored;
        self.refused += appended.rejected;
        for refusal in appended.refusals {
            if self.items.len() < ITEMS_SHOWN_MAX {
                self.items.push(Item { item: refusal.item, reason: refusal.reason });
            }
        }
    }

    /// In one text: `2 of 7 samples refused: line 3: …; line 5: …`.
    pub fn message(&self, what: &str) -> String {
        let shown: Vec<_> = self.items.iter().map(|i| format!("{}: {}", i.item, i.reason)).collect();
        let more = (self.refused as usize).saturating_sub(self.items.len());
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        format!("{} of {} {what} refused: {}{more}", self.refused, self.refused + self.stored, shown.join("; "))
    }

    /// The answer of our own paths: 204 when all was kept, 200 with the list when some was, 400 when none.
    pub fn answer(&self, what: &str) -> Response {
        if self.is_clean() {
            return StatusCode::NO_CONTENT.into_response();
        }
        if self.stored == 0 {
            return Refusal::malformed(self.message(what)).problem();
        }
        axum::Json(json!({ "stored": self.stored, "refused": self.refused, "refusals": self.items })).into_response()
    }
}

/// At most `chars_max` characters of what a sender wrote, to show it in a message.
pub(crate) fn excerpt(text: &str, chars_max: usize) -> String {
    let mut chars = text.chars();
    let head: String = chars.by_ref().take(chars_max).collect();
    if chars.next().is_some() { format!("{head}…") } else { head }
}
