//! `threshold`: one finding a series, by comparing an aggregate of its points with a threshold.
//!
//! `for` and `keepFiringFor` are the host's. Between the recovery threshold and the threshold a series is
//! *holding*: it keeps a firing alert firing and starts none.

use orchestrix_sdk::prelude::*;

/// The monitor's parameters.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Threshold {
    /// How the value is compared with the threshold.
    #[serde(default)]
    op: Op,
    threshold: f64,
    /// What the value must get back to before the alert ends; the threshold itself when absent.
    #[serde(default)]
    recovery: Option<f64>,
    /// What is compared, over the points of the input.
    #[serde(default)]
    aggregate: Aggregate,
    #[serde(default = "severity")]
    severity: String,
    /// `{{value}}`, `{{threshold}}`, `{{labels}}` and `{{labels.NAME}}` are filled in.
    #[serde(default = "summary")]
    summary: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Op {
    #[default]
    #[serde(rename = ">")]
    Greater,
    #[serde(rename = ">=")]
    GreaterOrEqual,
    #[serde(rename = "<")]
    Less,
    #[serde(rename = "<=")]
    LessOrEqual,
    #[serde(rename = "==")]
    Equal,
    #[serde(rename = "!=")]
    NotEqual,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Aggregate {
    #[default]
    Last,
    Avg,
    Min,
    Max,
}

#[orchestrix_sdk::detector]
impl Detector for Threshold {
    fn evaluate(&self, _ctx: &Context, input: &[Series]) -> Result<Vec<Finding>> {
        self.validate()?;
        Ok(input.iter().map(|series| self.judge(series)).collect())
    }
}

impl Threshold {
    fn validate(&self) -> Result<()> {
        if !self.threshold.is_finite() {
            return Err(Error::new("params.invalid", "the threshold must be a finite number"));
        }
        let Some(recovery) = self.recovery else { return Ok(()) };
        let is_inside = match self.op {
            Op::Greater | Op::GreaterOrEqual => recovery <= self.threshold,
            Op::Less | Op::LessOrEqual => recovery >= self.threshold,
            Op::Equal | Op::NotEqual => false,
        };
        if is_inside {
            return Ok(());
        }
        let side = match self.op {
            Op::Greater | Op::GreaterOrEqual => "at or below",
            Op::Less | Op::LessOrEqual => "at or above",
            Op::Equal | Op::NotEqual => {
                return Err(Error::new("params.invalid", "== and != have no recovery threshold: remove it"));
            }
        };
        Err(Error::new(
            "params.invalid",
            format!("with {} the recovery threshold must be {side} the threshold", self.op.as_str()),
        ))
    }

    fn judge(&self, series: &Series) -> Finding {
        let labels: Vec<_> = series.labels.iter().filter(|(name, _)| name != "__name__").cloned().collect();
        let Some(value) = self.aggregate.of(&series.values) else {
            return Finding {
                summary: format!("no data for {}", display(&labels)),
                labels,
                status: Status::NoData,
                score: 0.0,
                severity: self.severity.clone(),
                value: None,
                evidence: json!({ "points": series.values.len() }),
            };
        };
        let status = if self.op.holds(value, self.threshold) {
            Status::Firing
        } else if self.recovery.is_some_and(|recovery| self.op.holds(value, recovery)) {
            Status::Holding
        } else {
            Status::Ok
        };
        Finding {
            summary: self.summarize(&labels, value),
            labels,
            status,
            score: self.score(value, status),
            severity: self.severity.clone(),
            value: Some(value),
            evidence: json!({
                "op": self.op.as_str(),
                "threshold": self.threshold,
                "recovery": self.recovery,
                "value": value,
                "points": series.values.len(),
                "last_at_ns": series.times.last(),
            }),
        }
    }

    /// 0.5 at the threshold, towards 1 the further beyond.
    fn score(&self, value: f64, status: Status) -> f64 {
        if status != Status::Firing {
            return 0.0;
        }
        let scale = self.threshold.abs().max(1e-9);
        let beyond = ((value - self.threshold).abs() / scale).min(1e6);
        0.5 + 0.5 * beyond / (1.0 + beyond)
    }

    fn summarize(&self, labels: &[(String, String)], value: f64) -> String {
        let mut text = String::with_capacity(self.summary.len() + 32);
        let mut rest = self.summary.as_str();
        while let Some((before, after)) = rest.split_once("{{") {
            text.push_str(before);
            let Some((name, after)) = after.split_once("}}") else {
                text.push_str("{{");
                rest = after;
                break;
            };
            match name.trim() {
                "value" => text.push_str(&number(value)),
                "threshold" => text.push_str(&number(self.threshold)),
                "labels" => text.push_str(&display(labels)),
                name => {
                    let label = name.strip_prefix("labels.").or_else(|| name.strip_prefix('$')).unwrap_or(name);
                    text.push_str(labels.iter().find(|(n, _)| n == label).map_or("", |(_, v)| v));
                }
            }
            rest = after;
        }
        text.push_str(rest);
        text
    }
}

impl Op {
    fn as_str(self) -> &'static str {
        match self {
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Equal => "==",
            Self::NotEqual => "!=",
        }
    }

    /// Exact comparisons, as in PromQL.
    #[allow(clippy::float_cmp)]
    fn holds(self, value: f64, threshold: f64) -> bool {
        match self {
            Self::Greater => value > threshold,
            Self::GreaterOrEqual => value >= threshold,
            Self::Less => value < threshold,
            Self::LessOrEqual => value <= threshold,
            Self::Equal => value == threshold,
            Self::NotEqual => value != threshold,
        }
    }
}

impl Aggregate {
    /// Staleness markers and other NaNs are no data; after a trailing one there is no last value.
    fn of(self, values: &[f64]) -> Option<f64> {
        let numbers = || values.iter().copied().filter(|v| !v.is_nan());
        match self {
            Self::Last => values.last().copied().filter(|v| !v.is_nan()),
            Self::Avg => {
                let count = numbers().count();
                (count > 0).then(|| numbers().sum::<f64>() / count as f64)
            }
            Self::Min => numbers().reduce(f64::min),
            Self::Max => numbers().reduce(f64::max),
        }
    }
}

/// At most four decimals, without trailing zeros.
fn number(value: f64) -> String {
    let text = format!("{value:.4}");
    if !text.contains('.') {
        return text;
    }
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn display(labels: &[(String, String)]) -> String {
    let pairs: Vec<_> = labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
    format!("{{{}}}", pairs.join(", "))
}

fn severity() -> String {
    "warning".into()
}

fn summary() -> String {
    "{{labels}} is {{value}}, threshold {{threshold}}".into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestrix_sdk::testing::World;

    fn series(values: &[f64]) -> Series {
        Series {
            labels: vec![("__name__".into(), "cpu_usage".into()), ("instance".into(), "a:1".into())],
            times: (0..values.len() as u64).map(|i| i * 1_000_000_000).collect(),
            values: values.to_vec(),
        }
    }

    fn evaluate(params: Value, values: &[f64]) -> Result<Finding> {
        let params: Threshold = orchestrix_sdk::kind::params(&params.to_string())?;
        let mut findings = World::new().run(|| params.evaluate(&Context::default(), &[series(values)]))?;
        Ok(findings.remove(0))
    }

    #[test]
    fn a_value_over_the_threshold_fires_with_the_series_labels() {
        let finding =
            evaluate(json!({ "threshold": 90, "summary": "{{labels.instance}} at {{ value }} % {{nothing}}{{open" }), &[95.5])
                .unwrap();
        assert_eq!(finding.status, Status::Firing);
        assert_eq!(finding.labels, [("instance".to_owned(), "a:1".to_owned())]);
        assert_eq!(finding.summary, "a:1 at 95.5 % {{open");
        assert_eq!(finding.value, Some(95.5));
        assert!(finding.score > 0.5 && finding.score <= 1.0);
    }

    #[test]
    fn between_recovery_and_threshold_a_series_is_holding() {
        let status = |value| evaluate(json!({ "threshold": 90, "recovery": 80 }), &[value]).unwrap().status;
        assert_eq!(
            [95.0, 90.0, 85.0, 80.0, 79.0].map(status),
            [Status::Firing, Status::Holding, Status::Holding, Status::Ok, Status::Ok]
        );
        let low = |value| evaluate(json!({ "op": "<", "threshold": 10, "recovery": 20 }), &[value]).unwrap().status;
        assert_eq!([5.0, 15.0, 25.0].map(low), [Status::Firing, Status::Holding, Status::Ok]);
    }

    #[test]
    fn every_comparison_holds_at_its_edge() {
        let fires = |op: &str, value| evaluate(json!({ "op": op, "threshold": 1 }), &[value]).unwrap().status == Status::Firing;
        assert_eq!([">", ">=", "<", "<=", "==", "!="].map(|op| fires(op, 1.0)), [false, true, false, true, true, false]);
        assert!(fires(">", f64::INFINITY));
    }

    #[test]
    fn the_aggregate_is_taken_over_the_window() {
        let value = |aggregate: &str| {
            evaluate(json!({ "threshold": 0, "aggregate": aggregate }), &[1.0, f64::NAN, 5.0, 3.0]).unwrap().value
        };
        assert_eq!(["last", "avg", "min", "max"].map(value), [Some(3.0), Some(3.0), Some(1.0), Some(5.0)]);
    }

    #[test]
    fn a_series_without_points_or_that_went_stale_has_no_data() {
        for values in [&[][..], &[1.0, f64::from_bits(0x7ff0_0000_0000_0002)]] {
            let finding = evaluate(json!({ "threshold": 0 }), values).unwrap();
            assert_eq!((finding.status, finding.value), (Status::NoData, None));
        }
    }

    #[test]
    fn wrong_params_are_refused_with_the_mend() {
        let error = |params| evaluate(params, &[1.0]).unwrap_err();
        for (params, said) in [
            (json!({}), "threshold"),
            (json!({ "threshold": "90" }), "expected f64"),
            (json!({ "threshold": 90, "treshold": 1 }), "treshold"),
            (json!({ "threshold": 90, "op": "~" }), "unknown variant"),
            (json!({ "threshold": 90, "recovery": 95 }), "at or below"),
            (json!({ "threshold": 1, "op": "==", "recovery": 1 }), "remove it"),
            (json!([1]), "params"),
        ] {
            let e = error(params);
            assert_eq!(e.code, "params.invalid");
            assert!(e.message.contains(said), "{e}");
        }
    }

    #[test]
    fn numbers_in_summaries_are_short() {
        assert_eq!([95.0, 0.123_456, 1e3, f64::INFINITY].map(number), ["95", "0.1235", "1000", "inf"]);
    }
}
