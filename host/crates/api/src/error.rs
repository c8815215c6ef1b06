//! What callers are told when something fails: RFC 9457 problems with stable codes, mapped here and nowhere else.
//!
//! A problem has an outward message and, when the cause is ours, an inward one for the log. Each code has its
//! page in `docs/errors/`.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::Value;

/// A stable code with its status and title. The table is the whole list; codes are never reused.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $status:ident, $title:literal;)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code { $($(#[$doc])* $name),* }

        impl Code {
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
            pub fn as_str(self) -> &'static str { match self { $(Self::$name => $code),* } }
            pub fn status(self) -> StatusCode { match self { $(Self::$name => StatusCode::$status),* } }
            pub fn title(self) -> &'static str { match self { $(Self::$name => $title),* } }
        }
    };
}

codes! {
    Malformed = "ORX-0001", BAD_REQUEST, "The body cannot be read";
    UnknownField = "ORX-0002", UNPROCESSABLE_ENTITY, "The body has a field that does not exist";
    Invalid = "ORX-0003", UNPROCESSABLE_ENTITY, "A value is not allowed";
    Parameter = "ORX-0004", BAD_REQUEST, "A parameter is wrong";
    TooLarge = "ORX-0005", PAYLOAD_TOO_LARGE, "The body is too large";
    NoCredentials = "ORX-0101", UNAUTHORIZED, "No token was sent";
    BadToken = "ORX-0102", UNAUTHORIZED, "The token is unknown or revoked";
    ExpiredToken = "ORX-0103", UNAUTHORIZED, "The token has expired";
    Role = "ORX-0104", FORBIDDEN, "The token's role does not allow this";
    BadLink = "ORX-0105", FORBIDDEN, "The link is not valid";
    NotFound = "ORX-0201", NOT_FOUND, "There is no such thing";
    Conflict = "ORX-0202", CONFLICT, "It exists already or was changed meanwhile";
    Method = "ORX-0203", METHOD_NOT_ALLOWED, "The method is not offered here";
    State = "ORX-0204", CONFLICT, "Its state does not allow this now";
    Query = "ORX-0301", BAD_REQUEST, "The query does not parse";
    QueryTooBig = "ORX-0302", UNPROCESSABLE_ENTITY, "The query asks for too much";
    Definition = "ORX-0401", UNPROCESSABLE_ENTITY, "The workflow definition is not valid";
    Component = "ORX-0501", UNPROCESSABLE_ENTITY, "The component is not a valid plugin";
    PluginConfig = "ORX-0502", UNPROCESSABLE_ENTITY, "The plugin refuses its configuration";
    PluginCall = "ORX-0503", BAD_GATEWAY, "The plugin failed";
    Busy = "ORX-0901", SERVICE_UNAVAILABLE, "The host is busy or shutting down";
    DiskFull = "ORX-0902", INSUFFICIENT_STORAGE, "The disk is full";
    Internal = "ORX-0999", INTERNAL_SERVER_ERROR, "The host failed";
}

/// One place in a request that is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct FieldProblem {
    /// JSON pointer into the body.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pointer: String,
    /// From 1; only for bodies that are text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// An answer that says no. `application/problem+json`.
#[derive(Debug)]
pub struct Problem {
    pub code: Code,
    pub detail: String,
    pub errors: Vec<FieldProblem>,
    /// For the log only.
    pub inward: Option<String>,
    pub retry_after_s: Option<u64>,
}

pub type Result<T, E = Problem> = std::result::Result<T, E>;

/// The problem as it goes over the wire.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody {
    /// Where the code is explained.
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    pub detail: String,
    pub code: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldProblem>,
}

impl Problem {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), errors: Vec::new(), inward: None, retry_after_s: None }
    }

    /// Our bug or a world's failure the caller can do nothing about; the cause goes to the log.
    pub fn internal(cause: &dyn std::error::Error) -> Self {
        Self { inward: Some(chain(cause)), ..Self::new(Code::Internal, "the host could not finish this; its log says why") }
    }

    pub fn not_found(what: impl std::fmt::Display) -> Self {
        Self::new(Code::NotFound, format!("there is no {what}"))
    }

    pub fn parameter(name: &str, why: impl std::fmt::Display) -> Self {
        Self::new(Code::Parameter, format!("parameter {name}: {why}"))
    }

    pub fn invalid(pointer: &str, why: impl std::fmt::Display) -> Self {
        let error = FieldProblem { pointer: pointer.into(), message: why.to_string(), ..FieldProblem::default() };
        Self {
            errors: vec![error],
            ..Self::new(Code::Invalid, format!("{}: {why}", if pointer.is_empty() { "/" } else { pointer }))
        }
    }

    #[must_use]
    pub fn with_errors(mut self, errors: Vec<FieldProblem>) -> Self {
        self.errors = errors;
        self
    }

    pub fn body(&self) -> ProblemBody {
        ProblemBody {
            kind: format!("https://orchestrix.dev/errors/{}", self.code.as_str()),
            title: self.code.title().into(),
            status: self.code.status().as_u16(),
            detail: self.detail.clone(),
            code: self.code.as_str().into(),
            errors: self.errors.clone(),
        }
    }

    /// Logs the inward cause, once, here where it is finally handled.
    pub fn log(&self) {
        if let Some(inward) = &self.inward {
            tracing::error!(code = self.code.as_str(), error = inward, "request failed");
        }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.code.as_str(), self.detail)
    }
}

impl std::error::Error for Problem {}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        self.log();
        let body = serde_json::to_vec(&self.body()).expect("a problem has text keys only");
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.code.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.code.status() == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"orchestrix\""));
        }
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

impl From<db::Error> for Problem {
    fn from(error: db::Error) -> Self {
        match error {
            db::Error::NotFound { .. } => Self::new(Code::NotFound, error.to_string()),
            db::Error::Conflict { .. } => Self::new(Code::Conflict, error.to_string()),
            db::Error::Closed => Self { retry_after_s: Some(1), ..Self::new(Code::Busy, "the host is shutting down") },
            db::Error::DiskFull => Self {
                retry_after_s: Some(30),
                ..Self::new(Code::DiskFull, "the data disk is full; free space, then send again")
            },
            // Nothing of it is stored, so it may be sent again as it is.
            db::Error::Locked | db::Error::Commit(_) => Self {
                retry_after_s: Some(1),
                inward: Some(chain(&error)),
                ..Self::new(Code::Busy, "the database could not take this write now; send it again")
            },
            other => Self::internal(&other),
        }
    }
}

/// An error with all its causes, for the log.
pub fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

/// What serde says about an unknown key, with the nearest known one.
/// Answers the key and the hint; nothing when the message is about something else.
pub fn unknown_field(message: &str) -> Option<(String, Option<String>)> {
    let rest = message.split_once("unknown field `")?.1;
    let (field, rest) = rest.split_once('`')?;
    let known: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
    Some((field.into(), nearest(field, &known)))
}

/// The known word most like `word`, when one is like it at all.
pub fn nearest(word: &str, known: &[&str]) -> Option<String> {
    known
        .iter()
        .map(|candidate| (strsim::jaro_winkler(&word.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| (*candidate).to_owned())
}

/// A failure to read JSON as a problem: unknown keys with the nearest known one, all else with its place.
pub fn json_problem(error: &serde_path_to_error::Error<serde_json::Error>) -> Problem {
    let inner = error.inner();
    let pointer = pointer(error.path());
    if inner.is_syntax() || inner.is_eof() {
        return Problem::new(Code::Malformed, format!("not JSON: {inner}"));
    }
    let message = without_position(&inner.to_string());
    if let Some((field, near)) = unknown_field(&message) {
        // The path of an unknown field ends in the field itself or in its parent, by serde's whim.
        let pointer = if pointer.ends_with(&format!("/{field}")) { pointer } else { format!("{pointer}/{field}") };
        let hint = near.map(|near| format!("did you mean `{near}`?"));
        let detail = match &hint {
            Some(hint) => format!("unknown field `{field}` at {pointer}: {hint}"),
            None => format!("unknown field `{field}` at {pointer}"),
        };
        let error = FieldProblem { pointer, message: message.clone(), hint, ..FieldProblem::default() };
        return Problem::new(Code::UnknownField, detail).with_errors(vec![error]);
    }
    Problem::invalid(&pointer, message)
}

fn without_position(message: &str) -> String {
    match message.rfind(" at line ") {
        Some(at) => message[..at].to_owned(),
        None => message.to_owned(),
    }
}

/// A path as a JSON pointer (RFC 6901).
fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    path.iter()
        .map(|segment| match segment {
            Segment::Seq { index } => format!("/{index}"),
            Segment::Map { key } => format!("/{}", key.replace('~', "~0").replace('/', "~1")),
            Segment::Enum { variant } => format!("/{variant}"),
            Segment::Unknown => String::new(),
        })
        .collect()
}

/// Reads a JSON value into a type, as [`json_problem`] tells failures.
pub fn read_json<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|e| json_problem(&e))?;
    reader.end().map_err(|e| Problem::new(Code::Malformed, format!("not JSON: {e}")))?;
    Ok(value)
}

/// As [`read_json`], from a value that is parsed already.
pub fn read_value<T: serde::de::DeserializeOwned>(value: Value) -> Result<T> {
    serde_path_to_error::deserialize(value).map_err(|e| json_problem(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Body {
        every: String,
        #[serde(default)]
        labels: std::collections::BTreeMap<String, String>,
    }

    #[test]
    fn an_unknown_field_is_refused_with_the_nearest_known_one() {
        let problem = read_json::<Body>(br#"{"evry": "15s"}"#).unwrap_err();
        assert_eq!(problem.code, Code::UnknownField);
        assert_eq!(problem.errors[0].pointer, "/evry");
        assert_eq!(problem.errors[0].hint.as_deref(), Some("did you mean `every`?"));
    }

    #[test]
    fn a_wrong_type_is_told_with_its_place() {
        let problem = read_json::<Body>(br#"{"every": "1s", "labels": {"a/b": 3}}"#).unwrap_err();
        assert_eq!((problem.code, problem.errors[0].pointer.as_str()), (Code::Invalid, "/labels/a~1b"));
    }

    #[test]
    fn text_that_is_no_json_or_more_than_one_is_refused() {
        for bad in [&b"{"[..], b"", b"{\"every\":\"1s\"} {}", b"\xff\xfe"] {
            assert_eq!(read_json::<Body>(bad).unwrap_err().code, Code::Malformed, "{bad:?}");
        }
    }

    #[test]
    fn each_code_is_unique_and_has_its_page() {
        let pages = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../docs/errors");
        let mut seen = std::collections::HashSet::new();
        for code in Code::ALL {
            assert!(seen.insert(code.as_str()), "{} twice", code.as_str());
            let page = std::fs::read_to_string(format!("{pages}/{}.md", code.as_str())).unwrap_or_default();
            assert!(page.contains(code.title()), "docs/errors/{}.md lacks the title {:?}", code.as_str(), code.title());
        }
    }

    #[test]
    fn an_inward_cause_is_never_told() {
        let problem = Problem::internal(&std::io::Error::other("password=hunter2"));
        assert!(!serde_json::to_string(&problem.body()).unwrap().contains("hunter2"));
    }
}
