//! `absence`: fires for what is expected and not there.
//!
//! Of the monitor's query it looks at which series exist; with `logs` it looks for one record in a window. What is
//! there is reported ok, so that the alert ends when it comes back.

use orchestrix_sdk::{prelude::*, telemetry};
use std::collections::BTreeMap;

/// The monitor's parameters.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Absence {
    /// Label sets that must each match a series of the query. Without any, one series of whatever labels is enough.
    #[serde(default)]
    expect: Vec<BTreeMap<String, String>>,
    /// A log selector that must find something; then the query is not looked at.
    #[serde(default)]
    logs: Option<String>,
    /// How far back a log record, or the last sample of a series, counts as there.
    #[serde(default = "five_minutes")]
    window: Millis,
    /// Labels of the alert where `expect` names none.
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default = "severity")]
    severity: String,
    #[serde(default)]
    summary: Option<String>,
}

#[orchestrix_sdk::detector]
impl Detector for Absence {
    fn evaluate(&self, ctx: &Context, input: &[Series]) -> Result<Vec<Finding>> {
        if self.window.0 == 0 {
            return Err(Error::new("params.invalid", "window must be longer than nothing"));
        }
        let since = ctx.now.saturating_sub(self.window.as_ns());
        if let Some(selector) = &self.logs {
            if !self.expect.is_empty() {
                return Err(Error::new("params.invalid", "expect looks at series, logs at records: keep one of them"));
            }
            let range = telemetry::TimeRange { start: since, end: ctx.now, step_ms: 0 };
            let found = telemetry::query_logs(selector, range, &[], 1)?;
            return Ok(vec![self.finding(&self.labels, !found.is_empty(), &format!("log records of {selector}"))]);
        }
        let present: Vec<&Series> = input.iter().filter(|series| is_fresh(series, since)).collect();
        if self.expect.is_empty() {
            return Ok(vec![self.finding(&self.labels, !present.is_empty(), "series")]);
        }
        let findings = self.expect.iter().map(|labels| {
            let is_there =
                present.iter().any(|series| labels.iter().all(|(name, value)| series.label(name).unwrap_or("") == value));
            self.finding(labels, is_there, &format!("series {}", display(labels)))
        });
        Ok(findings.collect())
    }
}

impl Absence {
    fn finding(&self, labels: &BTreeMap<String, String>, is_there: bool, what: &str) -> Finding {
        let default = || format!("no {what} in {}", self.window);
        Finding {
            labels: labels.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            status: if is_there { Status::Ok } else { Status::Firing },
            score: if is_there { 0.0 } else { 1.0 },
            severity: self.severity.clone(),
            summary: if is_there { format!("{what} are there") } else { self.summary.clone().unwrap_or_else(default) },
            value: None,
            evidence: json!({ "window": self.window.to_string(), "logs": self.logs }),
        }
    }
}

/// A series is there when its newest sample lies in the window and is no staleness marker.
fn is_fresh(series: &Series, since: u64) -> bool {
    series.times.last().is_some_and(|at| *at > since) && series.values.last().is_some_and(|value| !value.is_nan())
}

fn display(labels: &BTreeMap<String, String>) -> String {
    let pairs: Vec<_> = labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
    format!("{{{}}}", pairs.join(", "))
}

fn five_minutes() -> Millis {
    Millis(300_000)
}

fn severity() -> String {
    "warning".into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestrix_sdk::testing::World;

    const NOW: u64 = 1_700_000_000_000_000_000;
    const SECOND: u64 = 1_000_000_000;

    fn up(job: &str, age_s: u64, value: f64) -> Series {
        Series {
            labels: vec![("__name__".into(), "up".into()), ("job".into(), job.into())],
            times: vec![NOW - age_s * SECOND],
            values: vec![value],
        }
    }

    fn evaluate(world: &World, params: Value, input: &[Series]) -> Result<Vec<Finding>> {
        let params: Absence = orchestrix_sdk::kind::params(&params.to_string())?;
        world.run(|| params.evaluate(&Context { now: NOW, ..Context::default() }, input))
    }

    fn statuses(params: Value, input: &[Series]) -> Vec<Status> {
        evaluate(&World::new(), params, input).unwrap().into_iter().map(|finding| finding.status).collect()
    }

    #[test]
    fn each_expected_series_is_judged_by_itself() {
        let expect = json!({ "expect": [{ "job": "shop" }, { "job": "cart" }], "window": "1m" });
        assert_eq!(statuses(expect.clone(), &[up("shop", 10, 0.0)]), [Status::Ok, Status::Firing]);
        assert_eq!(statuses(expect.clone(), &[up("shop", 61, 1.0), up("cart", 59, 1.0)]), [Status::Firing, Status::Ok]);
        assert_eq!(statuses(expect, &[up("shop", 1, f64::NAN)]), [Status::Firing, Status::Firing]);
    }

    #[test]
    fn without_expectations_any_series_will_do() {
        assert_eq!(statuses(json!({}), &[]), [Status::Firing]);
        assert_eq!(statuses(json!({}), &[up("x", 1, 1.0)]), [Status::Ok]);
        let findings = evaluate(&World::new(), json!({ "labels": { "team": "a" }, "summary": "silence" }), &[]).unwrap();
        assert_eq!((findings[0].labels[0].1.as_str(), findings[0].summary.as_str()), ("a", "silence"));
    }

    #[test]
    fn log_records_are_looked_for_in_the_window() {
        let world = World::new();
        world.on_logs(|query, range| {
            assert_eq!((query, range.end - range.start), ("{service_name=\"shop\"}", 120 * SECOND));
            Ok(LogBatch { times: vec![], ..LogBatch::default() })
        });
        let params = json!({ "logs": "{service_name=\"shop\"}", "window": "2m" });
        let findings = evaluate(&world, params.clone(), &[up("x", 1, 1.0)]).unwrap();
        assert_eq!(findings[0].status, Status::Firing);
        assert_eq!(findings[0].summary, "no log records of {service_name=\"shop\"} in 2m");
        world.on_logs(|_, _| Ok(LogBatch { times: vec![NOW], ..LogBatch::default() }));
        assert_eq!(evaluate(&world, params, &[]).unwrap()[0].status, Status::Ok);
    }

    #[test]
    fn a_refused_query_is_an_error_and_no_alert() {
        let world = World::new();
        assert_eq!(evaluate(&world, json!({ "logs": "{a=\"b\"}" }), &[]).unwrap_err().code, "permission.denied");
    }

    #[test]
    fn wrong_params_are_refused() {
        for params in [
            json!({ "window": 0 }),
            json!({ "window": "soon" }),
            json!({ "logs": "x", "expect": [{}] }),
            json!({ "expect": 3 }),
            json!({ "x": 1 }),
        ] {
            assert_eq!(evaluate(&World::new(), params.clone(), &[]).unwrap_err().code, "params.invalid", "{params}");
        }
    }
}
