//! Durations and sizes as people write them, and hints for misspelt keys.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// `"250ms"`, `"30s"`, `"5m"`, or a number of milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millis(pub u64);

/// `"64MiB"`, `"512KiB"`, or a number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrText {
    Number(u64),
    Text(String),
}

fn scaled(text: &str, units: &[(&str, u64)], what: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    units
        .iter()
        .find(|(name, _)| *name == unit.trim())
        .and_then(|(_, factor)| number.parse::<u64>().ok()?.checked_mul(*factor))
        .ok_or_else(|| {
            let names: Vec<&str> = units.iter().map(|(name, _)| *name).collect();
            format!("{text:?} is no {what}: write a whole number and one of {}", names.join(", "))
        })
}

impl<'de> Deserialize<'de> for Millis {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match NumberOrText::deserialize(d)? {
            NumberOrText::Number(ms) => Ok(Self(ms)),
            NumberOrText::Text(text) => {
                scaled(&text, &[("ms", 1), ("s", 1_000), ("m", 60_000)], "duration").map(Self).map_err(D::Error::custom)
            }
        }
    }
}
impl Serialize for Millis {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&format_args!("{}ms", self.0))
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match NumberOrText::deserialize(d)? {
            NumberOrText::Number(bytes) => Ok(Self(bytes)),
            NumberOrText::Text(text) => {
                scaled(&text, &[("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20)], "size").map(Self).map_err(D::Error::custom)
            }
        }
    }
}
impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&format_args!("{}B", self.0))
    }
}

/// Serde's "unknown field `a`, expected one of `b`, `c`" as a sentence with the place and the nearest key.
pub(super) fn with_nearest_key(path: &str, message: &str) -> String {
    let place = if path.is_empty() || path == "." { String::new() } else { format!("{path}: ") };
    let mut quoted = message.split('`').skip(1).step_by(2);
    let (true, Some(unknown)) = (message.starts_with("unknown field"), quoted.next()) else {
        return format!("{place}{message}");
    };
    match nearest(unknown, quoted) {
        Some(near) => format!("{place}unknown key {unknown:?}, did you mean {near:?}?"),
        None => format!("{place}{message}"),
    }
}

/// The candidate most like `word`, if any is like it at all.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|c| (strsim::jaro_winkler(word, c), c))
        .filter(|(score, _)| *score > 0.7)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, c)| c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_read_as_written() {
        let read = |json: &str| serde_json::from_str::<Millis>(json).map_err(|e| e.to_string());
        assert_eq!(read("\"250ms\""), Ok(Millis(250)));
        assert_eq!(read("\"5m\""), Ok(Millis(300_000)));
        assert_eq!(read("7"), Ok(Millis(7)));
        for bad in ["\"5\"", "\"ms\"", "\"1.5s\"", "\"-1s\"", "\"99999999999999999999s\"", "\"18446744073709551615m\""] {
            assert!(read(bad).unwrap_err().contains("duration"), "{bad}");
        }
        assert_eq!(serde_json::from_str::<ByteSize>("\"64 MiB\"").unwrap(), ByteSize(64 << 20));
        assert!(serde_json::from_str::<ByteSize>("\"64MB\"").is_err());
    }
}
