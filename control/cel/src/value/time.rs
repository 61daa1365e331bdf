//! Durations and times: what texts mean, and how values are printed.

use std::fmt;

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// Go's units of durations, in nanoseconds.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Nanoseconds of a text as Go writes durations: `1h2m3.5s`. `None` for anything else, and for what 64 bits cannot hold.
pub(crate) fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanos: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (whole, after) = rest.split_at(digits);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => after.split_at(after.bytes().take_while(u8::is_ascii_digit).count()),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let unit_length = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_length);
        let unit = UNITS.iter().find(|(name, _)| *name == unit)?.1;
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let mut of_this = whole.checked_mul(unit)?;
        if !fraction.is_empty() {
            // Eighteen digits are more than nanoseconds can show.
            let shown = &fraction[..fraction.len().min(18)];
            let part = shown.parse::<u64>().ok()? as f64 * (unit as f64 / 10f64.powi(shown.len() as i32));
            of_this = of_this.checked_add(part as u64)?;
        }
        nanos = nanos.checked_add(of_this)?;
        rest = after;
    }
    match (negative, nanos) {
        (true, 0x8000_0000_0000_0000) => Some(i64::MIN),
        (true, nanos) => i64::try_from(nanos).ok().map(|nanos| -nanos),
        (false, nanos) => i64::try_from(nanos).ok(),
    }
}

/// The `duration` format of OpenAPI as upstream reads it: Go's durations, or a number and a unit: `3 days`.
pub(crate) fn parse_format_duration(text: &str) -> Option<i64> {
    if let Some(nanos) = parse_duration(text) {
        return Some(nanos);
    }
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = (text.get(..digits)?, text.get(digits..)?.trim().to_lowercase());
    let nanos: i64 = match unit.as_str() {
        "ns" | "nano" | "nanos" | "nanosecond" | "nanoseconds" => 1,
        "us" | "µs" | "micro" | "micros" | "microsecond" | "microseconds" => 1_000,
        "ms" | "milli" | "millis" | "millisecond" | "milliseconds" => 1_000_000,
        "s" | "sec" | "secs" | "second" | "seconds" => 1_000_000_000,
        "m" | "min" | "mins" | "minute" | "minutes" => 60_000_000_000,
        "h" | "hr" | "hour" | "hours" => 3_600_000_000_000,
        "d" | "day" | "days" => 86_400_000_000_000,
        "w" | "wk" | "week" | "weeks" => 604_800_000_000_000,
        _ => return None,
    };
    number.parse::<i64>().ok()?.checked_mul(nanos)
}

/// A duration as `string()` prints it: seconds, with as many digits as it takes.
pub(crate) fn duration_text(nanos: i64) -> String {
    format!("{}s", nanos as f64 / 1e9)
}

/// A double as Go's `%g` prints it with the fewest digits: `1.5`, `1.5e+06`.
pub(crate) fn double_text(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    if value == 0.0 {
        return if value.is_sign_negative() { "-0" } else { "0" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..6).contains(&exponent) {
        return format!("{value}");
    }
    format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// A moment within the years 1 to 9999: to the last second, which `jiff`'s own type does not reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    seconds: i64,
    nanos: u32,
}

/// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z.
const FIRST: i64 = -62_135_596_800;
const LAST: i64 = 253_402_300_799;
const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);
const NANOS: i128 = 1_000_000_000;

impl Time {
    pub(crate) fn of_seconds(seconds: i64) -> Option<Self> {
        (FIRST..=LAST).contains(&seconds).then_some(Self { seconds, nanos: 0 })
    }

    fn of_nanos(nanos: i128) -> Option<Self> {
        let seconds = i64::try_from(nanos.div_euclid(NANOS)).ok()?;
        Some(Self { nanos: nanos.rem_euclid(NANOS) as u32, ..Self::of_seconds(seconds)? })
    }

    pub(crate) fn seconds(self) -> i64 {
        self.seconds
    }

    pub(crate) fn nanos(self) -> i128 {
        i128::from(self.seconds) * NANOS + i128::from(self.nanos)
    }

    /// The time so many nanoseconds later.
    pub(crate) fn moved(self, nanos: i128) -> Option<Self> {
        Self::of_nanos(self.nanos().checked_add(nanos)?)
    }

    /// A time of RFC 3339.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let number = |from: usize, digits: usize| -> Option<i32> {
            let part = text.get(from..from + digits)?;
            part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok())?
        };
        for (at, expected) in [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')] {
            if bytes.get(at) != Some(&expected) {
                return None;
            }
        }
        let date =
            Date::new(number(0, 4)?.try_into().ok()?, number(5, 2)?.try_into().ok()?, number(8, 2)?.try_into().ok()?);
        let of_day = [number(11, 2)?, number(14, 2)?, number(17, 2)?].map(i64::from);
        let [hour, minute, second] = of_day;
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let mut rest = text.get(19..)?;
        let mut nanos = 0;
        if let Some(fraction) = rest.strip_prefix(['.', ',']) {
            let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
            let shown = &fraction[..digits.min(9)];
            nanos = shown.parse::<u32>().ok()? * 10u32.pow(9 - shown.len() as u32);
            rest = &fraction[digits..];
        }
        let offset = match rest.as_bytes() {
            b"Z" => 0,
            [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
                let at = text.len() - 6;
                let (hours, minutes) = (i64::from(number(at + 1, 2)?), i64::from(number(at + 4, 2)?));
                if hours > 24 || minutes > 59 {
                    return None;
                }
                let offset = hours * 3600 + minutes * 60;
                if *sign == b'-' { -offset } else { offset }
            }
            _ => return None,
        };
        let days = i64::from(EPOCH.date().until(date.ok()?).ok()?.get_days());
        let seconds = days * 86_400 + hour * 3600 + minute * 60 + second - offset;
        Some(Self { nanos, ..Self::of_seconds(seconds)? })
    }

    /// A date of RFC 3339, at midnight.
    pub(crate) fn parse_date(text: &str) -> Option<Self> {
        if text.len() != 10 {
            return None;
        }
        Self::parse(&format!("{text}T00:00:00Z"))
    }

    /// The date and time of a zone: a name, or an offset as `+01:30`, `-2:00`.
    pub(crate) fn in_zone(self, zone: &str) -> Result<DateTime, String> {
        let number = |text: &str| {
            text.parse::<i64>()
                .map_err(|_| format!("strconv.Atoi: parsing {}: invalid syntax", super::url::quoted(text)))
        };
        let offset = if matches!(zone, "" | "UTC" | "Local") {
            0
        } else if let Some((hours, minutes)) = zone.split_once(':') {
            let (of_hours, of_minutes) = (number(hours)?, number(minutes)?);
            let minutes = if hours.starts_with('-') { of_minutes.saturating_neg() } else { of_minutes };
            of_hours.saturating_mul(3600).saturating_add(minutes.saturating_mul(60))
        } else {
            let named = TimeZone::get(zone).map_err(|_| format!("unknown time zone {zone}"))?;
            let nearest = Timestamp::from_second(self.seconds).unwrap_or(Timestamp::MAX);
            i64::from(named.to_offset(nearest).seconds())
        };
        let since = SignedDuration::new(self.seconds.saturating_add(offset), self.nanos as i32);
        EPOCH.checked_add(since).map_err(|_| format!("time zone {zone} is out of range"))
    }
}

/// RFC 3339, with as many digits as it takes.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.in_zone("UTC").map_err(|_| fmt::Error)?;
        let (date, time) = (at.date(), at.time());
        write!(f, "{:04}-{:02}-{:02}", date.year(), date.month(), date.day())?;
        write!(f, "T{:02}:{:02}:{:02}", time.hour(), time.minute(), time.second())?;
        if self.nanos != 0 {
            let digits = format!("{:09}", self.nanos);
            write!(f, ".{}", digits.trim_end_matches('0'))?;
        }
        f.write_str("Z")
    }
}
