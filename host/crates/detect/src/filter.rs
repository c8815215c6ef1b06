//! Which log records a stream monitor sees: the selector's matchers and filters, on one record at a time.

use model::{LogRecord, MatchOp, Matcher};
use query::logql::Selector;
use regex::{Regex, RegexBuilder};
use telemetry::{LineFilter, LineOp, logs::stream_labels};

/// A compiled selector.
#[derive(Debug)]
pub struct Filter {
    streams: Vec<Test>,
    lines: Vec<Line>,
    fields: Vec<Test>,
}

#[derive(Debug)]
struct Test {
    name: String,
    wanted: Wanted,
    is_negated: bool,
}

#[derive(Debug)]
enum Wanted {
    Text(String),
    Pattern(Regex),
}

impl Wanted {
    fn is(&self, value: &str) -> bool {
        match self {
            Self::Text(text) => text == value,
            Self::Pattern(regex) => regex.is_match(value),
        }
    }
}

#[derive(Debug)]
struct Line {
    wanted: Wanted,
    is_negated: bool,
}

impl Filter {
    pub fn compile(selector: &Selector) -> Result<Self, String> {
        if selector.text.is_some() {
            return Err("plain words search stored logs only; for a stream write |= \"text\"".into());
        }
        Ok(Self {
            streams: selector.streams.iter().map(test).collect::<Result<_, _>>()?,
            lines: selector.lines.iter().map(line).collect::<Result<_, _>>()?,
            fields: selector.fields.iter().map(test).collect::<Result<_, _>>()?,
        })
    }

    pub fn matches(&self, record: &LogRecord) -> bool {
        let lines_hold = self.lines.iter().all(|line| {
            let is = match &line.wanted {
                Wanted::Text(text) => record.body.contains(text.as_str()),
                Wanted::Pattern(regex) => regex.is_match(&record.body),
            };
            is != line.is_negated
        });
        if !lines_hold {
            return false;
        }
        if self.streams.is_empty() && self.fields.is_empty() {
            return true;
        }
        let labels = stream_labels(record);
        self.streams.iter().all(|test| test.wanted.is(labels.get(&test.name).unwrap_or("")) != test.is_negated)
            && self.fields.iter().all(|test| {
                let mut values = record
                    .attributes
                    .iter()
                    .filter(|(name, _)| label_name(name) == test.name)
                    .map(|(_, v)| v.to_text())
                    .peekable();
                let is = if values.peek().is_some() {
                    values.any(|v| test.wanted.is(&v))
                } else {
                    test.wanted.is(labels.get(&test.name).unwrap_or(""))
                };
                is != test.is_negated
            })
    }
}

fn pattern(text: String) -> Result<Wanted, String> {
    let regex = RegexBuilder::new(&text).size_limit(1 << 20).build();
    regex.map(Wanted::Pattern).map_err(|e| e.to_string().lines().last().unwrap_or("bad regular expression").to_owned())
}

fn test(matcher: &Matcher) -> Result<Test, String> {
    let wanted = match matcher.op {
        MatchOp::Equal | MatchOp::NotEqual => Wanted::Text(matcher.value.clone()),
        MatchOp::Regex | MatchOp::NotRegex => pattern(format!("^(?s:{})$", matcher.value))?,
    };
    Ok(Test { name: matcher.name.clone(), wanted, is_negated: matches!(matcher.op, MatchOp::NotEqual | MatchOp::NotRegex) })
}

fn line(filter: &LineFilter) -> Result<Line, String> {
    let wanted = match filter.op {
        LineOp::Contains | LineOp::NotContains => Wanted::Text(filter.text.clone()),
        LineOp::Regex | LineOp::NotRegex => pattern(filter.text.clone())?,
    };
    Ok(Line { wanted, is_negated: matches!(filter.op, LineOp::NotContains | LineOp::NotRegex) })
}

/// `http.method` is selected as `http_method`.
fn label_name(name: &str) -> String {
    let mut out: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect();
    if out.starts_with(|c: char| c.is_ascii_digit()) {
        out.insert(0, '_');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(selector: &str, wanted: bool) {
        let mut record = LogRecord { body: "ERROR: timeout after 5s".into(), severity_number: 17, ..LogRecord::default() };
        record.resource.insert("service.name".into(), "shop".into());
        record.attributes.insert("http.method".into(), "GET".into());
        let filter = Filter::compile(&query::logql::parse(selector).unwrap()).unwrap();
        assert_eq!(filter.matches(&record), wanted, "{selector}");
    }

    #[test]
    fn a_record_is_seen_when_all_parts_of_the_selector_hold() {
        check(r#"{service_name="shop"}"#, true);
        check(r#"{service_name!="shop"}"#, false);
        check(r#"{service_name=~"sh.*", level="error"} |= "timeout""#, true);
        check(r#"{service_name="shop"} != "timeout""#, false);
        check(r#"{service_name="shop"} |~ "after \\d+s" | http_method="GET""#, true);
        check(r#"{service_name="shop"} | http_method!="GET""#, false);
        check(r#"{absent=""}"#, true);
    }

    #[test]
    fn plain_words_are_refused_for_streams() {
        let selector = query::logql::parse("timeout").unwrap();
        assert!(Filter::compile(&selector).unwrap_err().contains("|="));
    }
}
