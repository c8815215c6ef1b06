//! One evaluation of a scheduled monitor: query, judgement, report.

use crate::{
    detector::{Detectors, Question},
    judge::{self, Memory},
    spec::{Source, Spec},
};
use db::{
    Db, Topic,
    monitor::{Monitor, MonitorState},
};
use model::{ErrorRecord, Event, Finding, RetryAdvice, Series, Timestamp};
use query::promql::{Engine, Expr, Node, Value};
use std::{sync::Arc, time::Instant};

pub(crate) struct Evaluator {
    pub db: Db,
    pub engine: Engine,
    pub detectors: Arc<dyn Detectors>,
}

/// What is handed to an evaluation, and comes back changed.
pub(crate) struct Job {
    pub monitor: Arc<Monitor>,
    pub spec: Arc<Spec>,
    pub generation: u64,
    /// Time of the evaluation: the query sees samples up to here, and the detector's clock shows it.
    pub at: Timestamp,
    pub memory: Memory,
    pub failures: u64,
    pub last_error: Option<String>,
}

pub(crate) struct Done {
    pub job: Job,
    pub result: Result<Vec<Finding>, ErrorRecord>,
    pub is_written: bool,
    /// For the query and the judgement.
    pub took: std::time::Duration,
}

impl Evaluator {
    pub(crate) async fn run(&self, mut job: Job) -> Done {
        let begun = Instant::now();
        let mut is_written = false;
        let judged = self.judge(&job).await;
        // Without the commit: it waits for the disk and costs no core, and a monitor rests by what this says.
        let took = begun.elapsed();
        let result = match judged {
            Ok(findings) => match self.store(&mut job, findings).await {
                Ok((findings, written)) => {
                    is_written = written;
                    Ok(findings)
                }
                Err(error) => Err(record("host.database", error.to_string())),
            },
            Err(error) => {
                self.note_failure(&mut job, &error).await;
                Err(error)
            }
        };
        Done { job, result, is_written, took }
    }

    async fn judge(&self, job: &Job) -> Result<Vec<Finding>, ErrorRecord> {
        let input = match &job.spec.source {
            Source::Query(expr) => self.input(job, expr).await.map_err(|e| record("monitor.query", chain(&e)))?,
            Source::Nothing | Source::Stream(_) => Vec::new(),
        };
        let question = Question {
            tenant: job.monitor.tenant.clone(),
            detector: job.spec.detector.clone(),
            monitor: job.monitor.name.clone(),
            params: job.spec.params.clone(),
            now: job.at,
            input,
        };
        let findings = self.detectors.evaluate(question).await?;
        if findings.len() > judge::FINDINGS_MAX {
            return Err(record("plugin.output", format!("{} findings at once; at most {}", findings.len(), judge::FINDINGS_MAX)));
        }
        Ok(findings)
    }

    /// The query's value as columns. Without a look-back each series has one point; of a plain selector its time
    /// is the sample's own, so that a detector can tell a fresh sample from an old one.
    async fn input(&self, job: &Job, expr: &Expr) -> query::Result<Vec<Series>> {
        let (tenant, at, spec) = (&job.monitor.tenant, job.at.millis(), &job.spec);
        if spec.lookback_ms > 0 {
            let steps = spec.lookback_ms / spec.every_ms;
            return self.engine.range(tenant, expr, at - steps * spec.every_ms, at, spec.every_ms).await;
        }
        let mut series: Vec<Series> = match self.engine.instant(tenant, expr, at).await? {
            Value::Vector(samples) => {
                samples.into_iter().map(|s| Series { labels: s.labels, times: vec![s.t], values: vec![s.v] }).collect()
            }
            Value::Scalar { t, v } => vec![Series { labels: model::LabelSet::default(), times: vec![t], values: vec![v] }],
            Value::Matrix(series) => series,
            Value::String { .. } => Vec::new(),
        };
        if matches!(expr.node, Node::Selector(_))
            && let Ok(times) = query::promql::parse(&format!("timestamp({expr})"))
            && let Value::Vector(times) = self.engine.instant(tenant, &times, at).await?
        {
            let by_labels: std::collections::HashMap<_, _> = times.into_iter().map(|s| (s.labels, s.v)).collect();
            for one in &mut series {
                let mut labels = one.labels.clone();
                ["__name__", "__type__", "__unit__"].iter().for_each(|name| labels.remove(name));
                if let Some(seconds) = by_labels.get(&labels) {
                    one.times = vec![(seconds * 1000.0).round() as i64];
                }
            }
        }
        Ok(series)
    }

    /// Writes the report when it says something new; what has to survive a restart goes into the same commit.
    async fn store(&self, job: &mut Job, findings: Vec<Finding>) -> db::Result<(Vec<Finding>, bool)> {
        let mut memory = job.memory.clone();
        let known_before: Vec<_> = memory.known.keys().cloned().collect();
        let findings = judge::complete(&job.spec, &mut memory, job.at, findings);
        let is_news = judge::is_news(&job.spec, &job.memory, job.at, &findings);
        let has_recovered = job.failures > 0;
        let known_changed =
            memory.known.len() != known_before.len() || known_before.iter().any(|labels| !memory.known.contains_key(labels));
        if is_news || has_recovered || known_changed {
            let report =
                is_news.then(|| judge::report(job.monitor.id, &job.monitor.name, &job.spec, job.at, true, findings.clone()));
            let state = MonitorState { failures: 0, last_error: None, known: memory.known.keys().cloned().collect() };
            let event = has_recovered.then(|| event(&job.monitor, "io.orchestrix.monitor.recovered", job.at, None));
            self.commit(&job.monitor, job.at, report, (has_recovered || known_changed).then_some(state), event).await?;
            if is_news {
                judge::wrote(&mut memory, job.at, &findings);
            }
        }
        (job.failures, job.last_error) = (0, None);
        job.memory = memory;
        Ok((findings, is_news))
    }

    async fn note_failure(&self, job: &mut Job, error: &ErrorRecord) {
        job.failures += 1;
        let message = format!("{}: {}", error.code, error.message);
        let is_new = job.failures == 1 || job.last_error.as_deref() != Some(message.as_str());
        job.last_error = Some(message.clone());
        tracing::warn!(monitor = %job.monitor.name, tenant = %job.monitor.tenant, error = %message, failures = job.failures, "monitor failed");
        if !is_new {
            return;
        }
        let state =
            MonitorState { failures: job.failures, last_error: Some(message), known: job.memory.known.keys().cloned().collect() };
        let event = event(&job.monitor, "io.orchestrix.monitor.failing", job.at, Some(error));
        if let Err(error) = self.commit(&job.monitor, job.at, None, Some(state), Some(event)).await {
            tracing::error!(monitor = %job.monitor.name, %error, "a monitor's failure could not be stored");
        }
    }

    async fn commit(
        &self,
        monitor: &Monitor,
        at: Timestamp,
        report: Option<model::FindingReport>,
        state: Option<MonitorState>,
        event: Option<Event>,
    ) -> db::Result<()> {
        let (tenant, id) = (monitor.tenant.clone(), monitor.id);
        self.db
            .write::<_, db::Error, _>(move |tx| {
                Box::pin(async move {
                    if !tx.has_monitor(id).await? {
                        return Ok(());
                    }
                    if let Some(report) = &report {
                        tx.hand_off(Topic::Finding, &tenant, report.at, report).await?;
                    }
                    if let Some(state) = &state {
                        tx.set_monitor_state(&tenant, id, state, at).await?;
                    }
                    if let Some(event) = &event {
                        tx.hand_off(Topic::Event, &tenant, at, event).await?;
                    }
                    Ok(())
                })
            })
            .await
    }
}

/// `io.orchestrix.monitor.{failing,recovered}`.
pub(crate) fn event(monitor: &Monitor, kind: &str, at: Timestamp, error: Option<&ErrorRecord>) -> Event {
    let data = serde_json::json!({ "monitor": monitor.name, "monitorId": monitor.id, "error": error });
    let mut event = Event::new(format!("{}-{}", monitor.id, at.nanos()), format!("/monitors/{}", monitor.name), kind, data);
    event.subject = Some(monitor.name.clone());
    event.received = at;
    event
}

fn record(code: &str, message: String) -> ErrorRecord {
    ErrorRecord { code: code.into(), message, retry: RetryAdvice::Now, details: serde_json::Value::Null }
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}
