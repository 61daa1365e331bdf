//! When an indexed job has succeeded before all of its indexes have.

use crate::field::{Errors, Field, quote, shown};

const MAX_RULES: usize = 20;

/// What is wrong with `successPolicy` of a job with so many completions.
pub(crate) fn check(policy: &Field<'_>, indexed: bool, completions: i64, errors: &mut Errors) {
    if !policy.is_set() {
        return;
    }
    let rules = policy.get("rules");
    if !indexed {
        return policy.invalid_as(errors, internal(&rules), "requires indexed completion mode");
    }
    if rules.is_empty() {
        return rules.required(errors, "at least one rules must be specified when the successPolicy is specified");
    }
    if rules.len() > MAX_RULES {
        return rules.too_many(errors, MAX_RULES);
    }
    for rule in rules.items() {
        let (indexes, count) = (rule.get("succeededIndexes"), rule.get("succeededCount"));
        if !indexes.is_set() && !count.is_set() {
            let why = "at least one of succeededCount or succeededIndexes must be specified";
            rule.required(errors, why);
            continue;
        }
        let mut listed = None;
        if indexes.is_set() {
            listed = Some(number_of(indexes.text(), completions).unwrap_or_else(|why| {
                indexes.invalid(errors, format!("error parsing succeededIndexes: {why}"));
                0
            }));
        }
        count.non_negative(errors);
        let Some(wanted) = count.int() else { continue };
        if wanted > completions {
            let why = format!("must be less than or equal to {completions} (the number of specified completions)");
            count.invalid(errors, why);
        }
        if let Some(listed) = listed.filter(|listed| wanted > *listed) {
            let what = "the number of indexes in the specified succeededIndexes field";
            count.invalid(errors, format!("must be less than or equal to {listed} ({what})"));
        }
    }
}

/// How many indexes a list has: numbers and ranges of them, each larger than what is before it.
fn number_of(list: &str, completions: i64) -> Result<i64, String> {
    if list.is_empty() {
        return Ok(0);
    }
    let (mut sum, mut last) = (0, None);
    let mut index = |text: &str| {
        let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(format!("cannot convert string to integer for index: {}", quote(text)));
        }
        let Some(index) = text.parse::<i64>().ok().filter(|index| *index < completions) else {
            return Err(format!("too large index: {}", quote(text)));
        };
        match last.replace(index) {
            Some(before) if before >= index => {
                Err(format!("non-increasing order, previous: {before}, current: {index}"))
            }
            _ => Ok(index),
        }
    };
    for part in list.split(',') {
        sum += match part.split('-').collect::<Vec<_>>().as_slice() {
            [one] => index(one).map(|_| 1)?,
            [first, last] => {
                let first = index(first)?;
                index(last)? - first + 1
            }
            _ => {
                let what = "violates the requirement that an index interval can have at most two parts";
                return Err(format!("the fragment {} {what} separated by '-'", quote(part)));
            }
        };
    }
    Ok(sum)
}

/// Upstream's own type of a policy as it is printed.
pub(crate) fn internal(rules: &Field<'_>) -> String {
    let rules = rules.items().map(|rule| {
        let part = |name: &'static str| shown(rule.get(name).value);
        format!("{{\"SucceededIndexes\":{},\"SucceededCount\":{}}}", part("succeededIndexes"), part("succeededCount"))
    });
    format!("{{\"Rules\":[{}]}}", rules.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::number_of;

    #[test]
    fn indexes_are_numbers_and_ranges_that_grow() {
        for (list, number) in [("", 0), ("0", 1), ("0,2-4", 4), ("00", 1)] {
            assert_eq!(number_of(list, 5), Ok(number), "{list}");
        }
        for bad in ["5", "3-1", "1,1", "1-1", "a", "1-", "-1", "1-2-3", ",", " 1", "9999999999999999999999"] {
            assert!(number_of(bad, 5).is_err(), "{bad}");
        }
    }
}
