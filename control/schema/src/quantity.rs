//! `resource.Quantity`: a fixed-point number with a suffix, and its canonical text.

use std::{
    fmt,
    ops::{Add, Sub},
};

/// Nano-units: ten to the minus ninth, the finest step that Kubernetes knows.
const NANO: i128 = 1_000_000_000;
/// Kubernetes caps quantities at the largest int64.
const MAX_UNITS: i128 = i64::MAX as i128;
/// Longest text that is looked at.
const MAX_LENGTH: usize = 128;

/// The family of suffixes, kept from the text to its canonical form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    DecimalSi,
    BinarySi,
    DecimalExponent,
}

/// A parsed quantity. Compared by value.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseQuantityError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Quantity {
    pub fn parse(text: &str) -> Result<Self, ParseQuantityError> {
        let text = text.trim();
        if text.is_empty() || text.len() > MAX_LENGTH || !text.is_ascii() {
            return Err(ParseQuantityError::Format);
        }
        let (negative, rest) = match text.as_bytes()[0] {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(ParseQuantityError::Format);
        }
        let (scale, format) = Scale::parse(suffix)?;
        let nanos = magnitude(whole, fraction, scale);
        Ok(Self { nanos: if negative { -nanos } else { nanos }, format })
    }

    /// Whole units, rounded up: bytes of memory, whole cores.
    pub fn value(self) -> i64 {
        i64::try_from(ceil_div(self.nanos, NANO)).unwrap_or(i64::MAX)
    }

    /// Thousandths, rounded up: milli-cores.
    pub fn milli(self) -> i64 {
        i64::try_from(ceil_div(self.nanos, NANO / 1000)).unwrap_or(i64::MAX)
    }

    /// So many of something.
    pub fn units(units: i64) -> Self {
        Self { nanos: i128::from(units) * NANO, format: Format::DecimalSi }
    }

    /// [`Self::units`], of what was counted here.
    pub fn count(many: usize) -> Self {
        Self::units(i64::try_from(many).unwrap_or(i64::MAX))
    }

    /// No fraction: rounded up.
    pub fn whole(self) -> Self {
        Self { nanos: ceil_div(self.nanos, NANO).saturating_mul(NANO), format: self.format }
    }

    /// Units as a double, as near as it gets.
    pub fn approximate(self) -> f64 {
        if self.is_integer() { (self.nanos / NANO) as f64 } else { self.nanos as f64 / NANO as f64 }
    }

    /// A sum, capped, is written as its first part; nothing is written as what it is added to.
    fn together(self, other: Self, nanos: i128) -> Self {
        let cap = MAX_UNITS * NANO;
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: nanos.clamp(-cap, cap), format }
    }

    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    pub fn is_integer(self) -> bool {
        self.nanos % NANO == 0
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}
impl Eq for Quantity {}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Add for Quantity {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        self.together(other, self.nanos.saturating_add(other.nanos))
    }
}
impl Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self.together(other, self.nanos.saturating_sub(other.nanos))
    }
}

/// The canonical text: no fraction, the largest suffix that loses nothing.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        if self.format == Format::BinarySi && self.nanos.abs() >= 1024 * NANO {
            let mut units = ceil_div(self.nanos, NANO);
            let mut step = 0;
            while units % 1024 == 0 && step < BINARY.len() - 1 {
                units /= 1024;
                step += 1;
            }
            return write!(f, "{units}{}", BINARY[step]);
        }
        let (mut units, mut step) = (self.nanos, 0);
        while units % 1000 == 0 && step < DECIMAL.len() - 1 {
            units /= 1000;
            step += 1;
        }
        match (self.format, step as i32 * 3 - 9) {
            (Format::DecimalExponent, 0) => write!(f, "{units}"),
            (Format::DecimalExponent, exponent) => write!(f, "{units}e{exponent}"),
            _ => write!(f, "{units}{}", DECIMAL[step]),
        }
    }
}

/// From 10^-9 in steps of 1000.
const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
/// From 1 in steps of 1024.
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// What the number before the suffix is multiplied by.
#[derive(Clone, Copy)]
enum Scale {
    PowerOfTen(i32),
    PowerOfTwo(u32),
}

impl Scale {
    fn parse(suffix: &str) -> Result<(Self, Format), ParseQuantityError> {
        if let Some(step) = BINARY.iter().skip(1).position(|s| *s == suffix) {
            return Ok((Self::PowerOfTwo(10 * (step as u32 + 1)), Format::BinarySi));
        }
        if let Some(step) = DECIMAL.iter().position(|s| *s == suffix) {
            return Ok((Self::PowerOfTen(step as i32 * 3 - 9), Format::DecimalSi));
        }
        let exponent = suffix.strip_prefix(['e', 'E']).ok_or(ParseQuantityError::Suffix)?;
        let exponent: i32 = exponent.parse().map_err(|_| ParseQuantityError::Suffix)?;
        Ok((Self::PowerOfTen(exponent.clamp(-64, 64)), Format::DecimalExponent))
    }
}

/// `whole.fraction × scale` in nano-units, rounded up and capped.
fn magnitude(whole: &str, fraction: &str, scale: Scale) -> i128 {
    let cap = MAX_UNITS * NANO;
    let mut value: i128 = 0;
    // 10^decimals is what the digits so far are too large by.
    let mut decimals: i32 = 0;
    let mut lost = false;
    for (is_fraction, digit) in
        whole.bytes().map(|d| (false, d)).chain(fraction.trim_end_matches('0').bytes().map(|d| (true, d)))
    {
        let digit = i128::from(digit - b'0');
        if is_fraction && decimals >= 18 {
            lost |= digit != 0;
            continue;
        }
        value = match value.checked_mul(10).and_then(|v| v.checked_add(digit)) {
            Some(value) if value < i128::MAX / 100 => value,
            _ => return cap,
        };
        decimals += i32::from(is_fraction);
    }
    let (mut numerator, mut ten) = match scale {
        Scale::PowerOfTwo(bits) => match value.checked_mul(1i128 << bits) {
            Some(numerator) => (numerator, 9 - decimals),
            None => return cap,
        },
        Scale::PowerOfTen(exponent) => (value, exponent + 9 - decimals),
    };
    if numerator == 0 {
        return i128::from(lost);
    }
    while ten > 0 {
        numerator = match numerator.checked_mul(10) {
            Some(n) if n <= cap => n,
            _ => return cap,
        };
        ten -= 1;
    }
    while ten < 0 {
        lost |= numerator % 10 != 0;
        numerator /= 10;
        ten += 1;
    }
    (numerator + i128::from(lost)).min(cap)
}

/// Rounds away from zero, as Kubernetes does ("rounded up").
fn ceil_div(value: i128, by: i128) -> i128 {
    let quotient = value / by;
    if value % by == 0 { quotient } else { quotient + value.signum() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms() {
        for (text, canonical) in [
            ("0", "0"),
            ("1", "1"),
            ("100m", "100m"),
            ("0.1", "100m"),
            ("1.5", "1500m"),
            ("1000m", "1"),
            ("1500", "1500"),
            ("1000", "1k"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("1000Ki", "1000Ki"),
            ("0.5Ki", "512"),
            ("1e3", "1e3"),
            ("12E3", "12e3"),
            ("1E", "1E"),
            ("128974848", "128974848"),
            ("129M", "129M"),
            ("-5", "-5"),
            ("+5", "5"),
            ("0.1m", "100u"),
            ("0.0000000001", "1n"),
            ("99999999999999999999999999999999999999999999999", "9223372036854775807"),
            (".5", "500m"),
            ("5.", "5"),
            ("1Ei", "1Ei"),
        ] {
            let parsed = Quantity::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(parsed.to_string(), canonical, "{text}");
            assert_eq!(Quantity::parse(canonical).unwrap(), parsed, "{canonical}");
        }
    }

    #[test]
    fn sums_are_written_as_their_first_part() {
        let quantity = |text: &str| Quantity::parse(text).unwrap();
        for (a, b, sum, difference) in [
            ("1Gi", "512Mi", "1536Mi", "512Mi"),
            ("1", "500m", "1500m", "500m"),
            ("0", "1Gi", "1Gi", "-1Gi"),
            ("1G", "1Gi", "2073741824", "-73741824"),
            ("1Gi", "1k", "1073742824", "1073740824"),
            ("2e3", "1k", "3e3", "1e3"),
        ] {
            assert_eq!((quantity(a) + quantity(b)).to_string(), sum, "{a} + {b}");
            assert_eq!((quantity(a) - quantity(b)).to_string(), difference, "{a} - {b}");
        }
        assert_eq!(quantity("1.5").whole().to_string(), "2");
        assert_eq!(quantity("1500m").whole(), quantity("2"));
        assert_eq!(Quantity::count(3).to_string(), "3");
    }

    #[test]
    fn refused() {
        for text in ["", "abc", "1x", "1.2.3", "Gi", "1 Gi", "--1", "1ee3", "é", "1e", "."] {
            assert!(Quantity::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sums() {
        let sum = |a: &str, b: &str| (Quantity::parse(a).unwrap() + Quantity::parse(b).unwrap()).to_string();
        assert_eq!(sum("1Gi", "512Mi"), "1536Mi");
        assert_eq!(sum("0", "1Ki"), "1Ki");
        assert_eq!(sum("100m", "1"), "1100m");
        assert_eq!(sum("9223372036854775807", "1"), "9223372036854775807");
        assert_eq!((Quantity::parse("1k").unwrap() - Quantity::units(1)).to_string(), "999");
        assert_eq!(Quantity::parse("1500m").unwrap().approximate(), 1.5);
    }

    #[test]
    fn values() {
        assert_eq!(Quantity::parse("1Gi").unwrap().value(), 1 << 30);
        assert_eq!(Quantity::parse("250m").unwrap().milli(), 250);
        assert_eq!(Quantity::parse("250m").unwrap().value(), 1);
        assert!(Quantity::parse("1Ki").unwrap() > Quantity::parse("1k").unwrap());
    }
}
