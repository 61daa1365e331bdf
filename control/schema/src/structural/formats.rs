//! What `format` says of texts and numbers: those that upstream's definitions know (`supportedVersionedFormats`).

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::LazyLock,
};

use regex::Regex;

use super::Type;

type Check = fn(&str) -> bool;

/// By the format's name without its hyphens.
const OF_TEXTS: &[(&str, Check)] = &[
    ("bsonobjectid", |text| text.len() == 24 && text.bytes().all(|b| b.is_ascii_hexdigit())),
    ("uri", is_uri),
    ("email", is_email),
    ("hostname", is_hostname),
    ("ipv4", |text| text.parse::<Ipv4Addr>().is_ok()),
    ("ipv6", |text| text.parse::<Ipv6Addr>().is_ok()),
    ("cidr", is_cidr),
    ("mac", is_mac),
    ("uuid", |text| is_uuid(text, None)),
    ("uuid3", |text| is_uuid(text, Some(b'3'))),
    ("uuid4", |text| is_uuid(text, Some(b'4'))),
    ("uuid5", |text| is_uuid(text, Some(b'5'))),
    ("isbn", |text| is_isbn10(text) || is_isbn13(text)),
    ("isbn10", is_isbn10),
    ("isbn13", is_isbn13),
    ("creditcard", is_credit_card),
    ("ssn", |text| matches(&SSN, text)),
    ("hexcolor", |text| matches(&HEX_COLOUR, text)),
    ("rgbcolor", |text| matches(&RGB_COLOUR, text)),
    ("byte", |text| matches(&BASE64, text)),
    ("password", |_| true),
    ("date", |text| text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok()),
    ("duration", is_duration),
    ("datetime", is_date_time),
    ("k8sshortname", |text| text.len() <= 63 && is_name(text)),
    ("k8slongname", |text| !text.is_empty() && text.len() <= 253 && text.split('.').all(is_name)),
];

fn normal(format: &str) -> String {
    format.replace('-', "")
}

/// Whether a format says anything of such values. One that is not known is passed over.
pub fn is_known(format: &str, ty: Option<Type>, int_or_string: bool) -> bool {
    match ty {
        _ if int_or_string => false,
        None | Some(Type::String) => {
            let format = normal(format);
            OF_TEXTS.iter().any(|(name, _)| *name == format)
        }
        Some(Type::Integer) => matches!(format, "int32" | "int64"),
        Some(Type::Number) => matches!(format, "float" | "double"),
        Some(Type::Object | Type::Array | Type::Boolean) => false,
    }
}

/// Whether a text is of a format that is known.
pub fn is(text: &str, format: &str) -> bool {
    let format = normal(format);
    OF_TEXTS.iter().find(|(name, _)| *name == format).is_none_or(|(_, check)| check(text))
}

type Pattern = LazyLock<Option<Regex>>;

fn pattern(text: &str) -> Option<Regex> {
    Regex::new(text).ok()
}

fn matches(pattern: &Pattern, text: &str) -> bool {
    pattern.as_ref().is_some_and(|pattern| pattern.is_match(text))
}

static SSN: Pattern = LazyLock::new(|| pattern(r"^[0-9]{3}[- ]?[0-9]{2}[- ]?[0-9]{4}$"));
static HEX_COLOUR: Pattern = LazyLock::new(|| pattern(r"^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$"));
static RGB_COLOUR: Pattern = LazyLock::new(|| {
    let part = r"\s*(0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5])\s*";
    pattern(&format!(r"^rgb\({part},{part},{part}\)$"))
});
static BASE64: Pattern =
    LazyLock::new(|| pattern(r"^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{4})$"));
static CLOCK: Pattern =
    LazyLock::new(|| pattern(r"^([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](.[0-9]+)?(z|([+-][0-9]{2}:[0-9]{2}))$"));
static CARD: Pattern = LazyLock::new(|| {
    pattern(
        r"^(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35[0-9]{3})[0-9]{11})$",
    )
});
static HOSTNAME: Pattern = LazyLock::new(|| {
    pattern(
        r"^([a-zA-Z0-9\p{S}\p{L}]((-?[a-zA-Z0-9\p{S}\p{L}]{0,62})?)|([a-zA-Z0-9\p{S}\p{L}](([a-zA-Z0-9-\p{S}\p{L}]{0,61}[a-zA-Z0-9\p{S}\p{L}])?)(\.)){1,}([a-zA-Z\p{L}]){2,63})$",
    )
});
static EMAIL: Pattern = LazyLock::new(|| pattern(r"^[^\s@<>,;:\\\x22\[\]()]+@[^\s@<>,;:\\\x22()]+$"));
static DURATION_PART: Pattern = LazyLock::new(|| pattern(r"([0-9]+)\s*([A-Za-zµ]+)"));
static GO_DURATION: Pattern =
    LazyLock::new(|| pattern(r"^[-+]?(0|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$"));

fn is_uri(text: &str) -> bool {
    // A request's: absolute, or a path from the root.
    if text.is_empty() || text.bytes().any(|b| b <= b' ' || b == 0x7f) {
        return false;
    }
    if text.starts_with('/') {
        return true;
    }
    let Some((scheme, _)) = text.split_once(':') else { return false };
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

fn is_email(text: &str) -> bool {
    let address = text.rsplit_once('<').and_then(|(_, rest)| rest.strip_suffix('>')).unwrap_or(text);
    matches(&EMAIL, address)
}

fn is_hostname(text: &str) -> bool {
    matches(&HOSTNAME, text)
        && text.len() <= 255
        && (!text.contains('.') || text.split('.').all(|part| part.len() <= 63))
}

fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let most = match address.parse() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    length.bytes().all(|b| b.is_ascii_digit()) && length.parse::<u8>().is_ok_and(|length| length <= most)
}

/// 6, 8 or 20 bytes, between colons or hyphens, or two by two between dots.
fn is_mac(text: &str) -> bool {
    let (separator, digits) = if text.contains('.') {
        ('.', 4)
    } else if text.contains('-') {
        ('-', 2)
    } else {
        (':', 2)
    };
    let parts: Vec<&str> = text.split(separator).collect();
    let hex = |part: &&str| part.len() == digits && part.bytes().all(|b| b.is_ascii_hexdigit());
    matches!(parts.len() * digits / 2, 6 | 8 | 20) && parts.iter().all(hex)
}

fn is_uuid(text: &str, version: Option<u8>) -> bool {
    let parts = [8, 4, 4, 4, 12];
    let mut rest = text.as_bytes();
    for (number, length) in parts.into_iter().enumerate() {
        if number > 0 && rest.first() == Some(&b'-') {
            rest = &rest[1..];
        }
        let Some((part, tail)) = rest.split_at_checked(length) else { return false };
        let variant = number == 3 && matches!(version, Some(b'4' | b'5'));
        let right = part.iter().all(u8::is_ascii_hexdigit)
            && (number != 2 || version.is_none_or(|version| part[0] == version))
            && (!variant || b"89abAB".contains(&part[0]));
        if !right {
            return false;
        }
        rest = tail;
    }
    rest.is_empty()
}

fn digits_of(text: &str) -> String {
    text.chars().filter(|c| !matches!(c, '-' | ' ')).collect()
}

fn is_isbn10(text: &str) -> bool {
    let digits = digits_of(text);
    let value = |(place, c): (usize, char)| match c {
        '0'..='9' => c.to_digit(10),
        'X' if place == 9 => Some(10),
        _ => None,
    };
    let values: Option<Vec<u32>> = digits.chars().enumerate().map(value).collect();
    values.is_some_and(|values| {
        values.len() == 10 && values.iter().zip(1..).map(|(value, weight)| value * weight).sum::<u32>() % 11 == 0
    })
}

fn is_isbn13(text: &str) -> bool {
    let values: Option<Vec<u32>> = digits_of(text).chars().map(|c| c.to_digit(10)).collect();
    values.is_some_and(|values| {
        let weighted = values.iter().enumerate().map(|(place, value)| value * if place % 2 == 0 { 1 } else { 3 });
        values.len() == 13 && weighted.sum::<u32>() % 10 == 0
    })
}

fn is_credit_card(text: &str) -> bool {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    let doubled = digits.chars().rev().filter_map(|c| c.to_digit(10)).enumerate().map(|(place, digit)| {
        let digit = if place % 2 == 1 { digit * 2 } else { digit };
        if digit > 9 { digit - 9 } else { digit }
    });
    matches(&CARD, &digits) && doubled.sum::<u32>() % 10 == 0
}

/// As Go writes them, or several amounts with words for their units.
fn is_duration(text: &str) -> bool {
    const UNITS: &[&str] = &["ns", "us", "µs", "ms", "s", "m", "h", "hr", "d", "w", "wk"];
    const BEGINNINGS: &[&str] = &["nano", "micro", "milli", "sec", "min", "hour", "day", "week"];
    if matches(&GO_DURATION, text) {
        return true;
    }
    let Some(pattern) = DURATION_PART.as_ref() else { return false };
    let mut parts = pattern.captures_iter(text).peekable();
    parts.peek().is_some()
        && parts.any(|part| {
            let unit = part[2].to_lowercase();
            UNITS.contains(&&*unit) || BEGINNINGS.iter().any(|beginning| unit.starts_with(beginning))
        })
}

/// RFC 3339, in upstream's words.
fn is_date_time(text: &str) -> bool {
    let text = text.to_lowercase();
    let Some((date, clock)) = text.split_once('t') else { return false };
    date.len() == 10 && date.parse::<jiff::civil::Date>().is_ok() && matches(&CLOCK, clock)
}

/// A label of DNS, in lower case.
fn is_name(text: &str) -> bool {
    let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.bytes().all(|b| inside(b) || b == b'-')
        && text.bytes().next().is_some_and(inside)
        && text.bytes().last().is_some_and(inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_of_their_formats() {
        for (format, right, wrong) in [
            ("date-time", "2026-11-30T21:00:00Z", "2026-11-30 21:00:00"),
            ("date-time", "2026-11-30t21:00:00.5+01:00", "2026-13-30T21:00:00Z"),
            ("date", "2026-02-28", "2026-02-30"),
            ("ipv4", "10.0.0.1", "10.0.0.256"),
            ("ipv6", "fe80::1", "10.0.0.1"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("mac", "52:54:00:00:00:01", "52:54:00:00:00"),
            ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123e4567"),
            ("uuid4", "123e4567-e89b-42d3-a456-426614174000", "123e4567-e89b-12d3-a456-426614174000"),
            ("email", "a@example.org", "example.org"),
            ("uri", "https://example.org/a", "example"),
            ("hostname", "a.example.org", "a..b"),
            ("byte", "aGVsbG8=", "aGVsbG8"),
            ("duration", "1h30m", "soon"),
            ("duration", "3 weeks", "weeks"),
            ("isbn10", "0321751043", "0321751044"),
            ("isbn13", "978-0321751041", "978-0321751042"),
            ("hexcolor", "#ffF", "#ffff"),
            ("rgbcolor", "rgb(1, 2,255)", "rgb(1,2,256)"),
            ("ssn", "111-22-3333", "11-22-3333"),
            ("creditcard", "4111 1111 1111 1111", "4111 1111 1111 1112"),
            ("bsonobjectid", "507f1f77bcf86cd799439011", "507f1f77"),
            ("k8s-short-name", "web-1", "Web"),
            ("k8s-long-name", "web.example.org", "web..org"),
        ] {
            assert!(is_known(format, Some(Type::String), false), "{format}");
            assert!(is(right, format), "{format} {right}");
            assert!(!is(wrong, format), "{format} {wrong}");
        }
        assert!(!is_known("colour", None, false) && is("anything", "colour"));
    }
}
