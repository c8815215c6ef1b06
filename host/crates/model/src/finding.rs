//! What a detector claims.

use crate::{LabelSet, MonitorId, Timestamp};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingStatus {
    Firing,
    /// Below the firing threshold but not yet below the recovery threshold: keeps a firing alert firing, starts none.
    Holding,
    Ok,
    NoData,
}

/// One thing's state at one time. The labels name the thing; their fingerprint, together with
/// the monitor, names the alert.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    pub labels: LabelSet,
    pub status: FindingStatus,
    /// 0.0 to 1.0
    pub score: f64,
    pub severity: String,
    pub summary: String,
    pub value: Option<f64>,
    pub evidence: serde_json::Value,
}

/// The hand-off row from `detect` to `alert`: everything one evaluation of one monitor found.
/// An alert whose labels a *complete* report does not mention has stopped; removing a monitor is a complete
/// report without findings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FindingReport {
    pub monitor: MonitorId,
    pub monitor_name: String,
    /// Time of the samples that were judged, not of the judging.
    pub at: Timestamp,
    pub is_complete: bool,
    pub findings: Vec<Finding>,
    /// The monitor's settings at the time of the evaluation, so that `alert` needs no look-up.
    pub for_ms: i64,
    pub keep_firing_for_ms: i64,
    pub labels: LabelSet,
    pub annotations: LabelSet,
    /// An alert not reported again for this long resolves by itself. For senders that may go away without a
    /// word (Alertmanager's `resolve_timeout`); a monitor's own reports need none.
    #[serde(default)]
    pub stale_after_ms: Option<i64>,
    /// Whether NoData findings open an alert of their own, keep the state, or count as ok.
    pub no_data: NoDataPolicy,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoDataPolicy {
    #[default]
    Ok,
    Keep,
    Alert,
}
