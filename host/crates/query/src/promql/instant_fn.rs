//! Function calls: which arguments are evaluated how, and the functions over instant vectors.

use super::{
    aggregate::quantile,
    ast::{Expr, Node, Selector, number_text},
    eval::{ABSENT, Eval, Evaluated, Grid, Row, is_absent, map_values},
    function::Function,
    range_fn,
};
use crate::error::{Result, execution};
use model::{LabelSet, MatchOp, Matcher};
use std::{
    collections::{BTreeSet, HashMap},
    f64::consts::PI,
    sync::Arc,
};

/// A plain function of each value.
fn pointwise(name: &str) -> Option<fn(f64) -> f64> {
    Some(match name {
        "abs" => f64::abs,
        "acos" => f64::acos,
        "acosh" => f64::acosh,
        "asin" => f64::asin,
        "asinh" => f64::asinh,
        "atan" => f64::atan,
        "atanh" => f64::atanh,
        "ceil" => f64::ceil,
        "cos" => f64::cos,
        "cosh" => f64::cosh,
        "deg" => |v| v * 180.0 / PI,
        "exp" => f64::exp,
        "floor" => f64::floor,
        "ln" => f64::ln,
        "log10" => f64::log10,
        "log2" => f64::log2,
        "rad" => |v| v * PI / 180.0,
        "sgn" => |v| {
            if v > 0.0 {
                1.0
            } else if v < 0.0 {
                -1.0
            } else {
                v
            }
        },
        "sin" => f64::sin,
        "sinh" => f64::sinh,
        "sqrt" => f64::sqrt,
        "tan" => f64::tan,
        "tanh" => f64::tanh,
        _ => return None,
    })
}

/// A part of the UTC date of a time in seconds.
fn date_part(name: &str) -> Option<fn(f64) -> f64> {
    Some(match name {
        "minute" => |t| (t / 60.0).floor().rem_euclid(60.0),
        "hour" => |t| (t / 3600.0).floor().rem_euclid(24.0),
        "day_of_week" => |t| ((t / 86_400.0).floor() + 4.0).rem_euclid(7.0),
        "day_of_month" => |t| date(t, |d| f64::from(d.day())),
        "day_of_year" => |t| date(t, |d| f64::from(d.day_of_year())),
        "days_in_month" => |t| date(t, |d| f64::from(d.days_in_month())),
        "month" => |t| date(t, |d| f64::from(d.month())),
        "year" => |t| date(t, |d| f64::from(d.year())),
        _ => return None,
    })
}

fn date(seconds: f64, part: impl Fn(jiff::civil::Date) -> f64) -> f64 {
    if !seconds.is_finite() {
        return f64::NAN;
    }
    match jiff::Timestamp::from_second(seconds.floor() as i64) {
        Ok(t) => part(jiff::tz::Offset::UTC.to_datetime(t).date()),
        Err(_) => f64::NAN,
    }
}

impl Eval {
    pub(crate) fn call(&self, expr: &Expr, function: &Function, args: &[Expr], grid: &Grid) -> Result<Evaluated> {
        let name = function.name;
        let constant = |v: f64| Ok(Evaluated::Scalar(vec![v; grid.steps]));
        let ms = |ms: i64| ms as f64 / 1000.0;
        if let Some(f) = pointwise(name) {
            return Ok(Evaluated::Vector(map_values(self.vector(&args[0], grid)?, f)));
        }
        if let Some(part) = date_part(name) {
            return Ok(Evaluated::Vector(match args.first() {
                Some(arg) => map_values(self.vector(arg, grid)?, part),
                None => vec![unnamed((0..grid.steps).map(|i| part(ms(grid.time(i)))).collect())],
            }));
        }
        if let Some((f, keep_name)) = range_fn::find(name) {
            self.check_mode(name, &args[0])?;
            if matches!(name, "rate" | "increase") {
                self.hint_counter(&args[0]);
            }
            return Ok(Evaluated::Vector(self.over_windows(&args[0], grid, keep_name, |w, _| f(w))?));
        }
        Ok(match name {
            "pi" => return constant(PI),
            "time" => Evaluated::Scalar((0..grid.steps).map(|i| ms(grid.time(i))).collect()),
            "start" => return constant(ms(self.query.start)),
            "end" => return constant(ms(self.query.end())),
            "step" => return constant(ms(self.query.step)),
            "range" => return constant(ms(self.query.end() - self.query.start)),
            "min_of" | "max_of" => {
                let (a, b) = (self.scalar(&args[0], grid)?, self.scalar(&args[1], grid)?);
                let pick = |(a, b): (f64, f64)| match () {
                    () if a.is_nan() || b.is_nan() => f64::NAN,
                    () if name == "min_of" => a.min(b),
                    () => a.max(b),
                };
                Evaluated::Scalar(a.into_iter().zip(b).map(pick).collect())
            }
            "vector" => Evaluated::Vector(vec![unnamed(self.scalar(&args[0], grid)?)]),
            "scalar" => {
                let rows = self.vector(&args[0], grid)?;
                let at = |i: usize| {
                    let mut present = rows.iter().map(|row| row.values[i]).filter(|v| !is_absent(*v));
                    match (present.next(), present.next()) {
                        (Some(v), None) => v,
                        _ => f64::NAN,
                    }
                };
                Evaluated::Scalar((0..grid.steps).map(at).collect())
            }
            "timestamp" => Evaluated::Vector(match &args[0].bare().node {
                Node::Selector(selector) => self.instant_selector(args[0].bare(), selector, grid, true)?,
                _ => {
                    let mut rows = self.vector(&args[0], grid)?;
                    for row in &mut rows {
                        row.drop_name = true;
                        for (i, v) in row.values.iter_mut().enumerate().filter(|(_, v)| !is_absent(**v)) {
                            *v = ms(grid.time(i));
                        }
                    }
                    rows
                }
            }),
            "absent" => {
                let rows = self.vector(&args[0], grid)?;
                self.absent(&args[0], grid, |i| rows.iter().any(|row| !is_absent(row.values[i])))
            }
            "absent_over_time" => {
                let rows = self.over_windows(&args[0], grid, false, |w, _| (!w.values.is_empty()).then_some(1.0))?;
                self.absent(&args[0], grid, |i| rows.iter().any(|row| !is_absent(row.values[i])))
            }
            "clamp" | "clamp_min" | "clamp_max" => {
                let low = if name == "clamp_max" { vec![f64::NEG_INFINITY; grid.steps] } else { self.scalar(&args[1], grid)? };
                let high = match name {
                    "clamp_min" => vec![f64::INFINITY; grid.steps],
                    _ => self.scalar(&args[args.len() - 1], grid)?,
                };
                let clamp = |v: f64, i: usize| {
                    if high[i] < low[i] {
                        ABSENT
                    } else if v.is_nan() || low[i].is_nan() || high[i].is_nan() {
                        f64::NAN
                    } else {
                        v.min(high[i]).max(low[i])
                    }
                };
                Evaluated::Vector(map_steps(self.vector(&args[0], grid)?, clamp))
            }
            "round" => {
                let to = match args.get(1) {
                    Some(arg) => self.scalar(arg, grid)?,
                    None => vec![1.0; grid.steps],
                };
                let round = |v: f64, i: usize| {
                    let inverse = 1.0 / to[i];
                    (v * inverse + 0.5).floor() / inverse
                };
                Evaluated::Vector(map_steps(self.vector(&args[0], grid)?, round))
            }
            "predict_linear" => {
                self.check_mode(name, &args[0])?;
                let ahead = self.scalar(&args[1], grid)?;
                let predict = |w: &range_fn::Window<'_>, i: usize| {
                    let (slope, intercept) = range_fn::regression(w, w.t)?;
                    Some(slope * ahead[i] + intercept)
                };
                Evaluated::Vector(self.over_windows(&args[0], grid, false, predict)?)
            }
            "double_exponential_smoothing" | "holt_winters" => {
                let (smoothing, trend) = (self.scalar(&args[1], grid)?, self.scalar(&args[2], grid)?);
                for (what, values) in [("smoothing", &smoothing), ("trend", &trend)] {
                    if let Some(v) = values.iter().find(|v| **v <= 0.0 || **v >= 1.0) {
                        return Err(execution(format!("invalid {what} factor. Expected: 0 < {what} factor < 1, got: {v}")));
                    }
                }
                Evaluated::Vector(
                    self.over_windows(&args[0], grid, false, |w, i| range_fn::double_exponential(w, smoothing[i], trend[i]))?,
                )
            }
            "quantile_over_time" => {
                let q = self.scalar(&args[0], grid)?;
                for q in q.iter().filter(|q| !(0.0..=1.0).contains(*q)) {
                    self.warn(format!(
                        "quantile value should be between 0 and 1, got {} ({})",
                        number_text(*q),
                        self.place(&args[0])
                    ));
                }
                let f =
                    |w: &range_fn::Window<'_>, i: usize| (!w.values.is_empty()).then(|| quantile(q[i], &mut w.values.to_vec()));
                Evaluated::Vector(self.over_windows(&args[1], grid, false, f)?)
            }
            "histogram_quantile" => {
                let q = self.scalar(&args[0], grid)?;
                Evaluated::Vector(self.histogram_quantile(&q, &args[0], &args[1], grid)?)
            }
            "histogram_fraction" => {
                let (lower, upper) = (self.scalar(&args[0], grid)?, self.scalar(&args[1], grid)?);
                Evaluated::Vector(self.histogram_fraction(&lower, &upper, &args[2], grid)?)
            }
            // Of native histograms only, which the store doesn't hold yet: floats are ignored, as in Prometheus.
            "histogram_avg" | "histogram_count" | "histogram_stddev" | "histogram_stdvar" | "histogram_sum" => {
                self.vector(&args[0], grid)?;
                Evaluated::Vector(Vec::new())
            }
            "sort" | "sort_desc" | "sort_by_label" | "sort_by_label_desc" => {
                Evaluated::Vector(self.sort(expr, name, args, grid)?)
            }
            "label_replace" => Evaluated::Vector(self.label_replace(args, grid)?),
            "label_join" => Evaluated::Vector(self.label_join(args, grid)?),
            "info" => Evaluated::Vector(self.info(expr, args, grid)?),
            other => return Err(execution(format!("function {other:?} is not known to the evaluator"))),
        })
    }

    fn absent(&self, arg: &Expr, grid: &Grid, is_there: impl Fn(usize) -> bool) -> Evaluated {
        let labels = match &arg.bare().node {
            Node::Selector(selector) | Node::Matrix { selector, .. } => selector.absent_labels(),
            _ => LabelSet::default(),
        };
        let values = (0..grid.steps).map(|i| if is_there(i) { ABSENT } else { 1.0 }).collect();
        Evaluated::Vector(vec![Row { labels: Arc::new(labels), drop_name: false, values }])
    }

    /// Refuses the extended range modes where they mean nothing.
    fn check_mode(&self, name: &str, arg: &Expr) -> Result<()> {
        let Node::Matrix { selector, .. } = &arg.bare().node else { return Ok(()) };
        let (mode, allowed): (&str, &[&str]) = match selector.mode {
            super::RangeMode::Plain => return Ok(()),
            super::RangeMode::Anchored => ("anchored", &["changes", "delta", "increase", "rate", "resets"]),
            super::RangeMode::Smoothed => ("smoothed", &["delta", "increase", "rate"]),
        };
        if allowed.contains(&name) {
            return Ok(());
        }
        Err(execution(format!("{mode} modifier can only be used with: {} - not with {name}", allowed.join(", "))))
    }

    fn hint_counter(&self, arg: &Expr) {
        let Node::Matrix { selector, .. } = &arg.bare().node else { return };
        let Some(name) = selector.metric_name() else { return };
        let has_type = selector.matchers.iter().any(|m| m.name == "__type__");
        let has_series = self.data.get(&arg.bare().span.start).is_some_and(|series| !series.is_empty());
        if has_series && !has_type && !["_total", "_sum", "_count", "_bucket"].iter().any(|suffix| name.ends_with(suffix)) {
            self.inform(format!(
                "metric might not be a counter, name does not end in _total/_sum/_count/_bucket: {name:?} ({})",
                self.place(arg)
            ));
        }
    }

    fn sort(&self, expr: &Expr, name: &str, args: &[Expr], grid: &Grid) -> Result<Vec<Row>> {
        if !self.is_instant {
            let message = format!("{name} is ineffective for range queries since results are always ordered by labels");
            // Prometheus names the family, not each of its functions.
            let message = message.replacen(name, "sort", 1);
            self.warn(format!("{message} ({})", self.place(expr)));
        }
        let mut rows = self.vector(&args[0], grid)?;
        if grid.steps != 1 {
            return Ok(rows);
        }
        if name.starts_with("sort_by_label") {
            let labels = args[1..].iter().map(|arg| self.string(arg)).collect::<Result<Vec<_>>>()?;
            rows.sort_by(|a, b| {
                let by_labels = labels
                    .iter()
                    .map(|l| natural(a.labels.get(l).unwrap_or(""), b.labels.get(l).unwrap_or("")))
                    .find(|o| o.is_ne());
                by_labels.unwrap_or_else(|| a.labels.cmp(&b.labels))
            });
            if name.ends_with("_desc") {
                rows.reverse();
            }
            return Ok(rows);
        }
        let nan_last = |a: f64, b: f64| a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()));
        rows.sort_by(|a, b| {
            let (a, b) = (a.values[0], b.values[0]);
            if name == "sort" || a.is_nan() || b.is_nan() { nan_last(a, b) } else { nan_last(b, a) }
        });
        Ok(rows)
    }

    /// Rows with one label set anew by `f`, which sees the labels before; rows that become the same are joined.
    fn relabel(&self, rows: Vec<Row>, target: &str, f: impl Fn(&LabelSet) -> Option<String>) -> Result<Vec<Row>> {
        let mut out = Vec::with_capacity(rows.len());
        for mut row in rows {
            self.check()?;
            if let Some(value) = f(&row.labels) {
                let mut labels = (*row.labels).clone();
                labels.set(target, value);
                row.labels = Arc::new(labels);
                row.drop_name &= target != "__name__";
            }
            out.push(row);
        }
        super::aggregate::merge_same(out)
    }

    fn label_replace(&self, args: &[Expr], grid: &Grid) -> Result<Vec<Row>> {
        let [target, replacement, source, pattern] = [1, 2, 3, 4].map(|i| self.string(&args[i]));
        let (target, replacement, source, pattern) = (target?, replacement?, source?, pattern?);
        let regex =
            super::regex(&pattern).map_err(|_| execution(format!("invalid regular expression in label_replace(): {pattern}")))?;
        if target.is_empty() {
            return Err(execution(format!("invalid destination label name in label_replace(): {target}")));
        }

        self.relabel(self.vector(&args[0], grid)?, &target, |labels| {
            let captures = regex.captures(labels.get(&source).unwrap_or(""))?;
            let mut value = String::new();
            captures.expand(&replacement, &mut value);
            Some(value)
        })
    }

    fn label_join(&self, args: &[Expr], grid: &Grid) -> Result<Vec<Row>> {
        let (target, separator) = (self.string(&args[1])?, self.string(&args[2])?);
        let sources = args[3..].iter().map(|arg| self.string(arg)).collect::<Result<Vec<_>>>()?;
        if target.is_empty() || sources.iter().any(String::is_empty) {
            return Err(execution("invalid label name in label_join(): \"\""));
        }
        self.relabel(self.vector(&args[0], grid)?, &target, |labels| {
            Some(sources.iter().map(|s| labels.get(s).unwrap_or("")).collect::<Vec<_>>().join(&separator))
        })
    }

    /// `info(v, {…})`: adds the data labels of the info metrics that share `instance` and `job`.
    fn info(&self, expr: &Expr, args: &[Expr], grid: &Grid) -> Result<Vec<Row>> {
        const IDENTIFYING: [&str; 2] = ["instance", "job"];
        let selector = Selector { matchers: info_selector(args.get(1)), ..Selector::default() };
        let wanted: Option<BTreeSet<&str>> =
            args.get(1).map(|_| selector.matchers.iter().map(|m| m.name.as_str()).filter(|n| *n != "__name__").collect());
        let wanted = wanted.filter(|w| !w.is_empty());
        // A matcher that takes the empty value lets a series without any info through.
        let must_match = args.get(1).is_some_and(|arg| match &arg.node {
            Node::Selector(s) => s.matchers.iter().any(|m| m.name != "__name__" && !matches_text(m, "")),
            _ => false,
        });
        let key = info_key(expr);
        let place = Expr { node: Node::Selector(selector.clone()), span: key..key, depth: 1 };
        let infos = self.instant_selector(&place, &selector, grid, false)?;
        let times = self.instant_selector(&place, &selector, grid, true)?;
        let is_info = |labels: &LabelSet| {
            selector.matchers.iter().filter(|m| m.name == "__name__").all(|m| matches_text(m, labels.metric_name().unwrap_or("")))
        };
        let identity = |labels: &LabelSet| IDENTIFYING.map(|n| labels.get(n).unwrap_or("").to_owned());
        let mut by_identity: HashMap<[String; 2], Vec<usize>> = HashMap::new();
        for (i, info) in infos.iter().enumerate() {
            by_identity.entry(identity(&info.labels)).or_default().push(i);
        }
        let mut out: Vec<Row> = Vec::new();
        let mut places: HashMap<(LabelSet, bool), usize> = HashMap::new();
        for row in self.vector(&args[0], grid)? {
            self.check()?;
            let is_itself_info = is_info(&row.labels);
            let candidates = if is_itself_info { None } else { by_identity.get(&identity(&row.labels)) };
            for (step, v) in row.values.iter().enumerate().filter(|(_, v)| !is_absent(**v)) {
                let mut labels = (*row.labels).clone();
                if !is_itself_info {
                    // Of one info metric the newest series counts.
                    let mut newest: HashMap<&str, usize> = HashMap::new();
                    for i in candidates.into_iter().flatten().copied().filter(|i| !is_absent(infos[*i].values[step])) {
                        let name = infos[i].labels.metric_name().unwrap_or("");
                        match newest.get(name).copied() {
                            Some(other) if times[other].values[step] > times[i].values[step] => {}
                            Some(other) if times[other].values[step] == times[i].values[step] => {
                                return Err(execution(format!(
                                    "found duplicate series for info metric {name:?}: existing {} @ {}, new {} @ {}",
                                    infos[other].labels, times[other].values[step], infos[i].labels, times[i].values[step]
                                )));
                            }
                            _ => drop(newest.insert(name, i)),
                        }
                    }
                    if newest.is_empty() && must_match {
                        continue;
                    }
                    let mut added = LabelSet::default();
                    for i in newest.into_values() {
                        for (n, value) in infos[i].labels.iter() {
                            let is_data =
                                n != "__name__" && !IDENTIFYING.contains(&n) && wanted.as_ref().is_none_or(|w| w.contains(n));
                            if !is_data || row.labels.get(n).is_some() {
                                continue;
                            }
                            if added.get(n).is_some_and(|other| other != value) {
                                return Err(execution(format!("conflicting label: {n}")));
                            }
                            added.set(n, value);
                        }
                    }
                    for (n, value) in added.iter() {
                        labels.set(n, value);
                    }
                }
                let place = match places.get(&(labels.clone(), row.drop_name)) {
                    Some(place) => *place,
                    None => {
                        out.push(Row {
                            labels: Arc::new(labels.clone()),
                            drop_name: row.drop_name,
                            values: self.column(grid.steps)?,
                        });
                        places.insert((labels, row.drop_name), out.len() - 1);
                        out.len() - 1
                    }
                };
                out[place].values[step] = *v;
            }
        }
        Ok(out)
    }
}

/// The matchers that choose info metrics; `target_info` unless the second argument names others.
pub(crate) fn info_selector(arg: Option<&Expr>) -> Vec<Matcher> {
    let mut matchers = match arg.map(|arg| &arg.node) {
        Some(Node::Selector(selector)) => selector.matchers.clone(),
        _ => Vec::new(),
    };
    if !matchers.iter().any(|m| m.name == "__name__") {
        matchers.push(Matcher::equal("__name__", "target_info"));
    }
    matchers
}

/// Under which key the info metrics of a call are loaded: the closing parenthesis, where no selector begins.
pub(crate) fn info_key(expr: &Expr) -> usize {
    expr.span.end.saturating_sub(1)
}

fn matches_text(matcher: &Matcher, text: &str) -> bool {
    match matcher.op {
        MatchOp::Equal => matcher.value == text,
        MatchOp::NotEqual => matcher.value != text,
        MatchOp::Regex => super::regex(&matcher.value).is_ok_and(|r| r.is_match(text)),
        MatchOp::NotRegex => super::regex(&matcher.value).is_ok_and(|r| !r.is_match(text)),
    }
}

fn unnamed(values: Vec<f64>) -> Row {
    Row { labels: Arc::default(), drop_name: false, values }
}

fn map_steps(mut rows: Vec<Row>, f: impl Fn(f64, usize) -> f64) -> Vec<Row> {
    for row in &mut rows {
        row.drop_name = true;
        for (i, v) in row.values.iter_mut().enumerate().filter(|(_, v)| !is_absent(**v)) {
            *v = f(*v, i);
        }
    }
    rows
}

/// Natural order: runs of digits compare as numbers.
fn natural(a: &str, b: &str) -> std::cmp::Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        match (a.chars().next(), b.chars().next()) {
            (None, None) => return std::cmp::Ordering::Equal,
            (None, _) => return std::cmp::Ordering::Less,
            (_, None) => return std::cmp::Ordering::Greater,
            (Some(x), Some(y)) if x.is_ascii_digit() && y.is_ascii_digit() => {
                let run = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
                let (na, nb) = (run(a), run(b));
                let (da, db) = (a[..na].trim_start_matches('0'), b[..nb].trim_start_matches('0'));
                let order = da.len().cmp(&db.len()).then_with(|| da.cmp(db));
                if order.is_ne() {
                    return order;
                }
                (a, b) = (&a[na..], &b[nb..]);
            }
            (Some(x), Some(y)) if x != y => return x.cmp(&y),
            (Some(x), Some(_)) => (a, b) = (&a[x.len_utf8()..], &b[x.len_utf8()..]),
        }
    }
}
