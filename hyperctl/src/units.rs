//! Sizes, times and ids, as people write and read them.

use jiff::{SignedDuration, Timestamp};

/// e.g. `1.5 MiB`
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// `512`, `64k`, `256m`, `1.5g`, also with `i`, `b` or `ib` behind: bytes, in powers of 1024, as docker has it.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size: want e.g. 256m or 1g");
    let lower = text.to_ascii_lowercase();
    let short = lower.strip_suffix("ib").or(lower.strip_suffix('b')).or(lower.strip_suffix('i')).unwrap_or(&lower);
    let (number, shift) = match short.char_indices().last() {
        Some((at, 'k')) => (&short[..at], 10),
        Some((at, 'm')) => (&short[..at], 20),
        Some((at, 'g')) => (&short[..at], 30),
        Some((at, 't')) => (&short[..at], 40),
        _ => (short, 0),
    };
    let value = number.parse::<f64>().map_err(|_| wrong())? * (1_u64 << shift) as f64;
    if (1.0..9e15).contains(&value) { Ok(value as u64) } else { Err(wrong()) }
}

/// Time since then (Unix time, ns), e.g. `5 minutes`.
pub fn age(nanos: i64, now: Timestamp) -> String {
    let then = Timestamp::from_nanosecond(nanos.into()).unwrap_or(now);
    duration(now.duration_since(then))
}

fn duration(duration: SignedDuration) -> String {
    let seconds = duration.as_secs().max(0);
    let (count, unit) = match seconds {
        0..120 => (seconds, "second"),
        120..7200 => (seconds / 60, "minute"),
        7200..172_800 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// The beginning of an id, which is enough to name it by.
pub fn short_id(id: &str) -> String {
    id.trim_start_matches("sha256:").chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        for (text, value) in [("512", 512), ("1k", 1024), ("256M", 256 << 20), ("1.5gib", 3 << 29), ("64kb", 64 << 10)]
        {
            assert_eq!(parse_bytes(text), Ok(value), "{text}");
        }
        for text in ["", "m", "-1", "0", "1x", "nan", "1e99", "inf"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ages() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let before = |seconds: i64| age((1_000_000 - seconds) * 1_000_000_000, now);
        assert_eq!((before(1), before(119)), ("1 second".into(), "119 seconds".into()));
        assert_eq!((before(600), before(90_000)), ("10 minutes".into(), "25 hours".into()));
        assert_eq!(before(-5), "0 seconds");
    }

    proptest! {
        #[test]
        fn no_size_breaks_it(text in ".{0,12}") {
            let _ = parse_bytes(&text);
        }
    }
}
