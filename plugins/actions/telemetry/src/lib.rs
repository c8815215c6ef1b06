//! `telemetry`: a workflow's questions to the tenant's own metrics and logs.

use orchestrix_sdk::{prelude::*, telemetry};
use std::collections::BTreeMap;

/// Series and records one answer may hold: an answer is a step's output, not an export.
const ROWS_MAX: usize = 100;
/// A logged line in an answer is cut to this.
const BODY_CHARS_MAX: usize = 1_000;

/// There is nothing to configure: the grant says what may be read.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MetricsQuestion {
    /// PromQL with one value a series, asked for now.
    query: String,
}

#[derive(Debug, PartialEq, Serialize, JsonSchema)]
pub struct MetricsAnswer {
    /// The largest value; null when no series has one.
    value: Option<f64>,
    min: Option<f64>,
    max: Option<f64>,
    series: Vec<SeriesValue>,
}

#[derive(Debug, PartialEq, Serialize, JsonSchema)]
pub struct SeriesValue {
    labels: BTreeMap<String, String>,
    value: f64,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogsQuestion {
    /// A log selector, such as `{service_name="shop"} |= "timeout"`.
    query: String,
    /// How far back.
    #[serde(default = "five_minutes")]
    window_seconds: u64,
    /// How many records at most, up to 100.
    #[serde(default = "twenty")]
    limit: usize,
}

#[derive(Debug, PartialEq, Serialize, JsonSchema)]
pub struct LogsAnswer {
    count: usize,
    records: Vec<Record>,
}

#[derive(Debug, PartialEq, Serialize, JsonSchema)]
pub struct Record {
    /// Milliseconds since the epoch.
    time: u64,
    /// 1 to 24 as OpenTelemetry numbers them.
    severity: u8,
    body: String,
}

#[orchestrix_sdk::action]
impl Telemetry {
    #[operation]
    fn metrics(&self, ctx: &Context, input: MetricsQuestion) -> Result<MetricsAnswer> {
        let found = telemetry::query_metrics(&input.query, telemetry::TimeRange { start: ctx.now, end: ctx.now, step_ms: 0 })?;
        // A workflow can do nothing with NaN, and JSON has none: such a series has no value.
        let series: Vec<SeriesValue> = found
            .into_iter()
            .filter_map(|s| {
                let value = *s.values.last()?;
                value.is_finite().then(|| SeriesValue { labels: s.labels.into_iter().collect(), value })
            })
            .take(ROWS_MAX)
            .collect();
        let values = || series.iter().map(|s| s.value);
        let max = values().reduce(f64::max);
        Ok(MetricsAnswer { value: max, min: values().reduce(f64::min), max, series })
    }

    #[operation]
    fn logs(&self, ctx: &Context, input: LogsQuestion) -> Result<LogsAnswer> {
        if input.limit == 0 || input.limit > ROWS_MAX {
            return Err(Error::input(format!("limit is {}: ask for 1 to {ROWS_MAX} records", input.limit)));
        }
        let start = ctx.now.saturating_sub(input.window_seconds.saturating_mul(1_000_000_000));
        let limit = u32::try_from(input.limit).map_err(|_| Error::input("limit is too large"))?;
        let batch = telemetry::query_logs(&input.query, telemetry::TimeRange { start, end: ctx.now, step_ms: 0 }, &[], limit)?;
        let records: Vec<Record> = (0..batch.len())
            .map(|row| Record {
                time: batch.times[row] / 1_000_000,
                severity: batch.severities.get(row).copied().unwrap_or(0),
                body: batch.bodies.get(row).unwrap_or("").chars().take(BODY_CHARS_MAX).collect(),
            })
            .collect();
        Ok(LogsAnswer { count: records.len(), records })
    }
}

fn five_minutes() -> u64 {
    300
}

fn twenty() -> usize {
    20
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestrix_sdk::{telemetry::LogBatch, testing::World};

    const NOW: u64 = 1_700_000_000_000_000_000;

    fn ask(world: &World, operation: &str, input: Value) -> Result<Value> {
        let ctx = Context { now: NOW, ..Context::default() };
        world.run(|| Telemetry {}.execute(&ctx, operation, input))
    }

    fn series(service: &str, value: f64) -> Series {
        Series { labels: vec![("service".into(), service.into())], times: vec![NOW], values: vec![value] }
    }

    #[test]
    fn the_largest_value_answers_and_a_series_without_a_number_does_not_count() {
        let world = World::new();
        world.on_metrics(|query, range| {
            assert_eq!((query, range.start, range.end), ("cpu_usage", NOW, NOW));
            Ok(vec![series("cart", 47.5), series("web", 12.0), series("old", f64::NAN)])
        });
        let answer = ask(&world, "metrics", json!({ "query": "cpu_usage" })).unwrap();
        assert_eq!((&answer["value"], &answer["min"]), (&json!(47.5), &json!(12.0)));
        assert_eq!(answer["series"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn no_series_is_null_and_not_zero() {
        let world = World::new();
        world.on_metrics(|_, _| Ok(vec![]));
        assert_eq!(ask(&world, "metrics", json!({ "query": "x" })).unwrap()["value"], Value::Null);
    }

    #[test]
    fn logs_come_with_their_time_and_are_bounded() {
        let world = World::new();
        world.on_logs(|_, range| {
            assert_eq!(range.start, NOW - 60_000_000_000);
            Ok(LogBatch {
                times: vec![NOW],
                severities: vec![17],
                bodies: ["x".repeat(5_000)].into_iter().collect(),
                fields: vec![],
            })
        });
        let answer = ask(&world, "logs", json!({ "query": "{a=\"b\"}", "window_seconds": 60 })).unwrap();
        assert_eq!((&answer["count"], &answer["records"][0]["time"]), (&json!(1), &json!(1_700_000_000_000_u64)));
        assert_eq!(answer["records"][0]["body"].as_str().unwrap().len(), BODY_CHARS_MAX);
        let error = ask(&world, "logs", json!({ "query": "{}", "limit": 101 })).unwrap_err();
        assert_eq!(error.code, "input.invalid");
    }
}
