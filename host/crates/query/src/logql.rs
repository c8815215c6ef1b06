//! The log query language: a subset of LogQL, plus plain words.
//!
//! ```text
//! query    = [ "{" [ matcher { "," matcher } [ "," ] ] "}" ] { filter | word | phrase }
//! matcher  = name ( "=" | "!=" | "=~" | "!~" ) string
//! filter   = ( "|=" | "!=" | "|~" | "!~" ) string
//!          | "|" name ( "=" | "!=" | "=~" | "!~" ) string
//! phrase   = string          words next to each other, in any case
//! word     = anything else without spaces; must occur, in any case
//! ```
//! Strings are in double quotes with Go's escapes, or raw in backquotes.

use crate::promql::{ParseError, lex};
use model::{MatchOp, Matcher, Timestamp};
use std::fmt;
use telemetry::{Direction, LineFilter, LineOp, LogQuery};

/// A longer query is a mistake or an attack.
const QUERY_BYTES_MAX: usize = 16 << 10;

/// A parsed query, without its time range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    pub streams: Vec<Matcher>,
    pub lines: Vec<LineFilter>,
    pub fields: Vec<Matcher>,
    /// Words, and phrases in double quotes.
    pub text: Option<String>,
}

impl Selector {
    pub fn to_query(&self, start: Timestamp, end: Timestamp, limit: usize, direction: Direction) -> LogQuery {
        LogQuery {
            streams: self.streams.clone(),
            lines: self.lines.clone(),
            fields: self.fields.clone(),
            text: self.text.clone(),
            trace_id: None,
            start,
            end,
            limit,
            direction,
        }
    }
}

/// Reads a query; an empty one selects everything.
pub fn parse(text: &str) -> Result<Selector, ParseError> {
    if text.len() > QUERY_BYTES_MAX {
        return Err(ParseError::new(
            text,
            0..0,
            format!("the query has {} bytes; at most {QUERY_BYTES_MAX} are read", text.len()),
        ));
    }
    let mut parser = Parser { text, at: 0, words: Vec::new() };
    let mut selector = Selector::default();
    if parser.eat("{") {
        selector.streams = parser.matchers()?;
    }
    while parser.filter(&mut selector)? {}
    selector.text = (!parser.words.is_empty()).then(|| parser.words.join(" "));
    Ok(selector)
}

impl fmt::Display for Selector {
    /// Text that [`parse`] reads as the same selector.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let streams: Vec<String> =
            self.streams.iter().map(|m| format!("{}{}{}", m.name, m.op.as_str(), quote(&m.value))).collect();
        write!(f, "{{{}}}", streams.join(", "))?;
        for line in &self.lines {
            let op = LINE_OPS.iter().find(|(_, op)| *op == line.op).expect("every operator is listed").0;
            write!(f, " {op} {}", quote(&line.text))?;
        }
        for field in &self.fields {
            write!(f, " | {}{}{}", field.name, field.op.as_str(), quote(&field.value))?;
        }
        match &self.text {
            Some(text) => write!(f, " {text}"),
            None => Ok(()),
        }
    }
}

const LINE_OPS: [(&str, LineOp); 4] =
    [("|=", LineOp::Contains), ("!=", LineOp::NotContains), ("|~", LineOp::Regex), ("!~", LineOp::NotRegex)];
const MATCH_OPS: [(&str, MatchOp); 4] =
    [("=~", MatchOp::Regex), ("!~", MatchOp::NotRegex), ("!=", MatchOp::NotEqual), ("=", MatchOp::Equal)];

fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    out + "\""
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    words: Vec<String>,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn skip_space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn eat(&mut self, what: &str) -> bool {
        self.skip_space();
        let is_there = self.rest().starts_with(what);
        if is_there {
            self.at += what.len();
        }
        is_there
    }

    fn eat_op<T: Copy>(&mut self, ops: &[(&str, T)]) -> Option<T> {
        ops.iter().find(|(text, _)| self.eat(text)).map(|(_, op)| *op)
    }

    /// An error at the next token.
    fn fail(&mut self, message: impl Into<String>) -> ParseError {
        self.skip_space();
        let end = self.at + self.rest().chars().next().map_or(0, char::len_utf8);
        ParseError::new(self.text, self.at..end, message.into())
    }

    fn matchers(&mut self) -> Result<Vec<Matcher>, ParseError> {
        let mut out = Vec::new();
        loop {
            if self.eat("}") {
                return Ok(out);
            }
            out.push(self.matcher()?);
            if !self.eat(",") && !self.rest().trim_start().starts_with('}') {
                return Err(self.fail("expected \",\" or \"}\" after a matcher"));
            }
        }
    }

    fn matcher(&mut self) -> Result<Matcher, ParseError> {
        self.skip_space();
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        let name: String = self.rest().chars().take_while(|c| is_name(*c)).collect();
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(self.fail("expected the name of a label or field"));
        }
        self.at += name.len();
        let Some(op) = self.eat_op(&MATCH_OPS) else {
            return Err(self.fail(format!("expected \"=\", \"!=\", \"=~\" or \"!~\" after {name}")));
        };
        self.skip_space();
        let from = self.at;
        let value = self.string(&format!("as the value of {name}"))?;
        if matches!(op, MatchOp::Regex | MatchOp::NotRegex) {
            self.check_regex(&format!("^(?s:{value})$"), from)?;
        }
        Ok(Matcher { name, op, value })
    }

    fn string(&mut self, what: &str) -> Result<String, ParseError> {
        self.skip_space();
        if !self.rest().starts_with(['"', '`']) {
            return Err(self.fail(format!("expected a text in \"double quotes\" or `backquotes` {what}")));
        }
        let (value, end) = lex::string(self.text, self.at)?;
        self.at = end;
        Ok(value)
    }

    /// Reports a bad expression where it stands; the store checks again with its own bound.
    fn check_regex(&self, pattern: &str, from: usize) -> Result<(), ParseError> {
        let built = regex::RegexBuilder::new(pattern).size_limit(4 << 20).build();
        built.map(drop).map_err(|e| {
            let reason = match e {
                regex::Error::CompiledTooBig(_) => "it is too large".to_owned(),
                e => e.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned(),
            };
            ParseError::new(self.text, from..self.at, format!("not a valid regular expression: {reason}"))
        })
    }

    /// One filter, word or phrase; false at the end.
    fn filter(&mut self, selector: &mut Selector) -> Result<bool, ParseError> {
        self.skip_space();
        let Some(first) = self.rest().chars().next() else { return Ok(false) };
        if let Some(op) = self.eat_op(&LINE_OPS) {
            self.skip_space();
            let from = self.at;
            let text = self.string("after a line filter")?;
            if matches!(op, LineOp::Regex | LineOp::NotRegex) {
                self.check_regex(&text, from)?;
            }
            selector.lines.push(LineFilter { op, text });
        } else if self.eat("|") {
            selector.fields.push(self.matcher()?);
        } else if first == '"' || first == '`' {
            let phrase = self.string("")?;
            // Only its words count; what would end or escape the quoted text is no word.
            let phrase: String = phrase.chars().map(|c| if c == '"' || c == '\\' || c.is_control() { ' ' } else { c }).collect();
            self.words.push(format!("\"{phrase}\""));
        } else if first == '{' || first == '}' {
            return Err(self.fail("the stream selector comes once and first"));
        } else {
            let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '`' | '|');
            let word: String = self.rest().chars().take_while(|c| !ends(*c)).collect();
            self.at += word.len();
            self.words.push(word);
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(query: &str, want: Expect) {
        let got = match parse(query) {
            Ok(selector) => {
                assert_eq!(parse(&selector.to_string()), Ok(selector.clone()), "printed: {selector}");
                selector.to_string()
            }
            Err(e) => format!("error at {:?}: {e}", e.range),
        };
        want.assert_eq(&got);
    }

    #[test]
    fn selectors_filters_fields_and_words_mix() {
        check(
            r#"{service_name="web", level=~"error|warn",} |= "timeout" != "retry" |~ `\d+ms` !~ "x" | http.status="504" | user!~"bot.*""#,
            expect![[
                r#"{service_name="web", level=~"error|warn"} |= "timeout" != "retry" |~ "\\d+ms" !~ "x" | http.status="504" | user!~"bot.*""#
            ]],
        );
        check("database connection-timeout", expect!["{} database connection-timeout"]);
        check(r#"{} ERROR: "connection timeout" | a="b""#, expect![[r#"{} | a="b" ERROR: "connection timeout""#]]);
        check("", expect!["{}"]);
        check("  \n", expect!["{}"]);
        check(r#"|="a"|="b""#, expect![[r#"{} |= "a" |= "b""#]]);
        check(r#"{a="\"\\\n\u00e9"}"#, expect![[r#"{a="\"\\\né"}"#]]);
    }

    #[test]
    fn an_error_says_where_and_what_was_expected() {
        check(r#"{a}"#, expect![[r#"error at 2..3: 1:3: parse error: expected "=", "!=", "=~" or "!~" after a"#]]);
        check(
            r#"{a=b}"#,
            expect![[r#"error at 3..4: 1:4: parse error: expected a text in "double quotes" or `backquotes` as the value of a"#]],
        );
        check(r#"{a="b" c="d"}"#, expect![[r#"error at 7..8: 1:8: parse error: expected "," or "}" after a matcher"#]]);
        check(r#"{a="b""#, expect![[r#"error at 6..6: 1:7: parse error: expected "," or "}" after a matcher"#]]);
        check(r#"{"#, expect![[r#"error at 1..1: 1:2: parse error: expected the name of a label or field"#]]);
        check(r#"{a="b"#, expect![[r#"error at 3..5: 1:4: parse error: unterminated quoted string"#]]);
        check(
            "{}\n|= x",
            expect![[
                r#"error at 6..7: 2:4: parse error: expected a text in "double quotes" or `backquotes` after a line filter"#
            ]],
        );
        check(r#"{} |~ "(""#, expect![[r#"error at 6..9: 1:7: parse error: not a valid regular expression: unclosed group"#]]);
        check(
            r#"{a=~"x{1000}{1000}{1000}"}"#,
            expect![[r#"error at 4..25: 1:5: parse error: not a valid regular expression: it is too large"#]],
        );
        check("{} | 9a=\"x\"", expect![[r#"error at 5..6: 1:6: parse error: expected the name of a label or field"#]]);
        check("{} {}", expect![[r#"error at 3..4: 1:4: parse error: the stream selector comes once and first"#]]);
        check(
            r#"ü |= ü"#,
            expect![[
                r#"error at 6..8: 1:6: parse error: expected a text in "double quotes" or `backquotes` after a line filter"#
            ]],
        );
    }

    #[test]
    fn hostile_text_never_panics_and_over_long_text_is_refused() {
        let pieces = ["{", "}", "|", "=", "~", "!", "\"", "`", "a", "ü", ",", " ", "\\", "\0"];
        // All texts of up to four pieces.
        for n in 0..pieces.len().pow(4) {
            let text: String = (0..4).map(|i| pieces[n / pieces.len().pow(i) % pieces.len()]).collect();
            if let Ok(selector) = parse(&text) {
                assert_eq!(parse(&selector.to_string()), Ok(selector), "{text:?}");
            }
        }
        assert!(parse(&"a".repeat(QUERY_BYTES_MAX + 1)).unwrap_err().message.contains("at most 16384"));
    }

    #[test]
    fn a_selector_becomes_a_query_with_its_range() {
        let selector = parse(r#"{a="1"} |= "x" | b="2" word"#).unwrap();
        let query = selector.to_query(Timestamp(1), Timestamp(2), 7, Direction::Forward);
        assert_eq!((query.start, query.end, query.limit, query.direction), (Timestamp(1), Timestamp(2), 7, Direction::Forward));
        assert_eq!((query.streams, query.fields), (vec![Matcher::equal("a", "1")], vec![Matcher::equal("b", "2")]));
        assert_eq!((query.lines.len(), query.text.as_deref()), (1, Some("word")));
    }
}
