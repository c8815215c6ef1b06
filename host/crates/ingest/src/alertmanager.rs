//! Alerts of others: Prometheus' `POST /api/v2/alerts`, and another Alertmanager's webhook (version 4) at
//! `POST /api/v1/alertmanager/webhook`. Both feed the alert stage as findings of a monitor named like the
//! alert; the webhook also puts events on the bus.

use crate::{Refusal, Report, State, auth::sender, body, cloud_event::rfc3339, refusal::excerpt, state::Counted};
use axum::{
    Router,
    response::{IntoResponse, Response},
    routing::post,
};
use db::Topic;
use http::{HeaderMap, StatusCode};
use model::{Event, Finding, FindingReport, FindingStatus, LabelSet, MonitorId, NoDataPolicy, Timestamp, limits};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Alertmanager's `resolve_timeout`: a Prometheus that goes away without a word resolves its alerts after this.
const RESOLVE_TIMEOUT_MS: i64 = 5 * 60 * 1000;

pub(crate) fn routes() -> Router<State> {
    Router::new().route("/api/v2/alerts", post(alerts)).route("/api/v1/alertmanager/webhook", post(webhook))
}

/// One alert as both protocols write it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IncomingAlert {
    /// `firing` or `resolved`; only in the webhook.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub starts_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<String>,
    #[serde(rename = "generatorURL", skip_serializing_if = "String::is_empty")]
    pub generator_url: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub fingerprint: String,
}

/// Alertmanager's webhook, version 4.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Notification {
    pub version: String,
    pub group_key: String,
    pub truncated_alerts: u64,
    pub status: String,
    pub receiver: String,
    pub group_labels: BTreeMap<String, String>,
    pub common_labels: BTreeMap<String, String>,
    pub common_annotations: BTreeMap<String, String>,
    #[serde(rename = "externalURL")]
    pub external_url: String,
    pub alerts: Vec<IncomingAlert>,
}

/// Turns alerts into what the alert stage reads. `stale_after_ms` is how long an alert that names no end may
/// go unrepeated before it resolves by itself; none for senders that always say when it is over.
pub fn to_reports(alerts: &[IncomingAlert], now: Timestamp, stale_after_ms: Option<i64>) -> (Vec<FindingReport>, Report) {
    let mut reports: Vec<FindingReport> = Vec::new();
    let mut report = Report::default();
    for (i, alert) in alerts.iter().enumerate() {
        match judged(alert, now, stale_after_ms) {
            Err(reason) => report.refuse(format!("alert {i}"), reason),
            Ok((name, annotations, stale_after_ms, finding)) => {
                let same = |r: &&mut FindingReport| {
                    r.monitor_name == name && r.annotations == annotations && r.stale_after_ms == stale_after_ms
                };
                match reports.iter_mut().rev().take(16).find(same) {
                    Some(report) => report.findings.push(finding),
                    None => reports.push(FindingReport {
                        monitor: monitor_id(&name),
                        monitor_name: name,
                        at: now,
                        is_complete: false,
                        findings: vec![finding],
                        for_ms: 0,
                        keep_firing_for_ms: 0,
                        labels: LabelSet::default(),
                        annotations,
                        stale_after_ms,
                        no_data: NoDataPolicy::Ok,
                    }),
                }
            }
        }
    }
    (reports, report)
}

/// The id of the monitor that stands for all alerts of a name: a UUID of version 8 from its SHA-256.
pub fn monitor_id(alertname: &str) -> MonitorId {
    let hash = Sha256::new().chain_update(b"orchestrix/alertmanager/").chain_update(alertname).finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    MonitorId::from_uuid(uuid::Builder::from_custom_bytes(bytes).into_uuid())
}

type Judged = (String, LabelSet, Option<i64>, Finding);

fn judged(alert: &IncomingAlert, now: Timestamp, stale_after_ms: Option<i64>) -> Result<Judged, String> {
    let name = alert.labels.get("alertname").filter(|n| !n.is_empty()).ok_or("it has no label \"alertname\"")?;
    for (kind, pairs) in [("label", &alert.labels), ("annotation", &alert.annotations)] {
        if pairs.len() > limits::LABELS_MAX {
            return Err(format!("it has {} {kind}s, {} are allowed", pairs.len(), limits::LABELS_MAX));
        }
        for (name, value) in pairs {
            if name.is_empty() || name.len() > limits::LABEL_NAME_BYTES_MAX || value.len() > limits::LABEL_VALUE_BYTES_MAX {
                return Err(format!("its {kind} {:?} is empty or too long", excerpt(name, 40)));
            }
        }
    }
    let starts = time(&alert.starts_at, "startsAt")?;
    let ends = time(&alert.ends_at, "endsAt")?;
    if let (Some(starts), Some(ends)) = (starts, ends)
        && ends < starts
    {
        return Err("its endsAt lies before its startsAt".into());
    }
    let is_resolved = match alert.status.as_deref() {
        Some("resolved") => true,
        Some("firing") => false,
        None | Some("") => ends.is_some_and(|ends| ends <= now),
        Some(other) => return Err(format!("its status {:?} is neither firing nor resolved", excerpt(other, 20))),
    };
    let stale_after_ms = match ends {
        // Seconds suffice, and keep alerts of one request in one report.
        Some(ends) if ends > now && !is_resolved => Some((ends.millis_since(now) / 1000 + 1) * 1000),
        _ => stale_after_ms,
    };
    let text = |key: &str| alert.annotations.get(key).filter(|v| !v.is_empty());
    let finding = Finding {
        labels: LabelSet::from_pairs(
            alert.labels.iter().filter(|(n, _)| *n != "alertname").map(|(n, v)| (n.as_str(), v.as_str())),
        ),
        status: if is_resolved { FindingStatus::Ok } else { FindingStatus::Firing },
        score: 1.0,
        severity: alert.labels.get("severity").cloned().unwrap_or_else(|| "warning".into()),
        summary: text("summary").or_else(|| text("message")).or_else(|| text("description")).unwrap_or(name).clone(),
        value: None,
        evidence: serde_json::json!({
            "startsAt": alert.starts_at, "endsAt": alert.ends_at, "generatorURL": alert.generator_url,
        }),
    };
    let annotations = LabelSet::from_pairs(alert.annotations.iter().map(|(n, v)| (n.as_str(), v.as_str())));
    Ok((name.clone(), annotations, stale_after_ms, finding))
}

/// Go writes "no time" as the year 1.
fn time(text: &Option<String>, name: &str) -> Result<Option<Timestamp>, String> {
    let Some(text) = text.as_deref().filter(|t| !t.is_empty() && !t.starts_with("0001-")) else { return Ok(None) };
    let time: jiff::Timestamp = text.parse().map_err(|_| format!("its {name} {:?} is no RFC 3339 time", excerpt(text, 40)))?;
    Ok(i64::try_from(time.as_nanosecond()).ok().map(Timestamp))
}

/// Decodes the list of `POST /api/v2/alerts`.
pub fn decode_alerts(bytes: &[u8]) -> Result<Vec<IncomingAlert>, Refusal> {
    let alerts: Vec<IncomingAlert> = json(bytes, "a list of alerts")?;
    check_count(alerts.len())?;
    Ok(alerts)
}

/// Decodes Alertmanager's webhook.
pub fn decode_notification(bytes: &[u8]) -> Result<Notification, Refusal> {
    let notification: Notification = json(bytes, "an Alertmanager webhook")?;
    if notification.version != "4" {
        return Err(Refusal::malformed(format!(
            "webhook version {:?} is not known; Alertmanager sends \"4\"",
            excerpt(&notification.version, 20)
        )));
    }
    check_count(notification.alerts.len())?;
    Ok(notification)
}

fn json<T: serde::de::DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, Refusal> {
    serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_slice(bytes))
        .map_err(|e| Refusal::malformed(format!("the body is not {what}: {e}")))
}

fn check_count(alerts: usize) -> Result<(), Refusal> {
    if alerts > limits::EVENTS_PER_REQUEST_MAX {
        let max = limits::EVENTS_PER_REQUEST_MAX;
        return Err(Refusal::too_large(format!("the request has {alerts} alerts, {max} are allowed; send it in parts")));
    }
    Ok(())
}

async fn alerts(
    axum::extract::State(state): axum::extract::State<State>,
    headers: HeaderMap,
    body: axum::body::Body,
) -> Response {
    let result = async {
        let (principal, bytes) = received(&state, &headers, body).await?;
        let alerts = decode_alerts(&bytes)?;
        let now = state.now();
        let (reports, mut report) = to_reports(&alerts, now, Some(RESOLVE_TIMEOUT_MS));
        report.stored = alerts.len() as u64 - report.refused;
        store(&state, principal, reports, Vec::new()).await?;
        state.count_items(Counted::Events, &report);
        Ok(report)
    };
    match state.count(result.await) {
        Ok(report) if report.is_clean() => StatusCode::OK.into_response(),
        // Alertmanager, too, stores the valid ones and answers 400.
        Ok(report) => alertmanager_error(&Refusal::malformed(report.message("alerts"))),
        Err(refusal) => alertmanager_error(&refusal),
    }
}

/// Alertmanager's API answers errors as a JSON string.
fn alertmanager_error(refusal: &Refusal) -> Response {
    refusal.respond("application/json", serde_json::Value::String(refusal.message.clone()).to_string())
}

async fn webhook(
    axum::extract::State(state): axum::extract::State<State>,
    headers: HeaderMap,
    body: axum::body::Body,
) -> Response {
    let result = async {
        let (principal, bytes) = received(&state, &headers, body).await?;
        let notification = decode_notification(&bytes)?;
        let now = state.now();
        let (reports, mut report) = to_reports(&notification.alerts, now, None);
        report.stored = notification.alerts.len() as u64 - report.refused;
        store(&state, principal, reports, events(&notification, now)).await?;
        state.count_items(Counted::Events, &report);
        Ok(report)
    };
    match state.count(result.await) {
        Ok(report) => report.answer("alerts"),
        Err(refusal) => refusal.problem(),
    }
}

/// One event for the notification, by which a workflow handles a group, and one for each alert.
fn events(notification: &Notification, now: Timestamp) -> Vec<Event> {
    let source = format!("/alertmanager/{}", if notification.receiver.is_empty() { "-" } else { &notification.receiver });
    let event = |kind: String, subject: &str, data| {
        let mut event = Event::new(uuid::Uuid::now_v7().to_string(), source.clone(), kind, data);
        event.subject = (!subject.is_empty()).then(|| subject.to_owned());
        event.time = Some(rfc3339(now));
        event.received = now;
        event
    };
    let whole = serde_json::to_value(notification).expect("a notification has string keys only");
    let mut events = vec![event("io.orchestrix.alertmanager.notification".into(), &notification.group_key, whole)];
    for alert in &notification.alerts {
        let status = match alert.status.as_deref() {
            Some("resolved") => "resolved",
            _ => "firing",
        };
        let data = serde_json::to_value(alert).expect("an alert has string keys only");
        events.push(event(format!("io.prometheus.alert.{status}"), &alert.fingerprint, data));
    }
    events
}

async fn received(
    state: &State,
    headers: &HeaderMap,
    body: axum::body::Body,
) -> Result<(model::Principal, bytes::Bytes), Refusal> {
    let principal = sender(state, headers).await?;
    let media = body::media_type(headers);
    if media != "application/json" && !media.is_empty() {
        return Err(Refusal::unsupported(format!("content-type {media:?} is not taken; use application/json")));
    }
    Ok((principal, body::read(headers, body).await?))
}

async fn store(
    state: &State,
    principal: model::Principal,
    reports: Vec<FindingReport>,
    events: Vec<Event>,
) -> Result<(), Refusal> {
    let now = state.now();
    state
        .db()
        .write::<_, db::Error, _>(move |tx| {
            Box::pin(async move {
                for report in &reports {
                    tx.hand_off(Topic::Finding, &principal.tenant, now, report).await?;
                }
                for event in &events {
                    tx.hand_off(Topic::Event, &principal.tenant, now, event).await?;
                }
                Ok(())
            })
        })
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

    /// As Alertmanager 0.27 sends it.
    const WEBHOOK: &str = r#"{"receiver":"orx","status":"firing","alerts":[
      {"status":"firing","labels":{"alertname":"HighCpu","instance":"a","severity":"critical"},"annotations":{"summary":"CPU is high"},
       "startsAt":"2023-11-14T22:00:00.000Z","endsAt":"0001-01-01T00:00:00Z","generatorURL":"http://p/graph","fingerprint":"c2a1f3"},
      {"status":"resolved","labels":{"alertname":"HighCpu","instance":"b"},"annotations":{},
       "startsAt":"2023-11-14T22:00:00.000Z","endsAt":"2023-11-14T22:10:00.000Z","generatorURL":"","fingerprint":"d2"}],
      "groupLabels":{"alertname":"HighCpu"},"commonLabels":{"alertname":"HighCpu"},"commonAnnotations":{},
      "externalURL":"http://am","version":"4","groupKey":"{}:{alertname=\"HighCpu\"}","truncatedAlerts":0}"#;

    #[test]
    fn a_webhook_becomes_findings_and_events() {
        let notification = decode_notification(WEBHOOK.as_bytes()).unwrap();
        let (reports, report) = to_reports(&notification.alerts, NOW, None);
        assert!(report.is_clean());
        assert_eq!(reports.len(), 2);
        let first = &reports[0];
        assert_eq!((first.monitor_name.as_str(), first.is_complete, first.stale_after_ms), ("HighCpu", false, None));
        assert_eq!(first.findings[0].status, FindingStatus::Firing);
        assert_eq!(first.findings[0].labels.to_string(), r#"{instance="a", severity="critical"}"#);
        assert_eq!((first.findings[0].severity.as_str(), first.findings[0].summary.as_str()), ("critical", "CPU is high"));
        assert_eq!(reports[1].findings[0].status, FindingStatus::Ok);
        assert_eq!(first.monitor, reports[1].monitor);
        assert_ne!(first.monitor, monitor_id("Other"));
        let kinds: Vec<_> = events(&notification, NOW).into_iter().map(|e| e.kind).collect();
        assert_eq!(
            kinds,
            ["io.orchestrix.alertmanager.notification", "io.prometheus.alert.firing", "io.prometheus.alert.resolved"]
        );
    }

    #[test]
    fn an_alert_of_prometheus_goes_stale_at_its_end_or_after_five_minutes() {
        let alerts = decode_alerts(
            br#"[{"labels":{"alertname":"A"},"endsAt":"2023-11-14T22:14:20Z"},{"labels":{"alertname":"B"}},
            {"labels":{"alertname":"C"},"endsAt":"2023-11-14T22:13:00Z"}]"#,
        )
        .unwrap();
        let (reports, _) = to_reports(&alerts, NOW, Some(RESOLVE_TIMEOUT_MS));
        let said: Vec<_> = reports.iter().map(|r| (r.stale_after_ms, r.findings[0].status)).collect();
        assert_eq!(
            said,
            [(Some(61_000), FindingStatus::Firing), (Some(300_000), FindingStatus::Firing), (Some(300_000), FindingStatus::Ok)]
        );
    }

    #[test]
    fn a_bad_alert_is_named_and_the_rest_is_kept() {
        let alerts = decode_alerts(br#"[{"labels":{"x":"1"}},{"labels":{"alertname":"A"},"startsAt":"now"},{"labels":{"alertname":"A"},"status":"odd"},
            {"labels":{"alertname":"A"},"startsAt":"2023-11-14T22:00:00Z","endsAt":"2023-11-14T21:00:00Z"},{"labels":{"alertname":"A"}}]"#).unwrap();
        let (reports, report) = to_reports(&alerts, NOW, None);
        assert_eq!((reports.len(), report.refused), (1, 4));
        assert!(report.items[0].reason.contains("alertname"), "{report:?}");
    }

    #[test]
    fn a_webhook_cut_anywhere_wrongly_typed_or_of_another_version_is_refused() {
        for end in 0..WEBHOOK.len() {
            assert!(decode_notification(&WEBHOOK.as_bytes()[..end]).is_err(), "cut at {end}");
        }
        assert!(decode_notification(WEBHOOK.replace("\"4\"", "\"3\"").as_bytes()).unwrap_err().message.contains("version"));
        assert!(decode_alerts(br#"[{"labels":{"a":1}}]"#).unwrap_err().message.contains("[0].labels.a"));
        assert_eq!(decode_alerts(br#"{"labels":{}}"#).unwrap_err().status, 400);
        let many = format!("[{}{{}}]", "{},".repeat(limits::EVENTS_PER_REQUEST_MAX));
        assert_eq!(decode_alerts(many.as_bytes()).unwrap_err().status, 413);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_decoders_panic(bytes: Vec<u8>) {
            let _ = decode_alerts(&bytes);
            let _ = decode_notification(&bytes);
        }
    }
}
