//! What a finding does to an alert. Pure: no clock, no disk, no randomness; [`apply`] answers what to write
//! and what to tell, the service does it.
//!
//! ```text
//!             firing, for > 0            held for `for`            ok for keep_firing_for, or stale
//! (nothing) ─────────────────► pending ────────────────► firing ────────────────► resolved
//!     │ firing, for = 0           │ ok, holding or absent     ▲                        │ firing: a new episode
//!     └───────────────────────────┼───────────────────────────┘                        ▼
//!                                 └──────────► inactive                        pending or firing
//! ```

use db::alert::AlertRow;
use model::{Alert, AlertEvent, AlertId, AlertState, Finding, FindingReport, FindingStatus, LabelSet, NoDataPolicy, Timestamp};

/// Changes of the verdict are remembered for this long …
const FLAP_WINDOW_MS: i64 = 60 * 60 * 1000;
/// … and this many of them make a flap score of 1: a change every five minutes.
const FLAPS_FULL: usize = 12;

#[derive(Clone, Copy, Debug)]
pub enum Command<'a> {
    /// The report says this of the thing.
    Observe { report: &'a FindingReport, finding: &'a Finding },
    /// The report is complete and does not mention the thing.
    Absent { report: &'a FindingReport },
    /// Time has passed.
    Tick { now: Timestamp },
}

/// What the loop must write, and whether to announce it on the bus.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub row: AlertRow,
    /// A row for the timeline and an event for the bus.
    pub event: Option<AlertEvent>,
    /// Whether this is the first time the bus is told that the episode fires.
    pub announces: bool,
}

/// What `apply` may not find out itself.
#[derive(Clone, Copy, Debug)]
pub struct Given {
    /// Used when an episode begins.
    pub fresh_id: AlertId,
}

/// The labels of the alert that a finding makes: the finding's, the monitor's over them, `alertname`, `severity`.
pub fn alert_labels(report: &FindingReport, finding: &Finding) -> LabelSet {
    let mut labels = finding.labels.clone();
    labels.remove("__name__");
    if !finding.severity.is_empty() {
        labels.set("severity", finding.severity.as_str());
    }
    labels.set("alertname", report.monitor_name.as_str());
    for (name, value) in report.labels.iter() {
        labels.set(name, value);
    }
    labels
}

/// What happens to the thing's newest episode, if anything. `is_silenced` is asked with the alert's labels.
pub fn apply(
    current: Option<&AlertRow>,
    command: Command<'_>,
    given: Given,
    is_silenced: impl Fn(&LabelSet) -> bool,
) -> Option<Change> {
    match command {
        Command::Observe { report, finding } => match verdict(report, finding) {
            Verdict::Keep => None,
            Verdict::Firing => Some(firing(current, report, finding, given, &is_silenced)),
            Verdict::Holding => hold(current?, report, finding, &is_silenced),
            Verdict::Ok => calm(current?, report, "the condition is no longer met", &is_silenced),
        },
        Command::Absent { report } => calm(current?, report, "it is no longer reported", &is_silenced),
        Command::Tick { now } => tick(current?, now, &is_silenced),
    }
}

enum Verdict {
    Firing,
    Holding,
    Ok,
    Keep,
}

fn verdict(report: &FindingReport, finding: &Finding) -> Verdict {
    match (finding.status, report.no_data) {
        (FindingStatus::Firing, _) | (FindingStatus::NoData, NoDataPolicy::Alert) => Verdict::Firing,
        (FindingStatus::Holding, _) => Verdict::Holding,
        (FindingStatus::Ok, _) | (FindingStatus::NoData, NoDataPolicy::Ok) => Verdict::Ok,
        (FindingStatus::NoData, NoDataPolicy::Keep) => Verdict::Keep,
    }
}

fn firing(
    current: Option<&AlertRow>,
    report: &FindingReport,
    finding: &Finding,
    given: Given,
    is_silenced: &impl Fn(&LabelSet) -> bool,
) -> Change {
    let at = report.at;
    let open = current.filter(|row| row.alert.state.is_open());
    let from = open.map(|row| row.alert.state);
    let labels = alert_labels(report, finding);
    let mut row = match open {
        Some(row) => row.clone(),
        None => begin(current, report, finding, &labels, given),
    };
    flip(&mut row, true, at);
    let alert = &mut row.alert;
    alert.labels = labels;
    alert.annotations = report.annotations.clone();
    alert.severity = alert.labels.get("severity").unwrap_or("").to_owned();
    alert.summary = finding.summary.clone();
    alert.value = finding.value;
    alert.evidence = finding.evidence.clone();
    alert.last_seen_at = at;
    alert.is_silenced = is_silenced(&alert.labels);
    row.stale_at = report.stale_after_ms.map(|ms| at.plus_millis(ms));
    let held_ms = at.millis_since(row.alert.active_at).max(0);
    match row.alert.state {
        AlertState::Firing => quiet(row),
        _ if held_ms >= report.for_ms => {
            row.alert.state = AlertState::Firing;
            row.alert.fired_at = Some(at);
            let reason = match report.for_ms {
                0 => finding.summary.clone(),
                _ => format!("{} for {}", finding.summary, words(held_ms)),
            };
            told(row, from, at, reason)
        }
        _ if from.is_some() => quiet(row),
        _ => {
            let reason = format!("{}; it fires when this lasts {}", finding.summary, words(report.for_ms));
            told(row, from, at, reason)
        }
    }
}

fn begin(current: Option<&AlertRow>, report: &FindingReport, finding: &Finding, labels: &LabelSet, given: Given) -> AlertRow {
    AlertRow {
        alert: Alert {
            id: given.fresh_id,
            monitor: Some(report.monitor),
            monitor_name: report.monitor_name.clone(),
            fingerprint: labels.fingerprint(),
            labels: labels.clone(),
            annotations: LabelSet::default(),
            state: AlertState::Pending,
            severity: String::new(),
            summary: String::new(),
            value: None,
            active_at: report.at,
            fired_at: None,
            resolved_at: None,
            last_seen_at: report.at,
            flap_score: 0.0,
            is_silenced: false,
            evidence: serde_json::Value::Null,
        },
        thing: finding.labels.fingerprint(),
        reporter: report.monitor,
        // A thing that comes and goes is the same thing: its flaps carry over to the new episode.
        verdict: current.is_some_and(|row| row.verdict),
        flips: current.map(|row| row.flips.clone()).unwrap_or_default(),
        is_announced: false,
        stale_at: None,
    }
}

/// Between the recovery threshold and the firing one: keeps what fires firing, starts nothing.
fn hold(
    current: &AlertRow,
    report: &FindingReport,
    finding: &Finding,
    is_silenced: &impl Fn(&LabelSet) -> bool,
) -> Option<Change> {
    match current.alert.state {
        AlertState::Firing => {
            let mut row = current.clone();
            row.alert.last_seen_at = report.at;
            row.alert.value = finding.value;
            row.alert.summary = finding.summary.clone();
            Some(quiet(row))
        }
        _ => calm(current, report, "the condition is no longer met", is_silenced),
    }
}

fn calm(current: &AlertRow, report: &FindingReport, why: &str, is_silenced: &impl Fn(&LabelSet) -> bool) -> Option<Change> {
    let at = report.at;
    let mut row = current.clone();
    flip(&mut row, false, at);
    match row.alert.state {
        AlertState::Pending => {
            row.alert.state = AlertState::Inactive;
            let reason = format!("{why}, before it had lasted {}", words(report.for_ms));
            Some(told(row, Some(AlertState::Pending), at, reason))
        }
        AlertState::Firing if at.millis_since(row.alert.last_seen_at) < report.keep_firing_for_ms => Some(quiet(row)),
        AlertState::Firing => Some(resolve(row, at, why.to_owned(), is_silenced)),
        AlertState::Inactive | AlertState::Resolved => None,
    }
}

fn resolve(mut row: AlertRow, at: Timestamp, reason: String, is_silenced: &impl Fn(&LabelSet) -> bool) -> Change {
    row.alert.state = AlertState::Resolved;
    row.alert.resolved_at = Some(at);
    row.alert.is_silenced = is_silenced(&row.alert.labels);
    row.stale_at = None;
    told(row, Some(AlertState::Firing), at, reason)
}

fn tick(current: &AlertRow, now: Timestamp, is_silenced: &impl Fn(&LabelSet) -> bool) -> Option<Change> {
    let from = current.alert.state;
    if !from.is_open() {
        return None;
    }
    if current.stale_at.is_some_and(|at| at <= now) {
        let mut row = current.clone();
        flip(&mut row, false, now);
        if from == AlertState::Pending {
            row.alert.state = AlertState::Inactive;
            return Some(told(row, Some(from), now, "its sender went silent".into()));
        }
        return Some(resolve(row, now, "its sender went silent".into(), is_silenced));
    }
    let silenced = is_silenced(&current.alert.labels);
    if silenced == current.alert.is_silenced {
        return None;
    }
    let mut row = current.clone();
    row.alert.is_silenced = silenced;
    let reason = if silenced { "silenced" } else { "the silence ended" };
    Some(told(row, Some(from), now, reason.into()))
}

fn quiet(row: AlertRow) -> Change {
    Change { row, event: None, announces: false }
}

fn told(mut row: AlertRow, from: Option<AlertState>, at: Timestamp, reason: String) -> Change {
    // What began to fire under a silence is announced when the silence ends.
    let announces = row.alert.state == AlertState::Firing && !row.alert.is_silenced && !row.is_announced;
    row.is_announced |= announces;
    let event = AlertEvent { alert: row.alert.clone(), from, to: row.alert.state, at, reason };
    Change { row, event: Some(event), announces }
}

fn flip(row: &mut AlertRow, verdict: bool, at: Timestamp) {
    if row.verdict != verdict {
        row.verdict = verdict;
        row.flips.push(at);
    }
    row.flips.retain(|flip| at.millis_since(*flip) <= FLAP_WINDOW_MS);
    let excess = row.flips.len().saturating_sub(FLAPS_FULL);
    row.flips.drain(..excess);
    // The first change is the alert itself, not a flap.
    row.alert.flap_score = row.flips.len().saturating_sub(1) as f64 / (FLAPS_FULL - 1) as f64;
}

fn words(ms: i64) -> String {
    match ms {
        ms if ms % 3_600_000 == 0 && ms > 0 => format!("{} h", ms / 3_600_000),
        ms if ms >= 120_000 => format!("{} min", ms / 60_000),
        ms if ms >= 1_000 => format!("{} s", ms / 1_000),
        ms => format!("{ms} ms"),
    }
}

#[cfg(test)]
mod tests;
