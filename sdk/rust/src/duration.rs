//! Durations as people write them in parameters: `"250ms"`, `"30s"`, `"5m"`, `"1h"`, or a number of milliseconds.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};
use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

/// Milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millis(pub u64);

impl Millis {
    pub fn as_ns(self) -> u64 {
        self.0.saturating_mul(1_000_000)
    }
}

impl From<Millis> for Duration {
    fn from(ms: Millis) -> Self {
        Self::from_millis(ms.0)
    }
}

impl FromStr for Millis {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let factor = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(format!("{text:?} is no duration: write a whole number and ms, s, m, h or d")),
        };
        let ms = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
        ms.map(Self).ok_or_else(|| format!("{text:?} is no duration: write a whole number and ms, s, m, h or d"))
    }
}

impl fmt::Display for Millis {
    /// In the largest unit that has no fraction.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
        match units.iter().find(|(factor, _)| self.0 >= *factor && self.0.is_multiple_of(*factor)) {
            Some((factor, unit)) => write!(f, "{}{unit}", self.0 / factor),
            None => write!(f, "{}ms", self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Millis {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Millis;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as \"5m\", or a number of milliseconds")
            }
            fn visit_u64<E: de::Error>(self, ms: u64) -> Result<Millis, E> {
                Ok(Millis(ms))
            }
            fn visit_i64<E: de::Error>(self, ms: i64) -> Result<Millis, E> {
                u64::try_from(ms).map(Millis).map_err(|_| E::custom("a duration is not negative"))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Millis, E> {
                text.parse().map_err(E::custom)
            }
        }
        d.deserialize_any(Visitor)
    }
}

impl JsonSchema for Millis {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$" },
                { "type": "integer", "minimum": 0, "description": "milliseconds" }
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_written() {
        let read = |json: &str| serde_json::from_str::<Millis>(json).map(|ms| ms.0).map_err(|e| e.to_string());
        assert_eq!(
            ["\"250ms\"", "\"30s\"", "\"5m\"", "\"2h\"", "\"1d\"", "1500"].map(|t| read(t).unwrap()),
            [250, 30_000, 300_000, 7_200_000, 86_400_000, 1_500]
        );
        for bad in [
            "\"\"",
            "\"5\"",
            "\"m\"",
            "\"5 m\"",
            "\"-5m\"",
            "\"1.5s\"",
            "-1",
            "1.5",
            "null",
            "\"99999999999999999999d\"",
            "\"18446744073709551615d\"",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_print_in_the_largest_whole_unit() {
        assert_eq!([0, 250, 90_000, 300_000, 86_400_000].map(|ms| Millis(ms).to_string()), ["0ms", "250ms", "90s", "5m", "1d"]);
    }
}
