//! Schedules in cron's notation: five fields, or a word like `@daily`.

use crate::field::quote;

/// A field's numbers, and names for some.
struct Bounds {
    least: u32,
    most: u32,
    names: &'static [&'static str],
}

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const FIELDS: [Bounds; 5] = [
    Bounds { least: 0, most: 59, names: &[] },
    Bounds { least: 0, most: 23, names: &[] },
    Bounds { least: 1, most: 31, names: &[] },
    Bounds { least: 1, most: 12, names: MONTHS },
    Bounds { least: 0, most: 6, names: DAYS },
];
const WORDS: &[&str] = &["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

/// What is wrong with a schedule, in the words of the library that upstream reads schedules with.
pub(crate) fn check(schedule: &str) -> Result<(), String> {
    let mut schedule = schedule;
    if schedule.starts_with("TZ=") || schedule.starts_with("CRON_TZ=") {
        schedule = schedule.split_once(' ').map_or("", |(_, rest)| rest.trim());
    }
    if schedule.starts_with('@') {
        return match schedule.strip_prefix("@every ") {
            Some(duration) if is_duration(duration) => Ok(()),
            Some(duration) => {
                Err(format!("failed to parse duration {schedule}: time: invalid duration {}", quote(duration)))
            }
            None if WORDS.contains(&schedule) => Ok(()),
            None => Err(format!("unrecognized descriptor: {schedule}")),
        };
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    fields.iter().zip(&FIELDS).try_for_each(|(field, bounds)| {
        field.split(',').filter(|range| !range.is_empty()).try_for_each(|range| check_range(range, bounds))
    })
}

fn check_range(range: &str, bounds: &Bounds) -> Result<(), String> {
    let (span, step) = match range.split_once('/') {
        None => (range, None),
        Some((_, step)) if step.contains('/') => return Err(format!("too many slashes: {range}")),
        Some((span, step)) => (span, Some(step)),
    };
    let parts: Vec<&str> = span.split('-').collect();
    let (start, mut end) = match parts.as_slice() {
        ["*" | "?"] => (bounds.least, bounds.most),
        [only] => {
            let number = number_or_name(only, bounds)?;
            (number, number)
        }
        [from, to] => (number_or_name(from, bounds)?, number_or_name(to, bounds)?),
        _ => return Err(format!("too many hyphens: {range}")),
    };
    if let Some(step) = step {
        if parts.len() == 1 {
            end = bounds.most;
        }
        if number(step)? == 0 {
            return Err(format!("step of range should be a positive number: {range}"));
        }
    }
    if start < bounds.least {
        return Err(format!("beginning of range ({start}) below minimum ({}): {range}", bounds.least));
    }
    if end > bounds.most {
        return Err(format!("end of range ({end}) above maximum ({}): {range}", bounds.most));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {range}"));
    }
    Ok(())
}

fn number_or_name(text: &str, bounds: &Bounds) -> Result<u32, String> {
    let mut names = (bounds.least..).zip(bounds.names);
    match names.find(|(_, name)| name.eq_ignore_ascii_case(text)) {
        Some((value, _)) => Ok(value),
        None => number(text),
    }
}

fn number(text: &str) -> Result<u32, String> {
    text.parse()
        .map_err(|_| format!("failed to parse int from {text}: strconv.Atoi: parsing {}: invalid syntax", quote(text)))
}

/// `1h30m`: numbers with units.
fn is_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, unit) = rest.split_at(digits);
        let units = ["ns", "us", "µs", "ms", "s", "m", "h"];
        let unit = units.iter().filter(|known| unit.starts_with(**known)).map(|known| known.len()).max();
        match unit {
            Some(length) if number.parse::<f64>().is_ok() => rest = &rest[digits + length..],
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn schedules() {
        for good in ["* * * * *", "*/5 0-6,12 1 jan-mar MON", "@daily", "@every 1h30m", "0 0 1 1 ?", "5/10 * * * *"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("", "expected exactly 5 fields, found 0: []"),
            ("* * *", "expected exactly 5 fields, found 3: [* * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("5-2 * * * *", "beginning of range (5) beyond end of range (2): 5-2"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("a * * * *", "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax"),
            ("@sometimes", "unrecognized descriptor: @sometimes"),
        ] {
            assert_eq!(check(bad), Err(why.to_owned()), "{bad}");
        }
        assert!(check("@every x").is_err() && check("99999999999999999999 * * * *").is_err());
    }
}
