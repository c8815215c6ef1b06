//! Matchers compiled once and asked often. An absent label has the empty value.

use model::{LabelSet, MatchOp, Matcher};
use regex::Regex;

/// Size of a compiled expression: the regex crate's own default is 10 MiB, and a silence needs no such thing.
const REGEX_BYTES_MAX: usize = 1 << 20;

#[derive(Debug)]
pub struct Matchers(Vec<(String, Test)>);

#[derive(Debug)]
enum Test {
    Text { value: String, wanted: bool },
    Pattern { regex: Regex, wanted: bool },
}

impl Matchers {
    /// An expression that doesn't compile is told with its reason.
    pub fn compile(matchers: &[Matcher]) -> Result<Self, String> {
        matchers
            .iter()
            .map(|matcher| {
                let wanted = matches!(matcher.op, MatchOp::Equal | MatchOp::Regex);
                let test = match matcher.op {
                    MatchOp::Equal | MatchOp::NotEqual => Test::Text { value: matcher.value.clone(), wanted },
                    MatchOp::Regex | MatchOp::NotRegex => {
                        let regex = regex::RegexBuilder::new(&format!("^(?s:{})$", matcher.value))
                            .size_limit(REGEX_BYTES_MAX)
                            .build()
                            .map_err(|e| format!("matcher {matcher}: {e}"))?;
                        Test::Pattern { regex, wanted }
                    }
                };
                Ok((matcher.name.clone(), test))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    pub fn matches(&self, labels: &LabelSet) -> bool {
        self.0.iter().all(|(name, test)| {
            let actual = labels.get(name).unwrap_or("");
            match test {
                Test::Text { value, wanted } => (actual == value) == *wanted,
                Test::Pattern { regex, wanted } => regex.is_match(actual) == *wanted,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(op: MatchOp, value: &str, wanted: bool) {
        let labels = LabelSet::from_pairs([("job", "api")]);
        let matchers = Matchers::compile(&[Matcher::new("job", op, value)]).unwrap();
        assert_eq!(matchers.matches(&labels), wanted, "job{}{value}", op.as_str());
    }

    #[test]
    fn expressions_are_anchored_at_both_ends() {
        check(MatchOp::Regex, "ap", false);
        check(MatchOp::Regex, "ap.", true);
        check(MatchOp::NotRegex, "ap", true);
    }

    #[test]
    fn an_absent_label_is_the_empty_text() {
        let matchers = Matchers::compile(&[Matcher::equal("zone", "")]).unwrap();
        assert!(matchers.matches(&LabelSet::from_pairs([("job", "api")])));
        check(MatchOp::NotEqual, "db", true);
    }

    #[test]
    fn an_expression_that_explodes_is_refused_by_name() {
        let error = Matchers::compile(&[Matcher::new("job", MatchOp::Regex, "(a{1000}){1000}")]).unwrap_err();
        assert!(error.starts_with("matcher job=~"), "{error}");
    }
}
