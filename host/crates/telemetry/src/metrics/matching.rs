//! Matchers compiled once per query. A regular expression is anchored at both ends; an absent label is the empty value.

use crate::{Error, Result};
use model::{MatchOp, Matcher};
use regex::Regex;

/// A matcher ready for use.
#[derive(Debug)]
pub struct Compiled {
    pub name: String,
    test: Test,
    is_negated: bool,
    /// Whether a series without the label is selected.
    pub matches_empty: bool,
}

#[derive(Debug)]
enum Test {
    Text(String),
    /// `a|b|c` of plain texts, the most common regular expression, looked up instead of matched.
    OneOf(Vec<String>),
    Regex(Regex),
}

impl Compiled {
    pub fn new(matcher: &Matcher) -> Result<Self> {
        let test = match matcher.op {
            MatchOp::Equal | MatchOp::NotEqual => Test::Text(matcher.value.clone()),
            MatchOp::Regex | MatchOp::NotRegex => compile_regex(&matcher.value)
                .map_err(|e| Error::Invalid(format!("the regular expression of {matcher} doesn't compile: {e}")))?,
        };
        let is_negated = matches!(matcher.op, MatchOp::NotEqual | MatchOp::NotRegex);
        let mut compiled = Self { name: matcher.name.clone(), test, is_negated, matches_empty: false };
        compiled.matches_empty = compiled.is_match("");
        Ok(compiled)
    }

    pub fn all(matchers: &[Matcher]) -> Result<Vec<Self>> {
        matchers.iter().map(Self::new).collect()
    }

    pub fn is_match(&self, value: &str) -> bool {
        let is_match = match &self.test {
            Test::Text(text) => text == value,
            Test::OneOf(texts) => texts.iter().any(|t| t == value),
            Test::Regex(regex) => regex.is_match(value),
        };
        is_match != self.is_negated
    }

    /// The values that alone can match, if they are few and known.
    pub fn exact_values(&self) -> Option<&[String]> {
        match &self.test {
            _ if self.is_negated => None,
            Test::Text(text) => Some(std::slice::from_ref(text)),
            Test::OneOf(texts) => Some(texts),
            Test::Regex(_) => None,
        }
    }
}

fn compile_regex(pattern: &str) -> Result<Test, regex::Error> {
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | ' ' | ':' | '/' | '|');
    if pattern.chars().all(is_plain) {
        return Ok(Test::OneOf(pattern.split('|').map(str::to_owned).collect()));
    }
    // `a)|(b` is no expression, and must not become one by being put into a group.
    if pattern.contains(')') {
        regex::RegexBuilder::new(pattern).size_limit(1 << 20).build()?;
    }
    // A megabyte of compiled program is far beyond what people write, and stops `(a{1000}){1000}`.
    regex::RegexBuilder::new(&format!("^(?s:{pattern})$")).size_limit(1 << 20).build().map(Test::Regex)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(matcher: (MatchOp, &str), yes: &[&str], no: &[&str]) {
        let compiled = Compiled::new(&Matcher::new("l", matcher.0, matcher.1)).unwrap();
        yes.iter().for_each(|v| assert!(compiled.is_match(v), "{matcher:?} must match {v:?}"));
        no.iter().for_each(|v| assert!(!compiled.is_match(v), "{matcher:?} must not match {v:?}"));
        assert_eq!(compiled.matches_empty, yes.contains(&""));
    }

    #[test]
    fn regular_expressions_are_anchored_and_the_dot_matches_a_newline() {
        check((MatchOp::Regex, "a.c"), &["abc", "a\nc"], &["xabc", "abcx", ""]);
        check((MatchOp::Regex, "a|bc"), &["a", "bc"], &["ac", "abc", ""]);
        check((MatchOp::Regex, "a|b.*|"), &["a", "bx", ""], &["ab"]);
        check((MatchOp::NotRegex, "a.*"), &["", "b"], &["a", "ab"]);
        check((MatchOp::Regex, "a.?|b$"), &["a", "ax", "b"], &["bx", ""]);
    }

    #[test]
    fn an_absent_label_is_the_empty_value() {
        check((MatchOp::Equal, ""), &[""], &["a"]);
        check((MatchOp::NotEqual, "a"), &["", "b"], &["a"]);
        check((MatchOp::NotEqual, ""), &["a"], &[""]);
        check((MatchOp::Regex, ".*"), &["", "a"], &[]);
    }

    #[test]
    fn a_bad_or_huge_regular_expression_is_the_users_mistake() {
        for bad in ["(", "a)|(b", "(a{1000}){1000}"] {
            let error = Compiled::new(&Matcher::new("l", MatchOp::Regex, bad)).unwrap_err();
            assert!(matches!(error, Error::Invalid(_)) && error.to_string().contains("doesn't compile"), "{error}");
        }
    }
}
