//! The parsed expression, and its canonical text.

use super::function::Function;
use model::{LabelSet, MatchOp, Matcher};
use std::{collections::BTreeSet, fmt, ops::Range};

/// An expression with its place in the query text.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    pub node: Node,
    /// Bytes of the query text; also what the evaluator knows a selector by.
    pub span: Range<usize>,
    pub(crate) depth: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    Number(f64),
    String(String),
    /// An instant vector selector.
    Selector(Selector),
    /// A range vector selector.
    Matrix {
        selector: Selector,
        range: Duration,
    },
    Subquery {
        expr: Box<Expr>,
        range: Duration,
        step: Option<Duration>,
        offset: Option<Duration>,
        at: Option<At>,
    },
    Call {
        function: &'static Function,
        args: Vec<Expr>,
    },
    Aggregate {
        op: AggregateOp,
        expr: Box<Expr>,
        param: Option<Box<Expr>>,
        grouping: Vec<String>,
        is_without: bool,
    },
    Binary {
        op: BinaryOp,
        left: Box<Expr>,
        right: Box<Expr>,
        is_bool: bool,
        matching: Matching,
    },
    Negate(Box<Expr>),
    Plus(Box<Expr>),
    Paren(Box<Expr>),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selector {
    /// All matchers, that of `__name__` among them.
    pub matchers: Vec<Matcher>,
    pub offset: Option<Duration>,
    pub at: Option<At>,
    pub mode: RangeMode,
}

/// How the edges of a range are treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RangeMode {
    #[default]
    Plain,
    /// The sample before the range counts as lying on its left edge.
    Anchored,
    /// Edges are interpolated between the samples around them.
    Smoothed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    Millis(i64),
    Start,
    End,
}

/// A duration expression; its value is in seconds.
#[derive(Clone, Debug, PartialEq)]
pub enum Duration {
    Seconds(f64),
    Step,
    Range,
    Negate(Box<Duration>),
    Binary(BinaryOp, Box<Duration>, Box<Duration>),
    MinOf(Box<Duration>, Box<Duration>),
    MaxOf(Box<Duration>, Box<Duration>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BinaryOp {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
    Atan2,
    Equal,
    NotEqual,
    Greater,
    Less,
    GreaterEqual,
    LessEqual,
    And,
    Or,
    Unless,
}

impl BinaryOp {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Sub => "-",
            Self::Mul => "*",
            Self::Div => "/",
            Self::Mod => "%",
            Self::Pow => "^",
            Self::Atan2 => "atan2",
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Greater => ">",
            Self::Less => "<",
            Self::GreaterEqual => ">=",
            Self::LessEqual => "<=",
            Self::And => "and",
            Self::Or => "or",
            Self::Unless => "unless",
        }
    }
    pub fn is_comparison(self) -> bool {
        matches!(self, Self::Equal | Self::NotEqual | Self::Greater | Self::Less | Self::GreaterEqual | Self::LessEqual)
    }
    pub fn is_set(self) -> bool {
        matches!(self, Self::And | Self::Or | Self::Unless)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AggregateOp {
    Sum,
    Avg,
    Count,
    Min,
    Max,
    Group,
    Stddev,
    Stdvar,
    Topk,
    Bottomk,
    CountValues,
    Quantile,
    Limitk,
    LimitRatio,
}

impl AggregateOp {
    pub const ALL: [Self; 14] = [
        Self::Sum,
        Self::Avg,
        Self::Count,
        Self::Min,
        Self::Max,
        Self::Group,
        Self::Stddev,
        Self::Stdvar,
        Self::Topk,
        Self::Bottomk,
        Self::CountValues,
        Self::Quantile,
        Self::Limitk,
        Self::LimitRatio,
    ];
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Avg => "avg",
            Self::Count => "count",
            Self::Min => "min",
            Self::Max => "max",
            Self::Group => "group",
            Self::Stddev => "stddev",
            Self::Stdvar => "stdvar",
            Self::Topk => "topk",
            Self::Bottomk => "bottomk",
            Self::CountValues => "count_values",
            Self::Quantile => "quantile",
            Self::Limitk => "limitk",
            Self::LimitRatio => "limit_ratio",
        }
    }
    pub fn has_param(self) -> bool {
        matches!(self, Self::Topk | Self::Bottomk | Self::CountValues | Self::Quantile | Self::Limitk | Self::LimitRatio)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cardinality {
    #[default]
    OneToOne,
    /// `group_left`: many on the left.
    ManyToOne,
    /// `group_right`: many on the right.
    OneToMany,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matching {
    pub cardinality: Cardinality,
    pub is_on: bool,
    pub labels: Vec<String>,
    /// Labels that `group_left(…)` takes from the "one" side.
    pub include: Vec<String>,
    pub fill_left: Option<f64>,
    pub fill_right: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    Scalar,
    String,
    Vector,
    Matrix,
}

impl ValueType {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::String => "string",
            Self::Vector => "instant vector",
            Self::Matrix => "range vector",
        }
    }
}

impl Expr {
    pub fn value_type(&self) -> ValueType {
        match &self.node {
            Node::Number(_) => ValueType::Scalar,
            Node::String(_) => ValueType::String,
            Node::Selector(_) | Node::Aggregate { .. } => ValueType::Vector,
            Node::Matrix { .. } | Node::Subquery { .. } => ValueType::Matrix,
            Node::Call { function, .. } => function.returns,
            Node::Binary { left, right, .. } => match (left.value_type(), right.value_type()) {
                (ValueType::Scalar, ValueType::Scalar) => ValueType::Scalar,
                _ => ValueType::Vector,
            },
            Node::Negate(inner) | Node::Plus(inner) | Node::Paren(inner) => inner.value_type(),
        }
    }

    /// The metric names that this expression can possibly read, or `None` when a selector doesn't fix
    /// its name: then any metric may matter.
    pub fn metric_names(&self) -> Option<BTreeSet<String>> {
        let mut names = Some(BTreeSet::new());
        self.walk(&mut |expr| {
            let (Node::Selector(selector) | Node::Matrix { selector, .. }) = &expr.node else { return };
            match (selector.metric_name(), &mut names) {
                (Some(name), Some(set)) => drop(set.insert(name.to_owned())),
                _ => names = None,
            }
        });
        names
    }

    /// Visits this expression and all below it.
    pub(crate) fn walk<'a>(&'a self, visit: &mut impl FnMut(&'a Expr)) {
        visit(self);
        match &self.node {
            Node::Number(_) | Node::String(_) | Node::Selector(_) | Node::Matrix { .. } => {}
            Node::Subquery { expr, .. } | Node::Negate(expr) | Node::Plus(expr) | Node::Paren(expr) => expr.walk(visit),
            Node::Call { args, .. } => args.iter().for_each(|arg| arg.walk(visit)),
            Node::Aggregate { expr, param, .. } => {
                if let Some(param) = param {
                    param.walk(visit);
                }
                expr.walk(visit);
            }
            Node::Binary { left, right, .. } => {
                left.walk(visit);
                right.walk(visit);
            }
        }
    }

    /// The expression without its parentheses.
    pub(crate) fn bare(&self) -> &Expr {
        match &self.node {
            Node::Paren(inner) => inner.bare(),
            _ => self,
        }
    }
}

impl Selector {
    /// The name, when an equality matcher fixes it.
    pub fn metric_name(&self) -> Option<&str> {
        self.matchers.iter().find(|m| m.name == "__name__" && m.op == MatchOp::Equal).map(|m| m.value.as_str())
    }

    /// What `absent()` names: labels that exactly one equality matcher fixes.
    pub(crate) fn absent_labels(&self) -> LabelSet {
        let mut labels = LabelSet::default();
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        for matcher in &self.matchers {
            if matcher.name == "__name__" {
                continue;
            }
            if matcher.op == MatchOp::Equal && seen.insert(&matcher.name) {
                labels.set(&matcher.name, &matcher.value);
            } else {
                labels.remove(&matcher.name);
                seen.insert(&matcher.name);
            }
        }
        labels
    }
}

impl Duration {
    /// Seconds, given the query's step and range in milliseconds.
    pub(crate) fn seconds(&self, step_ms: i64, range_ms: i64) -> f64 {
        match self {
            Self::Seconds(s) => *s,
            Self::Step => step_ms as f64 / 1000.0,
            Self::Range => range_ms as f64 / 1000.0,
            Self::Negate(inner) => -inner.seconds(step_ms, range_ms),
            Self::MinOf(a, b) => a.seconds(step_ms, range_ms).min(b.seconds(step_ms, range_ms)),
            Self::MaxOf(a, b) => a.seconds(step_ms, range_ms).max(b.seconds(step_ms, range_ms)),
            Self::Binary(op, a, b) => {
                let (a, b) = (a.seconds(step_ms, range_ms), b.seconds(step_ms, range_ms));
                match op {
                    BinaryOp::Add => a + b,
                    BinaryOp::Sub => a - b,
                    BinaryOp::Mul => a * b,
                    BinaryOp::Div => a / b,
                    BinaryOp::Mod => a % b,
                    _ => a.powf(b),
                }
            }
        }
    }
}

/// `90061001` as `1d1h1m1s1ms`.
pub(crate) fn duration_text(ms: i64) -> String {
    let (sign, mut rest) = if ms < 0 { ("-", ms.unsigned_abs()) } else { ("", ms.unsigned_abs()) };
    if rest == 0 {
        return "0s".into();
    }
    let mut out = String::from(sign);
    for (unit, size) in [("d", 86_400_000_u64), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)] {
        if rest >= size {
            out.push_str(&format!("{}{unit}", rest / size));
            rest %= size;
        }
    }
    out
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seconds(s) => f.write_str(&duration_text((s * 1000.0).round() as i64)),
            Self::Step => f.write_str("step()"),
            Self::Range => f.write_str("range()"),
            Self::Negate(inner) => write!(f, "-({inner})"),
            Self::Binary(op, a, b) => write!(f, "({a} {} {b})", op.as_str()),
            Self::MinOf(a, b) => write!(f, "min_of({a}, {b})"),
            Self::MaxOf(a, b) => write!(f, "max_of({a}, {b})"),
        }
    }
}

fn is_plain_name(name: &str) -> bool {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || matches!(b, b'_' | b':'));
    first && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b':'))
}

fn label_list(labels: &[String]) -> String {
    let quoted = |l: &String| if is_plain_name(l) && !l.contains(':') { l.clone() } else { format!("{l:?}") };
    labels.iter().map(quoted).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut inside = Vec::new();
        let mut named = false;
        for matcher in &self.matchers {
            if matcher.name == "__name__" && matcher.op == MatchOp::Equal && !named {
                named = true;
                if is_plain_name(&matcher.value) {
                    f.write_str(&matcher.value)?;
                } else {
                    inside.insert(0, format!("{:?}", matcher.value));
                }
            } else if is_plain_name(&matcher.name) && !matcher.name.contains(':') {
                inside.push(matcher.to_string());
            } else {
                inside.push(format!("{:?}{}{:?}", matcher.name, matcher.op.as_str(), matcher.value));
            }
        }
        if !inside.is_empty() || !named {
            write!(f, "{{{}}}", inside.join(","))?;
        }
        Ok(())
    }
}

fn modifiers(f: &mut fmt::Formatter<'_>, mode: RangeMode, at: Option<At>, offset: Option<&Duration>) -> fmt::Result {
    match mode {
        RangeMode::Plain => {}
        RangeMode::Anchored => f.write_str(" anchored")?,
        RangeMode::Smoothed => f.write_str(" smoothed")?,
    }
    match at {
        None => {}
        Some(At::Millis(ms)) => write!(f, " @ {}.{:03}", ms / 1000, (ms % 1000).abs())?,
        Some(At::Start) => f.write_str(" @ start()")?,
        Some(At::End) => f.write_str(" @ end()")?,
    }
    match offset {
        None => Ok(()),
        Some(Duration::Seconds(s)) => write!(f, " offset {}", duration_text((s * 1000.0).round() as i64)),
        Some(binary @ Duration::Binary(..)) => write!(f, " offset {binary}"),
        Some(other) => write!(f, " offset ({other})"),
    }
}

pub(crate) fn number_text(v: f64) -> String {
    if v.is_nan() {
        "NaN".into()
    } else if v.is_infinite() {
        if v > 0.0 { "+Inf".into() } else { "-Inf".into() }
    } else {
        format!("{v}")
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.node {
            Node::Number(v) => f.write_str(&number_text(*v)),
            Node::String(s) => write!(f, "{s:?}"),
            Node::Selector(s) => {
                write!(f, "{s}")?;
                modifiers(f, s.mode, s.at, s.offset.as_ref())
            }
            Node::Matrix { selector, range } => {
                write!(f, "{selector}[{range}]")?;
                modifiers(f, selector.mode, selector.at, selector.offset.as_ref())
            }
            Node::Subquery { expr, range, step, offset, at } => {
                write!(f, "{expr}[{range}:{}]", step.as_ref().map(Duration::to_string).unwrap_or_default())?;
                modifiers(f, RangeMode::Plain, *at, offset.as_ref())
            }
            Node::Call { function, args } => {
                let args: Vec<_> = args.iter().map(Expr::to_string).collect();
                write!(f, "{}({})", function.name, args.join(", "))
            }
            Node::Aggregate { op, expr, param, grouping, is_without } => {
                f.write_str(op.as_str())?;
                if *is_without {
                    write!(f, " without ({}) ", label_list(grouping))?;
                } else if !grouping.is_empty() {
                    write!(f, " by ({}) ", label_list(grouping))?;
                }
                match param {
                    Some(param) => write!(f, "({param}, {expr})"),
                    None => write!(f, "({expr})"),
                }
            }
            Node::Binary { op, left, right, is_bool, matching } => {
                write!(f, "{left} {}{}", op.as_str(), if *is_bool { " bool" } else { "" })?;
                if matching.is_on {
                    write!(f, " on ({})", label_list(&matching.labels))?;
                } else if !matching.labels.is_empty() {
                    write!(f, " ignoring ({})", label_list(&matching.labels))?;
                }
                match matching.cardinality {
                    Cardinality::OneToOne => {}
                    Cardinality::ManyToOne => write!(f, " group_left ({})", label_list(&matching.include))?,
                    Cardinality::OneToMany => write!(f, " group_right ({})", label_list(&matching.include))?,
                }
                for (name, fill) in [("fill_left", matching.fill_left), ("fill_right", matching.fill_right)] {
                    if let Some(fill) = fill {
                        write!(f, " {name} ({})", number_text(fill))?;
                    }
                }
                write!(f, " {right}")
            }
            Node::Negate(inner) => write!(f, "-{inner}"),
            Node::Plus(inner) => write!(f, "+{inner}"),
            Node::Paren(inner) => write!(f, "({inner})"),
        }
    }
}
