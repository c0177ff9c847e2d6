//! Sizes and durations on the command line: `8MiB`, `250ms`.

use std::time::Duration;

/// Reads a size in bytes: a number with B, KiB, MiB or GiB; without unit it is bytes.
pub fn parse_size(text: &str) -> Result<usize, String> {
    let (number, unit) = split(text);
    let factor: usize = match unit {
        "" | "B" => 1,
        "KiB" => 1024,
        "MiB" => 1024 * 1024,
        "GiB" => 1024 * 1024 * 1024,
        _ => return Err(format!("\"{text}\" is no size, expected a number with B, KiB, MiB or GiB")),
    };
    let number: usize = number.parse().map_err(|_| format!("\"{text}\" is no size, expected e.g. 8MiB"))?;
    number.checked_mul(factor).ok_or_else(|| format!("\"{text}\" is too large"))
}

/// Reads a duration: a number with ms, s, m or h.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let factor: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(format!("\"{text}\" is no duration, expected a number with ms, s, m or h")),
    };
    let number: u64 =
        number.parse().map_err(|_| format!("\"{text}\" is no duration, expected e.g. 250ms"))?;
    number.checked_mul(factor).map(Duration::from_millis).ok_or_else(|| format!("\"{text}\" is too long"))
}

fn split(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_needed_where_they_matter() {
        assert_eq!(parse_size("8MiB"), Ok(8 << 20));
        assert_eq!(parse_size("100"), Ok(100));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "x", "8MB", "-1", "1.5GiB", "99999999999999999999"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "250", "1d", "-1s", "18446744073709551615h"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }
}
