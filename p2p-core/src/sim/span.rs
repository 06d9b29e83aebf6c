//! Durations in configuration files, as people write them: `50ms`, `2s`, `1.5h`.

use std::borrow::Cow;
use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serializer};

/// The units and their length in seconds. The first that a text ends with counts.
const UNITS: [(&str, f64); 6] =
    [("us", 1e-6), ("ms", 1e-3), ("min", 60.0), ("s", 1.0), ("h", 3_600.0), ("d", 86_400.0)];

/// Reads a duration: a number and one of the units us, ms, s, min, h, d.
///
/// # Errors
/// A text that names the mistake, for the person who wrote it.
pub fn parse(text: &str) -> Result<Duration, String> {
    let trimmed = text.trim();
    if trimmed == "0" {
        return Ok(Duration::ZERO);
    }
    let (number, unit) = UNITS
        .iter()
        .find_map(|(name, secs)| Some((trimmed.strip_suffix(name)?, secs)))
        .ok_or_else(|| format!("{text:?} has no unit: use us, ms, s, min, h or d"))?;
    let number: f64 = number.trim().parse().map_err(|_| format!("{text:?} does not start with a number"))?;
    // It is rounded to a nanosecond: 0.1 × 1e-3 is not exact, and 100 µs should be.
    let nanos = (number * unit * 1e9).round();
    if !(0.0..1e18).contains(&nanos) {
        return Err(format!("{text:?} is not between zero and thirty years"));
    }
    Ok(Duration::from_nanos(nanos as u64))
}

/// Writes a duration in the largest unit that needs no fraction.
pub fn write(span: Duration) -> String {
    let micros = span.as_micros();
    match micros {
        _ if !span.subsec_nanos().is_multiple_of(1_000) => format!("{}us", span.as_nanos() as f64 / 1e3),
        0 => "0".to_owned(),
        _ if !micros.is_multiple_of(1_000) => format!("{micros}us"),
        _ if !micros.is_multiple_of(1_000_000) => format!("{}ms", micros / 1_000),
        _ => format!("{}s", micros / 1_000_000),
    }
}

pub(super) fn serialize<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&write(*span))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = Cow::<str>::deserialize(deserializer)?;
    parse(&text).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_write_units() {
        for (text, micros) in [
            ("0", 0),
            ("50ms", 50_000),
            (" 1.5 h ", 5_400_000_000),
            ("0.1ms", 100),
            ("7us", 7),
            ("2min", 120_000_000),
            ("10s", 10_000_000),
            ("5d", 432_000_000_000),
        ] {
            let span = parse(text).unwrap();
            assert_eq!(span, Duration::from_micros(micros), "{text}");
            assert_eq!(parse(&write(span)), Ok(span), "{text}");
        }
        assert_eq!(write(Duration::from_millis(1_500)), "1500ms");
    }

    #[test]
    fn nonsense_is_named() {
        for (text, part) in [
            ("50", "unit"),
            ("", "unit"),
            ("ms", "number"),
            ("-1s", "between"),
            ("NaNs", "between"),
            ("1e99d", "between"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
