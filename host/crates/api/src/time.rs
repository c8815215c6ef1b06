//! Times and durations as callers write them, and as we write them back.

use crate::error::Problem;
use model::Timestamp;

/// RFC 3339, or a Unix time whose unit its size tells: seconds (with fraction), milliseconds, microseconds or
/// nanoseconds. Seconds reach to the year 5138, so nothing is ambiguous after 1973.
pub fn parse_time(name: &str, text: &str) -> Result<Timestamp, Problem> {
    if let Ok(n) = text.parse::<i64>() {
        let scale = match n.unsigned_abs() {
            0..100_000_000_000 => 1_000_000_000,
            100_000_000_000..100_000_000_000_000 => 1_000_000,
            100_000_000_000_000..100_000_000_000_000_000 => 1_000,
            _ => 1,
        };
        return n.checked_mul(scale).map(Timestamp).ok_or_else(|| out_of_range(name, text));
    }
    if let Ok(seconds) = text.parse::<f64>() {
        if seconds.is_finite() && seconds.abs() < 9e9 {
            // Rounded to microseconds: an f64 of today's seconds holds no more.
            return Ok(Timestamp((seconds * 1e6).round() as i64 * 1_000));
        }
        return Err(out_of_range(name, text));
    }
    let parsed: jiff::Timestamp =
        text.parse().map_err(|_| Problem::parameter(name, format!("{text:?} is neither RFC 3339 nor a Unix time")))?;
    i64::try_from(parsed.as_nanosecond()).map(Timestamp).map_err(|_| out_of_range(name, text))
}

/// Seconds with fraction, or Prometheus' `1h30m`, `15s`, `500ms`. Answers milliseconds.
pub fn parse_duration_ms(name: &str, text: &str) -> Result<i64, Problem> {
    let bad = || Problem::parameter(name, format!("{text:?} is no duration such as 15s, 1h30m or 0.5"));
    if let Ok(seconds) = text.parse::<f64>() {
        return if seconds.is_finite() && seconds.abs() < 1e11 { Ok((seconds * 1_000.0).round() as i64) } else { Err(bad()) };
    }
    let (mut rest, mut total) = (text, 0_i64);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let n: i64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let unit_len = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit_ms = match &rest[..unit_len] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 604_800_000,
            "y" => 31_536_000_000,
            _ => return Err(bad()),
        };
        rest = &rest[unit_len..];
        total = n.checked_mul(unit_ms).and_then(|ms| total.checked_add(ms)).ok_or_else(bad)?;
    }
    if text.is_empty() { Err(bad()) } else { Ok(total) }
}

/// RFC 3339 in UTC.
pub fn rfc3339(at: Timestamp) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(at.nanos())).map(|t| t.to_string()).unwrap_or_default()
}

fn out_of_range(name: &str, text: &str) -> Problem {
    Problem::parameter(name, format!("{text:?} is out of range"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_may_be_rfc3339_or_unix_of_any_unit() {
        let wanted = Timestamp(1_764_000_000_500_000_000);
        for text in ["1764000000.5", "1764000000500", "1764000000500000", "1764000000500000000", "2025-11-24T16:00:00.5Z"] {
            assert_eq!(parse_time("start", text).unwrap(), wanted, "{text}");
        }
        assert_eq!(rfc3339(wanted), "2025-11-24T16:00:00.5Z");
    }

    #[test]
    fn what_is_no_time_is_refused_by_name() {
        for bad in ["", "now", "NaN", "inf", "1e300", "2025-13-01", "99999999999999999999"] {
            assert!(parse_time("start", bad).unwrap_err().detail.starts_with("parameter start"), "{bad:?}");
        }
    }

    #[test]
    fn a_duration_may_be_seconds_or_units() {
        for (text, ms) in [("15s", 15_000), ("1h30m", 5_400_000), ("500ms", 500), ("0.5", 500), ("60", 60_000)] {
            assert_eq!(parse_duration_ms("step", text).unwrap(), ms, "{text}");
        }
        for bad in ["", "s", "1x", "5m3", "9999999999999999999y", "NaN"] {
            assert!(parse_duration_ms("step", bad).is_err(), "{bad:?}");
        }
    }
}
