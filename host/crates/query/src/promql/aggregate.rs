//! Aggregation operators, all steps of a group at once.

use super::{
    ast::{AggregateOp, Expr, number_text},
    eval::{ABSENT, Eval, Grid, Row, is_absent, merge_into, nameless},
};
use crate::error::{Result, execution};
use model::LabelSet;
use std::{collections::HashMap, sync::Arc};

/// One step of Neumaier's summation: answers the new sum and the new correction.
pub(crate) fn kahan_add(inc: f64, sum: f64, c: f64) -> (f64, f64) {
    let t = sum + inc;
    if t.is_infinite() {
        (t, 0.0)
    } else if sum.abs() >= inc.abs() {
        (t, c + ((sum - t) + inc))
    } else {
        (t, c + ((inc - t) + sum))
    }
}

/// A mean by compensated sum, which turns incremental when the sum would overflow.
#[derive(Clone, Default)]
pub(crate) struct Mean {
    count: f64,
    sum: f64,
    c: f64,
    is_incremental: bool,
}

impl Mean {
    pub(crate) fn push(&mut self, v: f64) {
        self.count += 1.0;
        if self.count == 1.0 {
            self.sum = v;
            return;
        }
        if !self.is_incremental {
            let (sum, c) = kahan_add(v, self.sum, self.c);
            if !sum.is_infinite() {
                (self.sum, self.c) = (sum, c);
                return;
            }
            self.is_incremental = true;
            self.sum /= self.count - 1.0;
            self.c /= self.count - 1.0;
        }
        let q = (self.count - 1.0) / self.count;
        (self.sum, self.c) = kahan_add(v / self.count, q * self.sum, q * self.c);
    }

    pub(crate) fn value(&self) -> f64 {
        if self.is_incremental {
            if self.sum.is_infinite() { self.sum } else { self.sum + self.c }
        } else if self.sum.is_infinite() {
            self.sum / self.count
        } else {
            (self.sum + self.c) / self.count
        }
    }
}

/// The q-quantile with linear interpolation; NaN sorts below everything.
pub(crate) fn quantile(q: f64, values: &mut [f64]) -> f64 {
    if values.is_empty() || q.is_nan() {
        return f64::NAN;
    }
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    values.sort_unstable_by(|a, b| nan_low(*a, *b));
    let rank = q * (values.len() - 1) as f64;
    let low = rank.floor() as usize;
    let high = (low + 1).min(values.len() - 1);
    let weight = rank - rank.floor();
    values[low] * (1.0 - weight) + values[high] * weight
}

fn nan_low(a: f64, b: f64) -> std::cmp::Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| b.is_nan().cmp(&a.is_nan()))
}

struct Group {
    labels: LabelSet,
    drop_name: bool,
    members: Vec<usize>,
}

/// The labels of the group that a row belongs to.
fn group_labels(labels: &LabelSet, grouping: &[String], is_without: bool) -> LabelSet {
    if is_without {
        let mut out = nameless(labels);
        grouping.iter().for_each(|name| out.remove(name));
        return out;
    }
    let mut out = LabelSet::default();
    for name in grouping {
        if let Some(value) = labels.get(name) {
            out.set(name, value);
        }
    }
    out
}

fn groups(rows: &[Row], grouping: &[String], is_without: bool) -> Vec<Group> {
    let mut places: HashMap<LabelSet, usize> = HashMap::new();
    let mut groups: Vec<Group> = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        let labels = group_labels(&row.labels, grouping, is_without);
        let place = *places.entry(labels).or_insert_with_key(|labels| {
            groups.push(Group { labels: labels.clone(), drop_name: false, members: Vec::new() });
            groups.len() - 1
        });
        groups[place].members.push(i);
        groups[place].drop_name |= row.drop_name;
    }
    groups
}

impl Eval {
    pub(crate) fn aggregate(
        &self,
        op: AggregateOp,
        inner: &Expr,
        param: Option<&Expr>,
        grouping: &[String],
        is_without: bool,
        grid: &Grid,
    ) -> Result<Vec<Row>> {
        use AggregateOp::*;
        let scalars = match (op, param) {
            (Topk | Bottomk | Quantile | Limitk | LimitRatio, Some(param)) => self.scalar(param, grid)?,
            _ => Vec::new(),
        };
        match op {
            Topk | Bottomk | Limitk if scalars.iter().any(|v| v.is_nan()) => return Err(execution("Parameter value is NaN")),
            LimitRatio if scalars.iter().any(|v| v.is_nan()) => return Err(execution("Ratio value is NaN")),
            Topk | Bottomk | Limitk => {
                if let Some(v) = scalars.iter().find(|v| v.abs() >= 9.223_372_036_854_775e18) {
                    return Err(execution(format!("Scalar value {} overflows int64", number_text(*v))));
                }
            }
            _ => {}
        }
        if let (Quantile, Some(param)) = (op, param) {
            for q in scalars.iter().filter(|q| !(0.0..=1.0).contains(*q)) {
                self.warn(format!("quantile value should be between 0 and 1, got {} ({})", number_text(*q), self.place(param)));
            }
        }
        let mut scalars = scalars;
        if let (LimitRatio, Some(param)) = (op, param) {
            for r in scalars.iter_mut().filter(|r| r.abs() > 1.0) {
                let capped = r.signum();
                let (was, now) = (number_text(*r), number_text(capped));
                self.warn(format!("ratio value should be between -1 and 1, got {was}, capping to {now} ({})", self.place(param)));
                *r = capped;
            }
        }
        let rows = self.vector(inner, grid)?;
        let groups = groups(&rows, grouping, is_without);
        match op {
            Topk | Bottomk | Limitk | LimitRatio => self.select(op, &scalars, rows, &groups, grid),
            CountValues => self.count_values(
                &self.string(param.expect("the parser demands it"))?,
                &rows,
                &groups,
                grouping,
                is_without,
                grid,
            ),
            _ => {
                let mut out = Vec::with_capacity(groups.len());
                for group in groups {
                    self.check()?;
                    let mut values = self.column(grid.steps)?;
                    let members = group.members.iter().map(|i| rows[*i].values.as_slice());
                    reduce(op, members, &scalars, &mut values);
                    out.push(Row { labels: Arc::new(group.labels), drop_name: group.drop_name, values });
                }
                Ok(out)
            }
        }
    }

    /// Operators that pass some of the series on.
    fn select(&self, op: AggregateOp, params: &[f64], mut rows: Vec<Row>, groups: &[Group], grid: &Grid) -> Result<Vec<Row>> {
        let mut keep: Vec<Vec<bool>> = rows.iter().map(|_| vec![false; grid.steps]).collect();
        let mut order: Vec<usize> = Vec::with_capacity(rows.len());
        for group in groups {
            self.check()?;
            for (step, param) in params.iter().enumerate() {
                let mut present: Vec<usize> =
                    group.members.iter().copied().filter(|i| !is_absent(rows[*i].values[step])).collect();
                if op == AggregateOp::LimitRatio {
                    present.retain(|i| in_ratio(&rows[*i].labels, *param));
                } else {
                    let key = |i: &usize| rows[*i].values[step];
                    match op {
                        // NaN comes last in either direction.
                        AggregateOp::Topk => present.sort_by(|a, b| nan_low(key(b), key(a))),
                        AggregateOp::Bottomk => present
                            .sort_by(|a, b| key(a).partial_cmp(&key(b)).unwrap_or_else(|| key(a).is_nan().cmp(&key(b).is_nan()))),
                        _ => {}
                    }
                    present.truncate(if *param < 1.0 { 0 } else { *param as usize });
                }
                for i in &present {
                    keep[*i][step] = true;
                }
                if step == 0 && grid.steps == 1 {
                    order.extend(present);
                }
            }
        }
        for (row, keep) in rows.iter_mut().zip(&keep) {
            for (v, keep) in row.values.iter_mut().zip(keep) {
                if !keep {
                    *v = ABSENT;
                }
            }
        }
        if grid.steps == 1 {
            return Ok(order.into_iter().map(|i| rows[i].clone()).collect());
        }
        Ok(rows.into_iter().zip(keep).filter(|(_, keep)| keep.contains(&true)).map(|(row, _)| row).collect())
    }

    fn count_values(
        &self,
        label: &str,
        rows: &[Row],
        groups: &[Group],
        grouping: &[String],
        is_without: bool,
        grid: &Grid,
    ) -> Result<Vec<Row>> {
        if label.is_empty() {
            return Err(execution("invalid label name \"\""));
        }
        let mut out: Vec<Row> = Vec::new();
        let mut places: HashMap<LabelSet, usize> = HashMap::new();
        for group in groups {
            self.check()?;
            let base = if is_without || grouping.iter().any(|g| g == label) {
                let mut base = group.labels.clone();
                base.remove(label);
                base
            } else {
                group.labels.clone()
            };
            for i in &group.members {
                for (step, v) in rows[*i].values.iter().enumerate() {
                    if is_absent(*v) {
                        continue;
                    }
                    let mut labels = base.clone();
                    labels.set(label, number_text(*v));
                    let place = match places.get(&labels) {
                        Some(place) => *place,
                        None => {
                            out.push(Row {
                                labels: Arc::new(labels.clone()),
                                drop_name: group.drop_name,
                                values: self.column(grid.steps)?,
                            });
                            places.insert(labels, out.len() - 1);
                            out.len() - 1
                        }
                    };
                    let slot = &mut out[place].values[step];
                    *slot = if is_absent(*slot) { 1.0 } else { *slot + 1.0 };
                }
            }
        }
        Ok(out)
    }

    /// `line:column` of an expression, as annotations give it.
    pub(crate) fn place(&self, expr: &Expr) -> String {
        // Queries of several lines are rare enough that the byte stands for the column.
        format!("1:{}", expr.span.start + 1)
    }
}

fn in_ratio(labels: &LabelSet, ratio: f64) -> bool {
    // FNV's high bits differ little between like labels; this spreads them.
    let mut h = labels.fingerprint().0;
    h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let offset = (h ^ (h >> 31)) as f64 / u64::MAX as f64;
    if ratio >= 0.0 { offset < ratio } else { offset >= 1.0 + ratio }
}

fn reduce<'a>(op: AggregateOp, members: impl Iterator<Item = &'a [f64]>, params: &[f64], out: &mut [f64]) {
    use AggregateOp::*;
    match op {
        Sum => {
            let mut c = vec![0.0; out.len()];
            for column in members {
                for ((slot, c), v) in out.iter_mut().zip(&mut c).zip(column) {
                    if is_absent(*v) {
                    } else if is_absent(*slot) {
                        *slot = *v;
                    } else {
                        (*slot, *c) = kahan_add(*v, *slot, *c);
                    }
                }
            }
            for (slot, c) in out.iter_mut().zip(c) {
                if !is_absent(*slot) && !slot.is_infinite() {
                    *slot += c;
                }
            }
        }
        Avg => {
            let mut means = vec![Mean::default(); out.len()];
            for column in members {
                for (mean, v) in means.iter_mut().zip(column) {
                    if !is_absent(*v) {
                        mean.push(*v);
                    }
                }
            }
            for (slot, mean) in out.iter_mut().zip(means) {
                if mean.count > 0.0 {
                    *slot = mean.value();
                }
            }
        }
        Count | Group | Min | Max => {
            for column in members {
                for (slot, v) in out.iter_mut().zip(column) {
                    if is_absent(*v) {
                        continue;
                    }
                    let first = is_absent(*slot);
                    *slot = match op {
                        Group => 1.0,
                        Count if first => 1.0,
                        Count => *slot + 1.0,
                        _ if first || slot.is_nan() => *v,
                        Min if *v < *slot => *v,
                        Max if *v > *slot => *v,
                        _ => *slot,
                    };
                }
            }
        }
        Stddev | Stdvar => {
            let mut state = vec![(0.0_f64, 0.0_f64, 0.0_f64); out.len()];
            for column in members {
                for ((count, mean, aux), v) in state.iter_mut().zip(column) {
                    if is_absent(*v) {
                        continue;
                    }
                    *count += 1.0;
                    if *count == 1.0 {
                        *mean = *v;
                        *aux = if v.is_finite() { 0.0 } else { f64::NAN };
                    } else {
                        let delta = v - *mean;
                        *mean += delta / *count;
                        *aux += delta * (v - *mean);
                    }
                }
            }
            for (slot, (count, _, aux)) in out.iter_mut().zip(state) {
                if count > 0.0 {
                    *slot = if op == Stdvar { aux / count } else { (aux / count).sqrt() };
                }
            }
        }
        Quantile => {
            let columns: Vec<&[f64]> = members.collect();
            let mut present = Vec::with_capacity(columns.len());
            for (step, slot) in out.iter_mut().enumerate() {
                present.clear();
                present.extend(columns.iter().map(|c| c[step]).filter(|v| !is_absent(*v)));
                if !present.is_empty() {
                    *slot = quantile(params[step], &mut present);
                }
            }
        }
        Topk | Bottomk | CountValues | Limitk | LimitRatio => unreachable!("operators that select series don't reduce them"),
    }
}

/// Puts rows with the same labels together, as an aggregation by the name after its removal demands.
pub(crate) fn merge_same(rows: Vec<Row>) -> Result<Vec<Row>> {
    let mut places: HashMap<(Arc<LabelSet>, bool), usize> = HashMap::new();
    let mut out: Vec<Row> = Vec::with_capacity(rows.len());
    for row in rows {
        match places.get(&(row.labels.clone(), row.drop_name)) {
            Some(place) => merge_into(&mut out[*place].values, &row.values)?,
            None => {
                places.insert((row.labels.clone(), row.drop_name), out.len());
                out.push(row);
            }
        }
    }
    Ok(out)
}
