//! The real imports.

use crate::{
    Effect, Error, LogBatch, Request, Response, Result,
    bindings::{
        imports::{
            orchestrix::plugin::{
                config as wconfig, credentials, effects, invocation, log as wlog, net, self_metrics, state, telemetry,
                types::Label,
            },
            wasi::{
                clocks::monotonic_clock,
                http::{
                    outgoing_handler,
                    types::{ErrorCode, Fields, IncomingResponse, Method, OutgoingBody, OutgoingRequest, RequestOptions, Scheme},
                },
                io::streams::{InputStream, OutputStream, StreamError},
                random,
            },
        },
        lift_error, lift_logs, lift_series,
    },
    http::{BODY_BYTES_MAX, Parts},
    state::Entry,
    telemetry::{Series, TimeRange},
};
use serde_json::Value;
use std::{io, time::Duration};

/// What a `blocking-write-and-flush` takes at most, by its definition.
const WRITE_BYTES_MAX: usize = 4096;

pub(crate) fn config() -> String {
    wconfig::get()
}

fn labels(attributes: &[(&str, &str)]) -> Vec<Label> {
    attributes.iter().map(|(name, value)| Label { name: (*name).into(), value: (*value).into() }).collect()
}

pub(crate) fn log(level: &str, message: &str, attributes: &[(&str, &str)]) {
    wlog::emit(level, message, &labels(attributes));
}

pub(crate) fn counter_add(name: &str, value: f64, attributes: &[(&str, &str)]) {
    self_metrics::counter_add(name, value, &labels(attributes));
}

pub(crate) fn histogram_record(name: &str, value: f64, attributes: &[(&str, &str)]) {
    self_metrics::histogram_record(name, value, &labels(attributes));
}

pub(crate) fn state_get(key: &str) -> Result<Option<Entry>> {
    let entry = state::get(key).map_err(lift_error)?;
    Ok(entry.map(|entry| Entry { value: entry.value, revision: entry.revision }))
}

pub(crate) fn state_put(key: &str, value: &[u8], expect: Option<u64>, ttl_ms: Option<u64>) -> Result<u64> {
    state::put(key, value, expect, ttl_ms).map_err(lift_error)
}

pub(crate) fn state_delete(key: &str) -> Result<()> {
    state::delete(key, None).map_err(lift_error)
}

pub(crate) fn state_list(prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<String>> {
    state::list_keys(prefix, after, limit).map_err(lift_error)
}

pub(crate) struct Secret(credentials::Secret);

pub(crate) fn secret(name: &str) -> Result<Secret> {
    credentials::get(name).map(Secret).map_err(lift_error)
}

impl Secret {
    pub fn placeholder(&self) -> String {
        self.0.placeholder()
    }
    pub fn sign(&self, algorithm: &str, data: &[u8]) -> Result<Vec<u8>> {
        self.0.sign(algorithm, data).map_err(lift_error)
    }
    pub fn prove(&self, mechanism: &str, challenge: &[u8]) -> Result<Vec<u8>> {
        self.0.prove(mechanism, challenge).map_err(lift_error)
    }
    pub fn send(&self, to: &mut Connection) -> Result<()> {
        self.0.send(&to.output).map_err(lift_error)
    }
    pub fn reveal(&self) -> Result<Vec<u8>> {
        self.0.reveal().map_err(lift_error)
    }
}

pub(crate) struct Permit(effects::Permit);

pub(crate) fn begin(effect: Effect) -> Result<Permit> {
    let text = |value: Option<Value>| value.map(|value| value.to_string());
    let effect = effects::Effect {
        kind: effect.kind,
        target: effect.target,
        summary: effect.summary,
        before: text(effect.before),
        after: text(effect.after),
        undo: text(effect.undo),
        idempotent: effect.is_idempotent,
    };
    effects::begin(&effect).map(Permit).map_err(lift_error)
}

impl Permit {
    pub fn settle(self, status: &str, detail: Option<Value>) {
        self.0.settle(status, detail.map(|detail| detail.to_string()).as_deref());
    }
}

pub(crate) fn send(request: &Request) -> Result<Response> {
    let url = Parts::of(&request.url)?;
    let headers = Fields::new();
    for (name, value) in &request.headers {
        headers.append(name, value.as_bytes()).map_err(|e| Error::input(format!("the header {name:?} can't be sent: {e}")))?;
    }
    if !request.body.is_empty() || !request.is_safe() {
        headers
            .set("content-length", &[request.body.len().to_string().into_bytes()])
            .map_err(|e| Error::input(format!("the content length can't be set: {e}")))?;
    }
    let outgoing = OutgoingRequest::new(headers);
    let refused = |()| Error::input(format!("{} {} can't be sent", request.method, request.url));
    outgoing.set_method(&method(&request.method)).map_err(refused)?;
    outgoing.set_scheme(Some(&if url.scheme == "https" { Scheme::Https } else { Scheme::Http })).map_err(refused)?;
    outgoing.set_authority(Some(url.authority)).map_err(refused)?;
    let path = url.query.map_or_else(|| url.path.to_owned(), |query| format!("{}?{query}", url.path));
    outgoing.set_path_with_query(Some(&path)).map_err(refused)?;
    let options = RequestOptions::new();
    if let Some(timeout) = request.timeout {
        let ns = Some(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX));
        // A host may not know one of the limits; the call's own deadline remains.
        let _ = options.set_connect_timeout(ns);
        let _ = options.set_first_byte_timeout(ns);
        let _ = options.set_between_bytes_timeout(ns);
    }
    let body = outgoing.body().map_err(refused)?;
    let answer = outgoing_handler::handle(outgoing, Some(options)).map_err(|e| http_error(&e))?;
    let written = write_body(body, &request.body);
    answer.subscribe().block();
    let answer = match answer.get() {
        Some(Ok(Ok(response))) => response,
        // A denied request can show as a closed body first; the reason is here.
        Some(Ok(Err(code))) => return Err(http_error(&code)),
        Some(Err(())) | None => return Err(Error::protocol("the host gave no answer")),
    };
    if answer.status() < 400 {
        written?;
    }
    read_response(&answer)
}

fn method(name: &str) -> Method {
    match name {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        "CONNECT" => Method::Connect,
        "OPTIONS" => Method::Options,
        "TRACE" => Method::Trace,
        "PATCH" => Method::Patch,
        other => Method::Other(other.into()),
    }
}

fn write_body(body: OutgoingBody, bytes: &[u8]) -> Result<()> {
    {
        let stream = body.write().map_err(|()| Error::protocol("the request's body can't be written"))?;
        for chunk in bytes.chunks(WRITE_BYTES_MAX) {
            stream.blocking_write_and_flush(chunk).map_err(|e| {
                Error::new("remote.disconnected", format!("the request's body was not taken: {e}")).retry_after_ms(1_000)
            })?;
        }
    }
    OutgoingBody::finish(body, None).map_err(|e| http_error(&e))
}

fn read_response(response: &IncomingResponse) -> Result<Response> {
    let status = response.status();
    let headers = response
        .headers()
        .entries()
        .into_iter()
        .map(|(name, value)| (name, String::from_utf8_lossy(&value).into_owned()))
        .collect();
    let incoming = response.consume().map_err(|()| Error::protocol("the answer's body can't be read"))?;
    let stream = incoming.stream().map_err(|()| Error::protocol("the answer's body can't be read"))?;
    let mut body = Vec::new();
    loop {
        match stream.blocking_read(64 << 10) {
            Ok(chunk) if body.len() + chunk.len() > BODY_BYTES_MAX => {
                return Err(Error::new("remote.answer_too_large", format!("the answer has more than {BODY_BYTES_MAX} bytes")));
            }
            Ok(chunk) => body.extend(chunk),
            Err(StreamError::Closed) => break,
            Err(StreamError::LastOperationFailed(e)) => {
                let why = e.to_debug_string();
                return Err(Error::new("remote.disconnected", format!("the answer broke off: {why}")).retry_after_ms(1_000));
            }
        }
    }
    Ok(Response { status, headers, body })
}

/// The host refuses by `internal-error("<code>: <message>")`; the rest are wasi:http's own.
fn http_error(code: &ErrorCode) -> Error {
    match code {
        ErrorCode::InternalError(Some(said)) => match said.split_once(": ") {
            Some((code, message)) if is_code(code) => {
                let error = Error::new(code.to_owned(), message);
                if code.starts_with("remote.") { error.retry_after_ms(1_000) } else { error }
            }
            _ => Error::new("remote.failed", said.clone()).retry_after_ms(1_000),
        },
        ErrorCode::DnsError(_) | ErrorCode::DnsTimeout | ErrorCode::DestinationNotFound => {
            Error::new("remote.name_unresolved", format!("the host's name wasn't found: {code}")).retry_after_ms(1_000)
        }
        ErrorCode::ConnectionRefused
        | ErrorCode::DestinationUnavailable
        | ErrorCode::DestinationIpUnroutable
        | ErrorCode::TlsProtocolError
        | ErrorCode::TlsCertificateError
        | ErrorCode::TlsAlertReceived(_) => {
            Error::new("remote.unreachable", format!("no connection: {code}")).retry_after_ms(1_000)
        }
        ErrorCode::DestinationIpProhibited | ErrorCode::HttpRequestDenied => {
            Error::new("permission.denied", format!("the host refused the request: {code}"))
        }
        ErrorCode::ConnectionTimeout
        | ErrorCode::ConnectionReadTimeout
        | ErrorCode::ConnectionWriteTimeout
        | ErrorCode::HttpResponseTimeout => {
            Error::new("remote.timeout", format!("no answer in time: {code}")).retry_after_ms(1_000)
        }
        other => Error::new("remote.failed", other.to_string()).retry_after_ms(1_000),
    }
}

fn is_code(text: &str) -> bool {
    text.contains('.') && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'))
}

pub(crate) struct Connection {
    input: InputStream,
    output: OutputStream,
}

pub(crate) fn connect(host: &str, port: u16, tls: bool) -> Result<Connection> {
    let (input, output) = net::connect(host, port, tls).map_err(lift_error)?;
    Ok(Connection { input, output })
}

impl Connection {
    pub fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        loop {
            match self.input.blocking_read(into.len() as u64) {
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => {
                    into[..bytes.len()].copy_from_slice(&bytes);
                    return Ok(bytes.len());
                }
                Err(StreamError::Closed) => return Ok(0),
                Err(StreamError::LastOperationFailed(e)) => return Err(io::Error::other(e.to_debug_string())),
            }
        }
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let chunk = &bytes[..bytes.len().min(WRITE_BYTES_MAX)];
        match self.output.blocking_write_and_flush(chunk) {
            Ok(()) => Ok(chunk.len()),
            Err(StreamError::Closed) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(StreamError::LastOperationFailed(e)) => Err(io::Error::other(e.to_debug_string())),
        }
    }

    pub fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn range(range: TimeRange) -> telemetry::TimeRange {
    telemetry::TimeRange { start: range.start, end: range.end, step_ms: range.step_ms }
}

pub(crate) fn query_metrics(promql: &str, over: TimeRange) -> Result<Vec<Series>> {
    let series = telemetry::query_metrics(promql, range(over)).map_err(lift_error)?;
    Ok(series.into_iter().map(lift_series).collect())
}

pub(crate) fn query_logs(query: &str, over: TimeRange, fields: &[&str], limit: u32) -> Result<LogBatch> {
    let fields: Vec<String> = fields.iter().map(|field| (*field).to_owned()).collect();
    let pages = telemetry::query_logs(query, range(over), &fields, limit).map_err(lift_error)?;
    let mut all =
        LogBatch { fields: fields.iter().map(|name| (name.clone(), Default::default())).collect(), ..LogBatch::default() };
    loop {
        let page = lift_logs(pages.next(limit.min(1_000)).map_err(lift_error)?);
        if page.is_empty() {
            return Ok(all);
        }
        for row in 0..page.len() {
            all.bodies.push(page.bodies.get(row).unwrap_or(""));
            for (name, column) in &mut all.fields {
                column.push(page.field(name, row));
            }
        }
        all.times.extend(page.times);
        all.severities.extend(page.severities);
    }
}

pub(crate) fn sleep(duration: Duration) {
    monotonic_clock::subscribe_duration(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)).block();
}

pub(crate) fn monotonic_ns() -> u64 {
    monotonic_clock::now()
}

pub(crate) fn random(count: usize) -> Vec<u8> {
    random::random::get_random_bytes(count as u64)
}

pub(crate) fn is_cancelled() -> bool {
    invocation::is_cancelled()
}

pub(crate) fn heartbeat(progress: Option<f32>, checkpoint: Option<String>) {
    invocation::heartbeat(progress, checkpoint.as_deref());
}

pub(crate) fn last_checkpoint() -> Option<String> {
    invocation::last_checkpoint()
}
