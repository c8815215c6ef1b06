//! The outside as this crate sees it: traits that the binary's wiring implements.

use async_trait::async_trait;
use model::{AlertId, ErrorRecord, InvocationId, LogRecord, RequestId, RunId, Series, Span, TenantId, Timestamp};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Everything from outside, given to [`crate::Host::new`].
#[derive(Clone)]
pub struct Ports {
    pub clock: Arc<dyn model::Clock>,
    pub telemetry: Arc<dyn TelemetryPort>,
    pub state: Arc<dyn StatePort>,
    pub secrets: Arc<dyn SecretPort>,
    pub effects: Arc<dyn EffectPort>,
    pub recorder: Arc<dyn RecordPort>,
    pub log: Arc<dyn LogPort>,
}

/// Why a call happens: for the ledger, never for the guest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cause {
    pub run: Option<RunId>,
    pub step: Option<String>,
    pub request: Option<RequestId>,
    pub alert: Option<AlertId>,
    pub approval: Option<String>,
}

/// Who announces an effect.
#[derive(Clone, Debug, PartialEq)]
pub struct Caller {
    pub tenant: TenantId,
    pub installation: String,
    pub plugin: String,
    pub version: String,
    pub digest: String,
    pub invocation: InvocationId,
    pub idempotency_key: String,
    pub cause: Cause,
}

/// A change of the world, said before it is made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Effect {
    pub kind: String,
    pub target: String,
    pub summary: String,
    pub before: Option<serde_json::Value>,
    pub after: Option<serde_json::Value>,
    pub undo: Option<serde_json::Value>,
    pub idempotent: bool,
}

/// The ledger's row of one announced effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PermitId(pub i64);

#[async_trait]
pub trait EffectPort: Send + Sync {
    /// Checks guardrails and budgets and writes the ledger row, in one transaction.
    async fn begin(&self, who: &Caller, effect: &Effect) -> Result<PermitId, ErrorRecord>;
    /// Completes the row: `done`, `failed`, `not-done`, or `in-doubt` when the guest ended without a word.
    async fn settle(&self, who: &Caller, permit: PermitId, status: &str, detail: serde_json::Value);
}

/// Both ends inclusive. A step of 0 asks for the one value at `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeRange {
    pub start: Timestamp,
    pub end: Timestamp,
    pub step_ms: u64,
}

#[async_trait]
pub trait TelemetryPort: Send + Sync {
    async fn query_metrics(&self, tenant: &TenantId, promql: &str, range: TimeRange) -> Result<Vec<Series>, ErrorRecord>;
    async fn query_logs(
        &self,
        tenant: &TenantId,
        query: &str,
        range: TimeRange,
        limit: usize,
    ) -> Result<Vec<LogRecord>, ErrorRecord>;
    async fn query_spans(&self, tenant: &TenantId, query: &str, range: TimeRange, limit: usize)
    -> Result<Vec<Span>, ErrorRecord>;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateEntry {
    pub value: Vec<u8>,
    /// Grows with each write of the key; never 0.
    pub revision: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateWrite {
    pub key: String,
    pub value: Vec<u8>,
    /// None: always; 0: only when absent; n: only over revision n. A mismatch is `state.conflict`.
    pub expect: Option<u64>,
    pub expires: Option<Timestamp>,
    /// Keys and values of the installation together; beyond it `state.quota`.
    pub bytes_max: u64,
}

/// Durable bytes, a namespace for each tenant and installation. Expired entries are absent.
#[async_trait]
pub trait StatePort: Send + Sync {
    async fn get(&self, tenant: &TenantId, installation: &str, key: &str) -> Result<Option<StateEntry>, ErrorRecord>;
    async fn put(&self, tenant: &TenantId, installation: &str, write: StateWrite) -> Result<u64, ErrorRecord>;
    async fn delete(&self, tenant: &TenantId, installation: &str, key: &str, expect: Option<u64>) -> Result<(), ErrorRecord>;
    /// Keys with `prefix` after `after`, in order, at most `limit`.
    async fn list(
        &self,
        tenant: &TenantId,
        installation: &str,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<String>, ErrorRecord>;
}

/// A secret in clear, and where it may travel. Never `Debug`: it must not reach a log.
#[derive(Clone)]
pub struct SecretValue {
    pub bytes: Vec<u8>,
    /// Host patterns as in a grant: `https://api.example.com`, `tcp://db:5432`, or a bare host.
    pub hosts: Vec<String>,
}

#[async_trait]
pub trait SecretPort: Send + Sync {
    /// None when the tenant has no secret of that name.
    async fn get(&self, tenant: &TenantId, name: &str) -> Result<Option<SecretValue>, ErrorRecord>;
}

pub trait RecordPort: Send + Sync {
    /// Takes over one finished call. Must not block: queue it, and count what is dropped.
    fn record(&self, recording: crate::Recording);
}

/// A line that a plugin wrote.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PluginLog {
    pub tenant: TenantId,
    pub installation: String,
    pub plugin: String,
    pub version: String,
    pub invocation: InvocationId,
    pub at: Timestamp,
    /// `trace`, `debug`, `info`, `warn` or `error`.
    pub level: String,
    pub message: String,
    pub attributes: Vec<(String, String)>,
    pub traceparent: String,
}

pub trait LogPort: Send + Sync {
    /// Must not block.
    fn emit(&self, line: PluginLog);
}
