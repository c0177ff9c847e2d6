//! Where `consume` begins: `start`, `end`, `N`, `-N`, `@TIME`.

use std::str::FromStr;

use tidelog_client::{Offset, StartAt, TimestampMs};

const EXPECTED: &str = "expected start, end, N (an offset), -N (records before the end) or @TIME (milliseconds since 1970-01-01 UTC, \
                        2026-02-14, 2026-02-14T10:30:00Z, or -1h)";

/// Where to begin, as the command line says it; times may be relative to now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// Not relative to now.
    At(StartAt),
    /// So many milliseconds ago.
    Ago(i64),
}

impl From {
    /// Where to begin.
    pub fn start(self, now: TimestampMs) -> StartAt {
        match self {
            Self::At(start) => start,
            Self::Ago(milliseconds) => StartAt::Time(TimestampMs(now.0.saturating_sub(milliseconds))),
        }
    }
}

impl FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = match text {
            "start" => Some(Self::At(StartAt::Earliest)),
            "end" => Some(Self::At(StartAt::Latest)),
            _ => {
                if let Some(time) = text.strip_prefix('@') {
                    parse_time(time)
                } else if let Some(records) = text.strip_prefix('-') {
                    number(records).map(|records| Self::At(StartAt::FromEnd(records.unsigned_abs())))
                } else {
                    let offset = number(text).and_then(|offset| Offset::new(offset).ok());
                    offset.map(|offset| Self::At(StartAt::Offset(offset)))
                }
            }
        };
        parsed.ok_or_else(|| EXPECTED.to_owned())
    }
}

/// Digits only: no sign, no blank.
fn number(text: &str) -> Option<i64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) { None } else { text.parse().ok() }
}

fn parse_time(text: &str) -> Option<From> {
    let at = |milliseconds| From::At(StartAt::Time(TimestampMs(milliseconds)));
    if let Some(milliseconds) = number(text) {
        return Some(at(milliseconds));
    }
    if let Some(ago) = text.strip_prefix('-') {
        let unit = ago.find(|c: char| !c.is_ascii_digit())?;
        let (count, unit) = ago.split_at(unit);
        let factor = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        return number(count)?.checked_mul(factor).map(From::Ago);
    }
    date_time(text).map(at)
}

/// Milliseconds of `YYYY-MM-DD`, `YYYY-MM-DDTHH:MM:SSZ` or `YYYY-MM-DDTHH:MM:SS.mmmZ`, all in UTC.
fn date_time(text: &str) -> Option<i64> {
    let (date, time) = match text.split_once('T') {
        Some((date, time)) => (date, time.strip_suffix('Z')?),
        None => (text, "00:00:00"),
    };
    let field = |text: &str, digits: usize, high: i64| {
        number(text).filter(|value| text.len() == digits && *value <= high)
    };
    let mut parts = date.splitn(3, '-');
    let (year, month) = (field(parts.next()?, 4, 9999)?, field(parts.next()?, 2, 12)?);
    let day = field(parts.next()?, 2, 31)?;
    if month == 0 || day == 0 || day > days_in(year, month) {
        return None;
    }
    let mut parts = time.splitn(3, ':');
    let (hour, minute) = (field(parts.next()?, 2, 23)?, field(parts.next()?, 2, 59)?);
    let (second, fraction) = match parts.next()?.split_once('.') {
        Some((second, fraction)) => (second.to_owned(), field(fraction, 3, 999)?),
        None => (time.get(6..)?.to_owned(), 0),
    };
    let second = field(&second, 2, 59)?;
    let seconds = ((days_since_1970(year, month, day) * 24 + hour) * 60 + minute) * 60 + second;
    Some(seconds * 1_000 + fraction)
}

fn days_in(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days of a date of the Gregorian calendar, by H. Hinnant's "days_from_civil": years begin in March, so that the leap day is the last one.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<StartAt> {
        text.parse::<From>().ok().map(|from| from.start(TimestampMs(10_000_000)))
    }

    #[test]
    fn places_are_read() {
        let offset = |value| StartAt::Offset(Offset::new(value).expect("in range"));
        let time = |value| StartAt::Time(TimestampMs(value));
        for (text, start) in [
            ("start", StartAt::Earliest),
            ("end", StartAt::Latest),
            ("0", offset(0)),
            ("9223372036854775807", offset(i64::MAX)),
            ("-5", StartAt::FromEnd(5)),
            ("-0", StartAt::FromEnd(0)),
            ("@0", time(0)),
            ("@1700000000000", time(1_700_000_000_000)),
            ("@-1h", time(10_000_000 - 3_600_000)),
            ("@-250ms", time(10_000_000 - 250)),
            ("@1970-01-01", time(0)),
            ("@2000-02-29T23:59:59Z", time(951_868_799_000)),
            ("@2026-11-21T08:40:57.123Z", time(1_795_250_457_123)),
            ("@0001-01-01", time(-62_135_596_800_000)),
        ] {
            assert_eq!(parse(text), Some(start), "{text}");
        }
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for text in [
            "",
            "-",
            "+5",
            "--5",
            "1.5",
            " 1",
            "begin",
            "@",
            "@x",
            "@-1",
            "@-1y",
            "@-h",
            "@2026-02-30",
            "@2026-13-01",
            "@2026-1-1",
            "@2026-01-01T00:00:00",
            "@2026-01-01T24:00:00Z",
            "@2026-01-01T00:00Z",
            "@2026-01-01T00:00:00.1Z",
            "9223372036854775808",
            "@é",
            "@2026-01-01T0é:00:00Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
