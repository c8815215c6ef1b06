//! Binary operators: scalar and vector arithmetic, comparisons, set operators, and the matching of series.

use super::{
    ast::{BinaryOp, Cardinality, Expr, Matching},
    eval::{ABSENT, Eval, Evaluated, Grid, Row, is_absent},
};
use crate::error::{Result, execution};
use model::LabelSet;
use std::{collections::HashMap, sync::Arc};

/// The value of an arithmetic operator; of a comparison 1 or 0.
fn apply(op: BinaryOp, a: f64, b: f64) -> f64 {
    let truth = |is: bool| if is { 1.0 } else { 0.0 };
    match op {
        BinaryOp::Add => a + b,
        BinaryOp::Sub => a - b,
        BinaryOp::Mul => a * b,
        BinaryOp::Div => a / b,
        BinaryOp::Mod => a % b,
        BinaryOp::Pow => a.powf(b),
        BinaryOp::Atan2 => a.atan2(b),
        BinaryOp::Equal => truth(a == b),
        BinaryOp::NotEqual => truth(a != b),
        BinaryOp::Greater => truth(a > b),
        BinaryOp::Less => truth(a < b),
        BinaryOp::GreaterEqual => truth(a >= b),
        BinaryOp::LessEqual => truth(a <= b),
        BinaryOp::And | BinaryOp::Or | BinaryOp::Unless => unreachable!("set operators take no values"),
    }
}

/// What stands in the result: the computed value, or of a filtering comparison the vector's value or nothing.
fn outcome(op: BinaryOp, is_bool: bool, a: f64, b: f64, kept: f64) -> f64 {
    let v = apply(op, a, b);
    if op.is_comparison() && !is_bool { if v == 1.0 { kept } else { ABSENT } } else { v }
}

impl Eval {
    pub(crate) fn binary(
        &self,
        op: BinaryOp,
        left: &Expr,
        right: &Expr,
        is_bool: bool,
        matching: &Matching,
        grid: &Grid,
    ) -> Result<Evaluated> {
        let left = self.eval(left, grid)?;
        let right = self.eval(right, grid)?;
        Ok(match (left, right) {
            (Evaluated::Scalar(a), Evaluated::Scalar(b)) => {
                Evaluated::Scalar(a.iter().zip(&b).map(|(a, b)| apply(op, *a, *b)).collect())
            }
            (Evaluated::Vector(rows), Evaluated::Scalar(b)) => Evaluated::Vector(with_scalar(op, is_bool, rows, &b, false)),
            (Evaluated::Scalar(a), Evaluated::Vector(rows)) => Evaluated::Vector(with_scalar(op, is_bool, rows, &a, true)),
            (Evaluated::Vector(a), Evaluated::Vector(b)) if op.is_set() => Evaluated::Vector(self.set(op, matching, a, b, grid)?),
            (Evaluated::Vector(a), Evaluated::Vector(b)) => Evaluated::Vector(self.matched(op, is_bool, matching, &a, &b, grid)?),
            _ => return Err(execution("binary expression must contain only scalar and instant vector types")),
        })
    }

    fn set(&self, op: BinaryOp, matching: &Matching, left: Vec<Row>, right: Vec<Row>, grid: &Grid) -> Result<Vec<Row>> {
        let signature = |row: &Row| signature(&row.labels, matching);
        // At which steps a signature is present, on the side that decides.
        let presence = |rows: &[Row]| {
            let mut map: HashMap<LabelSet, Vec<bool>> = HashMap::new();
            for row in rows {
                let steps = map.entry(signature(row)).or_insert_with(|| vec![false; grid.steps]);
                for (step, v) in steps.iter_mut().zip(&row.values) {
                    *step |= !is_absent(*v);
                }
            }
            map
        };
        let filter = |mut rows: Vec<Row>, map: &HashMap<LabelSet, Vec<bool>>, keep_present: bool| {
            rows.retain_mut(|row| match map.get(&signature(row)) {
                None => !keep_present,
                Some(steps) => {
                    let mut any = false;
                    for (v, present) in row.values.iter_mut().zip(steps) {
                        if *present != keep_present {
                            *v = ABSENT;
                        }
                        any |= !is_absent(*v);
                    }
                    any
                }
            });
            rows
        };
        self.check()?;
        Ok(match op {
            BinaryOp::And => filter(left, &presence(&right), true),
            BinaryOp::Unless => filter(left, &presence(&right), false),
            _ => {
                let map = presence(&left);
                let mut rows = left;
                rows.extend(filter(right, &map, false));
                super::aggregate::merge_same(rows)?
            }
        })
    }

    fn matched(
        &self,
        op: BinaryOp,
        is_bool: bool,
        matching: &Matching,
        left: &[Row],
        right: &[Row],
        grid: &Grid,
    ) -> Result<Vec<Row>> {
        let many_is_left = matching.cardinality != Cardinality::OneToMany;
        let (many, one) = if many_is_left { (left, right) } else { (right, left) };
        // Prometheus swaps the sides of group_right first: fill_left is of the "many" side there too.
        let (fill_many, fill_one) = (matching.fill_left, matching.fill_right);
        let mut groups: Vec<(LabelSet, Vec<&Row>, Vec<&Row>)> = Vec::new();
        let mut places: HashMap<LabelSet, usize> = HashMap::new();
        for (rows, is_one) in [(many, false), (one, true)] {
            for row in rows {
                let place = *places.entry(signature(&row.labels, matching)).or_insert_with_key(|labels| {
                    groups.push((labels.clone(), Vec::new(), Vec::new()));
                    groups.len() - 1
                });
                if is_one { &mut groups[place].2 } else { &mut groups[place].1 }.push(row);
            }
        }
        let mut out = Output { rows: Vec::new(), places: HashMap::new() };
        for (labels, many, one) in &groups {
            self.check()?;
            let filled = Row { labels: Arc::new(labels.clone()), drop_name: false, values: Vec::new() };
            if (many.is_empty() && fill_many.is_none()) || (one.is_empty() && fill_one.is_none()) {
                // Two series of one signature on the "one" side are an error also where nothing matches them.
                if one.len() > 1 {
                    (0..grid.steps).try_for_each(|step| self.present_one(one, step, labels, many_is_left).map(drop))?;
                }
                continue;
            }
            // A pair of rows has one result row; which one is found once per pair, not per step.
            let mut pairs: HashMap<(usize, usize), usize> = HashMap::new();
            for step in 0..grid.steps {
                let one_at = self.present_one(one, step, labels, many_is_left)?;
                let (one_place, one_row, one_v) = match (one_at, fill_one) {
                    (Some(place), _) => (place, one[place], one[place].values[step]),
                    (None, Some(v)) => (usize::MAX, &filled, v),
                    (None, None) => continue,
                };
                let mut matched_one = false;
                let mut any_many = false;
                for place in 0..=many.len() {
                    let (place, row, v) = if place < many.len() {
                        let v = many[place].values[step];
                        if is_absent(v) {
                            continue;
                        }
                        any_many = true;
                        (place, many[place], v)
                    } else {
                        match fill_many {
                            Some(v) if !any_many && one_at.is_some() => (usize::MAX, &filled, v),
                            _ => continue,
                        }
                    };
                    let (a, b) = if many_is_left { (v, one_v) } else { (one_v, v) };
                    let result = outcome(op, is_bool, a, b, a);
                    if is_absent(result) {
                        continue;
                    }
                    if matching.cardinality == Cardinality::OneToOne && std::mem::replace(&mut matched_one, true) {
                        return Err(execution(
                            "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)",
                        ));
                    }
                    let target = match pairs.get(&(place, one_place)) {
                        Some(target) => *target,
                        None => {
                            let labels = result_labels(op, is_bool, matching, row, one_row);
                            let drop_name = is_bool || (op.is_comparison() && row.drop_name);
                            let target = out.row(labels, drop_name, || self.column(grid.steps))?;
                            pairs.insert((place, one_place), target);
                            target
                        }
                    };
                    let slot = &mut out.rows[target].values[step];
                    if !is_absent(*slot) {
                        return Err(execution("multiple matches for labels: grouping labels must ensure unique matches"));
                    }
                    *slot = result;
                }
            }
        }
        Ok(out.rows)
    }

    /// The row of the "one" side that has a value at the step; two are an error.
    fn present_one(&self, rows: &[&Row], step: usize, group: &LabelSet, one_is_right: bool) -> Result<Option<usize>> {
        let mut found = None;
        for (i, row) in rows.iter().enumerate() {
            if is_absent(row.values[step]) {
                continue;
            }
            if let Some(first) = found.replace(i) {
                let side = if one_is_right { "right" } else { "left" };
                let (a, b): (&Row, &Row) = (rows[first], row);
                return Err(execution(format!(
                    "found duplicate series for the match group {group} on the {side} hand-side of the operation: [{}, {}];many-to-many matching not allowed: matching labels must be unique on one side",
                    braced(&b.labels),
                    braced(&a.labels)
                )));
            }
        }
        Ok(found)
    }
}

/// Labels as Prometheus writes them in errors: the name among the others.
fn braced(labels: &LabelSet) -> String {
    let pairs: Vec<_> = labels.iter().map(|(n, v)| format!("{n}={v:?}")).collect();
    format!("{{{}}}", pairs.join(", "))
}

struct Output {
    rows: Vec<Row>,
    places: HashMap<(LabelSet, bool), usize>,
}

impl Output {
    fn row(&mut self, labels: LabelSet, drop_name: bool, column: impl FnOnce() -> Result<Vec<f64>>) -> Result<usize> {
        if let Some(place) = self.places.get(&(labels.clone(), drop_name)) {
            return Ok(*place);
        }
        self.rows.push(Row { labels: Arc::new(labels.clone()), drop_name, values: column()? });
        self.places.insert((labels, drop_name), self.rows.len() - 1);
        Ok(self.rows.len() - 1)
    }
}

fn with_scalar(op: BinaryOp, is_bool: bool, mut rows: Vec<Row>, scalar: &[f64], scalar_is_left: bool) -> Vec<Row> {
    rows.retain_mut(|row| {
        row.drop_name |= !op.is_comparison() || is_bool;
        let mut any = false;
        for (v, s) in row.values.iter_mut().zip(scalar) {
            if is_absent(*v) {
                continue;
            }
            let (a, b) = if scalar_is_left { (*s, *v) } else { (*v, *s) };
            *v = outcome(op, is_bool, a, b, *v);
            any |= !is_absent(*v);
        }
        any
    });
    rows
}

/// The labels by which series of both sides find each other.
fn signature(labels: &LabelSet, matching: &Matching) -> LabelSet {
    if matching.is_on {
        return LabelSet::from_pairs(
            matching.labels.iter().filter_map(|name| Some((name.clone(), labels.get(name)?.to_owned()))),
        );
    }
    let mut out = super::eval::nameless(labels);
    matching.labels.iter().for_each(|name| out.remove(name));
    out
}

fn result_labels(op: BinaryOp, is_bool: bool, matching: &Matching, many: &Row, one: &Row) -> LabelSet {
    let mut labels = if op.is_comparison() && !is_bool { (*many.labels).clone() } else { super::eval::nameless(&many.labels) };
    if matching.cardinality == Cardinality::OneToOne {
        if matching.is_on {
            labels = LabelSet::from_pairs(labels.iter().filter(|(n, _)| matching.labels.iter().any(|l| l == n)));
        } else {
            matching.labels.iter().for_each(|name| labels.remove(name));
        }
    }
    for name in &matching.include {
        labels.set(name, one.labels.get(name).unwrap_or(""));
    }
    labels
}
