//! Quantiles and fractions of classic histograms: series that differ in `le` only.

use super::{
    ast::Expr,
    eval::{Eval, Grid, Row, is_absent, nameless},
};
use crate::error::Result;
use model::LabelSet;
use std::{collections::HashMap, sync::Arc};

#[derive(Clone, Copy)]
struct Bucket {
    upper: f64,
    count: f64,
}

/// Differences of counts below this share come from float noise, not from lost increments.
const TOLERANCE: f64 = 1e-12;

impl Eval {
    /// `f` of the buckets of each histogram at each step.
    fn histograms(&self, arg: &Expr, grid: &Grid, mut f: impl FnMut(&mut Vec<Bucket>, usize) -> (f64, bool)) -> Result<Vec<Row>> {
        let rows = self.vector(arg, grid)?;
        let mut groups: Vec<(LabelSet, bool, Vec<(f64, Row)>)> = Vec::new();
        let mut places: HashMap<LabelSet, usize> = HashMap::new();
        for row in rows {
            let le = row.labels.get("le").unwrap_or("");
            let Some(upper) = crate::promql::parse_number(le) else {
                let name = row.labels.metric_name().unwrap_or("");
                self.warn(format!(
                    "bucket label \"le\" is missing or has a malformed value of {le:?} for metric name {name:?} ({})",
                    self.place(arg)
                ));
                continue;
            };
            let mut labels = nameless(&row.labels);
            labels.remove("le");
            let place = *places.entry(labels).or_insert_with_key(|labels| {
                groups.push((labels.clone(), false, Vec::new()));
                groups.len() - 1
            });
            groups[place].2.push((upper, row));
        }
        let mut out = Vec::with_capacity(groups.len());
        let mut buckets = Vec::new();
        for (labels, drop_name, members) in groups {
            self.check()?;
            let mut values = self.column(grid.steps)?;
            let mut forced = false;
            for (step, slot) in values.iter_mut().enumerate() {
                buckets.clear();
                buckets.extend(
                    members
                        .iter()
                        .filter(|(_, row)| !is_absent(row.values[step]))
                        .map(|(upper, row)| Bucket { upper: *upper, count: row.values[step] }),
                );
                if buckets.is_empty() {
                    continue;
                }
                let (v, was_forced) = f(&mut buckets, step);
                *slot = v;
                forced |= was_forced;
            }
            if forced {
                let name = members.first().and_then(|(_, row)| row.labels.metric_name()).unwrap_or("").to_owned();
                self.inform(format!(
                    "input to histogram_quantile needed to be fixed for monotonicity (see https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile) for metric name {name:?} ({})",
                    self.place(arg)
                ));
            }
            out.push(Row { labels: Arc::new(labels), drop_name, values });
        }
        Ok(out)
    }

    pub(crate) fn histogram_quantile(&self, q: &[f64], q_expr: &Expr, arg: &Expr, grid: &Grid) -> Result<Vec<Row>> {
        for q in q.iter().filter(|q| !(0.0..=1.0).contains(*q)) {
            let shown = super::ast::number_text(*q);
            self.warn(format!("quantile value should be between 0 and 1, got {shown} ({})", self.place(q_expr)));
        }
        self.histograms(arg, grid, |buckets, step| bucket_quantile(q[step], buckets))
    }

    pub(crate) fn histogram_fraction(&self, lower: &[f64], upper: &[f64], arg: &Expr, grid: &Grid) -> Result<Vec<Row>> {
        self.histograms(arg, grid, |buckets, step| (bucket_fraction(lower[step], upper[step], buckets), false))
    }
}

/// Sorts, joins buckets of one bound, and makes counts rise. `None` without a +Inf bucket.
fn prepare(buckets: &mut Vec<Bucket>) -> Option<bool> {
    buckets.sort_by(|a, b| a.upper.total_cmp(&b.upper));
    if buckets.last()?.upper != f64::INFINITY {
        return None;
    }
    buckets.dedup_by(|next, kept| {
        let same = next.upper == kept.upper;
        if same {
            kept.count += next.count;
        }
        same
    });
    let mut forced = false;
    let mut previous = buckets[0].count;
    for bucket in buckets.iter_mut().skip(1) {
        let current = bucket.count;
        if current == previous {
            continue;
        }
        let is_noise = (previous - current).abs() / (previous.abs() + current.abs()).min(f64::MAX) < TOLERANCE;
        if is_noise || current < previous {
            forced |= !is_noise;
            bucket.count = previous;
            continue;
        }
        previous = current;
    }
    Some(forced)
}

fn bucket_quantile(q: f64, buckets: &mut Vec<Bucket>) -> (f64, bool) {
    if q.is_nan() {
        return (f64::NAN, false);
    }
    if q < 0.0 {
        return (f64::NEG_INFINITY, false);
    }
    if q > 1.0 {
        return (f64::INFINITY, false);
    }
    let Some(forced) = prepare(buckets) else { return (f64::NAN, false) };
    let last = buckets.len() - 1;
    let observations = buckets[last].count;
    if buckets.len() < 2 || observations == 0.0 || observations.is_nan() {
        return (f64::NAN, forced);
    }
    let mut rank = q * observations;
    let at = buckets[..last].partition_point(|b| b.count < rank);
    if at == last {
        return (buckets[last - 1].upper, forced);
    }
    if at == 0 && buckets[0].upper <= 0.0 {
        return (buckets[0].upper, forced);
    }
    let (mut start, mut count) = (0.0, buckets[at].count);
    if at > 0 {
        start = buckets[at - 1].upper;
        count -= buckets[at - 1].count;
        rank -= buckets[at - 1].count;
    }
    (start + (buckets[at].upper - start) * (rank / count), forced)
}

fn bucket_fraction(lower: f64, upper: f64, buckets: &mut Vec<Bucket>) -> f64 {
    if prepare(buckets).is_none() || buckets.len() < 2 {
        return f64::NAN;
    }
    let count = buckets[buckets.len() - 1].count;
    if count == 0.0 || count.is_nan() || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    let rank_of = |bound: f64| {
        let mut rank = 0.0;
        for (i, bucket) in buckets.iter().enumerate() {
            let low = match i {
                0 if bucket.upper > 0.0 => 0.0,
                0 => f64::NEG_INFINITY,
                _ => buckets[i - 1].upper,
            };
            if low >= bound {
                return rank;
            }
            if bucket.upper > bound {
                // Nothing is known within a bucket without a finite edge.
                if low.is_infinite() || bucket.upper.is_infinite() {
                    return if low.is_infinite() { bucket.count } else { rank };
                }
                return rank + (bucket.count - rank) * (bound - low) / (bucket.upper - low);
            }
            rank = bucket.count;
        }
        count
    };
    (rank_of(upper).min(count) - rank_of(lower).min(count)) / count
}
