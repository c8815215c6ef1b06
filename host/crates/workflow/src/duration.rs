//! Durations as the DSL writes them: a mapping, ISO 8601, or an expression that gives one of the two.

use serde_json::Value;

const UNITS: [(&str, i64); 5] =
    [("days", 86_400_000), ("hours", 3_600_000), ("minutes", 60_000), ("seconds", 1_000), ("milliseconds", 1)];
/// A hundred years: beyond it a unit was mistaken, and nanoseconds since the epoch would overflow.
const MS_MAX: i64 = 100 * 365 * 86_400_000;

/// Milliseconds of a literal duration. A bare number is refused: nobody can see its unit.
pub fn parse(value: &Value) -> Result<i64, String> {
    let ms = match value {
        Value::Object(parts) if !parts.is_empty() => {
            let mut sum = 0i64;
            for (unit, amount) in parts {
                let Some((_, ms)) = UNITS.iter().find(|(name, _)| name == unit) else {
                    return Err(format!("{unit:?} is none of days, hours, minutes, seconds, milliseconds"));
                };
                let amount = amount
                    .as_i64()
                    .or_else(|| amount.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 1e15).map(|f| f as i64))
                    .filter(|n| *n >= 0)
                    .ok_or_else(|| format!("{unit} must be a whole number from 0, not {amount}"))?;
                sum = amount.checked_mul(*ms).and_then(|ms| sum.checked_add(ms)).ok_or("the duration is too long")?;
            }
            sum
        }
        Value::String(text) => {
            iso8601(text).ok_or_else(|| format!("{text:?} is no ISO 8601 duration such as PT30S or P1DT12H"))?
        }
        other => {
            return Err(format!(
                "a duration is a mapping such as {{seconds: 30}} or an ISO 8601 text such as PT30S, not {other}"
            ));
        }
    };
    if ms > MS_MAX { Err("the duration is over a hundred years".into()) } else { Ok(ms) }
}

/// `P[nY][nM][nW][nD][T[nH][nM][nS]]`, each number with an optional fraction. Years have 365 days, months 30.
fn iso8601(text: &str) -> Option<i64> {
    let rest = text.strip_prefix('P')?;
    let (date, time) = match rest.split_once('T') {
        Some((date, time)) => (date, Some(time)),
        None => (rest, None),
    };
    if date.is_empty() && time.is_none_or(str::is_empty) {
        return None;
    }
    let mut total = 0.0;
    total +=
        part(date, &[('Y', 365.0 * 86_400_000.0), ('M', 30.0 * 86_400_000.0), ('W', 7.0 * 86_400_000.0), ('D', 86_400_000.0)])?;
    if let Some(time) = time {
        if time.is_empty() {
            return None;
        }
        total += part(time, &[('H', 3_600_000.0), ('M', 60_000.0), ('S', 1_000.0)])?;
    }
    (total.is_finite() && total < 1e17).then_some(total.round() as i64)
}

fn part(mut text: &str, units: &[(char, f64)]) -> Option<f64> {
    let mut total = 0.0;
    let mut units = units.iter();
    while !text.is_empty() {
        let end = text.find(|c: char| c.is_ascii_alphabetic())?;
        let number = &text[..end];
        if !number.starts_with(|c: char| c.is_ascii_digit())
            || number.ends_with('.')
            || !number.bytes().all(|b| b.is_ascii_digit() || b == b'.')
        {
            return None;
        }
        let unit = text[end..].chars().next()?;
        let (_, ms) = units.find(|(name, _)| *name == unit)?;
        total += number.parse::<f64>().ok()? * ms;
        text = &text[end + 1..];
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn durations_are_mappings_or_iso_8601() {
        assert_eq!(parse(&json!({"minutes": 1, "seconds": 30})), Ok(90_000));
        assert_eq!(parse(&json!({"milliseconds": 5})), Ok(5));
        assert_eq!(parse(&json!("PT30S")), Ok(30_000));
        assert_eq!(parse(&json!("PT0.5S")), Ok(500));
        assert_eq!(parse(&json!("P1DT12H")), Ok(129_600_000));
        assert_eq!(parse(&json!("P2W")), Ok(1_209_600_000));
        assert_eq!(parse(&json!("PT1H2M3S")), Ok(3_723_000));
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for bad in ["", "P", "PT", "P1", "30s", "PT1S1M", "P-1D", "PT.5S", "PT1.S", "P1H", "PT1.2.3S", "P999999999999999999999Y"]
        {
            assert!(parse(&json!(bad)).is_err(), "{bad:?}");
        }
        for bad in [
            json!(30),
            json!({}),
            json!({"second": 1}),
            json!({"seconds": -1}),
            json!({"seconds": 1.5}),
            json!({"days": 99999999}),
            json!(null),
        ] {
            assert!(parse(&bad).is_err(), "{bad}");
        }
    }
}
