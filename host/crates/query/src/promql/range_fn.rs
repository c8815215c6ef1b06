//! Functions over the samples of a window.

use super::{
    aggregate::{Mean, kahan_add, quantile},
    ast::RangeMode,
};

/// The samples of one series within (start, end], and its neighbours outside.
pub(crate) struct Window<'a> {
    pub times: &'a [i64],
    pub values: &'a [f64],
    pub before: Option<(i64, f64)>,
    pub after: Option<(i64, f64)>,
    pub start: i64,
    pub end: i64,
    /// Time of the evaluation, which `offset` and `@` don't move.
    pub t: i64,
    pub lookback: i64,
    pub mode: RangeMode,
}

pub(crate) type RangeFn = fn(&Window<'_>) -> Option<f64>;

/// The functions that take nothing but a window, and whether they keep the metric's name.
pub(crate) fn find(name: &str) -> Option<(RangeFn, bool)> {
    let f: RangeFn = match name {
        "rate" => |w| extrapolated(w, true, true),
        "increase" => |w| extrapolated(w, true, false),
        "delta" => |w| extrapolated(w, false, false),
        "irate" => |w| instant_delta(w, true),
        "idelta" => |w| instant_delta(w, false),
        "resets" => |w| changes(w, |a, b| b < a),
        "changes" => |w| changes(w, |a, b| a != b && !(a.is_nan() && b.is_nan())),
        "deriv" => |w| regression(w, w.times.first().copied()?).map(|(slope, _)| slope),
        "sum_over_time" => |w| some(w, sum),
        "avg_over_time" => |w| {
            some(w, |v| {
                let mut mean = Mean::default();
                v.iter().for_each(|v| mean.push(*v));
                mean.value()
            })
        },
        "count_over_time" => |w| some(w, |v| v.len() as f64),
        "min_over_time" => |w| some(w, |v| v[extreme(v, |a, b| a < b)]),
        "max_over_time" => |w| some(w, |v| v[extreme(v, |a, b| a > b)]),
        "last_over_time" => |w| w.values.last().copied(),
        "first_over_time" => |w| w.values.first().copied(),
        "present_over_time" => |w| some(w, |_| 1.0),
        "stdvar_over_time" => |w| some(w, variance),
        "stddev_over_time" => |w| some(w, |v| variance(v).sqrt()),
        "mad_over_time" => |w| {
            some(w, |v| {
                let median = quantile(0.5, &mut v.to_vec());
                quantile(0.5, &mut v.iter().map(|v| (v - median).abs()).collect::<Vec<_>>())
            })
        },
        "ts_of_first_over_time" => |w| w.times.first().map(|t| seconds(*t)),
        "ts_of_last_over_time" => |w| w.times.last().map(|t| seconds(*t)),
        "ts_of_min_over_time" => |w| some(w, |_| 0.0).map(|_| seconds(w.times[extreme(w.values, |a, b| a <= b)])),
        "ts_of_max_over_time" => |w| some(w, |_| 0.0).map(|_| seconds(w.times[extreme(w.values, |a, b| a >= b)])),
        _ => return None,
    };
    Some((f, matches!(name, "last_over_time" | "first_over_time")))
}

fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

fn some(w: &Window<'_>, f: impl Fn(&[f64]) -> f64) -> Option<f64> {
    (!w.values.is_empty()).then(|| f(w.values))
}

fn sum(values: &[f64]) -> f64 {
    let (mut sum, mut c) = (0.0, 0.0);
    for v in values {
        (sum, c) = kahan_add(*v, sum, c);
    }
    if sum.is_infinite() { sum } else { sum + c }
}

/// Place of the first extreme; a NaN counts only when there is nothing else.
fn extreme(values: &[f64], is_better: impl Fn(f64, f64) -> bool) -> usize {
    let mut best = 0;
    for (i, v) in values.iter().enumerate().skip(1) {
        if is_better(*v, values[best]) || values[best].is_nan() {
            best = i;
        }
    }
    best
}

fn variance(values: &[f64]) -> f64 {
    let (mut mean, mut mean_c, mut aux, mut aux_c) = (0.0, 0.0, 0.0, 0.0);
    for (i, v) in values.iter().enumerate() {
        let delta = v - (mean + mean_c);
        (mean, mean_c) = kahan_add(delta / (i + 1) as f64, mean, mean_c);
        (aux, aux_c) = kahan_add(delta * (v - (mean + mean_c)), aux, aux_c);
    }
    (aux + aux_c) / values.len() as f64
}

fn changes(w: &Window<'_>, is_change: impl Fn(f64, f64) -> bool) -> Option<f64> {
    if w.mode == RangeMode::Anchored {
        let before = w.before.filter(|(t, _)| *t > w.start - w.lookback).map(|(_, v)| v);
        if w.values.is_empty() {
            return None;
        }
        let first = before.unwrap_or(w.values[0]);
        let mut last = first;
        return Some(w.values.iter().filter(|v| is_change(std::mem::replace(&mut last, **v), **v)).count() as f64);
    }
    some(w, |v| v.windows(2).filter(|p| is_change(p[0], p[1])).count() as f64)
}

fn instant_delta(w: &Window<'_>, is_rate: bool) -> Option<f64> {
    let n = w.values.len();
    if n < 2 {
        return None;
    }
    let (previous, last) = (w.values[n - 2], w.values[n - 1]);
    let interval = w.times[n - 1] - w.times[n - 2];
    if interval == 0 {
        return None;
    }
    if is_rate {
        // After a reset the counter began at zero.
        let gained = if last < previous { last } else { last - previous };
        return Some(gained / seconds(interval));
    }
    Some(last - previous)
}

/// rate, increase and delta: the difference, corrected for counter resets, extrapolated to the edges of the
/// window as far as the samples' spacing allows, and never below a counter's zero.
fn extrapolated(w: &Window<'_>, is_counter: bool, is_rate: bool) -> Option<f64> {
    let range = seconds(w.end - w.start);
    if w.mode != RangeMode::Plain {
        let difference = extended_difference(w, is_counter)?;
        return Some(if is_rate { difference / range } else { difference });
    }
    let n = w.values.len();
    if n < 2 {
        return None;
    }
    let mut result = w.values[n - 1] - w.values[0];
    if is_counter {
        result += w.values.windows(2).filter(|p| p[1] < p[0]).map(|p| p[0]).sum::<f64>();
    }
    let sampled = seconds(w.times[n - 1] - w.times[0]);
    let average = sampled / (n - 1) as f64;
    let threshold = average * 1.1;
    let mut to_start = seconds(w.times[0] - w.start);
    let mut to_end = seconds(w.end - w.times[n - 1]);
    if to_start >= threshold {
        to_start = average / 2.0;
    }
    if is_counter {
        let mut to_zero = to_start;
        if result > 0.0 && w.values[0] >= 0.0 {
            to_zero = sampled * (w.values[0] / result);
        }
        to_start = to_start.min(to_zero);
    }
    if to_end >= threshold {
        to_end = average / 2.0;
    }
    let mut factor = (sampled + to_start + to_end) / sampled;
    if is_rate {
        factor /= range;
    }
    Some(result * factor)
}

/// The difference over an anchored or smoothed window, whose edges have values of their own.
fn extended_difference(w: &Window<'_>, is_counter: bool) -> Option<f64> {
    let n = w.values.len();
    let before = w.before.filter(|(t, _)| *t > w.start - w.lookback);
    let (first, last) = match w.mode {
        RangeMode::Anchored => {
            if n == 0 {
                return None;
            }
            (before.map_or(w.values[0], |(_, v)| v), w.values[n - 1])
        }
        _ => {
            let after = w.after.filter(|(t, _)| *t <= w.end + w.lookback);
            let right_of_start = w.times.first().map(|t| (*t, w.values[0])).or(after);
            let left_of_end = w.times.last().map(|t| (*t, w.values[n - 1])).or(before);
            if n == 0 && (before.is_none() || after.is_none()) {
                return None;
            }
            let first = match (before, right_of_start) {
                (Some(a), Some(b)) => between(a, b, w.start, is_counter, true),
                (Some((_, v)), None) | (None, Some((_, v))) => v,
                (None, None) => return None,
            };
            let last = match (left_of_end, after) {
                _ if w.times.last() == Some(&w.end) => w.values[n - 1],
                (Some(a), Some(b)) => between(a, b, w.end, is_counter, false),
                (Some((_, v)), None) | (None, Some((_, v))) => v,
                (None, None) => return None,
            };
            (first, last)
        }
    };
    let mut result = last - first;
    if is_counter {
        let mut previous = first;
        for v in w.values.iter().chain(std::iter::once(&last)) {
            if *v < previous {
                result += previous;
            }
            previous = *v;
        }
    }
    Some(result)
}

/// The value at `t` on the line between two samples. A counter that was reset between them is taken to have
/// restarted from zero: right of the reset the line rises from zero, left of it there is the full climb.
fn between((ta, a): (i64, f64), (tb, b): (i64, f64), t: i64, is_counter: bool, is_left_edge: bool) -> f64 {
    if tb == ta {
        return a;
    }
    let share = (t - ta) as f64 / (tb - ta) as f64;
    if is_counter && b < a {
        return if is_left_edge { b * share } else { a + b * share };
    }
    a + (b - a) * share
}

/// The smoothed value of an instant selector: interpolated between neighbours, or the one there is.
pub(crate) fn smoothed_at(times: &[i64], values: &[f64], next: usize, t: i64, lookback: i64) -> Option<f64> {
    let usable = |i: usize| !super::eval::is_absent(values[i]);
    let before = next.checked_sub(1).filter(|i| usable(*i) && times[*i] > t - lookback);
    let after = (next < times.len()).then_some(next).filter(|i| usable(*i) && times[*i] <= t + lookback);
    match (before, after) {
        (Some(a), _) if times[a] == t => Some(values[a]),
        (Some(a), Some(b)) => Some(between((times[a], values[a]), (times[b], values[b]), t, false, true)),
        (Some(a), None) => Some(values[a]),
        _ => None,
    }
}

/// Least squares: slope per second and the value at `intercept_ms`.
pub(crate) fn regression(w: &Window<'_>, intercept_ms: i64) -> Option<(f64, f64)> {
    if w.values.len() < 2 {
        return None;
    }
    let first = w.values[0];
    if w.values.iter().all(|v| *v == first) {
        return Some(if first.is_infinite() { (f64::NAN, f64::NAN) } else { (0.0, first) });
    }
    let n = w.values.len() as f64;
    let (mut x, mut cx, mut y, mut cy, mut xy, mut cxy, mut xx, mut cxx) = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0);
    for (t, v) in w.times.iter().zip(w.values) {
        let at = (t - intercept_ms) as f64 / 1000.0;
        (x, cx) = kahan_add(at, x, cx);
        (y, cy) = kahan_add(*v, y, cy);
        (xy, cxy) = kahan_add(at * v, xy, cxy);
        (xx, cxx) = kahan_add(at * at, xx, cxx);
    }
    let (x, y, xy, xx) = (x + cx, y + cy, xy + cxy, xx + cxx);
    let slope = (xy - x * y / n) / (xx - x * x / n);
    Some((slope, y / n - slope * x / n))
}

/// Holt's double exponential smoothing.
pub(crate) fn double_exponential(w: &Window<'_>, smoothing: f64, trend: f64) -> Option<f64> {
    if w.values.len() < 2 {
        return None;
    }
    let (mut previous, mut level) = (0.0, w.values[0]);
    let mut slope = w.values[1] - w.values[0];
    for (i, v) in w.values.iter().enumerate().skip(1) {
        let scaled = smoothing * v;
        if i > 1 {
            slope = trend * (level - previous) + (1.0 - trend) * slope;
        }
        let next = scaled + (1.0 - smoothing) * (level + slope);
        previous = level;
        level = next;
    }
    Some(level)
}
