//! PromQL as Prometheus 3 has it: parser, canonical text and evaluator. `docs/guide/promql.md` lists what differs.
//!
//! A query runs in two parts: first all series that its selectors need are loaded (async, bounded), then
//! it is evaluated on the blocking pool, a series at a time over all steps.

mod aggregate;
mod ast;
mod binary;
mod engine;
mod eval;
mod function;
mod histogram;
mod instant_fn;
pub(crate) mod lex;
mod parse;
mod range_fn;

pub use ast::{AggregateOp, At, BinaryOp, Cardinality, Duration, Expr, Matching, Node, RangeMode, Selector, ValueType};
pub use engine::{Answer, Engine, InstantSample, Value};
pub use function::Function;
pub(crate) use lex::{parse_duration_ms, parse_number};
pub use parse::parse;

use std::{fmt, ops::Range};

/// Why a text is no PromQL, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    pub message: String,
    /// Bytes of the query text.
    pub range: Range<usize>,
    /// From 1, in characters.
    pub line: usize,
    pub column: usize,
}

impl ParseError {
    pub(crate) fn new(text: &str, range: Range<usize>, message: String) -> Self {
        let (line, column) = position(text, range.start);
        Self { message, range, line, column }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: parse error: {}", self.line, self.column, self.message)
    }
}

impl std::error::Error for ParseError {}

/// Line and column, from 1, of a byte of the text.
fn position(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    (line, column)
}

/// A regular expression as matchers have it: anchored at both ends, dot matches newline, bounded in size.
pub(crate) fn regex(pattern: &str) -> Result<regex::Regex, regex::Error> {
    regex::RegexBuilder::new(&format!("^(?s:{pattern})$")).size_limit(1 << 20).build()
}

/// Milliseconds of a duration as PromQL writes it, `1h30m`; `None` when it is none.
pub fn duration_ms(text: &str) -> Option<i64> {
    lex::parse_duration_ms(text)
}
