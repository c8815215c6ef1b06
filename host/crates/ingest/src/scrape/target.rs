//! One target: fetch its text, write its samples, and say afterwards how that went.

use super::{config::Job, discovery::Target};
use crate::{
    Report,
    exposition::{self, Format, Line},
    series,
};
use ahash::AHashSet;
use futures::StreamExt as _;
use model::{MetricMetadata, STALE_NAN_BITS, Timestamp, limits};
use std::{borrow::Cow, time::Duration};
use telemetry::MetricBatch;

/// As Prometheus asks for it, without protobuf.
const ACCEPT: &str = "application/openmetrics-text;version=1.0.0;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.2";

type Labels = Vec<(String, String)>;

/// What a scrape brought back.
pub(super) struct Fetched {
    pub text: Vec<u8>,
    pub format: Format,
}

pub(super) async fn fetch(client: &reqwest::Client, job: &Job, target: &Target, token: Option<&str>) -> Result<Fetched, String> {
    let mut url = url::Url::parse(&format!("{}://{}{}", job.spec.scheme, target.address, job.spec.metrics_path))
        .map_err(|e| e.to_string())?;
    for (name, values) in &job.spec.params {
        for value in values {
            url.query_pairs_mut().append_pair(name, value);
        }
    }
    let mut request = client
        .get(url)
        .header(http::header::ACCEPT, ACCEPT)
        .header("x-prometheus-scrape-timeout-seconds", job.timeout.as_secs_f64().to_string());
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    tokio::time::timeout(job.timeout, async {
        let response = request.send().await.map_err(|e| chain(&e))?;
        if response.status() != http::StatusCode::OK {
            return Err(format!("the target answered {}", response.status()));
        }
        let media = response.headers().get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
        let format = if media.to_ascii_lowercase().starts_with("application/openmetrics-text") {
            Format::OpenMetrics
        } else {
            Format::Text
        };
        let mut text = Vec::new();
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|e| chain(&e))?;
            if text.len() + chunk.len() > limits::BODY_BYTES_MAX {
                return Err(format!("the text is over {} MiB", limits::BODY_BYTES_MAX >> 20));
            }
            text.extend_from_slice(&chunk);
        }
        Ok(Fetched { text, format })
    })
    .await
    .unwrap_or_else(|_| Err(format!("no whole answer within {} s", job.timeout.as_secs_f64())))
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

/// What is remembered of a target between scrapes: the series of the last good one, to mark those that vanish.
#[derive(Default)]
pub(super) struct Memory {
    series: AHashSet<Labels>,
}

impl Memory {
    /// The batch of one scrape at `at`: the samples, staleness markers of what vanished, and the scrape's own series.
    pub(super) fn batch(
        &mut self,
        job: &Job,
        target: &Target,
        fetched: Result<&Fetched, String>,
        at: Timestamp,
        took: Duration,
    ) -> (MetricBatch, Result<Report, String>) {
        let at_ms = at.millis();
        let parsed = fetched.and_then(|f| parse(job, target, f));
        let mut batch = MetricBatch::new();
        let mut now = AHashSet::new();
        let mut scraped = 0;
        let result = match parsed {
            Ok(parsed) => {
                scraped = parsed.samples.len() + parsed.report.refused as usize;
                for (labels, time, value) in parsed.samples {
                    labels.iter().for_each(|(n, v)| batch.label(n, v));
                    batch.sample(time.unwrap_or(at_ms), value);
                    batch.end_series();
                    // A sample with a time of its own says itself when it ends; Prometheus does not mark those either.
                    if time.is_none() {
                        now.insert(labels);
                    }
                }
                parsed.metadata.into_iter().for_each(|m| batch.metadata(m));
                Ok(parsed.report)
            }
            Err(why) => Err(why),
        };
        for labels in &self.series {
            if !now.contains(labels) {
                stale(&mut batch, labels, at_ms);
            }
        }
        self.series = now;
        let own = [
            ("up", if result.is_ok() { 1.0 } else { 0.0 }),
            ("scrape_duration_seconds", took.as_secs_f64()),
            ("scrape_samples_scraped", scraped as f64),
        ];
        for (name, value) in own {
            own_labels(&mut batch, name, target);
            batch.sample(at_ms, value);
            batch.end_series();
        }
        (batch, result)
    }

    /// Marks everything stale: the target is gone.
    pub(super) fn farewell(&mut self, target: &Target, at: Timestamp) -> MetricBatch {
        let mut batch = MetricBatch::new();
        for labels in self.series.drain() {
            stale(&mut batch, &labels, at.millis());
        }
        for name in ["up", "scrape_duration_seconds", "scrape_samples_scraped"] {
            own_labels(&mut batch, name, target);
            batch.sample(at.millis(), f64::from_bits(STALE_NAN_BITS));
            batch.end_series();
        }
        batch
    }
}

fn own_labels(batch: &mut MetricBatch, name: &str, target: &Target) {
    batch.label("__name__", name);
    target.labels.iter().filter(|(n, _)| !n.starts_with("__")).for_each(|(n, v)| batch.label(n, v));
}

fn stale(batch: &mut MetricBatch, labels: &Labels, at_ms: i64) {
    labels.iter().for_each(|(n, v)| batch.label(n, v));
    batch.sample(at_ms, f64::from_bits(STALE_NAN_BITS));
    batch.end_series();
}

struct Parsed {
    samples: Vec<(Labels, Option<i64>, f64)>,
    metadata: Vec<MetricMetadata>,
    report: Report,
}

/// A scrape is taken whole or not at all, as Prometheus does: half a text would look like vanished series.
fn parse(job: &Job, target: &Target, fetched: &Fetched) -> Result<Parsed, String> {
    let text = std::str::from_utf8(&fetched.text).map_err(|e| format!("the text is no UTF-8 at byte {}", e.valid_up_to()))?;
    let mut out = Parsed { samples: Vec::new(), metadata: Vec::new(), report: Report::default() };
    let mut broken = None;
    let samples_max = if job.spec.sample_limit == 0 { limits::SAMPLES_PER_REQUEST_MAX } else { job.spec.sample_limit };
    exposition::parse(text, fetched.format, |line| match line {
        Err(error) => broken = broken.take().or(Some(error)),
        Ok(Line::Sample(sample)) if out.samples.len() <= samples_max => {
            let mut labels = labelled(job, target, &sample.name, sample.labels);
            match series::check(&mut labels) {
                Ok(()) => out.samples.push((labels, sample.timestamp_ms.filter(|_| job.spec.honor_timestamps), sample.value)),
                Err(reason) => out.report.refuse(format!("line {}, {}", sample.line, series::show(&labels)), reason),
            }
        }
        Ok(Line::Sample(_)) => {}
        Ok(Line::Type { name, kind }) => out.metadata.push(MetricMetadata { name: name.into(), kind, ..Default::default() }),
        Ok(Line::Help { name, help }) => match out.metadata.iter_mut().rev().take(2).find(|m| m.name == name) {
            Some(metadata) => metadata.help = help,
            None => out.metadata.push(MetricMetadata { name: name.into(), help, ..Default::default() }),
        },
        Ok(Line::Unit { name, unit }) => {
            if let Some(metadata) = out.metadata.iter_mut().rev().take(2).find(|m| m.name == name) {
                metadata.unit = unit.into();
            }
        }
    })
    .map_err(|e| e.to_string())?;
    if let Some(error) = broken {
        return Err(error.to_string());
    }
    if out.samples.len() > samples_max {
        return Err(format!("the text holds over {samples_max} samples, the job's limit"));
    }
    merge_metadata(&mut out.metadata);
    Ok(out)
}

/// HELP before TYPE makes two entries of one metric; the later one with a kind takes the help over.
fn merge_metadata(metadata: &mut Vec<MetricMetadata>) {
    metadata.dedup_by(|later, earlier| {
        let is_same = later.name == earlier.name;
        if is_same {
            if earlier.help.is_empty() {
                earlier.help = std::mem::take(&mut later.help);
            }
            if later.kind != model::MetricKind::Unknown {
                earlier.kind = later.kind;
            }
        }
        is_same
    });
}

/// The sample's labels and the target's. Where both name one, `honorLabels` decides whose stays; a label of
/// the text that gives way is kept as `exported_…`.
fn labelled(job: &Job, target: &Target, name: &str, own: Vec<(Cow<'_, str>, Cow<'_, str>)>) -> Labels {
    let mut labels: Labels = Vec::with_capacity(own.len() + target.labels.len() + 1);
    for (name, value) in own {
        let is_contested = target.labels.contains_key(name.as_ref()) && !value.is_empty();
        let name = if is_contested && !job.spec.honor_labels { format!("exported_{name}") } else { name.into_owned() };
        labels.push((name, value.into_owned()));
    }
    for (name, value) in target.labels.iter().filter(|(n, _)| !n.starts_with("__")) {
        if !labels.iter().any(|(n, v)| n == name && !v.is_empty()) {
            labels.retain(|(n, _)| n != name);
            labels.push((name.clone(), value.clone()));
        }
    }
    labels.push(("__name__".into(), name.to_owned()));
    labels
}
