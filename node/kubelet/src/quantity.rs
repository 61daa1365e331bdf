//! Amounts of resources, exact: what a pod asks for and may use at most.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

/// Steps of one unit: Kubernetes knows none finer than ten to the minus ninth.
const NANO: i128 = 1_000_000_000;
const MILLI: i128 = NANO / 1000;
/// Kubernetes caps quantities at the largest int64.
const MAX: i128 = i64::MAX as i128 * NANO;
/// Longest text that is looked at.
const MAX_LENGTH: usize = 128;

/// An amount that is not negative.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount(i128);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAmount {
    #[error("must be a quantity: a number with a suffix of Ki to Ei, or of n to E, or with a decimal exponent")]
    Form,
    /// In upstream's words.
    #[error("must be greater than or equal to 0")]
    Negative,
}

impl Amount {
    /// # Errors
    /// For what is no quantity, or a negative one.
    pub fn parse(text: &str) -> Result<Self, InvalidAmount> {
        let text = text.trim();
        if text.len() > MAX_LENGTH || !text.is_ascii() {
            return Err(InvalidAmount::Form);
        }
        let (negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, suffix) = text.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(InvalidAmount::Form);
        }
        let nanos = magnitude(whole, fraction, Scale::of(suffix).ok_or(InvalidAmount::Form)?);
        if negative && nanos > 0 { Err(InvalidAmount::Negative) } else { Ok(Self(nanos)) }
    }

    /// The amount of a resource in a list; none where it is not named.
    ///
    /// # Errors
    /// As [`Amount::parse`].
    pub fn of(list: Option<&BTreeMap<String, Text>>, resource: &str) -> Result<Option<Self>, InvalidAmount> {
        list.and_then(|list| list.get(resource)).map(|text| Self::parse(&text.0)).transpose()
    }

    /// Whole units (bytes), rounded up.
    pub fn units(self) -> i64 {
        i64::try_from((self.0 + NANO - 1) / NANO).unwrap_or(i64::MAX)
    }

    /// Thousandths (of a processor), rounded up.
    pub fn millis(self) -> i64 {
        i64::try_from((self.0 + MILLI - 1) / MILLI).unwrap_or(i64::MAX)
    }

    pub fn from_units(units: u64) -> Self {
        Self((i128::from(units) * NANO).min(MAX))
    }

    /// Stays at the largest quantity that there is.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self((self.0 + other.0).min(MAX))
    }
}

/// What a number is multiplied with: `factor` nano-units times ten to the power of `exponent`.
#[derive(Clone, Copy)]
struct Scale {
    factor: i128,
    exponent: i32,
}

impl Scale {
    fn of(suffix: &str) -> Option<Self> {
        let decimal = |exponent| Some(Self { factor: NANO, exponent });
        let binary = |power: u32| Some(Self { factor: NANO << (10 * power), exponent: 0 });
        match suffix {
            "n" => decimal(-9),
            "u" => decimal(-6),
            "m" => decimal(-3),
            "" => decimal(0),
            "k" => decimal(3),
            "M" => decimal(6),
            "G" => decimal(9),
            "T" => decimal(12),
            "P" => decimal(15),
            "E" => decimal(18),
            "Ki" => binary(1),
            "Mi" => binary(2),
            "Gi" => binary(3),
            "Ti" => binary(4),
            "Pi" => binary(5),
            "Ei" => binary(6),
            _ => decimal(suffix.strip_prefix(['e', 'E'])?.parse::<i16>().ok()?.into()),
        }
    }
}

/// In nano-units, rounded up, at most the largest.
fn magnitude(whole: &str, fraction: &str, scale: Scale) -> i128 {
    let mut digits: Vec<i128> = whole.bytes().chain(fraction.bytes()).map(|b| i128::from(b - b'0')).collect();
    // The place of the last digit, as a power of ten.
    let mut exponent = scale.exponent - i32::try_from(fraction.len()).unwrap_or(i32::MAX / 2);
    while digits.len() > 1 && digits.last() == Some(&0) {
        digits.pop();
        exponent += 1;
    }
    let mut value: i128 = 0;
    for digit in digits {
        // Past this the amount is the largest anyway, unless the exponent takes it down again.
        value = match value.checked_mul(10).and_then(|value| value.checked_add(digit)) {
            Some(value) => value,
            None => return if exponent < -30 { 1 } else { MAX },
        };
    }
    if value == 0 {
        return 0;
    }
    let Some(mut value) = value.checked_mul(scale.factor) else {
        // Too many digits for the product: those that make no difference go.
        let shrunk = value / 1_000_000_000_000 + 1;
        return shrunk.checked_mul(scale.factor).map_or(MAX, |value| raised(value, exponent + 12));
    };
    value = raised(value, exponent);
    value
}

fn raised(mut value: i128, mut exponent: i32) -> i128 {
    while exponent > 0 {
        value = match value.checked_mul(10) {
            Some(value) if value < MAX => value,
            _ => return MAX,
        };
        exponent -= 1;
    }
    while exponent < 0 && value > 1 {
        value = (value + 9) / 10;
        exponent += 1;
    }
    value.min(MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn amounts_are_exact() {
        for (text, nanos) in [
            ("0", 0),
            ("-0", 0),
            ("1", NANO),
            ("+1", NANO),
            ("1500m", 1_500_000_000),
            ("0.1", 100_000_000),
            (".5", 500_000_000),
            ("5.", 5 * NANO),
            ("1n", 1),
            ("0.1n", 1),
            ("64Mi", (64 << 20) * NANO),
            ("1.5Gi", (3 << 29) * NANO),
            ("9007199254740993", 9_007_199_254_740_993 * NANO),
            ("1e3", 1000 * NANO),
            ("1E", 1_000_000_000_000_000_000 * NANO),
            ("1E-3", NANO / 1000),
            ("8Ei", MAX),
            ("9999999999999999999999999999999999999999999999", MAX),
        ] {
            assert_eq!(Amount::parse(text), Ok(Amount(nanos)), "{text}");
        }
        assert_eq!(Amount::parse("1001u").unwrap().millis(), 2);
        assert_eq!(Amount::parse("1.1").unwrap().units(), 2);
        for text in ["-1", "-200Gi", "-1n"] {
            assert_eq!(Amount::parse(text), Err(InvalidAmount::Negative), "{text}");
        }
        for text in ["", "-", ".", "1.2.3", "x", "1x", "1 Gi", "--1", "1e", "1e999999", "NaN", "inf", "١"] {
            assert_eq!(Amount::parse(text), Err(InvalidAmount::Form), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_amount_or_an_error(text in "\\PC{0,12}|[-+]?[0-9.]{0,60}[eEinumkKMGTP]{0,2}[-+]?[0-9]{0,6}") {
            if let Ok(amount) = Amount::parse(&text) {
                prop_assert!((0..=MAX).contains(&amount.0));
                prop_assert!(amount.units() >= 0 && amount.millis() >= 0);
            }
        }
    }
}
