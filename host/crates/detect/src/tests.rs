//! The stage as a whole, with native detectors, a real store and a real database.

use crate::{Config, Detectors, Handle, Question, Service, Stream};
use async_trait::async_trait;
use db::{Db, Topic};
use model::{
    Clock, ErrorRecord, Event, Finding, FindingReport, FindingStatus, LabelSet, LogRecord, RetryAdvice, SystemClock, TenantId,
    Timestamp,
};
use query::promql::Engine;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use telemetry::{MetricBatch, Telemetry};
use tokio_util::sync::CancellationToken;

/// `threshold` fires above 90; `broken` fails; `count` fires at each third matching record.
struct Native;

fn finding(labels: LabelSet, status: FindingStatus, value: f64) -> Finding {
    Finding {
        labels,
        status,
        score: 1.0,
        severity: "critical".into(),
        summary: "high".into(),
        value: Some(value),
        evidence: Value::Null,
    }
}

fn trap(message: &str) -> ErrorRecord {
    ErrorRecord { code: "plugin.trap".into(), message: message.into(), retry: RetryAdvice::Never, details: Value::Null }
}

#[async_trait]
impl Detectors for Native {
    async fn evaluate(&self, question: Question) -> Result<Vec<Finding>, ErrorRecord> {
        if question.detector == "broken" {
            return Err(trap("unreachable"));
        }
        let judge = |s: model::Series| {
            let v = *s.values.last().unwrap();
            let mut labels = s.labels;
            labels.remove("__name__");
            finding(labels, if v > 90.0 { FindingStatus::Firing } else { FindingStatus::Ok }, v)
        };
        Ok(question.input.into_iter().map(judge).collect())
    }

    async fn stream(&self, _: &TenantId, _: &str, _: &Value, snapshot: Option<Vec<u8>>) -> Result<Box<dyn Stream>, ErrorRecord> {
        Ok(Box::new(Count(snapshot.map_or(0, |s| u64::from(s[0])))))
    }
}

struct Count(u64);

#[async_trait]
impl Stream for Count {
    async fn observe(&mut self, _: Timestamp, records: &[LogRecord]) -> Result<Vec<Finding>, ErrorRecord> {
        if records.iter().any(|r| r.body.contains("poison")) {
            return Err(trap("poisoned"));
        }
        let mut out = Vec::new();
        for record in records {
            self.0 += 1;
            if self.0.is_multiple_of(3) {
                out.push(finding(LabelSet::from_pairs([("body", record.body.as_str())]), FindingStatus::Firing, self.0 as f64));
            }
        }
        Ok(out)
    }
    async fn tick(&mut self, _: Timestamp) -> Result<Vec<Finding>, ErrorRecord> {
        Ok(Vec::new())
    }
    fn snapshot(&self) -> Vec<u8> {
        vec![self.0 as u8]
    }
}

struct Stage {
    _dir: tempfile::TempDir,
    db: Db,
    telemetry: Telemetry,
    handle: Handle,
    cancel: CancellationToken,
    running: tokio::task::JoinHandle<crate::Result<()>>,
}

impl Stage {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&format!("sqlite:{}", dir.path().join("t.db").display())).await.unwrap();
        let telemetry =
            Telemetry::open(&dir.path().join("telemetry"), telemetry::Config::default(), Arc::new(SystemClock)).await.unwrap();
        let (handle, cancel, running) = run(&db, &telemetry);
        Self { _dir: dir, db, telemetry, handle, cancel, running }
    }

    /// Stops the stage and starts another on the same store, as after a crash.
    async fn restart(&mut self) {
        self.running.abort();
        let _ = (&mut self.running).await;
        (self.handle, self.cancel, self.running) = run(&self.db, &self.telemetry);
    }

    async fn sample(&self, tenant: &TenantId, host: &str, v: f64) {
        let mut batch = MetricBatch::new();
        batch.label("__name__", "cpu");
        batch.label("host", host);
        batch.sample(SystemClock.now().millis(), v);
        batch.end_series();
        assert_eq!(self.telemetry.metrics.append(tenant, batch).await.unwrap().stored, 1);
    }

    async fn logs(&self, tenant: &TenantId, bodies: &[&str]) {
        let record = |body: &&str| LogRecord { time: SystemClock.now(), body: (*body).into(), ..LogRecord::default() };
        self.telemetry.logs.append(tenant, bodies.iter().map(record).collect()).await.unwrap();
    }

    /// All findings written so far, once there are at least `n` reports that `is` wants.
    async fn reports(&self, n: usize, is: impl Fn(&FindingReport) -> bool) -> Vec<(TenantId, FindingReport)> {
        for _ in 0..1_500 {
            let rows = self.db.handed::<FindingReport>(Topic::Finding, 0, 1_000).await.unwrap();
            let found: Vec<_> = rows.into_iter().filter(|r| is(&r.payload)).map(|r| (r.tenant, r.payload)).collect();
            if found.len() >= n {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no {n} such reports came");
    }
}

fn run(db: &Db, telemetry: &Telemetry) -> (Handle, CancellationToken, tokio::task::JoinHandle<crate::Result<()>>) {
    let engine = Engine::new(Arc::new(telemetry.metrics.clone()));
    let service = Service::new(Config::default(), db.clone(), telemetry, engine, Arc::new(Native), Arc::new(SystemClock));
    let (handle, cancel) = (service.handle(), CancellationToken::new());
    (handle, cancel.clone(), tokio::spawn(service.run(cancel)))
}

fn has(report: &FindingReport, status: FindingStatus) -> bool {
    report.findings.iter().any(|f| f.status == status)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sample_is_judged_without_waiting_for_the_interval_and_only_for_its_tenant() {
    let stage = Stage::start().await;
    let (a, b) = (TenantId::new("a").unwrap(), TenantId::new("b").unwrap());
    for tenant in [&a, &b] {
        stage.handle.upsert(tenant, "cpu-high", json!({"detector": "threshold", "query": "cpu", "every": "1h"})).await.unwrap();
    }
    stage.reports(2, |r| r.findings.is_empty()).await;
    stage.sample(&a, "x", 95.0).await;
    let fired = stage.reports(1, |r| has(r, FindingStatus::Firing)).await;
    assert_eq!(fired.iter().map(|(t, _)| t.as_str()).collect::<Vec<_>>(), ["a"]);
    assert_eq!(fired[0].1.findings[0].labels.to_string(), r#"{host="x"}"#);
    stage.sample(&a, "x", 10.0).await;
    stage.reports(1, |r| has(r, FindingStatus::Ok)).await;
    assert!(stage.reports(2, |r| r.findings.is_empty()).await.iter().any(|(t, _)| *t == b));
    let status = stage.handle.status(&a, "cpu-high").await.unwrap();
    assert_eq!((status.failures, status.reports_written), (0, 3));
    // Removing it is a last, complete and empty report.
    stage.handle.remove(&a, "cpu-high").await.unwrap();
    let last = stage.reports(4, |r| r.monitor_name == "cpu-high" && r.is_complete).await;
    assert!(last.last().unwrap().1.findings.is_empty());
    assert!(matches!(stage.handle.status(&a, "cpu-high").await, Err(crate::Error::NoMonitor(_))));
    stage.cancel.cancel();
    stage.running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_detector_is_a_status_and_an_event_and_others_go_on() {
    let stage = Stage::start().await;
    let tenant = TenantId::default_tenant();
    stage.handle.upsert(&tenant, "bad", json!({"detector": "broken", "query": "cpu", "every": "1h"})).await.unwrap();
    stage
        .handle
        .upsert(&tenant, "good", json!({"detector": "threshold", "query": "cpu", "every": "1h", "noData": "alert"}))
        .await
        .unwrap();
    let error = stage.handle.evaluate_now(&tenant, "bad").await.unwrap_err();
    assert!(error.to_string().contains("unreachable"), "{error}");
    let status = stage.handle.status(&tenant, "bad").await.unwrap();
    assert!(status.failures >= 1 && status.last_error.unwrap().starts_with("plugin.trap"));
    let events = stage.db.handed::<Event>(Topic::Event, 0, 10).await.unwrap();
    assert_eq!(events.iter().map(|e| e.payload.kind.as_str()).collect::<Vec<_>>(), ["io.orchestrix.monitor.failing"]);
    let found = stage.handle.evaluate_now(&tenant, "good").await.unwrap();
    assert_eq!(found.iter().map(|f| f.status).collect::<Vec<_>>(), [FindingStatus::NoData]);
    assert!(matches!(
        stage.handle.upsert(&tenant, "x", json!({"detector": "t", "query": "("})).await,
        Err(crate::Error::Spec { .. })
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_finds_the_same_however_records_come_and_goes_on_after_a_crash() {
    let mut stage = Stage::start().await;
    let (tenant, other) = (TenantId::default_tenant(), TenantId::new("other").unwrap());
    stage.handle.upsert(&tenant, "errors", json!({"detector": "count", "stream": "{} |= \"E\""})).await.unwrap();
    for _ in 0..500 {
        let monitor = stage.db.monitor(&tenant, "errors").await.unwrap();
        if stage.db.stream_state(&tenant, monitor.id).await.unwrap().is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stage.logs(&tenant, &["E1", "fine", "E2"]).await;
    stage.logs(&other, &["E-other"]).await;
    stage.logs(&tenant, &["E3", "E4"]).await;
    stage.reports(1, |r| r.monitor_name == "errors").await;
    stage.restart().await;
    stage.logs(&tenant, &["E5"]).await;
    stage.logs(&tenant, &["E6", "E7", "E8", "E9"]).await;
    let found = stage.reports(2, |r| r.monitor_name == "errors").await;
    let bodies: Vec<_> =
        found.iter().flat_map(|(_, r)| r.findings.iter().map(|f| f.labels.get("body").unwrap().to_owned())).collect();
    assert_eq!(bodies, ["E3", "E6", "E9"]);
    assert!(found.iter().all(|(t, r)| *t == tenant && !r.is_complete));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_breaks_a_stream_detector_is_passed_over_in_the_end() {
    let stage = Stage::start().await;
    let tenant = TenantId::default_tenant();
    stage.handle.upsert(&tenant, "errors", json!({"detector": "count", "stream": "{}"})).await.unwrap();
    let monitor = stage.db.monitor(&tenant, "errors").await.unwrap();
    while stage.db.stream_state(&tenant, monitor.id).await.unwrap().is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stage.logs(&tenant, &["one", "two"]).await;
    stage.logs(&tenant, &["poison"]).await;
    stage.logs(&tenant, &["three"]).await;
    let found = stage.reports(1, |r| r.monitor_name == "errors").await;
    assert_eq!(found[0].1.findings[0].labels.get("body"), Some("three"));
}
