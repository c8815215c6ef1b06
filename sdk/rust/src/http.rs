//! HTTP through the host: every request is checked against what was asked in the manifest and granted by an admin.

use crate::{Error, Result, Retry, host};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt, time::Duration};

/// Largest response body taken: a plugin has 64 to 128 MiB of memory, and JSON takes several times its text.
pub const BODY_BYTES_MAX: usize = 8 << 20;
/// The longest a `Retry-After` is obeyed inside one call; a longer one goes to the caller as advice.
const RETRY_AFTER_MS_MAX: u64 = 5_000;
/// RFC 3986's unreserved characters stay as they are.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A request under construction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub timeout: Option<Duration>,
    /// Further attempts of a safe request after a failure that may pass.
    pub retries: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn new(method: impl AsRef<str>, url: impl Into<String>) -> Self {
        Self {
            method: method.as_ref().to_ascii_uppercase(),
            url: url.into(),
            headers: Vec::new(),
            body: Vec::new(),
            timeout: None,
            retries: 2,
        }
    }
    pub fn get(url: impl Into<String>) -> Self {
        Self::new("GET", url)
    }
    pub fn post(url: impl Into<String>) -> Self {
        Self::new("POST", url)
    }
    pub fn put(url: impl Into<String>) -> Self {
        Self::new("PUT", url)
    }
    pub fn patch(url: impl Into<String>) -> Self {
        Self::new("PATCH", url)
    }
    pub fn delete(url: impl Into<String>) -> Self {
        Self::new("DELETE", url)
    }

    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Adds one parameter to the query, encoded.
    #[must_use]
    pub fn query(mut self, name: &str, value: impl fmt::Display) -> Self {
        let fragment = self.url.find('#').map(|at| self.url.split_off(at)).unwrap_or_default();
        let separator = match self.url.find('?') {
            None => "?",
            Some(at) if at + 1 == self.url.len() || self.url.ends_with('&') => "",
            Some(_) => "&",
        };
        self.url.push_str(separator);
        self.url.push_str(&encode(name));
        self.url.push('=');
        self.url.push_str(&encode(&value.to_string()));
        self.url.push_str(&fragment);
        self
    }

    #[must_use]
    pub fn body(mut self, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        if self.header_value("content-type").is_none() {
            self.headers.push(("content-type".into(), content_type.into()));
        }
        self.body = body.into();
        self
    }

    pub fn json(self, body: &impl Serialize) -> Result<Self> {
        let body = serde_json::to_vec(body).map_err(|e| Error::input(format!("the body is no JSON: {e}")))?;
        Ok(self.body("application/json", body))
    }

    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    #[must_use]
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// Whether the method promises to change nothing.
    pub fn is_safe(&self) -> bool {
        matches!(self.method.as_str(), "GET" | "HEAD" | "OPTIONS")
    }

    pub fn header_value(&self, name: &str) -> Option<&str> {
        find_header(&self.headers, name)
    }

    /// Sends it. Safe requests are tried again after failures that may pass; others never are, since one permit
    /// covers one request and the workflow knows better whether to repeat.
    ///
    /// An answer of any status is `Ok`; see [`Response::success`].
    pub fn send(mut self) -> Result<Response> {
        Parts::of(&self.url)?;
        let traceparent = crate::kind::current_traceparent();
        if !traceparent.is_empty() && self.header_value("traceparent").is_none() {
            self.headers.push(("traceparent".into(), traceparent));
        }
        let mut left = if self.is_safe() { self.retries } else { 0 };
        let mut backoff_ms = 200;
        loop {
            let outcome = host::send(&self);
            let wait_ms = match &outcome {
                Ok(response) if !matches!(response.status, 429 | 502 | 503 | 504) => return outcome,
                Ok(response) => response.retry_after_ms().unwrap_or(backoff_ms),
                Err(error) => match error.retry {
                    Retry::Never => return outcome,
                    Retry::Now => 0,
                    Retry::AfterMs(ms) => ms.min(backoff_ms),
                },
            };
            if left == 0 || wait_ms > RETRY_AFTER_MS_MAX {
                return outcome;
            }
            left -= 1;
            host::sleep(Duration::from_millis(wait_ms));
            backoff_ms *= 2;
        }
    }
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        find_header(&self.headers, name)
    }

    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The response if its status is 2xx, else the error that the status means.
    pub fn success(self) -> Result<Self> {
        if self.is_success() { Ok(self) } else { Err(self.error()) }
    }

    /// The error that the status means, with the beginning of the body as detail.
    pub fn error(&self) -> Error {
        let code = match self.status {
            401 | 403 => "remote.unauthorized",
            404 | 410 => "remote.not_found",
            409 | 412 => "remote.conflict",
            408 | 504 => "remote.timeout",
            429 => "remote.rate_limited",
            500.. => "remote.unavailable",
            _ => "remote.refused",
        };
        let excerpt: String = self.text().trim().chars().take(500).collect();
        let said = if excerpt.is_empty() { String::new() } else { format!(": {excerpt}") };
        let error = Error::new(code, format!("the server answered {}{said}", self.status))
            .details(serde_json::json!({ "status": self.status, "body": excerpt }));
        match self.status {
            409 | 412 => error.retry_now(),
            408 | 429 | 500.. => error.retry_after_ms(self.retry_after_ms().unwrap_or(1_000)),
            _ => error,
        }
    }

    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }

    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|e| {
            let excerpt: String = self.text().chars().take(200).collect();
            Error::protocol(format!("the answer isn't the JSON that was expected ({e}): {excerpt}"))
        })
    }

    /// `Retry-After` in seconds; the form with a date is not used by APIs.
    fn retry_after_ms(&self) -> Option<u64> {
        self.header("retry-after")?.trim().parse::<u64>().ok().map(|s| s.saturating_mul(1_000))
    }
}

/// Percent-encodes a path segment or query value.
pub fn encode(text: &str) -> String {
    utf8_percent_encode(text, QUERY).to_string()
}

/// An absolute http or https URL in its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts<'a> {
    pub scheme: &'a str,
    /// Host and, where the URL has one, port.
    pub authority: &'a str,
    /// An IPv6 address keeps its brackets.
    pub host: &'a str,
    pub port: u16,
    /// Begins with a slash.
    pub path: &'a str,
    pub query: Option<&'a str>,
}

impl<'a> Parts<'a> {
    pub fn of(url: &'a str) -> Result<Self> {
        let wrong = |why: &str| Error::input(format!("{url:?} is no URL to call: {why}"));
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("it must begin with http:// or https://"))?;
        let default_port = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return Err(wrong("only http and https are spoken")),
        };
        if url.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(wrong("it holds white space; encode it"));
        }
        let rest = rest.split('#').next().unwrap_or(rest);
        let (before_query, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
        let (authority, path) = before_query.find('/').map_or((before_query, "/"), |at| before_query.split_at(at));
        if authority.contains('@') {
            return Err(wrong("credentials belong into a secret, not into a URL"));
        }
        // The port comes after the last colon that is not inside an IPv6 address.
        let colon = authority.rfind(':').filter(|colon| authority.rfind(']').is_none_or(|bracket| *colon > bracket));
        let (host, port) = match colon {
            Some(colon) => {
                let port = authority[colon + 1..].parse().map_err(|_| wrong("the port is no number"))?;
                (&authority[..colon], port)
            }
            None => (authority, default_port),
        };
        if host.is_empty() {
            return Err(wrong("the host is missing"));
        }
        Ok(Self { scheme, authority, host, port, path, query })
    }

    /// `scheme://host:port/path`: the target of an effect on this URL, as the host writes it (an IPv6 address without brackets).
    pub fn target(&self) -> String {
        let host = self.host.trim_matches(['[', ']']).to_ascii_lowercase();
        format!("{}://{host}:{}{}", self.scheme, self.port, self.path)
    }
}

fn find_header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    #[test]
    fn query_parameters_are_encoded_and_go_before_a_fragment() {
        let url = |request: Request| request.url;
        assert_eq!(url(Request::get("https://a/x").query("q", "a b&c").query("n", 1)), "https://a/x?q=a%20b%26c&n=1");
        assert_eq!(url(Request::get("https://a/x?y=1#top").query("z", "ü")), "https://a/x?y=1&z=%C3%BC#top");
    }

    #[test]
    fn hostile_urls_are_refused_before_anything_is_sent() {
        for url in [
            "",
            "example.com",
            "ftp://a/",
            "file:///etc/passwd",
            "http://",
            "http://user:pw@a/",
            "http://a/ b",
            "http://a/\r\nX: y",
            "http://a:b/",
            "http://a:99999/",
            "http://:1/",
        ] {
            let error = Parts::of(url).unwrap_err();
            assert_eq!(error.code, "input.invalid", "{url}");
        }
    }

    #[test]
    fn a_target_is_the_url_without_query_and_with_its_port() {
        let target = |url| Parts::of(url).unwrap().target();
        let targets =
            ["https://A.Example/x?y=1", "http://a", "http://[::1]:8/x", "http://[::1]/x#z", "http://a:1?x=/"].map(target);
        assert_eq!(targets, ["https://a.example:443/x", "http://a:80/", "http://::1:8/x", "http://::1:80/x", "http://a:1/"]);
        let parts = Parts::of("http://a?x=1#y").unwrap();
        assert_eq!((parts.path, parts.query), ("/", Some("x=1")));
    }

    #[test]
    fn a_safe_request_is_repeated_until_the_server_is_back_and_an_unsafe_one_is_not() {
        let world = World::new();
        let mut left = 2;
        world.on_http(move |request| {
            assert!(request.url.starts_with("https://a/"));
            left -= 1;
            Ok(Response { status: if left >= 0 { 503 } else { 200 }, ..Response::default() })
        });
        assert_eq!(world.run(|| Request::get("https://a/").send()).unwrap().status, 200);
        assert_eq!(world.requests().len(), 3);

        let world = World::new();
        world.on_http(|_| Ok(Response { status: 503, ..Response::default() }));
        let effect = crate::Effect::new("http.post", "https://a/");
        let error = world.run(|| effect.perform(|| Request::post("https://a/").send()?.success().map(|r| r.status))).unwrap_err();
        assert_eq!((error.code.as_ref(), error.retry), ("remote.unavailable", Retry::AfterMs(1_000)));
        assert_eq!(world.requests().len(), 1);
        assert_eq!(world.effects()[0].status, None, "a 503 leaves open whether it happened");
    }

    #[test]
    fn a_status_becomes_an_error_with_advice() {
        let error = |status, headers: &[(&str, &str)]| {
            let headers = headers.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
            let e = Response { status, headers, body: b"no".to_vec() }.error();
            (e.code.into_owned(), e.retry)
        };
        assert_eq!(error(401, &[]), ("remote.unauthorized".into(), Retry::Never));
        assert_eq!(error(409, &[]), ("remote.conflict".into(), Retry::Now));
        assert_eq!(error(429, &[("Retry-After", "7")]), ("remote.rate_limited".into(), Retry::AfterMs(7_000)));
        assert_eq!(error(429, &[("Retry-After", "99999999999999999999")]), ("remote.rate_limited".into(), Retry::AfterMs(1_000)));
        assert_eq!(error(422, &[]), ("remote.refused".into(), Retry::Never));
    }

    #[test]
    fn an_answer_of_another_type_is_quoted_in_the_error() {
        let response = Response { status: 200, headers: vec![], body: b"<html>".to_vec() };
        let error = response.json::<Vec<u8>>().unwrap_err();
        assert!(error.message.contains("<html>"), "{error}");
    }
}
