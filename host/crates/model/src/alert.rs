//! The living alert and its changes.

use crate::{AlertId, Fingerprint, LabelSet, MonitorId, Timestamp};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AlertState {
    /// Was pending, and the condition went away before `for` had passed. Never fired.
    Inactive,
    Pending,
    Firing,
    Resolved,
}

impl AlertState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inactive => "inactive",
            Self::Pending => "pending",
            Self::Firing => "firing",
            Self::Resolved => "resolved",
        }
    }

    /// Pending or firing: something is wrong now.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Pending | Self::Firing)
    }
}

impl std::str::FromStr for AlertState {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        [Self::Inactive, Self::Pending, Self::Firing, Self::Resolved]
            .into_iter()
            .find(|state| state.as_str() == s)
            .ok_or_else(|| format!("alert state {s:?} is none of inactive, pending, firing, resolved"))
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    pub id: AlertId,
    /// Absent when the alert came in from another Alertmanager.
    pub monitor: Option<MonitorId>,
    pub monitor_name: String,
    pub fingerprint: Fingerprint,
    /// The finding's labels, the monitor's labels and `alertname`.
    pub labels: LabelSet,
    pub annotations: LabelSet,
    pub state: AlertState,
    pub severity: String,
    pub summary: String,
    pub value: Option<f64>,
    /// When the condition was first seen.
    pub active_at: Timestamp,
    pub fired_at: Option<Timestamp>,
    pub resolved_at: Option<Timestamp>,
    /// Last finding that said "firing" (or "holding" while firing).
    pub last_seen_at: Timestamp,
    /// Share of evaluations in the recent window at which the state changed: 0.0 steady, 1.0 each time.
    pub flap_score: f64,
    pub is_silenced: bool,
    pub evidence: serde_json::Value,
}

/// One change of an alert: a row of its timeline, and the `data` of the CloudEvent
/// `io.orchestrix.alert.<to>` on the event bus, by which workflows start. While a silence matches, the
/// event's type is `io.orchestrix.alert.silenced` instead, so that nothing starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlertEvent {
    pub alert: Alert,
    pub from: Option<AlertState>,
    pub to: AlertState,
    pub at: Timestamp,
    /// Why, in words a person reads at night.
    pub reason: String,
}
