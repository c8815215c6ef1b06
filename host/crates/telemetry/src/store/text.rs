//! The one tokenizer: the head's scan, the splits' index and the queries all cut text here, so
//! that a record is found the same way before and after it moves into a split.
//!
//! A token is a run of alphanumeric characters, lower-cased character by character (not as a whole
//! word: Greek sigma at a word's end would make a prefix of a word something else than a prefix).

use tantivy::tokenizer::{Token, TokenStream, Tokenizer};

/// Tokens over this many bytes are indexed as [`LONG_TOKEN`]; base64 blobs would bloat the dictionary.
pub const TOKEN_BYTES_MAX: usize = 128;
/// Stands for any over-long token. No real token holds this character.
pub const LONG_TOKEN: &str = "\u{1}";

/// The tokens of a text in order.
pub fn tokens(text: &str) -> impl Iterator<Item = String> + '_ {
    spans(text).map(|(from, to)| lower(&text[from..to]))
}

/// A piece of a searched substring: a token of which an end may lie outside the piece.
#[derive(Debug, PartialEq, Eq)]
pub struct Fragment {
    pub text: String,
    pub is_open_left: bool,
    pub is_open_right: bool,
}

/// What a text containing `needle` must have as tokens.
pub fn fragments(needle: &str) -> Vec<Fragment> {
    let fragment = |(from, to): (usize, usize)| Fragment {
        text: lower(&needle[from..to]),
        is_open_left: from == 0,
        is_open_right: to == needle.len(),
    };
    spans(needle).map(fragment).collect()
}

/// One search text: words that must all occur, and `"quoted phrases"` whose words must be adjacent.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Words {
    pub words: Vec<String>,
    pub phrases: Vec<Vec<String>>,
}

impl Words {
    pub fn parse(text: &str) -> Self {
        let mut out = Self::default();
        for (i, part) in text.split('"').enumerate() {
            let mut tokens: Vec<String> = tokens(part).collect();
            if i % 2 == 1 && tokens.len() > 1 {
                out.phrases.push(tokens);
            } else {
                out.words.append(&mut tokens);
            }
        }
        out
    }

    pub fn is_empty(&self) -> bool {
        self.words.is_empty() && self.phrases.is_empty()
    }

    /// The truth about a text; the index only narrows towards it.
    pub fn match_text(&self, text: &str) -> bool {
        if self.is_empty() {
            return true;
        }
        let have: Vec<String> = tokens(text).collect();
        self.words.iter().all(|w| have.contains(w))
            && self.phrases.iter().all(|p| have.windows(p.len()).any(|window| window == p.as_slice()))
    }
}

fn lower(text: &str) -> String {
    if text.is_ascii() { text.to_ascii_lowercase() } else { text.chars().flat_map(char::to_lowercase).collect() }
}

fn spans(text: &str) -> impl Iterator<Item = (usize, usize)> + '_ {
    let mut chars = text.char_indices();
    std::iter::from_fn(move || {
        let (from, _) = chars.by_ref().find(|(_, c)| c.is_alphanumeric())?;
        let to = chars.by_ref().find(|(_, c)| !c.is_alphanumeric()).map_or(text.len(), |(i, _)| i);
        Some((from, to))
    })
}

/// The same cut for tantivy.
#[derive(Clone, Default)]
pub struct TextTokenizer;

pub struct Tokens {
    spans: std::vec::IntoIter<String>,
    token: Token,
}

impl Tokenizer for TextTokenizer {
    type TokenStream<'a> = Tokens;
    fn token_stream<'a>(&'a mut self, text: &'a str) -> Tokens {
        let spans: Vec<String> = tokens(text).collect();
        Tokens { spans: spans.into_iter(), token: Token::default() }
    }
}

impl TokenStream for Tokens {
    fn advance(&mut self) -> bool {
        let Some(text) = self.spans.next() else { return false };
        self.token.position = self.token.position.wrapping_add(1);
        self.token.text = if text.len() > TOKEN_BYTES_MAX { LONG_TOKEN.to_owned() } else { text };
        true
    }
    fn token(&self) -> &Token {
        &self.token
    }
    fn token_mut(&mut self) -> &mut Token {
        &mut self.token
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_are_cut_at_what_is_no_letter_or_digit() {
        assert_eq!(
            tokens("ERROR: Database-connection timeout=30s ÄÖ").collect::<Vec<_>>(),
            ["error", "database", "connection", "timeout", "30s", "äö"]
        );
    }

    #[test]
    fn phrases_want_neighbours_and_words_do_not() {
        assert!(Words::parse("timeout database").match_text("Database connection timeout"));
        assert!(Words::parse("\"connection timeout\"").match_text("Database connection  TIMEOUT!"));
        assert!(!Words::parse("\"database timeout\"").match_text("Database connection timeout"));
        assert!(Words::parse("  ").match_text(""));
        assert!(!Words::parse("data").match_text("Database"));
    }

    proptest! {
        /// What makes narrowing by fragments lossless.
        #[test]
        fn a_text_has_the_fragments_of_every_substring(text in "[a-zA-ZΣσß .:İ0-9]{0,30}", from in 0usize..30, len in 0usize..30) {
            let chars: Vec<char> = text.chars().collect();
            let needle: String = chars.iter().skip(from).take(len).collect();
            let have: Vec<String> = tokens(&text).collect();
            for f in fragments(&needle) {
                let found = have.iter().any(|t| match (f.is_open_left, f.is_open_right) {
                    (false, false) => *t == f.text,
                    (false, true) => t.starts_with(&f.text),
                    (true, false) => t.ends_with(&f.text),
                    (true, true) => t.contains(&f.text),
                });
                prop_assert!(found, "{f:?} of {needle:?} in {have:?}");
            }
        }
    }
}
