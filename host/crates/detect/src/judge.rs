//! What is made of an evaluation: missing data is named, and a report that says nothing new is not written.
//! Pure: no clock, no disk.

use crate::spec::Spec;
use model::{Finding, FindingReport, FindingStatus, Fingerprint, LabelSet, MonitorId, NoDataPolicy, Timestamp};
use std::collections::HashMap;

/// Findings of one evaluation; more alerts than this at once help nobody and weigh on every later stage.
pub const FINDINGS_MAX: usize = 10_000;
/// How long a label set that gives no more data is still named, after which it is taken to be gone for good.
const MISSING_MS_MAX: i64 = 24 * 3_600_000;

/// What an evaluation must know of those before it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    /// Label sets that gave data, and when last.
    pub known: HashMap<LabelSet, Timestamp>,
    written: Option<Written>,
}

#[derive(Clone, Debug, PartialEq)]
struct Written {
    at: Timestamp,
    statuses: Vec<(Fingerprint, FindingStatus)>,
}

impl Memory {
    pub fn with_known(known: Vec<LabelSet>, now: Timestamp) -> Self {
        Self { known: known.into_iter().map(|labels| (labels, now)).collect(), written: None }
    }

    /// The next report is written whatever it says.
    pub fn forget_written(&mut self) {
        self.written = None;
    }
}

/// The findings with those for missing data added.
pub fn complete(spec: &Spec, memory: &mut Memory, at: Timestamp, mut findings: Vec<Finding>) -> Vec<Finding> {
    if spec.no_data == NoDataPolicy::Ok {
        memory.known.clear();
        return findings;
    }
    for finding in findings.iter().filter(|f| f.status != FindingStatus::NoData) {
        memory.known.insert(finding.labels.clone(), at);
    }
    memory.known.retain(|_, seen| at.millis_since(*seen) < MISSING_MS_MAX);
    let mut missing: Vec<LabelSet> =
        memory.known.keys().filter(|labels| !findings.iter().any(|f| f.labels == **labels)).cloned().collect();
    missing.sort();
    if missing.is_empty() && findings.is_empty() && spec.no_data == NoDataPolicy::Alert {
        missing.push(LabelSet::default());
    }
    findings.extend(missing.into_iter().map(|labels| Finding {
        summary: if labels.is_empty() { "the query gives no data".into() } else { format!("no data for {labels}") },
        labels,
        status: FindingStatus::NoData,
        score: 0.0,
        severity: "warning".into(),
        value: None,
        evidence: serde_json::Value::Null,
    }));
    findings
}

/// Whether the report has to be written: something changed, or something is not ok and was last said half an
/// interval ago or longer (`for`, `keepFiringFor` and the alert's value go on by reports).
pub fn is_news(spec: &Spec, memory: &Memory, at: Timestamp, findings: &[Finding]) -> bool {
    let Some(written) = &memory.written else { return true };
    let is_quiet = findings.iter().all(|f| match f.status {
        FindingStatus::Ok => true,
        FindingStatus::NoData => spec.no_data == NoDataPolicy::Ok,
        FindingStatus::Firing | FindingStatus::Holding => false,
    });
    written.statuses != statuses(findings) || (!is_quiet && at.millis_since(written.at) >= spec.every_ms / 2)
}

/// Notes that the findings were written.
pub fn wrote(memory: &mut Memory, at: Timestamp, findings: &[Finding]) {
    memory.written = Some(Written { at, statuses: statuses(findings) });
}

fn statuses(findings: &[Finding]) -> Vec<(Fingerprint, FindingStatus)> {
    let mut out: Vec<_> = findings.iter().map(|f| (f.labels.fingerprint(), f.status)).collect();
    out.sort_by_key(|(fingerprint, _)| *fingerprint);
    out
}

pub fn report(id: MonitorId, name: &str, spec: &Spec, at: Timestamp, is_complete: bool, findings: Vec<Finding>) -> FindingReport {
    FindingReport {
        monitor: id,
        monitor_name: name.to_owned(),
        at,
        is_complete,
        findings,
        for_ms: spec.for_ms,
        keep_firing_for_ms: spec.keep_firing_for_ms,
        labels: spec.labels.clone(),
        annotations: spec.annotations.clone(),
        stale_after_ms: None,
        no_data: spec.no_data,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Plays evaluations, a line each: `SECONDS host=status …`; answers what is written.
    fn check(settings: serde_json::Value, script: &str, wanted: &str) {
        let mut spec = json!({"detector": "t", "every": "10s"});
        settings.as_object().unwrap().iter().for_each(|(k, v)| spec[k] = v.clone());
        let spec = Spec::parse(&spec).unwrap();
        let mut memory = Memory::default();
        let mut said = Vec::new();
        for line in script.lines().map(str::trim).filter(|l| !l.is_empty()) {
            let mut words = line.split(' ');
            let at = Timestamp::from_secs(words.next().unwrap().parse().unwrap());
            let findings = words
                .map(|word| {
                    let (host, status) = word.split_once('=').unwrap();
                    Finding {
                        labels: LabelSet::from_pairs([("host", host)]),
                        status: serde_json::from_value(json!(status)).unwrap(),
                        score: 0.0,
                        severity: String::new(),
                        summary: String::new(),
                        value: None,
                        evidence: serde_json::Value::Null,
                    }
                })
                .collect();
            let findings = complete(&spec, &mut memory, at, findings);
            if is_news(&spec, &memory, at, &findings) {
                wrote(&mut memory, at, &findings);
                let statuses: Vec<_> =
                    findings.iter().map(|f| format!("{}={:?}", f.labels.get("host").unwrap_or("-"), f.status)).collect();
                said.push(format!("{}:{}", at.nanos() / 1_000_000_000, statuses.join(",")));
            }
        }
        assert_eq!(said.join(" "), wanted);
    }

    #[test]
    fn a_steady_ok_is_said_once_and_a_change_at_once() {
        check(json!({}), "0 a=ok\n10 a=ok\n20 a=ok\n21 a=firing\n22 a=ok", "0:a=Ok 21:a=Firing 22:a=Ok");
    }

    #[test]
    fn what_is_not_ok_is_said_again_each_interval_but_not_at_each_sample() {
        check(json!({}), "0 a=firing\n1 a=firing\n2 a=firing\n10 a=firing\n11 a=holding", "0:a=Firing 10:a=Firing 11:a=Holding");
    }

    #[test]
    fn a_series_that_goes_away_is_a_change() {
        check(json!({}), "0 a=firing b=ok\n1 b=ok\n2 b=ok", "0:a=Firing,b=Ok 1:b=Ok");
    }

    #[test]
    fn missing_data_is_named_when_the_monitor_cares() {
        check(json!({"noData": "keep"}), "0 a=firing\n10 \n20 a=ok", "0:a=Firing 10:a=NoData 20:a=Ok");
        check(json!({"noData": "alert"}), "0 \n10 a=ok", "0:-=NoData 10:a=Ok");
        check(json!({"noData": "alert"}), "0 a=ok\n10 b=ok\n100000 b=ok", "0:a=Ok 10:b=Ok,a=NoData 100000:b=Ok");
    }
}
