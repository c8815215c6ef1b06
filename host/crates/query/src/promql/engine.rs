//! Loading what a query needs, running it, and the shape of its answer.

use super::{
    ast::{At, Duration, Expr, Node, Selector, ValueType},
    eval::{Eval, Evaluated, Grid, Notes},
};
use crate::error::{Error, Result, execution};
use model::{LabelSet, Matcher, Series, TenantId, limits};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration as Wall, Instant},
};
use telemetry::MetricReader;

/// The result of a query.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Scalar { t: i64, v: f64 },
    String { t: i64, s: String },
    Vector(Vec<InstantSample>),
    Matrix(Vec<Series>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct InstantSample {
    pub labels: LabelSet,
    pub t: i64,
    pub v: f64,
}

/// A result with what Prometheus calls annotations.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub value: Value,
    pub warnings: Vec<String>,
    pub infos: Vec<String>,
}

/// Evaluates expressions against a reader of metrics. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    reader: Arc<dyn MetricReader>,
    lookback_ms: i64,
    samples_max: usize,
    wall_ms_max: u64,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("lookback_ms", &self.lookback_ms).finish_non_exhaustive()
    }
}

impl Engine {
    pub fn new(reader: Arc<dyn MetricReader>) -> Self {
        Self {
            reader,
            lookback_ms: limits::LOOKBACK_MS,
            samples_max: limits::QUERY_SAMPLES_MAX,
            wall_ms_max: limits::QUERY_WALL_MS_MAX,
        }
    }

    /// The same engine with tighter bounds, for callers that must not weigh on others.
    #[must_use]
    pub fn bounded(mut self, samples_max: usize, wall_ms_max: u64) -> Self {
        self.samples_max = samples_max.min(self.samples_max);
        self.wall_ms_max = wall_ms_max.min(self.wall_ms_max);
        self
    }

    /// The value at one time. Dropping the future stops the evaluation.
    pub async fn instant(&self, tenant: &TenantId, expr: &Expr, t_ms: i64) -> Result<Value> {
        Ok(self.instant_annotated(tenant, expr, t_ms).await?.value)
    }

    /// Values at `start`, `start + step`, … up to `end`; series sorted by their labels.
    pub async fn range(&self, tenant: &TenantId, expr: &Expr, start_ms: i64, end_ms: i64, step_ms: i64) -> Result<Vec<Series>> {
        match self.range_annotated(tenant, expr, start_ms, end_ms, step_ms).await?.value {
            Value::Matrix(series) => Ok(series),
            _ => Err(execution("a range query answered no matrix")),
        }
    }

    pub async fn instant_annotated(&self, tenant: &TenantId, expr: &Expr, t_ms: i64) -> Result<Answer> {
        self.run(tenant, expr, Grid { start: t_ms, step: 0, steps: 1 }, true).await
    }

    pub async fn range_annotated(
        &self,
        tenant: &TenantId,
        expr: &Expr,
        start_ms: i64,
        end_ms: i64,
        step_ms: i64,
    ) -> Result<Answer> {
        if step_ms <= 0 {
            return Err(execution("zero or negative query resolution step widths are not accepted"));
        }
        if end_ms < start_ms {
            return Err(execution("end timestamp must not be before start time"));
        }
        if !matches!(expr.value_type(), ValueType::Scalar | ValueType::Vector) {
            let got = expr.value_type().as_str();
            return Err(execution(format!("invalid expression type {got:?} for range query, must be scalar or instant vector")));
        }
        let steps = usize::try_from((end_ms.saturating_sub(start_ms)) / step_ms).unwrap_or(usize::MAX).saturating_add(1);
        if steps > limits::QUERY_STEPS_MAX {
            return Err(Error::TooLarge { what: "answer more points per series", limit: limits::QUERY_STEPS_MAX });
        }
        self.run(tenant, expr, Grid { start: start_ms, step: step_ms, steps }, false).await
    }

    async fn run(&self, tenant: &TenantId, expr: &Expr, grid: Grid, is_instant: bool) -> Result<Answer> {
        let deadline = Instant::now() + Wall::from_millis(self.wall_ms_max);
        let plan = Plan { grid: grid.clone(), lookback_ms: self.lookback_ms };
        let mut fetches = Vec::new();
        plan.collect(expr, &grid, &mut fetches)?;
        let mut data = HashMap::with_capacity(fetches.len());
        let mut samples = 0_usize;
        for fetch in fetches {
            let wait = deadline.saturating_duration_since(Instant::now());
            let selecting = self.reader.select(tenant, &fetch.matchers, fetch.start, fetch.end);
            let series = tokio::time::timeout(wait, selecting).await.map_err(|_| Error::OutOfTime(self.wall_ms_max))??;
            samples += series.iter().map(|s| s.times.len()).sum::<usize>();
            if samples > self.samples_max {
                return Err(Error::TooLarge { what: "load samples", limit: self.samples_max });
            }
            data.insert(fetch.key, series);
        }
        let cancelled = CancelOnDrop(Arc::new(AtomicBool::new(false)));
        let eval = Eval {
            data,
            query: grid,
            is_instant,
            lookback_ms: self.lookback_ms,
            samples_left: std::cell::Cell::new(self.samples_max - samples),
            samples_max: self.samples_max,
            deadline,
            wall_ms_max: self.wall_ms_max,
            cancelled: cancelled.0.clone(),
            notes: std::cell::RefCell::new(Notes::default()),
        };
        let expr = expr.clone();
        let work = move || answer(&eval, &expr);
        // A handful of series is not worth a hop to another thread and back.
        if samples < 2_000 {
            return work();
        }
        match tokio::task::spawn_blocking(work).await {
            Ok(answer) => answer,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(Error::Cancelled),
        }
    }
}

fn answer(eval: &Eval, expr: &Expr) -> Result<Answer> {
    let grid = eval.query.clone();
    let t = grid.start;
    let value = match (expr.value_type(), eval.is_instant) {
        (ValueType::Matrix, _) => Value::Matrix(eval.raw_matrix(expr, &grid)?),
        (_, true) => match eval.eval(expr, &grid)? {
            Evaluated::Scalar(values) => Value::Scalar { t, v: values[0] },
            Evaluated::String(s) => Value::String { t, s },
            Evaluated::Vector(rows) => Value::Vector(
                eval.finish(rows)?
                    .into_iter()
                    .filter(|(_, values)| !super::eval::is_absent(values[0]))
                    .map(|(labels, values)| InstantSample { labels, t, v: values[0] })
                    .collect(),
            ),
        },
        (_, false) => {
            let rows = match eval.eval(expr, &grid)? {
                Evaluated::Scalar(values) => vec![(LabelSet::default(), values)],
                Evaluated::String(_) => return Err(execution("a string has no range")),
                Evaluated::Vector(rows) => {
                    let mut rows = eval.finish(rows)?;
                    rows.sort_by(|a, b| a.0.cmp(&b.0));
                    rows
                }
            };
            Value::Matrix(
                rows.into_iter()
                    .map(|(labels, values)| to_series(&grid, labels, &values))
                    .filter(|s| !s.times.is_empty())
                    .collect(),
            )
        }
    };
    let notes = eval.notes.take();
    Ok(Answer { value, warnings: notes.warnings.into_iter().collect(), infos: notes.infos.into_iter().collect() })
}

fn to_series(grid: &Grid, labels: LabelSet, values: &[f64]) -> Series {
    let (times, values) =
        values.iter().enumerate().filter(|(_, v)| !super::eval::is_absent(**v)).map(|(i, v)| (grid.time(i), *v)).unzip();
    Series { labels, times, values }
}

/// Stops the evaluation on the blocking pool when the caller goes away.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One selector's need: which series, between which times, both inclusive.
struct Fetch {
    key: usize,
    matchers: Vec<Matcher>,
    start: i64,
    end: i64,
}

struct Plan {
    grid: Grid,
    lookback_ms: i64,
}

impl Plan {
    fn selector(&self, expr: &Expr, selector: &Selector, grid: &Grid, range_ms: i64, out: &mut Vec<Fetch>) -> Result<()> {
        let offset = self.grid.offset_ms(selector.offset.as_ref())?;
        let (first, last) = match self.grid.at(selector.at) {
            Some(at) => (at, at),
            None => (grid.start, grid.end()),
        };
        let lookback = if selector.mode == super::RangeMode::Plain { 0 } else { self.lookback_ms };
        let ahead = if selector.mode == super::RangeMode::Smoothed { self.lookback_ms } else { 0 };
        out.push(Fetch {
            key: expr.span.start,
            matchers: selector.matchers.clone(),
            // Ranges are open on the left; the extended modes look beyond them.
            start: first.saturating_sub(offset).saturating_sub(range_ms).saturating_sub(lookback).saturating_add(1),
            end: last.saturating_sub(offset).saturating_add(ahead),
        });
        Ok(())
    }

    fn collect(&self, expr: &Expr, grid: &Grid, out: &mut Vec<Fetch>) -> Result<()> {
        match &expr.node {
            Node::Number(_) | Node::String(_) => Ok(()),
            Node::Selector(selector) => self.selector(expr, selector, grid, self.lookback_ms, out),
            Node::Matrix { selector, range } => {
                let range_ms = self.grid.range_ms(range)?;
                self.selector(expr, selector, grid, range_ms, out)
            }
            Node::Subquery { expr, range, step, offset, at } => {
                let inner = self.grid.subquery(grid, range, step.as_ref(), offset.as_ref(), *at)?;
                self.collect(expr, &inner, out)
            }
            Node::Negate(inner) | Node::Plus(inner) | Node::Paren(inner) => self.collect(inner, grid, out),
            Node::Call { function, args } if function.name == "info" => {
                self.collect(&args[0], grid, out)?;
                let selector = super::instant_fn::info_selector(args.get(1));
                let (mut start, mut end) = (grid.start, grid.end());
                args[0].walk(&mut |e| {
                    if let Node::Selector(s) | Node::Matrix { selector: s, .. } = &e.node {
                        let offset = self.grid.offset_ms(s.offset.as_ref()).unwrap_or(0);
                        let (first, last) = self.grid.at(s.at).map_or((grid.start, grid.end()), |at| (at, at));
                        start = start.min(first.saturating_sub(offset));
                        end = end.max(last.saturating_sub(offset));
                    }
                });
                out.push(Fetch {
                    key: super::instant_fn::info_key(expr),
                    matchers: selector,
                    start: start.saturating_sub(self.lookback_ms) + 1,
                    end,
                });
                Ok(())
            }
            Node::Call { args, .. } => args.iter().try_for_each(|arg| self.collect(arg, grid, out)),
            Node::Aggregate { expr, param, .. } => {
                if let Some(param) = param {
                    self.collect(param, grid, out)?;
                }
                self.collect(expr, grid, out)
            }
            Node::Binary { left, right, .. } => {
                self.collect(left, grid, out)?;
                self.collect(right, grid, out)
            }
        }
    }
}

impl Grid {
    pub(crate) fn at(&self, at: Option<At>) -> Option<i64> {
        at.map(|at| match at {
            At::Millis(ms) => ms,
            At::Start => self.start,
            At::End => self.end(),
        })
    }

    fn duration_ms(&self, duration: &Duration) -> Result<i64> {
        let seconds = duration.seconds(self.step, self.end() - self.start);
        if !seconds.is_finite() || seconds.abs() > 9.2e9 {
            return Err(execution(format!("duration {duration} is out of range")));
        }
        Ok((seconds * 1000.0).round() as i64)
    }

    pub(crate) fn offset_ms(&self, offset: Option<&Duration>) -> Result<i64> {
        offset.map_or(Ok(0), |offset| self.duration_ms(offset))
    }

    pub(crate) fn range_ms(&self, range: &Duration) -> Result<i64> {
        match self.duration_ms(range)? {
            ms if ms > 0 => Ok(ms),
            _ => Err(execution("duration must be greater than 0")),
        }
    }

    /// The steps at which a subquery's inner expression is evaluated: multiples of its step, the range open on the left.
    pub(crate) fn subquery(
        &self,
        outer: &Grid,
        range: &Duration,
        step: Option<&Duration>,
        offset: Option<&Duration>,
        at: Option<At>,
    ) -> Result<Grid> {
        let range = self.range_ms(range)?;
        let step = step.map_or(Ok(60_000), |step| self.range_ms(step))?;
        let offset = self.offset_ms(offset)?;
        let (first, last) = match self.at(at) {
            Some(at) => (at, at),
            None => (outer.start, outer.end()),
        };
        let low = first.saturating_sub(offset).saturating_sub(range);
        let mut start = step.saturating_mul(low.div_euclid(step));
        if start <= low {
            start = start.saturating_add(step);
        }
        let end = last.saturating_sub(offset);
        let steps = if end < start { 0 } else { usize::try_from((end - start) / step).unwrap_or(usize::MAX).saturating_add(1) };
        if steps > limits::QUERY_SAMPLES_MAX {
            return Err(Error::TooLarge { what: "take more steps in a subquery", limit: limits::QUERY_SAMPLES_MAX });
        }
        Ok(Grid { start, step, steps })
    }
}
