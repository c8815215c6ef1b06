use super::*;
use expect_test::{Expect, expect};
use model::MonitorId;

/// Plays a script, a line a report: `SECONDS STATUS`, or `SECONDS tick`, `SECONDS silence`, `SECONDS unsilence`,
/// and prints each change: when, from, to, why.
fn check(settings: &str, script: &str, wanted: Expect) {
    let mut report = FindingReport {
        monitor: MonitorId::from_uuid(uuid(1)),
        monitor_name: "cpu".into(),
        at: Timestamp::default(),
        is_complete: true,
        findings: vec![],
        for_ms: 0,
        keep_firing_for_ms: 0,
        stale_after_ms: None,
        labels: LabelSet::from_pairs([("team", "sre")]),
        annotations: LabelSet::default(),
        no_data: NoDataPolicy::Ok,
    };
    for setting in settings.split_whitespace() {
        let (name, value) = setting.split_once('=').unwrap();
        let seconds = || value.parse::<i64>().unwrap() * 1000;
        match name {
            "for" => report.for_ms = seconds(),
            "keep" => report.keep_firing_for_ms = seconds(),
            "stale" => report.stale_after_ms = Some(seconds()),
            "no_data" => report.no_data = serde_json::from_value(value.into()).unwrap(),
            _ => panic!("unknown setting {name}"),
        }
    }
    let (mut row, mut silenced, mut said, mut episodes): (Option<AlertRow>, bool, String, u128) = (None, false, String::new(), 0);
    for line in script.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let (at, what) = line.split_once(' ').unwrap();
        report.at = Timestamp::from_secs(at.parse().unwrap());
        let finding = |status| Finding {
            labels: LabelSet::from_pairs([("host", "a")]),
            status,
            score: 1.0,
            severity: "critical".into(),
            summary: "cpu is high".into(),
            value: Some(95.0),
            evidence: serde_json::Value::Null,
        };
        let status = match what {
            "firing" => Some(FindingStatus::Firing),
            "holding" => Some(FindingStatus::Holding),
            "ok" => Some(FindingStatus::Ok),
            "no-data" => Some(FindingStatus::NoData),
            _ => None,
        };
        let found = status.map(finding);
        let command = match (&found, what) {
            (Some(finding), _) => Command::Observe { report: &report, finding },
            (None, "absent") => Command::Absent { report: &report },
            (None, other) => {
                silenced = match other {
                    "silence" => true,
                    "unsilence" => false,
                    _ => silenced,
                };
                Command::Tick { now: report.at }
            }
        };
        episodes += 1;
        let given = Given { fresh_id: AlertId::from_uuid(uuid(episodes)) };
        let Some(change) = apply(row.as_ref(), command, given, |_| silenced) else { continue };
        if let Some(event) = &change.event {
            let from = event.from.map_or("-", AlertState::as_str);
            let mark = if event.alert.is_silenced { " (silenced)" } else { "" };
            said += &format!("{at} {from} -> {}{mark}: {}\n", event.to.as_str(), event.reason);
        }
        row = Some(change.row);
    }
    if let Some(row) = row {
        said += &format!("flap {:.2}, announced {}\n", row.alert.flap_score, row.is_announced);
    }
    wanted.assert_eq(&said);
}

fn uuid(n: u128) -> uuid::Uuid {
    uuid::Uuid::from_u128(n)
}

#[test]
fn without_for_it_fires_at_once_and_resolves_at_the_first_ok() {
    check(
        "",
        "0 firing\n15 firing\n30 ok\n45 ok",
        expect![[r#"
        0 - -> firing: cpu is high
        30 firing -> resolved: the condition is no longer met
        flap 0.09, announced true
    "#]],
    );
}

#[test]
fn it_is_pending_until_the_condition_has_lasted() {
    check(
        "for=60",
        "0 firing\n30 firing\n60 firing",
        expect![[r#"
        0 - -> pending: cpu is high; it fires when this lasts 60 s
        60 pending -> firing: cpu is high for 60 s
        flap 0.00, announced true
    "#]],
    );
}

#[test]
fn a_spike_shorter_than_for_never_fires() {
    check(
        "for=60",
        "0 firing\n30 ok\n60 firing\n90 absent",
        expect![[r#"
        0 - -> pending: cpu is high; it fires when this lasts 60 s
        30 pending -> inactive: the condition is no longer met, before it had lasted 60 s
        60 - -> pending: cpu is high; it fires when this lasts 60 s
        90 pending -> inactive: it is no longer reported, before it had lasted 60 s
        flap 0.27, announced false
    "#]],
    );
}

#[test]
fn between_the_thresholds_it_keeps_firing_but_does_not_start() {
    check(
        "",
        "0 holding\n15 firing\n30 holding\n45 holding\n60 ok",
        expect![[r#"
        15 - -> firing: cpu is high
        60 firing -> resolved: the condition is no longer met
        flap 0.09, announced true
    "#]],
    );
}

#[test]
fn keep_firing_for_bridges_a_short_gap() {
    check(
        "keep=60",
        "0 firing\n30 ok\n45 firing\n60 ok\n104 absent\n105 ok",
        expect![[r#"
        0 - -> firing: cpu is high
        105 firing -> resolved: the condition is no longer met
        flap 0.27, announced true
    "#]],
    );
}

#[test]
fn no_data_is_ok_keeps_or_alerts_as_the_monitor_says() {
    check(
        "no_data=ok",
        "0 firing\n15 no-data",
        expect![[r#"
        0 - -> firing: cpu is high
        15 firing -> resolved: the condition is no longer met
        flap 0.09, announced true
    "#]],
    );
    check(
        "no_data=keep",
        "0 firing\n15 no-data\n30 firing",
        expect![[r#"
        0 - -> firing: cpu is high
        flap 0.00, announced true
    "#]],
    );
    check(
        "no_data=alert",
        "0 no-data",
        expect![[r#"
        0 - -> firing: cpu is high
        flap 0.00, announced true
    "#]],
    );
}

#[test]
fn a_sender_that_goes_silent_leaves_nothing_firing() {
    check(
        "stale=300",
        "0 firing\n200 firing\n499 tick\n500 tick",
        expect![[r#"
        0 - -> firing: cpu is high
        500 firing -> resolved: its sender went silent
        flap 0.09, announced true
    "#]],
    );
}

#[test]
fn what_began_under_a_silence_is_told_when_the_silence_ends() {
    check(
        "",
        "0 silence\n1 firing\n10 tick\n20 unsilence\n30 tick",
        expect![[r#"
        1 - -> firing (silenced): cpu is high
        20 firing -> firing: the silence ended
        flap 0.00, announced true
    "#]],
    );
}

#[test]
fn a_thing_that_comes_and_goes_has_a_rising_flap_score() {
    let script: String = (0..14).map(|n| format!("{} {}\n", n * 60, if n % 2 == 0 { "firing" } else { "ok" })).collect();
    let rows = script.lines().count();
    assert_eq!(rows, 14);
    check(
        "keep=3600",
        &script,
        expect![[r#"
        0 - -> firing: cpu is high
        flap 1.00, announced true
    "#]],
    );
}

#[test]
fn a_clock_that_goes_back_neither_fires_early_nor_resolves() {
    check(
        "for=60 keep=60",
        "100 firing\n40 firing\n161 firing\n30 ok",
        expect![[r#"
        100 - -> pending: cpu is high; it fires when this lasts 60 s
        161 pending -> firing: cpu is high for 61 s
        flap 0.09, announced true
    "#]],
    );
}

#[test]
fn the_monitors_labels_win_over_the_findings() {
    let report = FindingReport {
        monitor: MonitorId::from_uuid(uuid(1)),
        monitor_name: "cpu".into(),
        at: Timestamp::default(),
        is_complete: true,
        findings: vec![],
        for_ms: 0,
        keep_firing_for_ms: 0,
        stale_after_ms: None,
        labels: LabelSet::from_pairs([("severity", "page"), ("host", "all")]),
        annotations: LabelSet::default(),
        no_data: NoDataPolicy::Ok,
    };
    let finding = Finding {
        labels: LabelSet::from_pairs([("host", "a"), ("__name__", "cpu_usage")]),
        status: FindingStatus::Firing,
        score: 1.0,
        severity: "critical".into(),
        summary: String::new(),
        value: None,
        evidence: serde_json::Value::Null,
    };
    assert_eq!(alert_labels(&report, &finding).to_string(), r#"{alertname="cpu", host="all", severity="page"}"#);
}
