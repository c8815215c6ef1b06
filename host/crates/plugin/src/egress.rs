//! wasi:http as the host lets it out. Each request is judged on its own: grant, permit, secrets, address; it is
//! sent once, to one checked address, and redirects are not followed. Bodies are buffered both ways, because
//! targets are derived from them and secrets are put in and taken out.

use crate::{
    call::{Call, LoadedSecret},
    connect::{self, TlsExtras},
    effect_rule::{self, Facts},
    error::{refuse, remote},
    grant::{HostPattern, Target, any_host, expand},
    record::bytes_value,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full, Limited};
use model::{ErrorRecord, limits};
use serde_json::{Value, json};
use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};
use wasmtime_wasi_http::{DEFAULT_FORBIDDEN_HEADERS, Error, ForbiddenHeaderFilter, RequestOptions, WasiBody, WasiHttpHooks};

/// A body in which placeholders are replaced.
const SUBSTITUTED_BYTES_MAX: usize = 1 << 20;
/// Until the answer's head, and between its pieces, when the guest sets nothing.
const ANSWER_MS_MAX: u64 = 30_000;

/// wasmtime-wasi-http's way to ask us.
pub(crate) struct Hooks(pub Arc<Call>);

type Sent = Result<(Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>), Error>;

impl WasiHttpHooks for Hooks {
    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        Arc::new(|name: &HeaderName| {
            DEFAULT_FORBIDDEN_HEADERS.contains(name) || *name == header::EXPECT || *name == header::TE || *name == header::TRAILER
        })
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _fut: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let call = self.0.clone();
        Box::new(async move {
            match send(&call, request, options.unwrap_or_default()).await {
                Ok(response) => {
                    let done: Box<dyn Future<Output = Result<(), Error>> + Send> = Box::new(async { Ok(()) });
                    Ok((response.map(|b| Full::new(b).map_err(Error::from).boxed_unsync()), done))
                }
                // The only case of error-code that carries words; `wit/worlds.wit` says how they are split.
                Err(refusal) => Err(Error::InternalError(Some(format!("{}: {}", refusal.code, refusal.message)))),
            }
        })
    }
}

async fn send(call: &Arc<Call>, request: Request<WasiBody>, options: RequestOptions) -> Result<Response<Bytes>, ErrorRecord> {
    let began = Instant::now();
    let (parts, body) = request.into_parts();
    let mut arguments = json!({
        "method": parts.method.as_str(),
        "url": parts.uri.to_string(),
        "headers": headers_value(&parts.headers),
    });
    let result = async {
        let body = collect(body).await?;
        arguments["body"] = bytes_value(&body);
        perform(call, parts, body, options).await
    }
    .await;
    let shown = match &result {
        Ok(response) => Ok(json!({
            "status": response.status().as_u16(),
            "headers": headers_value(response.headers()),
            "body": bytes_value(response.body()),
        })),
        Err(error) => Err(error.clone()),
    };
    call.record("http.send", began, arguments, shown);
    result
}

async fn perform(
    call: &Arc<Call>,
    parts: http::request::Parts,
    body: Bytes,
    options: RequestOptions,
) -> Result<Response<Bytes>, ErrorRecord> {
    call.must_be_live("network")?;
    let target = Target::http(&parts.uri).map_err(|why| call.deny("permission.denied", why))?;
    let path = parts.uri.path().to_owned();
    let pass = call.rights().http(&parts.method, &target, &path).map_err(|why| call.deny("permission.denied", why))?;
    // Everything that can refuse comes before the permit is spent.
    let filled = fill_secrets(call, &parts, &target, &body).await?;
    let extras = if target.scheme == "https" {
        Some(TlsExtras { ca_pem: pem(call, &pass.ca).await?, client_pem: pem(call, &pass.client_cert).await?, starttls: None })
    } else {
        None
    };
    let permit = if pass.is_safe {
        None
    } else {
        let facts = Facts {
            method: parts.method.as_str(),
            target: &target,
            path: &path,
            query: parts.uri.query().unwrap_or(""),
            body: &body,
        };
        Some(use_permit(call, &facts)?)
    };
    let wait = options.connect_timeout.unwrap_or(Duration::from_millis(connect::CONNECT_MS_MAX));
    let opened = connect::open(&call.shared.policy, &call.shared.tls, &target, extras, wait).await;
    let connection = opened.inspect_err(|error| {
        if let Some(index) = permit {
            // Nothing was sent: a retry may use it.
            call.permits.lock()[index].used_for = None;
        }
        if error.code.starts_with("permission.") {
            call.denials.fetch_add(1, Relaxed);
        }
    })?;
    call.http_bytes_sent.fetch_add(http_body::Body::size_hint(filled.body()).lower(), Relaxed);
    let response = exchange(connection, filled, options, &target).await?;
    call.http_bytes_received.fetch_add(response.body().len() as u64, Relaxed);
    if let Some(index) = permit {
        call.permits.lock()[index].http_status = Some(response.status().as_u16());
    }
    redacted(call, response)
}

async fn collect(body: WasiBody) -> Result<Bytes, ErrorRecord> {
    let max = limits::GUEST_MESSAGE_BYTES_MAX;
    match Limited::new(body, max).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(refuse("http.request_too_large", format!("the request's body is over {max} bytes: send less at a time")))
        }
        Err(error) => Err(refuse("http.request_broken", format!("the request's body ended early: {error}"))),
    }
}

/// Spends the first open permit whose rule covers this request and whose target is the one derived from it.
/// Answers its place in the list.
fn use_permit(call: &Call, facts: &Facts<'_>) -> Result<usize, ErrorRecord> {
    let what = format!("{} {}{}", facts.method, facts.target.origin(), facts.path);
    let rules = call.package.manifest.effect_rules();
    let mut permits = call.permits.lock();
    let mut why = format!("{what} changes something and no permit is held: call effects.begin first, once for each request");
    for (index, permit) in permits.iter_mut().enumerate().filter(|(_, p)| !p.is_settled) {
        let derived: Vec<String> =
            rules.get(permit.kind.as_str()).into_iter().flatten().filter_map(|r| effect_rule::derive(r, facts)).collect();
        if permit.used_for.is_some() {
            why = format!("{what}: the permit for {:?} is spent; each request needs its own effects.begin", permit.target);
        } else if derived.is_empty() {
            why = format!("{what} is not what the manifest's [[effects]] says of {:?}", permit.kind);
        } else if !derived.contains(&permit.target) {
            why = format!("{what} would change {:?}, but the permit is for {:?}", derived[0], permit.target);
        } else {
            permit.used_for = Some(what);
            return Ok(index);
        }
    }
    drop(permits);
    Err(call.deny("effect.permit_required", why))
}

/// The request as it goes out: placeholders replaced, secrets injected, lengths recomputed.
async fn fill_secrets(
    call: &Arc<Call>,
    parts: &http::request::Parts,
    target: &Target,
    body: &Bytes,
) -> Result<Request<Full<Bytes>>, ErrorRecord> {
    let loaded: Vec<Arc<LoadedSecret>> = call.secrets.lock().clone();
    let mut query = parts.uri.query().unwrap_or_default().to_owned();
    let mut headers = parts.headers.clone();
    let mut body = body.clone();
    for secret in &loaded {
        let mark = secret.placeholder.as_str();
        if parts.uri.path().contains(mark) {
            return Err(call.deny(
                "permission.denied",
                format!("secret {:?} in a path: put it into a header, the query or the body", secret.name),
            ));
        }
        let in_query = query.contains(mark);
        let in_headers = headers.values().any(|v| contains(v.as_bytes(), mark.as_bytes()));
        let in_body = contains(&body, mark.as_bytes());
        if !in_query && !in_headers && !in_body {
            continue;
        }
        must_be_bound(call, secret, target)?;
        let value = text(secret)?;
        if in_query {
            query = query.replace(mark, &percent(value));
        }
        if in_headers {
            for header in headers.values_mut().filter(|v| contains(v.as_bytes(), mark.as_bytes())) {
                let filled = String::from_utf8_lossy(header.as_bytes()).replace(mark, value);
                *header = header_value(&secret.name, &filled)?;
            }
        }
        if in_body {
            if body.len() > SUBSTITUTED_BYTES_MAX {
                return Err(refuse(
                    "http.request_too_large",
                    format!("a body with a secret in it may have {SUBSTITUTED_BYTES_MAX} bytes"),
                ));
            }
            let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
            let spelt = if kind.contains("json") {
                let json = Value::from(value).to_string();
                json[1..json.len() - 1].to_owned()
            } else if kind.contains("x-www-form-urlencoded") {
                percent(value)
            } else {
                value.to_owned()
            };
            body = replace_all(&body, mark.as_bytes(), spelt.as_bytes()).into();
        }
    }
    inject(call, target, &mut headers, &mut query).await?;
    headers.remove(header::CONTENT_LENGTH);
    // What comes back must be readable, or an echoed secret could not be seen in it.
    headers.remove(header::ACCEPT_ENCODING);
    let path = parts.uri.path();
    let uri = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
    let mut request = Request::builder()
        .method(parts.method.clone())
        .uri(uri)
        .body(Full::new(body))
        .map_err(|e| refuse("http.request_broken", e.to_string()))?;
    *request.headers_mut() = headers;
    Ok(request)
}

/// What the manifest puts into every request to a host.
async fn inject(call: &Arc<Call>, target: &Target, headers: &mut HeaderMap, query: &mut String) -> Result<(), ErrorRecord> {
    for declared in &call.package.manifest.secrets {
        let Some(rule) = &declared.inject else { continue };
        let hosts = expand(&rule.host, &call.installation.config);
        let covers = any_host(hosts.iter().map(String::as_str), target);
        if !covers || (!declared.required && !call.installation.secrets.contains_key(&declared.name)) {
            continue;
        }
        let secret = call.secret(&declared.name).await?;
        must_be_bound(call, &secret, target)?;
        let value = formatted(&rule.format, text(&secret)?);
        if let Some(name) = &rule.header {
            let name: HeaderName = name.parse().map_err(|_| refuse("config.invalid", format!("{name:?} is no header's name")))?;
            let mut value = header_value(&declared.name, &value)?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        if let Some(key) = &rule.query {
            let pair = url::form_urlencoded::Serializer::new(String::new()).append_pair(key, &value).finish();
            *query = if query.is_empty() { pair } else { format!("{query}&{pair}") };
        }
    }
    Ok(())
}

fn formatted(format: &str, secret: &str) -> String {
    use base64::Engine as _;
    if let Some((before, rest)) = format.split_once("{basic:")
        && let Some((user, after)) = rest.split_once('}')
    {
        let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{secret}"));
        return format!("{before}{encoded}{after}");
    }
    format.replace("{secret}", secret)
}

/// A secret travels only to the hosts it is bound to.
pub(crate) fn must_be_bound(call: &Call, secret: &LoadedSecret, target: &Target) -> Result<(), ErrorRecord> {
    if any_host(secret.value.hosts.iter().map(String::as_str), target) {
        return Ok(());
    }
    let origin = target.origin();
    Err(call.deny(
        "permission.secret_not_bound",
        format!("secret {:?} may not travel to {origin}: add {origin:?} to the secret's hosts", secret.name),
    ))
}

async fn pem(call: &Arc<Call>, name: &Option<String>) -> Result<Option<Vec<u8>>, ErrorRecord> {
    match name {
        // An optional CA or certificate that the admin left unbound is none.
        Some(name)
            if call.installation.secrets.contains_key(name) || call.package.manifest.secret(name).is_some_and(|s| s.required) =>
        {
            Ok(Some(call.secret(name).await?.value.bytes.clone()))
        }
        _ => Ok(None),
    }
}

async fn exchange(
    connection: Box<dyn connect::Connection>,
    request: Request<Full<Bytes>>,
    options: RequestOptions,
    target: &Target,
) -> Result<Response<Bytes>, ErrorRecord> {
    let origin = target.origin();
    let failed = |e: hyper::Error| remote("remote.failed", format!("{origin} didn't answer as HTTP does: {e}"));
    let io = hyper_util::rt::TokioIo::new(connection);
    let (mut sender, driver) = hyper::client::conn::http1::handshake(io).await.map_err(failed)?;
    let driver = tokio::spawn(driver);
    // The connection ends with the request: it carries one tenant's secret and is not shared.
    let _stop = AbortOnDrop(driver.abort_handle());
    let wait = options.first_byte_timeout.unwrap_or(Duration::from_millis(ANSWER_MS_MAX));
    let response = tokio::time::timeout(wait, sender.send_request(request))
        .await
        .map_err(|_| remote("remote.timeout", format!("{origin} didn't answer in {} ms", wait.as_millis())))?
        .map_err(failed)?;
    let (parts, mut body) = response.into_parts();
    let between = options.between_bytes_timeout.unwrap_or(Duration::from_millis(ANSWER_MS_MAX));
    let mut bytes = Vec::new();
    loop {
        let frame = tokio::time::timeout(between, body.frame())
            .await
            .map_err(|_| remote("remote.timeout", format!("{origin} fell silent for {} ms", between.as_millis())))?;
        match frame {
            None => break,
            Some(Err(e)) => return Err(failed(e)),
            Some(Ok(frame)) => bytes.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new())),
        }
        if bytes.len() > limits::HOST_MESSAGE_BYTES_MAX {
            return Err(refuse(
                "remote.answer_too_large",
                format!("the answer of {origin} is over {} bytes", limits::HOST_MESSAGE_BYTES_MAX),
            ));
        }
    }
    Ok(Response::from_parts(parts, bytes.into()))
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn redacted(call: &Call, response: Response<Bytes>) -> Result<Response<Bytes>, ErrorRecord> {
    let redactor = call.redactor();
    let (mut parts, mut body) = response.into_parts();
    if !redactor.is_empty() {
        let is_encoded =
            parts.headers.get(header::CONTENT_ENCODING).is_some_and(|v| !v.as_bytes().eq_ignore_ascii_case(b"identity"));
        if is_encoded {
            return Err(remote(
                "remote.unreadable",
                "the answer is compressed although it was not asked for, so it can't be searched for secrets",
            ));
        }
        for value in parts.headers.values_mut() {
            if let Some(clean) = redactor.redact(value.as_bytes()) {
                *value = HeaderValue::from_bytes(&clean).unwrap_or(HeaderValue::from_static("[redacted]"));
            }
        }
        if let Some(clean) = redactor.redact(&body) {
            body = clean.into();
        }
    }
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.remove(header::TRANSFER_ENCODING);
    parts.headers.remove(header::CONNECTION);
    Ok(Response::from_parts(parts, body))
}

fn headers_value(headers: &HeaderMap) -> Value {
    let pairs = headers.iter().filter(|(name, _)| *name != header::HOST);
    Value::Array(pairs.map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())])).collect())
}

fn header_value(secret: &str, value: &str) -> Result<HeaderValue, ErrorRecord> {
    HeaderValue::from_str(value.trim_end_matches(['\r', '\n']))
        .map_err(|_| refuse("config.secret_unusable", format!("secret {secret:?} holds characters that no header may hold")))
}

fn text(secret: &LoadedSecret) -> Result<&str, ErrorRecord> {
    std::str::from_utf8(&secret.value.bytes)
        .map(|t| t.trim_end_matches(['\r', '\n']))
        .map_err(|_| refuse("config.secret_unusable", format!("secret {:?} is no text", secret.name)))
}

fn percent(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|w| w == needle)
}

fn replace_all(haystack: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(haystack.len());
    let mut at = 0;
    while at < haystack.len() {
        if haystack[at..].starts_with(from) {
            out.extend_from_slice(to);
            at += from.len();
        } else {
            out.push(haystack[at]);
            at += 1;
        }
    }
    out
}

/// Kept beside [`HostPattern`] so that a secret's hosts are judged when it is stored, not only when it is used.
pub fn check_secret_host(pattern: &str) -> Result<(), String> {
    HostPattern::parse(pattern).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_puts_the_secret_where_the_manifest_says() {
        assert_eq!(formatted("Bearer {secret}", "t"), "Bearer t");
        assert_eq!(formatted("Basic {basic:user}", "pw"), "Basic dXNlcjpwdw==");
        assert_eq!(replace_all(b"a{x}b{x}", b"{x}", b"12"), b"a12b12");
        assert!(contains(b"abc", b"bc") && !contains(b"ab", b"abc"));
    }
}
