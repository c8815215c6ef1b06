//! Runs Prometheus' own test scripts (`load`, `eval`, `expect`) against the engine.
//!
//! Native histograms are not stored yet: their samples are left out of a `load`, and a case that fails
//! counts as failed like any other. What is known to fail stands in the tree's skip list.

mod script;
mod store;

use crate::promql::{Answer, Engine, Value, parse};
use model::{LabelSet, TenantId};
use script::{Case, Command, Expect, Points, Query};
use std::{collections::BTreeMap, sync::Arc};
use store::Memory;

/// How a script went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub passed: Vec<usize>,
    /// Line of the `eval`, and what differed.
    pub failed: Vec<(usize, String)>,
}

/// Runs a script; each `eval` is one case, known by its line.
pub async fn run(text: &str) -> Report {
    let mut report = Report::default();
    let mut store = Memory::default();
    for command in script::parse(text) {
        match command {
            Ok(Command::Clear) => store = Memory::default(),
            Ok(Command::Load { interval_ms, series }) => {
                series.into_iter().for_each(|(labels, points)| store.load(labels, interval_ms, &points))
            }
            Ok(Command::Eval(case)) => match check(&store, &case).await {
                Ok(()) => report.passed.push(case.line),
                Err(why) => report.failed.push((case.line, why)),
            },
            Err((line, why)) => report.failed.push((line, why)),
        }
    }
    report
}

async fn check(store: &Memory, case: &Case) -> Result<(), String> {
    let engine = Engine::new(Arc::new(store.clone()));
    compare(case, evaluate(&engine, case).await)?;
    // As the original does, an instant query is also run as a step of a range.
    if let Query::Instant(t) = case.query
        && !case.has(|e| matches!(e, Expect::Fail(_) | Expect::Ordered | Expect::Text(_) | Expect::Matrix { .. }))
        && !case.text.contains("step()")
        && !case.text.contains("range()")
        && !case.text.contains("start()")
        && !case.text.contains("end()")
        && !case.has(|e| matches!(e, Expect::NoWarn | Expect::NoInfo | Expect::Warn(_) | Expect::Info(_)))
        && parse(&case.text).is_ok_and(|e| e.value_type() == crate::promql::ValueType::Vector)
    {
        let expr = parse(&case.text).map_err(|e| e.to_string())?;
        let answer =
            engine.range(&tenant(), &expr, t - 60_000, t + 60_000, 60_000).await.map_err(|e| format!("as a range: {e}"))?;
        let at = answer
            .into_iter()
            .filter_map(|s| s.times.iter().position(|x| *x == t).map(|i| (s.labels.clone(), vec![(t, s.values[i])])))
            .collect();
        return same(&expected(case), &at).map_err(|why| format!("as a range: {why}"));
    }
    Ok(())
}

fn tenant() -> TenantId {
    TenantId::default_tenant()
}

async fn evaluate(engine: &Engine, case: &Case) -> Result<Answer, String> {
    let expr = parse(&case.text).map_err(|e| e.to_string())?;
    let answer = match case.query {
        Query::Instant(t) => engine.instant_annotated(&tenant(), &expr, t).await,
        Query::Range(start, end, step) => engine.range_annotated(&tenant(), &expr, start, end, step).await,
    };
    answer.map_err(|e| e.to_string())
}

type Columns = BTreeMap<LabelSet, Vec<(i64, f64)>>;

fn compare(case: &Case, answer: Result<Answer, String>) -> Result<(), String> {
    let fail = case.expects.iter().find_map(|e| match e {
        Expect::Fail(message) => Some(message),
        _ => None,
    });
    let answer = match (answer, fail) {
        (Err(_), Some(None)) => return Ok(()),
        (Err(error), Some(Some(text))) => {
            return if text.matches(&error) { Ok(()) } else { Err(format!("failed otherwise: {error}")) };
        }
        (Err(error), None) => return Err(error),
        (Ok(answer), Some(_)) => return Err(format!("expected a failure, got {:?}", answer.value)),
        (Ok(answer), None) => answer,
    };
    for expect in &case.expects {
        let (ok, notes) = match expect {
            Expect::Warn(text) => (answer.warnings.iter().any(|w| text.as_ref().is_none_or(|t| t.matches(w))), &answer.warnings),
            Expect::Info(text) => (answer.infos.iter().any(|w| text.as_ref().is_none_or(|t| t.matches(w))), &answer.infos),
            Expect::NoWarn => (answer.warnings.is_empty(), &answer.warnings),
            Expect::NoInfo => (answer.infos.is_empty(), &answer.infos),
            _ => continue,
        };
        if !ok {
            return Err(format!("annotations differ: expected {expect:?}, got {notes:?}"));
        }
    }
    match answer.value {
        Value::String { s, .. } => match case.expects.iter().find_map(|e| if let Expect::Text(t) = e { Some(t) } else { None }) {
            Some(want) if *want == s => Ok(()),
            want => Err(format!("expected {want:?}, got {s:?}")),
        },
        Value::Scalar { v, .. } => match case.scalar {
            Some(want) if close(want, v) => Ok(()),
            want => Err(format!("expected {want:?}, got {v}")),
        },
        Value::Vector(samples) => {
            if case.scalar.is_some() {
                return Err("expected a scalar, got a vector".into());
            }
            if case.has(|e| matches!(e, Expect::Ordered)) {
                let got: Vec<_> = samples.iter().map(|s| s.labels.clone()).collect();
                let want: Vec<_> = case.rows.iter().map(|(labels, _)| labels.clone()).collect();
                if got != want {
                    return Err(format!("order differs: {}", got.iter().map(LabelSet::to_string).collect::<Vec<_>>().join(" ")));
                }
            }
            same(&expected(case), &samples.into_iter().map(|s| (s.labels, vec![(s.t, s.v)])).collect())
        }
        Value::Matrix(series) => {
            let got = series.into_iter().map(|s| (s.labels, s.times.into_iter().zip(s.values).collect())).collect();
            same(&expected(case), &got)
        }
    }
}

fn expected(case: &Case) -> Columns {
    let (start, step) = case
        .expects
        .iter()
        .find_map(|e| if let Expect::Matrix { start, step } = e { Some((*start, *step)) } else { None })
        .unwrap_or(match case.query {
            Query::Instant(t) => (t, 0),
            Query::Range(start, _, step) => (start, step),
        });
    let mut out = Columns::new();
    for (labels, points) in &case.rows {
        let points: Vec<_> =
            points.iter().enumerate().filter_map(|(i, p)| p.value().map(|v| (start + step * i as i64, v))).collect();
        if !points.is_empty() || case.rows.iter().any(|(_, p)| p.iter().any(|p| matches!(p, Points::Histogram))) {
            out.insert(labels.clone(), points);
        }
    }
    out
}

fn same(want: &Columns, got: &Columns) -> Result<(), String> {
    let show = |c: &Columns| {
        c.iter().map(|(l, p)| format!("{l} {:?}", p.iter().map(|(_, v)| *v).collect::<Vec<_>>())).collect::<Vec<_>>().join("; ")
    };
    let equal = want.len() == got.len()
        && want.iter().zip(got).all(|((wl, wp), (gl, gp))| {
            wl == gl && wp.len() == gp.len() && wp.iter().zip(gp).all(|((wt, wv), (gt, gv))| wt == gt && close(*wv, *gv))
        });
    if equal { Ok(()) } else { Err(format!("expected {}, got {}", show(want), show(got))) }
}

/// Equal within the tolerance the original tests have.
fn close(a: f64, b: f64) -> bool {
    const EPSILON: f64 = 1e-6;
    if a.is_nan() || b.is_nan() {
        return a.is_nan() && b.is_nan();
    }
    if a == b {
        return true;
    }
    let (difference, sum) = ((a - b).abs(), a.abs() + b.abs());
    if a == 0.0 || b == 0.0 || sum < f64::MIN_POSITIVE {
        difference < EPSILON * f64::MIN_POSITIVE
    } else {
        difference / sum.min(f64::MAX) < EPSILON
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(query: &str, wanted: &str) {
        let load = "load 1m\n  up{job=\"a\"} 1 1 0 stale\n  up{job=\"b\"} 1x9\n  c_total{job=\"a\"} 0+60x2 0+60x6\n  c_total{job=\"b\"} 0+30x9\n  h_bucket{le=\"1\"} 5\n  h_bucket{le=\"+Inf\"} 10\n";
        let report = run(&format!("{load}\neval instant at {query}\n{wanted}\n")).await;
        assert_eq!((report.passed.len(), report.failed), (1, vec![]), "{query}");
    }

    #[tokio::test]
    async fn selectors_look_back_and_end_at_staleness() {
        check("2m up", "  up{job=\"a\"} 0\n  up{job=\"b\"} 1").await;
        check("3m up", "  up{job=\"b\"} 1").await;
        check("4m up offset 2m", "  up{job=\"a\"} 0\n  up{job=\"b\"} 1").await;
        check("9m up{job=\"b\"} @ 60", "  up{job=\"b\"} 1").await;
        check("30m up", "").await;
    }

    #[tokio::test]
    async fn counters_are_corrected_for_resets() {
        check("8m increase(c_total{job=\"a\"}[8m])", "  {job=\"a\"} 411.42857142857144").await;
        check("8m sum(rate(c_total{job=\"b\"}[4m]))", "  {} 0.5").await;
        check("8m max_over_time(rate(c_total{job=\"b\"}[2m])[4m:1m])", "  {job=\"b\"} 0.5").await;
    }

    #[tokio::test]
    async fn operators_match_series_and_refuse_ambiguity() {
        check("1m c_total / on(job) up", "  {job=\"a\"} 60\n  {job=\"b\"} 30").await;
        check("1m c_total > 40", "  c_total{job=\"a\"} 60").await;
        check("1m c_total unless on(job) up{job=\"a\"}", "  c_total{job=\"b\"} 30").await;
        check(
            "1m up * on() up",
            "  expect fail regex: found duplicate series for the match group .*many-to-many matching not allowed",
        )
        .await;
        check("1m up * on() group_left() h_bucket{le=\"1\"}", "  {job=\"a\"} 5\n  {job=\"b\"} 5").await;
    }

    #[tokio::test]
    async fn functions_and_aggregations_work_together() {
        check("0 histogram_quantile(0.5, h_bucket)", "  {} 1").await;
        check("1m topk(1, c_total)", "  expect ordered\n  c_total{job=\"a\"} 60").await;
        check("1m count_values(\"v\", up)", "  {v=\"1\"} 2").await;
        check("1m absent(nothing{x=\"y\"})", "  {x=\"y\"} 1").await;
        check("1m label_replace(up{job=\"a\"}, \"k\", \"$1!\", \"job\", \"(.*)\")", "  up{job=\"a\", k=\"a!\"} 1").await;
    }

    #[tokio::test]
    async fn a_broken_script_is_a_failure_of_its_line() {
        let report = run("load\n\neval instant at\n\nnonsense\n\neval range from 0 to 1m step 0 vector(1)").await;
        assert_eq!(report.failed.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 3, 5, 7]);
    }
}
