//! Metrics in Prometheus' data model: gauges and sums as they are, histograms and summaries as their classic
//! series, exponential histograms as classic buckets with bounds at powers of two.

use super::{convert, naming};
use crate::{Report, series};
use model::{Attributes, MetricKind, MetricMetadata, STALE_NAN_BITS, Timestamp, limits};
use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::KeyValue,
    metrics::v1::{
        AggregationTemporality, ExponentialHistogramDataPoint, HistogramDataPoint, Metric, NumberDataPoint, SummaryDataPoint,
        exponential_histogram_data_point::Buckets, metric::Data, number_data_point,
    },
};
use std::collections::BTreeMap;
use telemetry::MetricBatch;

/// Buckets of one histogram point: a point with more is a mistake or an attack.
const BUCKETS_MAX: usize = 1_000;
const DELTA: &str = "delta temporality is not converted; export cumulative \
     (OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=cumulative, or the collector's deltatocumulative processor)";
/// OTLP's flag on a point that says "this series has ended".
const NO_RECORDED_VALUE: u32 = 1;

/// The request's points as series; those that can't be kept are in the report.
pub fn decode(request: ExportMetricsServiceRequest, now: Timestamp) -> (MetricBatch, Report) {
    let mut out = Out { batch: MetricBatch::new(), report: Report::default(), now, newest_ms: 0, base: Vec::new() };
    for (r, resource_metrics) in request.resource_metrics.into_iter().enumerate() {
        let metrics = resource_metrics.scope_metrics.into_iter().flat_map(|s| s.metrics);
        let resource = match convert::resource(resource_metrics.resource) {
            Ok(resource) => resource,
            Err(reason) => {
                out.report.refuse_many(metrics.map(|m| points(&m)).sum(), format!("resourceMetrics[{r}]"), reason);
                continue;
            }
        };
        out.base = identity(&resource);
        out.newest_ms = 0;
        metrics.for_each(|metric| out.metric(metric));
        out.target_info(&resource);
    }
    (out.batch, out.report)
}

/// `job` and `instance`, as Prometheus takes them from a resource.
fn identity(resource: &Attributes) -> Vec<(String, String)> {
    let text = |key: &str| resource.get(key).map(|v| v.to_text()).filter(|v| !v.is_empty());
    let job = text("service.name").map(|name| match text("service.namespace") {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name,
    });
    let instance = text("service.instance.id");
    job.map(|j| ("job".to_owned(), j)).into_iter().chain(instance.map(|i| ("instance".to_owned(), i))).collect()
}

fn points(metric: &Metric) -> u64 {
    let count = match &metric.data {
        Some(Data::Gauge(d)) => d.data_points.len(),
        Some(Data::Sum(d)) => d.data_points.len(),
        Some(Data::Histogram(d)) => d.data_points.len(),
        Some(Data::ExponentialHistogram(d)) => d.data_points.len(),
        Some(Data::Summary(d)) => d.data_points.len(),
        None => 0,
    };
    count as u64
}

struct Out {
    batch: MetricBatch,
    report: Report,
    now: Timestamp,
    newest_ms: i64,
    /// `job` and `instance` of the resource at hand.
    base: Vec<(String, String)>,
}

type Labels = Vec<(String, String)>;

impl Out {
    fn metric(&mut self, metric: Metric) {
        let count = points(&metric);
        let Metric { name, description, unit, data, .. } = metric;
        let Some(data) = data.filter(|_| !name.is_empty()) else {
            return self.report.refuse_many(
                count.max(1),
                format!("metric {name:?}"),
                "it has no name, or no data of a known kind",
            );
        };
        let (kind, is_delta) = match &data {
            Data::Gauge(_) => (MetricKind::Gauge, false),
            Data::Sum(s) => {
                let kind = if s.is_monotonic { MetricKind::Counter } else { MetricKind::Gauge };
                (kind, s.aggregation_temporality != AggregationTemporality::Cumulative as i32)
            }
            Data::Histogram(h) => (MetricKind::Histogram, h.aggregation_temporality != AggregationTemporality::Cumulative as i32),
            Data::ExponentialHistogram(h) => {
                (MetricKind::Histogram, h.aggregation_temporality != AggregationTemporality::Cumulative as i32)
            }
            Data::Summary(_) => (MetricKind::Summary, false),
        };
        if is_delta {
            return self.report.refuse_many(count, format!("metric {name}"), DELTA);
        }
        let full_name = naming::metric(&name, &unit, kind == MetricKind::Counter, matches!(data, Data::Gauge(_)));
        if full_name.is_empty() {
            return self.report.refuse_many(count, format!("metric {name:?}"), "its name has no letter or digit");
        }
        self.batch.metadata(MetricMetadata { name: full_name.clone(), kind, help: description, unit });
        match data {
            Data::Gauge(d) => d.data_points.into_iter().for_each(|p| self.number(&full_name, p)),
            Data::Sum(d) => d.data_points.into_iter().for_each(|p| self.number(&full_name, p)),
            Data::Histogram(d) => d.data_points.into_iter().for_each(|p| self.histogram(&full_name, p)),
            Data::ExponentialHistogram(d) => d.data_points.into_iter().for_each(|p| self.exponential(&full_name, p)),
            Data::Summary(d) => d.data_points.into_iter().for_each(|p| self.summary(&full_name, p)),
        }
    }

    fn number(&mut self, name: &str, point: NumberDataPoint) {
        let Some((labels, t)) = self.point(name, point.attributes, point.time_unix_nano) else { return };
        let value = match point.value {
            _ if point.flags & NO_RECORDED_VALUE != 0 => f64::from_bits(STALE_NAN_BITS),
            Some(number_data_point::Value::AsDouble(v)) => v,
            Some(number_data_point::Value::AsInt(v)) => v as f64,
            None => return self.report.refuse(series::show(&labels), "it has no value"),
        };
        self.emit(labels, t, &[(Extra::None, "", value)], name);
    }

    fn histogram(&mut self, name: &str, point: HistogramDataPoint) {
        let Some((labels, t)) = self.point(name, point.attributes, point.time_unix_nano) else { return };
        let is_shaped = point.bucket_counts.is_empty() && point.explicit_bounds.is_empty()
            || point.bucket_counts.len() == point.explicit_bounds.len() + 1;
        let is_rising = point.explicit_bounds.is_sorted_by(|a, b| a < b);
        if !is_shaped || !is_rising || point.bucket_counts.len() > BUCKETS_MAX {
            let reason = format!(
                "its {} bounds and {} counts are no histogram: bounds must rise, with one count more than bounds, {BUCKETS_MAX} at most",
                point.explicit_bounds.len(),
                point.bucket_counts.len()
            );
            return self.report.refuse(series::show(&labels), reason);
        }
        let mut total = 0u64;
        let mut buckets = Vec::with_capacity(point.bucket_counts.len() + 3);
        for (bound, count) in point.explicit_bounds.iter().zip(&point.bucket_counts) {
            total = total.saturating_add(*count);
            // A bound at infinity is the last bucket, which is written below.
            if bound.is_finite() {
                buckets.push((Extra::Le(*bound), "_bucket", total as f64));
            }
        }
        self.finish_histogram(name, labels, t, buckets, point.count, point.sum, point.flags);
    }

    fn exponential(&mut self, name: &str, point: ExponentialHistogramDataPoint) {
        let Some((labels, t)) = self.point(name, point.attributes, point.time_unix_nano) else { return };
        let (positive, negative) = (point.positive.unwrap_or_default(), point.negative.unwrap_or_default());
        if positive.bucket_counts.len().max(negative.bucket_counts.len()) > BUCKETS_MAX || !(-10..=20).contains(&point.scale) {
            let reason = format!("its scale {} is not -10 to 20, or it has over {BUCKETS_MAX} buckets", point.scale);
            return self.report.refuse(series::show(&labels), reason);
        }
        let mut total = 0u64;
        let mut buckets = Vec::new();
        // From the most negative up. A bucket of the negatives with index i holds (-2^(i+1), -2^i].
        for (exponent, count) in by_power_of_two(&negative, point.scale).into_iter().rev() {
            total = total.saturating_add(count);
            let lower_exponent = exponent - if point.scale < 0 { 1 << -point.scale } else { 1 };
            let bound = -(f64::from(lower_exponent).exp2());
            if bound.is_finite() {
                buckets.push((Extra::Le(bound), "_bucket", total as f64));
            }
        }
        total = total.saturating_add(point.zero_count);
        if total > 0 {
            buckets.push((Extra::Le(point.zero_threshold.max(0.0)), "_bucket", total as f64));
        }
        for (exponent, count) in by_power_of_two(&positive, point.scale) {
            total = total.saturating_add(count);
            let bound = f64::from(exponent).exp2();
            if bound.is_finite() && bound > point.zero_threshold {
                buckets.push((Extra::Le(bound), "_bucket", total as f64));
            }
        }
        self.finish_histogram(name, labels, t, buckets, point.count, point.sum, point.flags);
    }

    #[allow(clippy::too_many_arguments)]
    fn finish_histogram(
        &mut self,
        name: &str,
        labels: Labels,
        t: i64,
        mut parts: Vec<(Extra, &'static str, f64)>,
        count: u64,
        sum: Option<f64>,
        flags: u32,
    ) {
        parts.push((Extra::Le(f64::INFINITY), "_bucket", count as f64));
        parts.push((Extra::None, "_count", count as f64));
        if let Some(sum) = sum {
            parts.push((Extra::None, "_sum", sum));
        }
        if flags & NO_RECORDED_VALUE != 0 {
            parts.iter_mut().for_each(|part| part.2 = f64::from_bits(STALE_NAN_BITS));
        }
        self.emit(labels, t, &parts, name);
    }

    fn summary(&mut self, name: &str, point: SummaryDataPoint) {
        let Some((labels, t)) = self.point(name, point.attributes, point.time_unix_nano) else { return };
        if point.quantile_values.len() > BUCKETS_MAX {
            return self.report.refuse(series::show(&labels), format!("it has over {BUCKETS_MAX} quantiles"));
        }
        let mut parts: Vec<_> = point.quantile_values.iter().map(|q| (Extra::Quantile(q.quantile), "", q.value)).collect();
        parts.push((Extra::None, "_count", point.count as f64));
        parts.push((Extra::None, "_sum", point.sum));
        if point.flags & NO_RECORDED_VALUE != 0 {
            parts.iter_mut().for_each(|part| part.2 = f64::from_bits(STALE_NAN_BITS));
        }
        self.emit(labels, t, &parts, name);
    }

    /// The point's labels without its name, and its time; none when it is refused.
    fn point(&mut self, name: &str, attributes: Vec<KeyValue>, time_unix_nano: u64) -> Option<(Labels, i64)> {
        let mut attributes: Vec<_> = convert::attributes(attributes).into_iter().collect();
        // Names that become the same: the values in the order of the original names, joined, as Prometheus does.
        attributes.sort_by(|a, b| a.0.cmp(&b.0));
        let mut merged: BTreeMap<String, String> = BTreeMap::new();
        for (key, value) in attributes {
            let key = naming::label(&key);
            let value = value.to_text();
            merged.entry(key).and_modify(|v| *v = format!("{v};{value}")).or_insert(value);
        }
        for (key, value) in &self.base {
            merged.insert(key.clone(), value.clone());
        }
        let mut labels: Labels = merged.into_iter().collect();
        labels.push(("__name__".into(), name.to_owned()));
        if let Err(reason) = series::check(&mut labels) {
            self.report.refuse(series::show(&labels), reason);
            return None;
        }
        let time = if time_unix_nano == 0 { self.now } else { convert::time(time_unix_nano) };
        self.newest_ms = self.newest_ms.max(time.millis());
        Some((labels, time.millis()))
    }

    fn emit(&mut self, labels: Labels, t: i64, parts: &[(Extra, &str, f64)], name: &str) {
        if labels.len() >= limits::LABELS_MAX && parts.len() > 1 {
            return self
                .report
                .refuse(series::show(&labels), format!("with le or quantile it has over {} labels", limits::LABELS_MAX));
        }
        for (extra, suffix, value) in parts {
            for (key, value) in labels.iter().filter(|(key, _)| key != "__name__") {
                self.batch.label(key, value);
            }
            self.batch.label("__name__", &format!("{name}{suffix}"));
            match extra {
                Extra::None => {}
                Extra::Le(bound) => self.batch.label("le", &float(*bound)),
                Extra::Quantile(quantile) => self.batch.label("quantile", &float(*quantile)),
            }
            self.batch.sample(t, *value);
            self.batch.end_series();
        }
    }

    /// `target_info`: what else is known of the resource, to be joined in queries.
    fn target_info(&mut self, resource: &Attributes) {
        let others: Vec<_> = resource
            .iter()
            .filter(|(key, _)| !matches!(key.as_str(), "service.name" | "service.namespace" | "service.instance.id"))
            .map(|(key, value)| (naming::label(key), value.to_text()))
            .collect();
        if self.newest_ms == 0 || self.base.is_empty() || others.is_empty() {
            return;
        }
        let mut labels: BTreeMap<String, String> = others.into_iter().collect();
        labels.extend(self.base.iter().cloned());
        let mut labels: Labels = labels.into_iter().collect();
        labels.push(("__name__".into(), "target_info".into()));
        // A resource is described by dozens of attributes at times; those too long or too many are left out.
        labels.retain(|(name, value)| name.len() <= limits::LABEL_NAME_BYTES_MAX && value.len() <= limits::LABEL_VALUE_BYTES_MAX);
        if series::check(&mut labels).is_ok() {
            labels.iter().for_each(|(name, value)| self.batch.label(name, value));
            self.batch.sample(self.newest_ms, 1.0);
            self.batch.end_series();
        }
    }
}

#[derive(Clone, Copy)]
enum Extra {
    None,
    Le(f64),
    Quantile(f64),
}

/// As Prometheus writes bounds: never in scientific notation, `+Inf` at the end.
fn float(value: f64) -> String {
    if value == f64::INFINITY { "+Inf".into() } else { value.to_string() }
}

/// Counts by the exponent of their bucket's upper bound. Buckets of a finer scale nest in powers of two, so
/// merging them loses resolution but no count, and the bounds stay the same whatever scale a sender picks.
fn by_power_of_two(buckets: &Buckets, scale: i32) -> BTreeMap<i32, u64> {
    let mut merged: BTreeMap<i32, u64> = BTreeMap::new();
    for (i, count) in buckets.bucket_counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        // Bucket `index` holds (base^index, base^(index+1)] with base = 2^(2^-scale).
        let index = i64::from(buckets.offset) + i as i64;
        let exponent = if scale >= 0 { (index >> scale) + 1 } else { (index + 1) << -scale };
        let exponent = exponent.clamp(-1_100, 1_100) as i32;
        let merged = merged.entry(exponent).or_default();
        *merged = merged.saturating_add(*count);
    }
    merged
}
