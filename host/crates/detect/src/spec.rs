//! A monitor's settings as people write them, and as the stage uses them.

use crate::filter::Filter;
use model::{LabelSet, NoDataPolicy};
use query::promql::Expr;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::sync::Arc;

/// The shortest interval: below it the early evaluation is what makes detection quick.
const EVERY_MS_MIN: i64 = 1_000;
/// The longest: a monitor evaluated less than daily is a report.
const EVERY_MS_MAX: i64 = 24 * 3_600_000;
/// Points of one series given to a detector: a day of minutes.
const POINTS_MAX: i64 = 1_500;

/// The text of a monitor resource's `spec`. Durations are written as in PromQL: `15s`, `1h30m`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Text {
    /// Name of the installed plugin that judges.
    detector: String,
    #[serde(default)]
    params: Value,
    /// PromQL; its value at the time of the evaluation is the detector's input.
    #[serde(default)]
    query: Option<String>,
    /// A log selector: makes it a stream monitor.
    #[serde(default)]
    stream: Option<String>,
    #[serde(default = "fifteen_seconds", deserialize_with = "duration")]
    every: i64,
    /// With it the detector gets each series' points of this long, one each `every`; without it the newest only.
    #[serde(default, deserialize_with = "duration")]
    lookback: i64,
    #[serde(default, rename = "for", deserialize_with = "duration")]
    for_ms: i64,
    #[serde(default, deserialize_with = "duration")]
    keep_firing_for: i64,
    #[serde(default)]
    no_data: NoDataPolicy,
    #[serde(default)]
    labels: LabelSet,
    #[serde(default)]
    annotations: LabelSet,
}

/// Settings that have been checked.
#[derive(Clone, Debug)]
pub struct Spec {
    pub detector: String,
    pub params: Value,
    pub source: Source,
    pub every_ms: i64,
    pub lookback_ms: i64,
    pub for_ms: i64,
    pub keep_firing_for_ms: i64,
    pub no_data: NoDataPolicy,
    pub labels: LabelSet,
    pub annotations: LabelSet,
}

#[derive(Clone, Debug)]
pub enum Source {
    Query(Expr),
    /// The detector asks for what it needs itself.
    Nothing,
    Stream(Arc<Filter>),
}

impl Spec {
    /// Checks a `spec`; the message of an error names the field and the mend.
    pub fn parse(spec: &Value) -> Result<Self, String> {
        let text = Text::deserialize(spec).map_err(|e| e.to_string())?;
        if text.detector.is_empty() {
            return Err("detector is empty: name an installed detector, such as threshold".into());
        }
        if !(EVERY_MS_MIN..=EVERY_MS_MAX).contains(&text.every) {
            return Err("every must be between 1s and 1d".into());
        }
        if text.lookback / text.every > POINTS_MAX {
            return Err(format!(
                "lookback holds {} points of every; at most {POINTS_MAX}: make every longer",
                text.lookback / text.every
            ));
        }
        let params = if text.params.is_null() { Value::Object(serde_json::Map::new()) } else { text.params };
        if !params.is_object() {
            return Err("params must be a mapping".into());
        }
        let source = match (text.query, text.stream) {
            (Some(_), Some(_)) => return Err("query and stream exclude each other: keep one".into()),
            (Some(query), None) => {
                let expr = query::promql::parse(&query).map_err(|e| format!("query: {e}"))?;
                if !matches!(expr.value_type(), query::promql::ValueType::Vector | query::promql::ValueType::Scalar) {
                    return Err(format!("query is a {}: an instant vector or a scalar is needed", expr.value_type().as_str()));
                }
                Source::Query(expr)
            }
            (None, Some(stream)) => {
                let selector = query::logql::parse(&stream).map_err(|e| format!("stream: {e}"))?;
                Source::Stream(Arc::new(Filter::compile(&selector).map_err(|e| format!("stream: {e}"))?))
            }
            (None, None) => Source::Nothing,
        };
        Ok(Self {
            detector: text.detector,
            params,
            source,
            every_ms: text.every,
            lookback_ms: text.lookback,
            for_ms: text.for_ms,
            keep_firing_for_ms: text.keep_firing_for,
            no_data: text.no_data,
            labels: text.labels,
            annotations: text.annotations,
        })
    }
}

fn fifteen_seconds() -> i64 {
    15_000
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let ms = match &value {
        Value::String(text) if text == "0" => Some(0),
        Value::String(text) => query::promql::duration_ms(text),
        Value::Number(n) if n.as_i64() == Some(0) => Some(0),
        _ => None,
    };
    ms.ok_or_else(|| serde::de::Error::custom(format!("{value} is no duration such as 15s or 1h30m")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn settings_are_read_with_their_defaults() {
        let spec = Spec::parse(&json!({"detector": "threshold", "query": "cpu > 1", "for": "1m", "keepFiringFor": "0s", "noData": "alert", "labels": {"team": "a"}})).unwrap();
        assert_eq!((spec.every_ms, spec.for_ms, spec.keep_firing_for_ms, spec.no_data), (15_000, 60_000, 0, NoDataPolicy::Alert));
        assert!(matches!(spec.source, Source::Query(_)));
        assert_eq!(spec.labels.get("team"), Some("a"));
    }

    #[test]
    fn a_wrong_setting_is_named() {
        for (spec, part) in [
            (json!({}), "detector"),
            (json!({"detector": "t", "evry": "1s"}), "evry"),
            (json!({"detector": "t", "every": "10"}), "no duration"),
            (json!({"detector": "t", "every": "1ms"}), "every must be"),
            (json!({"detector": "t", "query": "sum("}), "query: 1:"),
            (json!({"detector": "t", "query": "a[5m]"}), "range vector"),
            (json!({"detector": "t", "query": "a", "stream": "{a=\"b\"}"}), "exclude"),
            (json!({"detector": "t", "stream": "{a="}), "stream:"),
            (json!({"detector": "t", "params": [1]}), "params"),
            (json!({"detector": "t", "lookback": "1d", "every": "1s"}), "lookback"),
            (json!([]), "invalid"),
        ] {
            let error = Spec::parse(&spec).unwrap_err();
            assert!(error.contains(part), "{spec}: {error}");
        }
    }
}
