//! A log query, and what it compiles to.

use super::kind::LogKind;
use crate::store::text::{TOKEN_BYTES_MAX, Words, fragments};
use crate::store::{Clause, Kind, Plan, StreamMatch, TERM_VALUE_BYTES_MAX, ValueMatch, label_name};
use crate::{Error, Result};
use model::{LabelSet, LogRecord, MatchOp, Matcher, Timestamp, limits};
use regex::{Regex, RegexBuilder};
use std::sync::Arc;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// Newest first.
    #[default]
    Backward,
    Forward,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineOp {
    Contains,
    NotContains,
    Regex,
    NotRegex,
}

/// A filter on the body. Substrings are case-sensitive; regular expressions are not anchored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineFilter {
    pub op: LineOp,
    pub text: String,
}

/// What to look for; all parts must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Over the stream's labels: resource attributes under label names (`service_name`), and `level`.
    pub streams: Vec<Matcher>,
    pub lines: Vec<LineFilter>,
    /// Over attributes under label names, then labels of the stream. With several values of one name, any may match.
    pub fields: Vec<Matcher>,
    /// Words that must all occur, in any case and order; `"in quotes"` as neighbours.
    pub text: Option<String>,
    pub trace_id: Option<Vec<u8>>,
    pub start: Timestamp,
    /// Exclusive.
    pub end: Timestamp,
    /// Between 1 and `limits::PAGE_ROWS_MAX`; 0 takes the most.
    pub limit: usize,
    pub direction: Direction,
}

/// A compiled regular expression may take this much memory: a hostile one is refused, honest ones stay under 1 MB.
const REGEX_BYTES_MAX: usize = 4 << 20;
/// Filters of one query; each is work per row.
const FILTERS_MAX: usize = 64;

impl LogQuery {
    pub(crate) fn plan(&self) -> Result<Plan<LogKind>> {
        if self.lines.len() + self.fields.len() + self.streams.len() > FILTERS_MAX {
            return Err(Error::Invalid(format!("more than {FILTERS_MAX} filters in one query")));
        }
        let lines = self.lines.iter().map(Line::compile).collect::<Result<Vec<_>>>()?;
        let fields = self.fields.iter().map(field_match).collect::<Result<Vec<_>>>()?;
        let words = Words::parse(self.text.as_deref().unwrap_or(""));
        let streams = stream_match(&self.streams)?;
        let trace_id = self.trace_id.clone();

        let mut clauses = Vec::new();
        let mut is_exact = lines.is_empty();
        if !self.streams.is_empty() {
            clauses.push(Clause::Streams(streams.clone()));
        }
        clauses.extend(trace_id.clone().map(Clause::Trace));
        for line in &self.lines {
            if line.op == LineOp::Contains {
                clauses.extend(fragments(&line.text).into_iter().map(Clause::Fragment));
            }
        }
        for field in &fields {
            is_exact &= narrow_field(field, &mut clauses);
        }
        is_exact &= words.words.iter().chain(words.phrases.iter().flatten()).all(|w| w.len() <= TOKEN_BYTES_MAX);
        clauses.extend(words.words.iter().cloned().map(Clause::Word));
        clauses.extend(words.phrases.iter().cloned().map(Clause::Phrase));

        Ok(Plan {
            start: self.start.0,
            end: self.end.0,
            limit: if self.limit == 0 { limits::PAGE_ROWS_MAX } else { self.limit.min(limits::PAGE_ROWS_MAX) },
            is_backward: self.direction == Direction::Backward,
            number: None,
            streams,
            record: Box::new(move |record: &LogRecord, labels: &LabelSet| {
                trace_id.as_ref().is_none_or(|id| record.trace_id == *id)
                    && lines.iter().all(|line| line.matches(&record.body))
                    && fields.iter().all(|field| field_holds::<LogKind>(field, record, labels))
                    && words.match_text(&record.body)
            }),
            clauses,
            is_exact,
        })
    }
}

/// Matchers over labels as one function.
pub fn stream_match(matchers: &[Matcher]) -> Result<StreamMatch> {
    let compiled = matchers.iter().map(field_match).collect::<Result<Vec<_>>>()?;
    Ok(Arc::new(move |labels: &LabelSet| compiled.iter().all(|m| (m.matches)(labels.get(&m.name).unwrap_or("")) != m.is_negated)))
}

/// A compiled matcher. Negation is kept apart: `!=` holds when no value is equal.
pub struct FieldMatch {
    name: String,
    /// The plain value of `=` and `!=`.
    value: Option<String>,
    matches: ValueMatch,
    is_negated: bool,
}

pub fn field_match(matcher: &Matcher) -> Result<FieldMatch> {
    let name = label_name(&matcher.name).into_owned();
    let is_negated = matches!(matcher.op, MatchOp::NotEqual | MatchOp::NotRegex);
    Ok(match matcher.op {
        MatchOp::Equal | MatchOp::NotEqual => {
            let value = matcher.value.clone();
            FieldMatch { name, value: Some(value.clone()), matches: Arc::new(move |v| v == value), is_negated }
        }
        MatchOp::Regex | MatchOp::NotRegex => {
            let regex = compile(&format!("^(?s:{})$", matcher.value), &matcher.value)?;
            FieldMatch { name, value: None, matches: Arc::new(move |v| regex.is_match(v)), is_negated }
        }
    })
}

/// Fields that every record has besides its attributes, in hexadecimal digits; in the order of [`Kind::ids`].
const ID_FIELDS: [&str; 2] = ["trace_id", "span_id"];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The clause for an id that is wanted by its text; none if the text is no id as [`hex`] writes it.
fn id_clause(name: &str, text: &str) -> Option<Clause> {
    let digits = |i: usize| text.get(i..i + 2).and_then(|d| u8::from_str_radix(d, 16).ok());
    let bytes = (0..text.len()).step_by(2).map(digits).collect::<Option<Vec<u8>>>().filter(|b| hex(b) == text)?;
    Some(if name == ID_FIELDS[0] { Clause::Trace(bytes) } else { Clause::Span(bytes) })
}

/// Whether a record has the field as wanted. An absent field has the empty value.
pub fn field_holds<K: Kind>(field: &FieldMatch, record: &K::Record, labels: &LabelSet) -> bool {
    let (mut is_present, mut is_match) = (false, false);
    let mut see = |value: &str| {
        is_present = true;
        is_match |= (field.matches)(value);
    };
    K::terms(record, &mut |name, value| {
        if name == field.name {
            see(value);
        }
    });
    labels.get(&field.name).into_iter().for_each(&mut see);
    if let Some(i) = ID_FIELDS.iter().position(|name| *name == field.name)
        && !K::ids(record)[i].is_empty()
    {
        see(&hex(K::ids(record)[i]));
    }
    if !is_present {
        is_match = (field.matches)("");
    }
    is_match != field.is_negated
}

/// Adds what the index can do for a field; true if that says all.
pub fn narrow_field(field: &FieldMatch, clauses: &mut Vec<Clause>) -> bool {
    let (name, matches) = (field.name.clone(), field.matches.clone());
    if (field.matches)("") {
        // An absent field matches too; the index lists only present ones.
        return false;
    }
    let is_id = ID_FIELDS.contains(&field.name.as_str());
    if is_id && field.value.is_none() {
        return false;
    }
    let by_label = {
        let (name, matches) = (name.clone(), matches.clone());
        Clause::Streams(Arc::new(move |labels: &LabelSet| labels.get(&name).is_some_and(|v| matches(v))))
    };
    match &field.value {
        Some(value) if value.len() <= TERM_VALUE_BYTES_MAX && !value.contains(['\0', '\u{1}']) => {
            let id = if is_id { id_clause(&name, value) } else { None };
            let any = Clause::Any(id.into_iter().chain([Clause::Term { name, value: value.clone() }, by_label]).collect());
            clauses.push(if field.is_negated { Clause::Not(Box::new(any)) } else { any });
            true
        }
        _ if field.is_negated => false,
        Some(value) => {
            clauses.push(Clause::Any(vec![Clause::Term { name, value: value.clone() }, by_label]));
            false
        }
        None => {
            clauses.push(Clause::Any(vec![Clause::TermWhere { name, matches }, by_label]));
            false
        }
    }
}

enum Line {
    Contains(String),
    NotContains(String),
    Regex(Regex),
    NotRegex(Regex),
}

impl Line {
    fn compile(filter: &LineFilter) -> Result<Self> {
        let text = || filter.text.clone();
        Ok(match filter.op {
            LineOp::Contains => Self::Contains(text()),
            LineOp::NotContains => Self::NotContains(text()),
            LineOp::Regex => Self::Regex(compile(&filter.text, &filter.text)?),
            LineOp::NotRegex => Self::NotRegex(compile(&filter.text, &filter.text)?),
        })
    }

    fn matches(&self, body: &str) -> bool {
        match self {
            Self::Contains(text) => body.contains(text.as_str()),
            Self::NotContains(text) => !body.contains(text.as_str()),
            Self::Regex(regex) => regex.is_match(body),
            Self::NotRegex(regex) => !regex.is_match(body),
        }
    }
}

fn compile(pattern: &str, shown: &str) -> Result<Regex> {
    let shown = || shown.chars().take(80).collect::<String>();
    RegexBuilder::new(pattern).size_limit(REGEX_BYTES_MAX).dfa_size_limit(REGEX_BYTES_MAX).build().map_err(|e| match e {
        regex::Error::CompiledTooBig(_) => {
            Error::Invalid(format!("the regular expression {:?} is too large; simplify it", shown()))
        }
        e => Error::Invalid(format!("the regular expression {:?} is not valid: {}", shown(), last_line(&e.to_string()))),
    })
}

/// The regex crate draws the place over several lines; its last one says what is wrong.
fn last_line(text: &str) -> String {
    text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}
