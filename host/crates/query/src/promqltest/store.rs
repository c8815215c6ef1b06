//! A metric reader over series in memory.

use super::script::Points;
use async_trait::async_trait;
use model::{LabelSet, MatchOp, Matcher, MetricMetadata, TenantId};
use std::{collections::BTreeMap, sync::Arc};
use telemetry::{MetricReader, Result, SeriesData};

#[derive(Clone, Debug, Default)]
pub(crate) struct Memory(Arc<BTreeMap<LabelSet, (Vec<i64>, Vec<f64>)>>);

impl Memory {
    /// Adds points from time zero on, one an interval; a later load of a series replaces equal times.
    pub(crate) fn load(&mut self, labels: LabelSet, interval_ms: i64, points: &[Points]) {
        let series = Arc::make_mut(&mut self.0).entry(labels).or_default();
        for (i, point) in points.iter().enumerate() {
            let Some(v) = point.value() else { continue };
            let t = interval_ms * i as i64;
            let at = series.0.partition_point(|x| *x < t);
            if series.0.get(at) == Some(&t) {
                series.1[at] = v;
            } else {
                series.0.insert(at, t);
                series.1.insert(at, v);
            }
        }
    }
}

fn is_match(labels: &LabelSet, matchers: &[Matcher]) -> bool {
    matchers.iter().all(|m| {
        let value = labels.get(&m.name).unwrap_or("");
        match m.op {
            MatchOp::Equal => value == m.value,
            MatchOp::NotEqual => value != m.value,
            MatchOp::Regex => crate::promql::regex(&m.value).is_ok_and(|r| r.is_match(value)),
            MatchOp::NotRegex => crate::promql::regex(&m.value).is_ok_and(|r| !r.is_match(value)),
        }
    })
}

#[async_trait]
impl MetricReader for Memory {
    async fn select(&self, _: &TenantId, matchers: &[Matcher], start_ms: i64, end_ms: i64) -> Result<Vec<SeriesData>> {
        let matched = self.0.iter().filter(|(labels, _)| is_match(labels, matchers));
        Ok(matched
            .filter_map(|(labels, (times, values))| {
                let low = times.partition_point(|t| *t < start_ms);
                let high = times.partition_point(|t| *t <= end_ms);
                (low < high).then(|| SeriesData {
                    labels: Arc::new(labels.clone()),
                    times: times[low..high].to_vec(),
                    values: values[low..high].to_vec(),
                })
            })
            .collect())
    }
    async fn series(&self, tenant: &TenantId, matchers: &[Matcher], start_ms: i64, end_ms: i64) -> Result<Vec<Arc<LabelSet>>> {
        Ok(self.select(tenant, matchers, start_ms, end_ms).await?.into_iter().map(|s| s.labels).collect())
    }
    async fn label_names(&self, _: &TenantId, _: &[Matcher], _: i64, _: i64) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
    async fn label_values(&self, _: &TenantId, _: &str, _: &[Matcher], _: i64, _: i64) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
    async fn metadata(&self, _: &TenantId, _: Option<&str>) -> Result<Vec<MetricMetadata>> {
        Ok(Vec::new())
    }
}
