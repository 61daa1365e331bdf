//! Durations and times: what texts mean, and how values are printed.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};

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
    format!("{}s", double_text(nanos as f64 / 1e9))
}

/// A double as Go's `%g` prints it with the fewest digits: `1.5`, `1e+100`.
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
    // The shortest form of `%g` goes over to exponents at 10^21.
    if (-4..21).contains(&exponent) {
        return format!("{value}");
    }
    format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// A time of RFC 3339 within the years 1 to 9999.
pub(crate) fn parse_timestamp(text: &str) -> Option<Timestamp> {
    // RFC 3339 is a part of what jiff reads: a `T`, seconds and an offset must be there.
    let bytes = text.as_bytes();
    let plain = bytes.len() >= 20
        && bytes.is_ascii()
        && bytes[4] == b'-'
        && bytes[7] == b'-'
        && bytes[10] == b'T'
        && bytes[13] == b':'
        && bytes[16] == b':'
        && bytes[..4].iter().all(u8::is_ascii_digit);
    if !plain || text.contains([' ', '[', ',']) {
        return None;
    }
    let zone = &text[19..];
    let zone = match zone.strip_prefix('.') {
        Some(zone) => zone.trim_start_matches(|c: char| c.is_ascii_digit()),
        None => zone,
    };
    let offset = zone.as_bytes();
    let known = zone == "Z"
        || (offset.len() == 6
            && matches!(offset[0], b'+' | b'-')
            && offset[3] == b':'
            && offset[1..3].iter().all(u8::is_ascii_digit));
    if !known {
        return None;
    }
    within_years(text.parse().ok()?)
}

/// A date of RFC 3339, at midnight.
pub(crate) fn parse_date(text: &str) -> Option<Timestamp> {
    if text.len() != 10 {
        return None;
    }
    parse_timestamp(&format!("{text}T00:00:00Z"))
}

/// 0001-01-01T00:00:00Z and the second after 9999-12-31T23:59:59Z.
const FIRST: i64 = -62_135_596_800;
const LAST: i64 = 253_402_300_799;

fn within_years(at: Timestamp) -> Option<Timestamp> {
    (FIRST..=LAST).contains(&at.as_second()).then_some(at)
}

pub(crate) fn of_seconds(seconds: i64) -> Option<Timestamp> {
    within_years(Timestamp::from_second(seconds).ok()?)
}

/// The time so many nanoseconds later.
pub(crate) fn moved(at: Timestamp, nanos: i128) -> Option<Timestamp> {
    within_years(Timestamp::from_nanosecond(at.as_nanosecond().checked_add(nanos)?).ok()?)
}

/// The date and time of a zone: a name, or an offset as `+01:30`, `-2:00`.
pub(crate) fn in_zone(at: Timestamp, zone: &str) -> Result<DateTime, String> {
    if zone.is_empty() || zone == "UTC" {
        return Ok(Offset::UTC.to_datetime(at));
    }
    if let Some((hours, minutes)) = zone.split_once(':') {
        let invalid = || format!("invalid time zone {zone}");
        let negative = hours.starts_with('-');
        let hours: i32 = hours.trim_start_matches(['+', '-']).parse().map_err(|_| invalid())?;
        let minutes: i32 = minutes.parse().map_err(|_| invalid())?;
        let seconds =
            hours.checked_mul(3600).and_then(|s| s.checked_add(minutes.checked_mul(60)?)).ok_or_else(invalid)?;
        let offset = Offset::from_seconds(if negative { -seconds } else { seconds }).map_err(|_| invalid())?;
        return Ok(offset.to_datetime(at));
    }
    let named = TimeZone::get(zone).map_err(|_| format!("unknown time zone {zone}"))?;
    Ok(named.to_datetime(at))
}
