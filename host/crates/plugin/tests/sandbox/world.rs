//! The outside, faked: every port remembers what it was asked.

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use model::{
    ErrorRecord, Grant, HttpGrant, Installation, InvocationId, LogRecord, ManualClock, RetryAdvice, SecretBinding, Series,
    Signal, Span, TenantId, Timestamp,
};
use plugin::*;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock},
};

pub const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

/// A host, the ports behind it, and one installation of each testing guest.
pub struct World {
    pub host: Host,
    pub seen: Arc<Seen>,
    pub clock: Arc<ManualClock>,
}

#[derive(Default)]
pub struct Seen {
    pub logs: Mutex<Vec<PluginLog>>,
    pub recordings: Mutex<Vec<Recording>>,
    pub begun: Mutex<Vec<(Caller, Effect)>>,
    pub settled: Mutex<Vec<(PermitId, String, Value)>>,
    pub secrets: Mutex<BTreeMap<String, SecretValue>>,
    state: Mutex<BTreeMap<(String, String), StateEntry>>,
}

impl World {
    /// Loopback is open, as in the playground.
    pub fn new() -> Self {
        Self::with_policy(&["127.0.0.1", "::1"])
    }

    pub fn with_policy(allow_private: &[&str]) -> Self {
        let seen = Arc::new(Seen::default());
        let clock = Arc::new(ManualClock::at(NOW));
        let policy = HostPolicy { allow_private: allow_private.iter().map(|a| (*a).into()).collect(), deny_hosts: vec![] };
        let config = HostConfig { cache_dir: Some(cache_dir()), policy, instances_max: 16, ..HostConfig::default() };
        let ports = Ports {
            clock: clock.clone(),
            telemetry: seen.clone(),
            state: seen.clone(),
            secrets: seen.clone(),
            effects: seen.clone(),
            recorder: seen.clone(),
            log: seen.clone(),
        };
        Self { host: Host::new(config, ports).unwrap(), seen, clock }
    }

    pub async fn install(&self, guest: &str) -> Installation {
        let package = self.host.load(component(guest)).await.unwrap();
        Installation {
            tenant: TenantId::default_tenant(),
            name: guest.into(),
            plugin: package.manifest.id.clone(),
            version: package.manifest.version.clone(),
            digest: package.digest.clone(),
            config: json!({}),
            grant: Grant::default(),
            secrets: BTreeMap::new(),
            is_enabled: true,
        }
    }

    pub fn secret(&self, name: &str, value: &str, hosts: &[&str]) {
        let value = SecretValue { bytes: value.into(), hosts: hosts.iter().map(|h| (*h).into()).collect() };
        self.seen.secrets.lock().unwrap().insert(name.into(), value);
    }

    pub async fn execute(&self, installation: &Installation, operation: &str, input: Value) -> Result<Value, CallError> {
        self.host.execute(installation, context(), &ActionCall { operation: operation.into(), input }).await
    }

    pub fn log_lines(&self) -> Vec<String> {
        self.seen.logs.lock().unwrap().iter().map(|l| l.message.clone()).collect()
    }

    pub fn last_recording(&self) -> Recording {
        self.seen.recordings.lock().unwrap().last().unwrap().clone()
    }

    pub fn settled(&self) -> Vec<String> {
        self.seen.settled.lock().unwrap().iter().map(|(_, status, _)| status.clone()).collect()
    }
}

pub fn context() -> CallContext {
    CallContext {
        tenant: TenantId::default_tenant(),
        invocation: InvocationId::generate(),
        idempotency_key: "run/step".into(),
        now: NOW,
        deadline: None,
        traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into(),
        cause: Cause { step: Some("/do/0".into()), ..Cause::default() },
    }
}

/// A grant of everything the fixture asks for, toward `origin`.
pub fn full_grant(origin: &str) -> Grant {
    Grant {
        http: vec![HttpGrant { hosts: vec![origin.into()], methods: vec!["*".into()], path_prefix: "/".into() }],
        sockets: vec![],
        telemetry: vec![Signal::Metrics, Signal::Logs],
        state_bytes: 50_000,
        reveal: true,
    }
}

pub fn bind(installation: &mut Installation, name: &str) {
    installation.secrets.insert(name.into(), SecretBinding { secret: name.into() });
}

/// The code of an error that the guest passed on.
pub fn code(result: &Result<Value, CallError>) -> String {
    result.as_ref().unwrap_err().to_record().code
}

pub fn message(result: &Result<Value, CallError>) -> String {
    result.as_ref().unwrap_err().to_record().message
}

/// A component that `cargo xtask plugins` built.
pub fn component(guest: &str) -> Bytes {
    let dir = std::env::var_os("ORCHESTRIX_PLUGINS_DIR").map(PathBuf::from).unwrap_or_else(|| {
        let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
        let target = target.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../target"));
        target.join("debug/plugins")
    });
    let file = format!("{guest}.wasm");
    let found = [dir.join("testing").join(&file), dir.join(&file)].into_iter().find_map(|path| std::fs::read(path).ok());
    found.unwrap_or_else(|| panic!("there is no {file} in {}; build the guests first: cargo xtask plugins", dir.display())).into()
}

/// One cache for the whole test run, so that each guest is compiled once.
fn cache_dir() -> cap_std::fs::Dir {
    static DIR: OnceLock<tempfile::TempDir> = OnceLock::new();
    let dir = DIR.get_or_init(|| tempfile::tempdir().unwrap());
    cap_std::fs::Dir::open_ambient_dir(dir.path(), cap_std::ambient_authority()).unwrap()
}

/// An HTTP server on loopback that answers with what it got; what it got is kept.
#[derive(Clone)]
pub struct Server {
    pub port: u16,
    pub got: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self { port: listener.local_addr().unwrap().port(), got: Arc::default() };
        let got = server.got.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let got = got.clone();
                let service = service_fn(move |request| answer(request, got.clone()));
                let io = hyper_util::rt::TokioIo::new(stream);
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
            }
        });
        server
    }

    pub fn origin(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn got(&self) -> Vec<String> {
        self.got.lock().unwrap().clone()
    }
}

async fn answer(request: Request<Incoming>, got: Arc<Mutex<Vec<String>>>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let headers: Vec<String> =
        parts.headers.iter().map(|(n, v)| format!("{n}: {}", String::from_utf8_lossy(v.as_bytes()))).collect();
    let whole = format!("{} {}\n{}\n\n{}", parts.method, parts.uri, headers.join("\n"), String::from_utf8_lossy(&body));
    got.lock().unwrap().push(whole.clone());
    let response = Response::builder();
    Ok(match parts.uri.path() {
        "/redirect" => response.status(302).header("location", "http://169.254.169.254/latest/meta-data").body(Full::default()),
        "/big" => response.body(Full::from(vec![b'x'; 20 << 20])),
        "/gzip" => response.header("content-encoding", "gzip").body(Full::from(whole)),
        _ => response.header("x-echo", whole.replace('\n', " ")).body(Full::from(whole)),
    }
    .unwrap())
}

fn refused(code: &str) -> ErrorRecord {
    ErrorRecord { code: code.into(), message: code.into(), retry: RetryAdvice::Never, details: Value::Null }
}

#[async_trait]
impl TelemetryPort for Seen {
    async fn query_metrics(&self, _: &TenantId, _: &str, range: TimeRange) -> Result<Vec<Series>, ErrorRecord> {
        Ok(vec![Series { times: vec![range.end.millis()], values: vec![42.0], ..Series::default() }])
    }
    async fn query_logs(&self, _: &TenantId, _: &str, _: TimeRange, limit: usize) -> Result<Vec<LogRecord>, ErrorRecord> {
        Ok(["a", "b", "c"].into_iter().take(limit).map(|body| LogRecord { body: body.into(), ..LogRecord::default() }).collect())
    }
    async fn query_spans(&self, _: &TenantId, _: &str, _: TimeRange, _: usize) -> Result<Vec<Span>, ErrorRecord> {
        Ok(vec![])
    }
}

#[async_trait]
impl StatePort for Seen {
    async fn get(&self, _: &TenantId, installation: &str, key: &str) -> Result<Option<StateEntry>, ErrorRecord> {
        Ok(self.state.lock().unwrap().get(&(installation.into(), key.into())).cloned())
    }
    async fn put(&self, _: &TenantId, installation: &str, write: StateWrite) -> Result<u64, ErrorRecord> {
        let mut state = self.state.lock().unwrap();
        let key = (installation.to_owned(), write.key.clone());
        let revision = state.get(&key).map_or(0, |e| e.revision);
        if write.expect.is_some_and(|e| e != revision) {
            return Err(refused("state.conflict"));
        }
        let others: usize = state.iter().filter(|(k, _)| **k != key).map(|((_, k), e)| k.len() + e.value.len()).sum();
        if (others + write.key.len() + write.value.len()) as u64 > write.bytes_max {
            return Err(refused("state.quota"));
        }
        state.insert(key, StateEntry { value: write.value, revision: revision + 1 });
        Ok(revision + 1)
    }
    async fn delete(&self, _: &TenantId, installation: &str, key: &str, _: Option<u64>) -> Result<(), ErrorRecord> {
        self.state.lock().unwrap().remove(&(installation.into(), key.into()));
        Ok(())
    }
    async fn list(
        &self,
        _: &TenantId,
        installation: &str,
        prefix: &str,
        _: Option<&str>,
        _: u32,
    ) -> Result<Vec<String>, ErrorRecord> {
        let state = self.state.lock().unwrap();
        Ok(state.keys().filter(|(i, k)| i == installation && k.starts_with(prefix)).map(|(_, k)| k.clone()).collect())
    }
}

#[async_trait]
impl SecretPort for Seen {
    async fn get(&self, _: &TenantId, name: &str) -> Result<Option<SecretValue>, ErrorRecord> {
        Ok(self.secrets.lock().unwrap().get(name).cloned())
    }
}

#[async_trait]
impl EffectPort for Seen {
    async fn begin(&self, who: &Caller, effect: &Effect) -> Result<PermitId, ErrorRecord> {
        if effect.target.contains("forbidden") {
            return Err(refused("guardrail.budget"));
        }
        let mut begun = self.begun.lock().unwrap();
        begun.push((who.clone(), effect.clone()));
        Ok(PermitId(begun.len() as i64))
    }
    async fn settle(&self, _: &Caller, permit: PermitId, status: &str, detail: Value) {
        self.settled.lock().unwrap().push((permit, status.into(), detail));
    }
}

impl RecordPort for Seen {
    fn record(&self, recording: Recording) {
        self.recordings.lock().unwrap().push(recording);
    }
}

impl LogPort for Seen {
    fn emit(&self, line: PluginLog) {
        self.logs.lock().unwrap().push(line);
    }
}
