//! The evaluator: every expression becomes, over all steps at once, a scalar column or rows of columns.
//!
//! A missing value is the staleness marker's bit pattern, which no computation can yield. Metric names are
//! dropped at the end ("delayed name removal"), so that `label_replace` still sees them.

use super::{
    ast::{At, Duration, Expr, Node, RangeMode, Selector},
    range_fn::{self, Window},
};
use crate::error::{Error, Result, execution};
use model::{LabelSet, STALE_NAN_BITS, Series};
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};
use telemetry::SeriesData;

/// "No value at this step".
pub(crate) const ABSENT: f64 = f64::from_bits(STALE_NAN_BITS);

pub(crate) fn is_absent(v: f64) -> bool {
    v.to_bits() == STALE_NAN_BITS
}

/// The times of evaluation: `start`, `start + step`, …
#[derive(Clone, Debug)]
pub(crate) struct Grid {
    pub start: i64,
    pub step: i64,
    pub steps: usize,
}

impl Grid {
    pub(crate) fn time(&self, i: usize) -> i64 {
        self.start + self.step * i as i64
    }
    pub(crate) fn end(&self) -> i64 {
        self.time(self.steps.saturating_sub(1))
    }
}

/// One series over the grid.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub labels: Arc<LabelSet>,
    /// The metric name goes at the end of the evaluation.
    pub drop_name: bool,
    pub values: Vec<f64>,
}

pub(crate) enum Evaluated {
    Scalar(Vec<f64>),
    String(String),
    Vector(Vec<Row>),
}

#[derive(Default)]
pub(crate) struct Notes {
    pub warnings: BTreeSet<String>,
    pub infos: BTreeSet<String>,
}

pub(crate) struct Eval {
    /// Loaded series by the place of their selector.
    pub data: HashMap<usize, Vec<SeriesData>>,
    /// The query's own grid: what `start()`, `end()`, `step()` and `range()` mean.
    pub query: Grid,
    pub is_instant: bool,
    pub lookback_ms: i64,
    pub samples_left: Cell<usize>,
    pub samples_max: usize,
    pub deadline: Instant,
    pub wall_ms_max: u64,
    pub cancelled: Arc<AtomicBool>,
    pub notes: RefCell<Notes>,
}

/// Samples of one series, and what its windows need: owned after a subquery, borrowed from the store otherwise.
pub(crate) struct Samples<'a> {
    pub labels: Arc<LabelSet>,
    pub drop_name: bool,
    pub times: std::borrow::Cow<'a, [i64]>,
    pub values: std::borrow::Cow<'a, [f64]>,
}

/// Where the windows of a range lie.
pub(crate) struct Ranges {
    pub range: i64,
    pub offset: i64,
    pub at: Option<i64>,
    pub mode: RangeMode,
}

impl Ranges {
    /// The window (start, end] for the evaluation at `t`.
    pub(crate) fn bounds(&self, t: i64) -> (i64, i64) {
        let end = self.at.unwrap_or(t).saturating_sub(self.offset);
        (end.saturating_sub(self.range), end)
    }
}

impl Eval {
    // ---- bounds

    /// Called between series: stops when the caller went away or the time is over.
    pub(crate) fn check(&self) -> Result<()> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        if Instant::now() > self.deadline {
            return Err(Error::OutOfTime(self.wall_ms_max));
        }
        Ok(())
    }

    /// A column for one row, counted against the query's bound.
    pub(crate) fn column(&self, steps: usize) -> Result<Vec<f64>> {
        self.charge(steps)?;
        Ok(vec![ABSENT; steps])
    }

    fn charge(&self, samples: usize) -> Result<()> {
        match self.samples_left.get().checked_sub(samples) {
            Some(left) => self.samples_left.set(left),
            None => return Err(Error::TooLarge { what: "hold samples", limit: self.samples_max }),
        }
        Ok(())
    }

    pub(crate) fn warn(&self, text: String) {
        let mut notes = self.notes.borrow_mut();
        // Ten of a kind tell the story; Prometheus cuts there too.
        if notes.warnings.len() < 10 {
            notes.warnings.insert(format!("PromQL warning: {text}"));
        }
    }
    pub(crate) fn inform(&self, text: String) {
        let mut notes = self.notes.borrow_mut();
        if notes.infos.len() < 10 {
            notes.infos.insert(format!("PromQL info: {text}"));
        }
    }

    // ---- expressions

    pub(crate) fn eval(&self, expr: &Expr, grid: &Grid) -> Result<Evaluated> {
        Ok(match &expr.node {
            Node::Number(v) => Evaluated::Scalar(vec![*v; grid.steps]),
            Node::String(s) => Evaluated::String(s.clone()),
            Node::Paren(inner) | Node::Plus(inner) => self.eval(inner, grid)?,
            Node::Negate(inner) => match self.eval(inner, grid)? {
                Evaluated::Scalar(values) => Evaluated::Scalar(values.into_iter().map(|v| -v).collect()),
                Evaluated::Vector(rows) => Evaluated::Vector(map_values(rows, |v| -v)),
                Evaluated::String(_) => return Err(execution("a string can't be negated")),
            },
            Node::Selector(selector) => Evaluated::Vector(self.instant_selector(expr, selector, grid, false)?),
            Node::Matrix { .. } | Node::Subquery { .. } => return Err(execution("a range vector has no value of its own here")),
            Node::Call { function, args } => self.call(expr, function, args, grid)?,
            Node::Aggregate { op, expr: inner, param, grouping, is_without } => {
                Evaluated::Vector(self.aggregate(*op, inner, param.as_deref(), grouping, *is_without, grid)?)
            }
            Node::Binary { op, left, right, is_bool, matching } => self.binary(*op, left, right, *is_bool, matching, grid)?,
        })
    }

    pub(crate) fn scalar(&self, expr: &Expr, grid: &Grid) -> Result<Vec<f64>> {
        match self.eval(expr, grid)? {
            Evaluated::Scalar(values) => Ok(values),
            _ => Err(execution("expected a scalar")),
        }
    }

    pub(crate) fn vector(&self, expr: &Expr, grid: &Grid) -> Result<Vec<Row>> {
        match self.eval(expr, grid)? {
            Evaluated::Vector(rows) => Ok(rows),
            _ => Err(execution("expected an instant vector")),
        }
    }

    pub(crate) fn string(&self, expr: &Expr) -> Result<String> {
        match &expr.bare().node {
            Node::String(s) => Ok(s.clone()),
            _ => Err(execution("expected a string")),
        }
    }

    /// The newest sample of each series within the look-back, or its time in seconds.
    pub(crate) fn instant_selector(&self, expr: &Expr, selector: &Selector, grid: &Grid, want_time: bool) -> Result<Vec<Row>> {
        let offset = self.query.offset_ms(selector.offset.as_ref())?;
        let at = self.query.at(selector.at);
        let Some(series) = self.data.get(&expr.span.start) else { return Ok(Vec::new()) };
        let mut rows = Vec::with_capacity(series.len());
        for one in series {
            self.check()?;
            let mut values = self.column(grid.steps)?;
            let mut any = false;
            let mut next = 0;
            for (i, slot) in values.iter_mut().enumerate() {
                if i > 0 && at.is_some() {
                    break;
                }
                let t = at.unwrap_or_else(|| grid.time(i)).saturating_sub(offset);
                while next < one.times.len() && one.times[next] <= t {
                    next += 1;
                }
                if selector.mode == RangeMode::Smoothed {
                    if let Some(v) = range_fn::smoothed_at(&one.times, &one.values, next, t, self.lookback_ms) {
                        *slot = v;
                        any = true;
                    }
                    continue;
                }
                let Some(last) = next.checked_sub(1) else { continue };
                if one.times[last] <= t.saturating_sub(self.lookback_ms) || is_absent(one.values[last]) {
                    continue;
                }
                *slot = if want_time { one.times[last] as f64 / 1000.0 } else { one.values[last] };
                any = true;
            }
            if at.is_some()
                && let Some(first) = values.first().copied()
            {
                values.fill(first);
            }
            if any {
                rows.push(Row { labels: one.labels.clone(), drop_name: want_time, values });
            }
        }
        Ok(rows)
    }

    /// The series and windows of a range vector, staleness markers left out.
    pub(crate) fn samples(&self, expr: &Expr, grid: &Grid) -> Result<(Vec<Samples<'_>>, Ranges)> {
        match &expr.bare().node {
            Node::Matrix { selector, range } => {
                let ranges = self.ranges(range, selector.offset.as_ref(), selector.at, selector.mode)?;
                let series = self.data.get(&expr.bare().span.start).map(Vec::as_slice).unwrap_or_default();
                let samples = series
                    .iter()
                    .map(|one| {
                        let (times, values) = without_stale(&one.times, &one.values);
                        Samples { labels: one.labels.clone(), drop_name: false, times, values }
                    })
                    .collect();
                Ok((samples, ranges))
            }
            Node::Subquery { expr: inner, range, step, offset, at } => {
                let ranges = self.ranges(range, offset.as_ref(), *at, RangeMode::Plain)?;
                let inner_grid = self.query.subquery(grid, range, step.as_ref(), offset.as_ref(), *at)?;
                let rows = match self.eval(inner, &inner_grid)? {
                    Evaluated::Scalar(values) => vec![Row { labels: Arc::default(), drop_name: false, values }],
                    Evaluated::Vector(rows) => rows,
                    Evaluated::String(_) => return Err(execution("a string has no range")),
                };
                let samples = rows
                    .into_iter()
                    .map(|row| {
                        let (times, values): (Vec<i64>, Vec<f64>) = row
                            .values
                            .iter()
                            .enumerate()
                            .filter(|(_, v)| !is_absent(**v))
                            .map(|(i, v)| (inner_grid.time(i), *v))
                            .unzip();
                        Samples { labels: row.labels, drop_name: row.drop_name, times: times.into(), values: values.into() }
                    })
                    .collect();
                Ok((samples, ranges))
            }
            _ => Err(execution("expected a range vector")),
        }
    }

    fn ranges(&self, range: &Duration, offset: Option<&Duration>, at: Option<At>, mode: RangeMode) -> Result<Ranges> {
        Ok(Ranges { range: self.query.range_ms(range)?, offset: self.query.offset_ms(offset)?, at: self.query.at(at), mode })
    }

    /// Applies `f` to the window of each series at each step.
    pub(crate) fn over_windows(
        &self,
        arg: &Expr,
        grid: &Grid,
        keep_name: bool,
        mut f: impl FnMut(&Window<'_>, usize) -> Option<f64>,
    ) -> Result<Vec<Row>> {
        let (samples, ranges) = self.samples(arg, grid)?;
        let mut rows = Vec::with_capacity(samples.len());
        for one in &samples {
            self.check()?;
            let mut values = self.column(grid.steps)?;
            let (mut low, mut high) = (0, 0);
            let mut any = false;
            for (i, slot) in values.iter_mut().enumerate() {
                let t = grid.time(i);
                let (start, end) = ranges.bounds(t);
                while high < one.times.len() && one.times[high] <= end {
                    high += 1;
                }
                while low < high && one.times[low] <= start {
                    low += 1;
                }
                let window = Window {
                    times: &one.times[low..high],
                    values: &one.values[low..high],
                    before: low.checked_sub(1).map(|i| (one.times[i], one.values[i])),
                    after: one.times.get(high).map(|t| (*t, one.values[high])),
                    start,
                    end,
                    t,
                    lookback: self.lookback_ms,
                    mode: ranges.mode,
                };
                if let Some(v) = f(&window, i) {
                    *slot = v;
                    any = true;
                }
            }
            if any {
                rows.push(Row { labels: one.labels.clone(), drop_name: one.drop_name || !keep_name, values });
            }
        }
        Ok(rows)
    }

    /// The raw samples of a range vector that is the whole query.
    pub(crate) fn raw_matrix(&self, expr: &Expr, grid: &Grid) -> Result<Vec<Series>> {
        let (samples, ranges) = self.samples(expr, grid)?;
        let (start, end) = ranges.bounds(grid.start);
        let mut out = Vec::new();
        for one in samples {
            self.check()?;
            let low = one.times.partition_point(|t| *t <= start);
            let high = one.times.partition_point(|t| *t <= end);
            if low < high {
                let labels = if one.drop_name { nameless(&one.labels) } else { (*one.labels).clone() };
                out.push(Series { labels, times: one.times[low..high].to_vec(), values: one.values[low..high].to_vec() });
            }
        }
        Ok(out)
    }

    /// Drops the names that are to go, and puts together rows that thereby have the same labels.
    pub(crate) fn finish(&self, rows: Vec<Row>) -> Result<Vec<(LabelSet, Vec<f64>)>> {
        let mut merged: Vec<(LabelSet, Vec<f64>)> = Vec::with_capacity(rows.len());
        let mut places: HashMap<LabelSet, usize> = HashMap::with_capacity(rows.len());
        for row in rows {
            self.check()?;
            let labels = if row.drop_name { nameless(&row.labels) } else { Arc::unwrap_or_clone(row.labels) };
            match places.get(&labels) {
                None => {
                    places.insert(labels.clone(), merged.len());
                    merged.push((labels, row.values));
                }
                Some(place) => merge_into(&mut merged[*place].1, &row.values)?,
            }
        }
        Ok(merged)
    }
}

/// Adds the values of a second series with the same labels; both at one step is an error.
pub(crate) fn merge_into(into: &mut [f64], from: &[f64]) -> Result<()> {
    for (slot, v) in into.iter_mut().zip(from) {
        if is_absent(*v) {
            continue;
        }
        if !is_absent(*slot) {
            return Err(execution("vector cannot contain metrics with the same labelset"));
        }
        *slot = *v;
    }
    Ok(())
}

/// Labels without the name, and without the type and unit that belong to it.
pub(crate) fn nameless(labels: &LabelSet) -> LabelSet {
    let mut out = labels.clone();
    for name in ["__name__", "__type__", "__unit__"] {
        out.remove(name);
    }
    out
}

/// The rows with a function applied to each value; their names go.
pub(crate) fn map_values(mut rows: Vec<Row>, f: impl Fn(f64) -> f64) -> Vec<Row> {
    for row in &mut rows {
        row.drop_name = true;
        for v in &mut row.values {
            if !is_absent(*v) {
                *v = f(*v);
            }
        }
    }
    rows
}

fn without_stale<'a>(times: &'a [i64], values: &'a [f64]) -> (std::borrow::Cow<'a, [i64]>, std::borrow::Cow<'a, [f64]>) {
    if !values.iter().any(|v| is_absent(*v)) {
        return (times.into(), values.into());
    }
    let (times, values): (Vec<i64>, Vec<f64>) =
        times.iter().zip(values).filter(|(_, v)| !is_absent(**v)).map(|(t, v)| (*t, *v)).unzip();
    (times.into(), values.into())
}
