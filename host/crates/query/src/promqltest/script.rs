//! The script's text: commands, series notation, expectations.

use crate::promql::{Node, parse as parse_expr, parse_duration_ms, parse_number};
use model::LabelSet;

pub(crate) enum Command {
    Clear,
    Load { interval_ms: i64, series: Vec<(LabelSet, Vec<Points>)> },
    Eval(Case),
}

pub(crate) struct Case {
    pub line: usize,
    pub query: Query,
    pub text: String,
    pub expects: Vec<Expect>,
    pub rows: Vec<(LabelSet, Vec<Points>)>,
    pub scalar: Option<f64>,
}

impl Case {
    pub(crate) fn has(&self, is: impl Fn(&Expect) -> bool) -> bool {
        self.expects.iter().any(is)
    }
}

pub(crate) enum Query {
    Instant(i64),
    Range(i64, i64, i64),
}

#[derive(Debug)]
pub(crate) enum Text {
    Message(String),
    Regex(String),
}

impl Text {
    pub(crate) fn matches(&self, text: &str) -> bool {
        match self {
            Self::Message(want) => text == want || text.ends_with(want.as_str()),
            Self::Regex(want) => regex::Regex::new(want).is_ok_and(|r| r.is_match(text)),
        }
    }
}

#[derive(Debug)]
pub(crate) enum Expect {
    Fail(Option<Text>),
    Warn(Option<Text>),
    Info(Option<Text>),
    NoWarn,
    NoInfo,
    Ordered,
    Text(String),
    Matrix { start: i64, step: i64 },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Points {
    Value(f64),
    Missing,
    /// A native histogram, which nothing here can hold.
    Histogram,
}

impl Points {
    pub(crate) fn value(self) -> Option<f64> {
        match self {
            Self::Value(v) => Some(v),
            _ => None,
        }
    }
}

type Failure = (usize, String);

/// All commands, or for what can't be read its line and why.
pub(crate) fn parse(text: &str) -> Vec<Result<Command, Failure>> {
    let lines: Vec<(usize, &str)> =
        text.lines().enumerate().map(|(i, line)| (i + 1, line.trim())).filter(|(_, line)| !line.starts_with('#')).collect();
    let mut out = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let (number, line) = lines[at];
        at += 1;
        let block_start = at;
        let word = line.split_whitespace().next().unwrap_or("");
        let is_command =
            |l: &str| matches!(l.split_whitespace().next(), Some("load" | "load_with_nhcb" | "clear")) || l.starts_with("eval");
        if word == "load" || word == "load_with_nhcb" || word.starts_with("eval") {
            while at < lines.len() && !lines[at].1.is_empty() && !is_command(lines[at].1) {
                at += 1;
            }
        }
        let block = &lines[block_start..at];
        match word {
            "" => {}
            "clear" => out.push(Ok(Command::Clear)),
            "load" | "load_with_nhcb" => out.push(load(line, block).map_err(|why| (number, why))),
            _ if word.starts_with("eval") => out.push(eval(number, line, block).map(Command::Eval).map_err(|why| (number, why))),
            _ => out.push(Err((number, format!("unknown command {word:?}")))),
        }
    }
    out
}

fn time_ms(text: &str) -> Result<i64, String> {
    if let Some(v) = parse_number(text) {
        return Ok((v * 1000.0) as i64);
    }
    let (sign, body) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    parse_duration_ms(body).map(|ms| sign * ms).ok_or_else(|| format!("bad time {text:?}"))
}

fn load(line: &str, block: &[(usize, &str)]) -> Result<Command, String> {
    let interval_ms = time_ms(line.split_whitespace().nth(1).ok_or("load without an interval")?)?;
    let mut series = Vec::new();
    for (_, line) in block {
        let (labels, rest) = labels_and_rest(line)?;
        // Start timestamps of a series are not stored.
        if !rest.starts_with('@') {
            series.push((labels, points(rest)?));
        }
    }
    Ok(Command::Load { interval_ms, series })
}

/// Splits `name{a="b"} 1 2 3` after the labels.
fn labels_and_rest(line: &str) -> Result<(LabelSet, &str), String> {
    let bytes = line.as_bytes();
    let (mut end, mut quote, mut depth) = (0, None, 0);
    while end < bytes.len() {
        let b = bytes[end];
        match (quote, b) {
            (Some(_), b'\\') => end += 1,
            (Some(q), b) if q == b => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'' | b'`') => quote = Some(b),
            (None, b'{') => depth += 1,
            (None, b'}') => depth -= 1,
            // `name {…}` is also allowed.
            (None, b' ' | b'\t' | b'@')
                if depth == 0
                    && (b == b'@'
                        || !line[end..].trim_start().starts_with('{')
                        || line[end..].trim_start().starts_with("{{")
                        || line[..end].contains('{')) =>
            {
                break;
            }
            _ => {}
        }
        end += 1;
    }
    let (head, rest) = line.split_at(end.min(line.len()));
    let head = head.trim();
    if head == "{}" {
        return Ok((LabelSet::default(), rest.trim()));
    }
    // A series' name is a selector of equalities.
    let head = if head.ends_with("{}") { head.trim_end_matches("{}") } else { head };
    let expr = parse_expr(head).map_err(|e| format!("{head}: {e}"))?;
    let Node::Selector(selector) = expr.node else { return Err(format!("{head} names no series")) };
    Ok((LabelSet::from_pairs(selector.matchers.into_iter().map(|m| (m.name, m.value))), rest.trim()))
}

/// `1 2 _ stale 0+10x5 -1x3 _x4 {{…}}x2`
pub(crate) fn points(text: &str) -> Result<Vec<Points>, String> {
    let mut out = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        if rest.starts_with("{{") {
            rest = histogram(rest, &mut out)?;
        } else {
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            item(&rest[..end], &mut out).ok_or_else(|| format!("bad series item {:?}", &rest[..end]))?;
            rest = &rest[end..];
        }
        rest = rest.trim_start();
        if out.len() > 1_000_000 {
            return Err("more than a million points".into());
        }
    }
    Ok(out)
}

fn histogram<'a>(text: &'a str, out: &mut Vec<Points>) -> Result<&'a str, String> {
    let end = text.find("}}").ok_or("histogram without an end")? + 2;
    let mut rest = &text[end..];
    if rest.starts_with(['+', '-']) && rest[1..].starts_with("{{") {
        rest = &rest[rest.find("}}").ok_or("histogram without an end")? + 2..];
    }
    let mut times = 1;
    if let Some(after) = rest.strip_prefix('x') {
        let digits = after.bytes().take_while(u8::is_ascii_digit).count();
        times = after[..digits].parse::<usize>().map_err(|e| e.to_string())? + 1;
        rest = &after[digits..];
    }
    out.extend(std::iter::repeat_n(Points::Histogram, times.min(1_000_000)));
    Ok(rest)
}

fn item(item: &str, out: &mut Vec<Points>) -> Option<()> {
    let simple = |s: &str| match s {
        "_" => Some(Points::Missing),
        "stale" => Some(Points::Value(f64::from_bits(model::STALE_NAN_BITS))),
        _ => parse_number(s).map(Points::Value),
    };
    if let Some(point) = simple(item) {
        out.push(point);
        return Some(());
    }
    let (base, times) = item.rsplit_once('x')?;
    let times: usize = times.parse().ok().filter(|n| *n <= 1_000_000)?;
    if base == "_" {
        out.extend(std::iter::repeat_n(Points::Missing, times));
        return Some(());
    }
    if let Some(point) = simple(base) {
        out.extend(std::iter::repeat_n(point, times + 1));
        return Some(());
    }
    // `start+step` or `start-step`: the sign that is neither first nor an exponent's.
    let bytes = base.as_bytes();
    let sign = (1..bytes.len()).find(|i| matches!(bytes[*i], b'+' | b'-') && !matches!(bytes[i - 1], b'e' | b'E'))?;
    let start = parse_number(&base[..sign])?;
    let step = parse_number(base[sign..].trim_start_matches('+'))?;
    let mut v = start;
    for _ in 0..=times {
        out.push(Points::Value(v));
        v += step;
    }
    Some(())
}

fn eval(number: usize, line: &str, block: &[(usize, &str)]) -> Result<Case, String> {
    let mut words = line.split_whitespace();
    let command = words.next().unwrap_or("");
    let kind = words.next().unwrap_or("");
    let mut take = |prefix: &str| -> Result<i64, String> {
        match words.next() {
            Some(w) if w == prefix => time_ms(words.next().ok_or("eval ends early")?),
            other => Err(format!("expected {prefix:?}, got {other:?}")),
        }
    };
    let (query, heads) = match kind {
        "instant" => (Query::Instant(take("at")?), 4),
        "range" => (Query::Range(take("from")?, take("to")?, take("step")?), 8),
        _ => return Err(format!("unknown eval {kind:?}")),
    };
    let mut text = line;
    for _ in 0..heads {
        text = text.trim_start();
        text = &text[text.find(char::is_whitespace).unwrap_or(text.len())..];
    }
    let mut expects = Vec::new();
    match command.strip_prefix("eval_") {
        Some("fail") => expects.push(Expect::Fail(None)),
        Some("ordered") => expects.push(Expect::Ordered),
        Some("warn") => expects.push(Expect::Warn(None)),
        Some("info") => expects.push(Expect::Info(None)),
        Some(other) => return Err(format!("unknown eval_{other}")),
        None => {}
    }
    let mut case = Case { line: number, query, text: text.trim().to_owned(), expects, rows: Vec::new(), scalar: None };
    for (_, line) in block {
        if let Some(rest) = line.strip_prefix("expect ") {
            case.expects.push(expect(rest.trim())?);
        } else if let Some(v) = parse_number(line) {
            case.scalar = Some(v);
        } else {
            let (labels, rest) = labels_and_rest(line)?;
            let points = points(rest)?;
            case.rows.push((labels, points));
        }
    }
    // Of a scalar's range the single row is a vector's.
    if matches!(case.query, Query::Range(..)) {
        case.scalar = None;
    }
    Ok(case)
}

fn expect(rest: &str) -> Result<Expect, String> {
    let (word, tail) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let tail = tail.trim();
    let text = if let Some(message) = tail.strip_prefix("msg:") {
        Some(Text::Message(message.trim().to_owned()))
    } else {
        tail.strip_prefix("regex:").map(|pattern| Text::Regex(pattern.trim().to_owned()))
    };
    Ok(match word {
        "fail" => Expect::Fail(text),
        "warn" => Expect::Warn(text),
        "info" => Expect::Info(text),
        "no_warn" => Expect::NoWarn,
        "no_info" => Expect::NoInfo,
        "ordered" => Expect::Ordered,
        "string" => match parse_expr(tail).map(|e| e.node) {
            Ok(Node::String(s)) => Expect::Text(s),
            _ => return Err(format!("bad string {tail}")),
        },
        "range" => {
            let words: Vec<_> = tail.split_whitespace().collect();
            let ["vector", "from", start, "to", _, "step", step] = words[..] else {
                return Err(format!("bad expectation {rest:?}"));
            };
            Expect::Matrix { start: time_ms(start)?, step: time_ms(step)? }
        }
        _ => return Err(format!("unknown expectation {rest:?}")),
    })
}
