//! What plugins cost, per tenant, installation, version and function; and the metrics they report themselves.

use crate::error::{CallError, Owner};
use model::TenantId;
use parking_lot::Mutex;
use std::collections::BTreeMap;

/// Names a plugin may report under; more are dropped and counted.
const SELF_METRICS_MAX: usize = 200;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MeterKey {
    pub tenant: TenantId,
    pub installation: String,
    pub plugin: String,
    pub version: String,
    pub function: String,
}

/// Running totals since the host started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meter {
    pub calls: u64,
    /// Calls without a result, whoever's fault.
    pub failures: u64,
    /// Of these, the plugin's own: traps, budgets, invalid output.
    pub faults: u64,
    pub cpu_us: u64,
    pub wall_us: u64,
    pub memory_bytes_peak: u64,
    pub http_bytes_sent: u64,
    pub http_bytes_received: u64,
    pub denials: u64,
    pub log_lines: u64,
    pub log_lines_dropped: u64,
}

/// One metric a plugin reported about itself.
#[derive(Clone, Debug, PartialEq)]
pub struct SelfMetric {
    pub tenant: TenantId,
    pub installation: String,
    pub name: String,
    pub attributes: Vec<(String, String)>,
    pub count: u64,
    pub sum: f64,
    /// A histogram's observations rather than a counter's additions.
    pub is_histogram: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Meters {
    totals: Mutex<BTreeMap<MeterKey, Meter>>,
    own: Mutex<BTreeMap<(TenantId, String, String, Vec<(String, String)>, bool), (u64, f64)>>,
}

impl Meters {
    pub(crate) fn add(&self, key: MeterKey, call: Meter, result: Result<(), &CallError>) {
        let mut totals = self.totals.lock();
        let total = totals.entry(key).or_default();
        total.calls += 1;
        if let Err(error) = result {
            total.failures += 1;
            total.faults += u64::from(error.owner() == Owner::Plugin);
        }
        total.cpu_us += call.cpu_us;
        total.wall_us += call.wall_us;
        total.memory_bytes_peak = total.memory_bytes_peak.max(call.memory_bytes_peak);
        total.http_bytes_sent += call.http_bytes_sent;
        total.http_bytes_received += call.http_bytes_received;
        total.denials += call.denials;
        total.log_lines += call.log_lines;
        total.log_lines_dropped += call.log_lines_dropped;
    }

    pub(crate) fn totals(&self) -> Vec<(MeterKey, Meter)> {
        self.totals.lock().iter().map(|(key, meter)| (key.clone(), *meter)).collect()
    }

    /// False when the plugin has too many metrics already.
    pub(crate) fn report(
        &self,
        tenant: &TenantId,
        installation: &str,
        name: &str,
        attributes: Vec<(String, String)>,
        value: f64,
        is_histogram: bool,
    ) -> bool {
        let mut own = self.own.lock();
        let key = (tenant.clone(), installation.to_owned(), name.to_owned(), attributes, is_histogram);
        if let Some((count, sum)) = own.get_mut(&key) {
            *count += 1;
            *sum += value;
            return true;
        }
        if own.keys().filter(|k| k.0 == *tenant && k.1 == installation).count() >= SELF_METRICS_MAX {
            return false;
        }
        own.insert(key, (1, value));
        true
    }

    pub(crate) fn own(&self) -> Vec<SelfMetric> {
        self.own
            .lock()
            .iter()
            .map(|((tenant, installation, name, attributes, is_histogram), (count, sum))| SelfMetric {
                tenant: tenant.clone(),
                installation: installation.clone(),
                name: name.clone(),
                attributes: attributes.clone(),
                count: *count,
                sum: *sum,
                is_histogram: *is_histogram,
            })
            .collect()
    }
}
