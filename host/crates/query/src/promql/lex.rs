//! Text to tokens. Inside `[…]` a colon separates the range from the step; outside it may be part of a name.

use super::ParseError;
use std::ops::Range;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token {
    /// A name, keyword or function: what it is depends on where it stands.
    Word(String),
    Number(f64),
    /// A duration literal such as `1h30m`, in seconds.
    Duration(f64),
    String(String),
    /// An operator or bracket.
    Punct(&'static str),
    End,
}

#[derive(Clone, Debug)]
pub(crate) struct Spanned {
    pub token: Token,
    pub span: Range<usize>,
}

const PUNCTS: [&str; 24] = [
    "==", "!=", "<=", ">=", "=~", "!~", "=", "<", ">", "+", "-", "*", "/", "%", "^", "(", ")", "{", "}", "[", "]", ",", "@", ":",
];

pub(crate) fn tokens(text: &str) -> Result<Vec<Spanned>, ParseError> {
    let mut out = Vec::new();
    let mut at = 0;
    let mut brackets = 0_usize;
    let bytes = text.as_bytes();
    while at < bytes.len() {
        let start = at;
        let b = bytes[at];
        let token = match b {
            b' ' | b'\t' | b'\n' | b'\r' => {
                at += 1;
                continue;
            }
            b'#' => {
                while at < bytes.len() && bytes[at] != b'\n' {
                    at += 1;
                }
                continue;
            }
            b'"' | b'\'' | b'`' => {
                let (value, end) = string(text, at)?;
                at = end;
                Token::String(value)
            }
            b'0'..=b'9' => number(text, &mut at)?,
            b'.' if bytes.get(at + 1).is_some_and(u8::is_ascii_digit) => number(text, &mut at)?,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => word(text, &mut at, brackets == 0),
            b':' if brackets == 0 => word(text, &mut at, true),
            _ => match PUNCTS.iter().find(|p| text[at..].starts_with(**p)) {
                Some(punct) => {
                    match *punct {
                        "[" => brackets += 1,
                        "]" => brackets = brackets.saturating_sub(1),
                        _ => {}
                    }
                    at += punct.len();
                    Token::Punct(punct)
                }
                None => {
                    let c = text[at..].chars().next().unwrap_or('?');
                    return Err(ParseError::new(text, start..start + c.len_utf8(), format!("unexpected character: {c:?}")));
                }
            },
        };
        out.push(Spanned { token, span: start..at });
    }
    out.push(Spanned { token: Token::End, span: text.len()..text.len() });
    Ok(out)
}

fn word(text: &str, at: &mut usize, colons: bool) -> Token {
    let bytes = text.as_bytes();
    let start = *at;
    while *at < bytes.len() && (bytes[*at].is_ascii_alphanumeric() || bytes[*at] == b'_' || (colons && bytes[*at] == b':')) {
        *at += 1;
    }
    let word = &text[start..*at];
    if word.eq_ignore_ascii_case("inf") {
        Token::Number(f64::INFINITY)
    } else if word.eq_ignore_ascii_case("nan") {
        Token::Number(f64::NAN)
    } else {
        Token::Word(word.to_owned())
    }
}

/// A number or a duration: both begin with a digit. The whole run of word characters belongs to it,
/// so that `5mm` is one bad number and not `5m` followed by `m`.
fn number(text: &str, at: &mut usize) -> Result<Token, ParseError> {
    let bytes = text.as_bytes();
    let start = *at;
    while *at < bytes.len() {
        let b = bytes[*at];
        let is_hex = text[start..].starts_with("0x") || text[start..].starts_with("0X");
        let after_exponent = *at > start
            && matches!(bytes[*at - 1], b'e' | b'E')
            && !is_hex
            && bytes[start..*at - 1].iter().all(|c| c.is_ascii_digit() || matches!(c, b'.' | b'_'));
        if b.is_ascii_alphanumeric() || b == b'.' || b == b'_' || (matches!(b, b'+' | b'-') && after_exponent) {
            *at += 1;
        } else {
            break;
        }
    }
    let literal = &text[start..*at];
    if let Some(v) = parse_number(literal) {
        return Ok(Token::Number(v));
    }
    match parse_duration_ms(literal) {
        Some(ms) => Ok(Token::Duration(ms as f64 / 1000.0)),
        None => Err(ParseError::new(text, start..*at, format!("bad number or duration syntax: {literal:?}"))),
    }
}

/// `1_000`, `0x1f`, `017`, `.5`, `2.`, `1e-3`, `Inf`, `NaN`; an underscore only between digits.
pub(crate) fn parse_number(literal: &str) -> Option<f64> {
    let (sign, body) = match literal.as_bytes().first()? {
        b'-' => (-1.0, &literal[1..]),
        b'+' => (1.0, &literal[1..]),
        _ => (1.0, literal),
    };
    if body.eq_ignore_ascii_case("inf") {
        return Some(sign * f64::INFINITY);
    }
    if body.eq_ignore_ascii_case("nan") {
        return Some(f64::NAN);
    }
    if !body.starts_with(|c: char| c.is_ascii_digit() || c == '.') || body.ends_with('_') || body.contains("__") {
        return None;
    }
    let plain: String = body.chars().filter(|c| *c != '_').collect();
    if let Some(hex) = plain.strip_prefix("0x").or_else(|| plain.strip_prefix("0X")) {
        return u64::from_str_radix(hex, 16).ok().map(|v| sign * v as f64);
    }
    if plain.len() > 1 && plain.starts_with('0') && plain.bytes().all(|b| (b'0'..=b'7').contains(&b)) {
        return u64::from_str_radix(&plain, 8).ok().map(|v| sign * v as f64);
    }
    if plain.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-')) {
        return plain.parse::<f64>().ok().map(|v| sign * v);
    }
    None
}

/// `1h30m`, `5ms`: each unit once, from large to small.
pub(crate) fn parse_duration_ms(literal: &str) -> Option<i64> {
    const UNITS: [(&str, i64); 7] =
        [("y", 31_536_000_000), ("w", 604_800_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
    let mut rest = literal;
    let mut next_unit = 0;
    let mut total: i64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let count: i64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = UNITS.iter().position(|(name, _)| *name == &rest[..letters])?;
        if unit < next_unit {
            return None;
        }
        next_unit = unit + 1;
        rest = &rest[letters..];
        total = total.checked_add(count.checked_mul(UNITS[unit].1)?)?;
    }
    Some(total)
}

/// A Go string literal from its opening quote; answers the value and the end.
pub(crate) fn string(text: &str, start: usize) -> Result<(String, usize), ParseError> {
    let quote = text.as_bytes()[start];
    let bytes = text.as_bytes();
    let mut out: Vec<u8> = Vec::new();
    let mut at = start + 1;
    let bad = |at: usize, message: &str| ParseError::new(text, start..at.min(text.len()), message.to_owned());
    loop {
        let Some(&b) = bytes.get(at) else {
            return Err(bad(at, if quote == b'`' { "unterminated raw string" } else { "unterminated quoted string" }));
        };
        at += 1;
        if b == quote {
            break;
        }
        if quote == b'`' {
            out.push(b);
            continue;
        }
        match b {
            b'\n' => return Err(bad(at, "unterminated quoted string")),
            b'\\' => escape(bytes, &mut at, quote, &mut out).ok_or_else(|| bad(at, "unknown escape sequence"))?,
            other => out.push(other),
        }
    }
    match String::from_utf8(out) {
        Ok(value) => Ok((value, at)),
        Err(_) => Err(bad(at, "string is not valid UTF-8 after its escapes")),
    }
}

fn escape(bytes: &[u8], at: &mut usize, quote: u8, out: &mut Vec<u8>) -> Option<()> {
    let b = *bytes.get(*at)?;
    *at += 1;
    let mut code = |digits: usize, radix: u32| -> Option<u32> {
        let text = std::str::from_utf8(bytes.get(*at..*at + digits)?).ok()?;
        *at += digits;
        u32::from_str_radix(text, radix).ok()
    };
    match b {
        b'a' => out.push(7),
        b'b' => out.push(8),
        b'f' => out.push(12),
        b'n' => out.push(b'\n'),
        b'r' => out.push(b'\r'),
        b't' => out.push(b'\t'),
        b'v' => out.push(11),
        b'\\' => out.push(b'\\'),
        b'x' => out.push(u8::try_from(code(2, 16)?).ok()?),
        b'u' | b'U' => {
            let c = char::from_u32(code(if b == b'u' { 4 } else { 8 }, 16)?)?;
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
        b'0'..=b'7' => {
            *at -= 1;
            let text = std::str::from_utf8(bytes.get(*at..*at + 3)?).ok()?;
            *at += 3;
            out.push(u8::try_from(u32::from_str_radix(text, 8).ok()?).ok()?);
        }
        b if b == quote => out.push(quote),
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_take_every_form_prometheus_takes() {
        for (text, want) in [
            ("1_000", 1000.0),
            ("0x1F", 31.0),
            ("017", 15.0),
            (".5", 0.5),
            ("2.", 2.0),
            ("12.34e-6", 12.34e-6),
            ("0", 0.0),
            ("+Inf", f64::INFINITY),
        ] {
            assert_eq!(parse_number(text), Some(want), "{text}");
        }
        for text in ["1__0", "1_", "_1", "0xzz", "1e", "", "1.2.3"] {
            assert_eq!(parse_number(text), None, "{text}");
        }
    }

    #[test]
    fn durations_go_from_large_to_small() {
        assert_eq!(parse_duration_ms("1h30m"), Some(5_400_000));
        assert_eq!(parse_duration_ms("1d5ms"), Some(86_400_005));
        for text in ["30m1h", "1h1h", "1x", "h", "", "5", "99999999999999y"] {
            assert_eq!(parse_duration_ms(text), None, "{text}");
        }
    }

    #[test]
    fn strings_have_go_escapes() {
        let value = |text: &str| string(text, 0).map(|(v, _)| v);
        assert_eq!(value(r#""a\n\x41\u00e9\101\"""#).unwrap(), "a\nA\u{e9}A\"");
        assert_eq!(value(r"`a\n`").unwrap(), r"a\n");
        for bad in [r#""abc"#, r#""\q""#, r#""\xff""#, r#""\x4"#, "\"a\nb\"", r#""\'""#, "`x"] {
            assert!(value(bad).is_err(), "{bad}");
        }
    }
}
