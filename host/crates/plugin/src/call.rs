//! One call: who, for whom, with which rights, and what it has done so far. Shared between the store, the
//! egress tasks and the captured stdio.

use crate::{
    error::refuse,
    grant::Rights,
    host::{Cancel, Package, Seat, Shared},
    port::{Caller, Cause, PermitId, PluginLog, SecretValue},
    record::{HostCall, Outcome, Recorder},
    redact::Redactor,
    stream::StateBuffer,
};
use model::{ErrorRecord, Installation, InvocationId, TenantId, Timestamp, limits};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

/// Who calls, when and why. Only the first six reach the guest.
#[derive(Clone, Debug, PartialEq)]
pub struct CallContext {
    pub tenant: TenantId,
    pub invocation: InvocationId,
    /// Same for every retry of the same step.
    pub idempotency_key: String,
    pub now: Timestamp,
    pub deadline: Option<Timestamp>,
    pub traceparent: String,
    pub cause: Cause,
}

/// What a call may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Class {
    /// Detectors and transforms: telemetry and state; the clock stands at `now`, randomness is seeded.
    Pure,
    /// Everything that manifest, grant and policy allow.
    Live,
}

/// An announced effect and what became of it.
#[derive(Clone, Debug)]
pub(crate) struct OpenPermit {
    pub id: PermitId,
    pub kind: String,
    pub target: String,
    /// The one request or socket it was spent on.
    pub used_for: Option<String>,
    pub http_status: Option<u16>,
    pub is_settled: bool,
}

/// A secret as this call holds it.
pub(crate) struct LoadedSecret {
    pub name: String,
    pub value: SecretValue,
    pub placeholder: String,
}

pub(crate) struct Call {
    pub shared: Arc<Shared>,
    pub package: Arc<Package>,
    pub installation: Arc<Installation>,
    pub seat: Arc<Seat>,
    pub context: CallContext,
    pub class: Class,
    pub function: String,
    pub started: Instant,
    pub permits: Mutex<Vec<OpenPermit>>,
    pub secrets: Mutex<Vec<Arc<LoadedSecret>>>,
    pub recorder: Mutex<Recorder>,
    /// Where a stream detector's state goes; else the port.
    pub state: Option<Arc<Mutex<StateBuffer>>>,
    pub is_cancelled: Arc<AtomicBool>,
    pub cancel: Arc<Cancel>,
    pub denials: AtomicU64,
    pub log_lines: AtomicU64,
    pub log_lines_dropped: AtomicU64,
    pub http_bytes_sent: AtomicU64,
    pub http_bytes_received: AtomicU64,
}

impl Call {
    pub(crate) fn rights(&self) -> Rights<'_> {
        Rights {
            manifest: &self.package.manifest,
            config: &self.installation.config,
            grant: &self.installation.grant,
            policy: &self.shared.policy,
        }
    }

    pub(crate) fn caller(&self) -> Caller {
        Caller {
            tenant: self.context.tenant.clone(),
            installation: self.installation.name.clone(),
            plugin: self.package.manifest.id.clone(),
            version: self.package.manifest.version.clone(),
            digest: self.package.digest.clone(),
            invocation: self.context.invocation,
            idempotency_key: self.context.idempotency_key.clone(),
            cause: self.context.cause.clone(),
        }
    }

    /// A refusal that counts as a denial.
    pub(crate) fn deny(&self, code: &str, message: impl Into<String>) -> ErrorRecord {
        self.denials.fetch_add(1, Relaxed);
        refuse(code, message)
    }

    /// Detectors and transforms have neither network nor secrets nor effects.
    pub(crate) fn must_be_live(&self, what: &str) -> Result<(), ErrorRecord> {
        match self.class {
            Class::Live => Ok(()),
            Class::Pure => {
                Err(self.deny("permission.denied", format!("detectors and transforms have no {what}: do it in an action")))
            }
        }
    }

    pub(crate) fn record(&self, import: &str, began: Instant, arguments: Value, result: Result<Value, ErrorRecord>) {
        let micros =
            |from: Instant, to: Instant| u64::try_from(to.saturating_duration_since(from).as_micros()).unwrap_or(u64::MAX);
        self.recorder.lock().add(HostCall {
            import: import.into(),
            at_us: micros(self.started, began),
            took_us: micros(began, Instant::now()),
            arguments,
            result: Outcome::from(result),
        });
    }

    /// One line to the plugin's log; beyond the rate it is counted instead.
    pub(crate) fn log(&self, level: &str, message: &str, mut attributes: Vec<(String, String)>) {
        let now = self.shared.ports.clock.now();
        let Some(dropped_before) = self.seat.log.admit(now) else {
            self.log_lines_dropped.fetch_add(1, Relaxed);
            return;
        };
        if dropped_before > 0 {
            attributes.push(("orchestrix.lines_dropped".into(), dropped_before.to_string()));
        }
        self.log_lines.fetch_add(1, Relaxed);
        let redactor = self.redactor();
        let message = redactor.redact_text(shortened(message));
        for (_, value) in &mut attributes {
            *value = redactor.redact_text(shortened(value));
        }
        attributes.truncate(limits::ATTRIBUTES_MAX);
        let level = if matches!(level, "trace" | "debug" | "warn" | "error") { level } else { "info" };
        self.shared.ports.log.emit(PluginLog {
            tenant: self.context.tenant.clone(),
            installation: self.installation.name.clone(),
            plugin: self.package.manifest.id.clone(),
            version: self.package.manifest.version.clone(),
            invocation: self.context.invocation,
            at: if self.class == Class::Pure { self.context.now } else { now },
            level: level.into(),
            message,
            attributes,
            traceparent: self.context.traceparent.clone(),
        });
    }

    /// Over all secrets this call has touched.
    pub(crate) fn redactor(&self) -> Redactor {
        let secrets = self.secrets.lock();
        Redactor::new(secrets.iter().map(|s| &s.value.bytes[..]))
    }

    /// The secret behind a name of the manifest, fetched once a call.
    pub(crate) async fn secret(&self, name: &str) -> Result<Arc<LoadedSecret>, ErrorRecord> {
        self.must_be_live("secrets")?;
        if let Some(loaded) = self.secrets.lock().iter().find(|s| s.name == name) {
            return Ok(loaded.clone());
        }
        if self.package.manifest.secret(name).is_none() {
            return Err(self.deny(
                "permission.denied",
                format!("the plugin's manifest declares no secret {name:?}: its author must add it to [[secrets]]"),
            ));
        }
        let Some(binding) = self.installation.secrets.get(name) else {
            let message = format!(
                "secret {name:?} is bound to nothing: add \"secrets\": {{{name:?}: {{\"secret\": \"<stored name>\"}}}} to the installation"
            );
            return Err(refuse("config.secret_missing", message));
        };
        let value = self.shared.ports.secrets.get(&self.context.tenant, &binding.secret).await?.ok_or_else(|| {
            refuse(
                "config.secret_missing",
                format!("secret {name:?} is bound to {:?}, which doesn't exist: store it first", binding.secret),
            )
        })?;
        let mark = Sha256::digest(format!("{}\0{name}", self.context.invocation));
        let placeholder = format!("orxsecret{}", hex::encode(&mark[..16]));
        let loaded = Arc::new(LoadedSecret { name: name.into(), value, placeholder });
        self.secrets.lock().push(loaded.clone());
        Ok(loaded)
    }

    /// Writes down the end of every permit that the guest left open.
    pub(crate) async fn settle_rest(&self) {
        let open: Vec<OpenPermit> = {
            let mut permits = self.permits.lock();
            let open = permits.iter().filter(|p| !p.is_settled).cloned().collect();
            permits.iter_mut().for_each(|p| p.is_settled = true);
            open
        };
        for permit in open {
            let status = if permit.used_for.is_some() { "in-doubt" } else { "not-done" };
            self.shared.ports.effects.settle(&self.caller(), permit.id, status, seen(&permit, None)).await;
        }
    }
}

/// What the guest says of an effect, with what the host saw beside it.
pub(crate) fn seen(permit: &OpenPermit, detail: Option<Value>) -> Value {
    json!({ "detail": detail, "host": { "used_for": permit.used_for, "http_status": permit.http_status } })
}

fn shortened(text: &str) -> &str {
    let mut end = text.len().min(limits::PLUGIN_LOG_LINE_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Lines a second of one installation.
#[derive(Debug, Default)]
pub(crate) struct LogGate(Mutex<(i64, u32, u64)>);

impl LogGate {
    /// None when the second is full; else how many lines were dropped since the last that passed.
    fn admit(&self, now: Timestamp) -> Option<u64> {
        let mut gate = self.0.lock();
        let second = now.millis() / 1_000;
        if gate.0 != second {
            (gate.0, gate.1) = (second, 0);
        }
        if gate.1 >= limits::PLUGIN_LOG_LINES_PER_S {
            gate.2 += 1;
            return None;
        }
        gate.1 += 1;
        Some(std::mem::take(&mut gate.2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_lines_is_counted_and_told_in_the_next_second() {
        let gate = LogGate::default();
        let first = (0..1_000).filter(|_| gate.admit(Timestamp::from_secs(1)).is_some()).count();
        assert_eq!(first, limits::PLUGIN_LOG_LINES_PER_S as usize);
        assert_eq!(gate.admit(Timestamp::from_secs(2)), Some(900));
        assert_eq!(gate.admit(Timestamp::from_secs(2)), Some(0));
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        let line = "é".repeat(limits::PLUGIN_LOG_LINE_BYTES_MAX);
        assert!(shortened(&line).len() <= limits::PLUGIN_LOG_LINE_BYTES_MAX);
    }
}
