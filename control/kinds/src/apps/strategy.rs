//! How many pods may be missing or too many while others take their place.

use serde_json::Value;

use crate::{
    field::{Errors, Field},
    format,
};

/// A number, or a part of the wanted number: `25%`.
pub(crate) fn number_or_percent(field: &Field<'_>, errors: &mut Errors) {
    match field.value {
        Value::String(text) => field.faulty(errors, format::percent(text)),
        _ => field.non_negative(errors),
    }
}

/// An error of more than all.
fn at_most_all(field: &Field<'_>, errors: &mut Errors) {
    let percent = field.text().strip_suffix('%').filter(|_| format::percent(field.text()).is_empty());
    if percent.is_some_and(|digits| digits.parse::<u64>().map_or(true, |part| part > 100)) {
        field.invalid(errors, "must not be greater than 100%");
    }
}

/// Zero, be it a number or a part; what is absent, or neither, is zero, too.
pub(crate) fn is_zero(field: &Field<'_>) -> bool {
    match field.value {
        Value::String(text) => text.strip_suffix('%').is_none_or(|digits| digits.parse::<u64>().unwrap_or(0) == 0),
        value => value.as_i64().unwrap_or(0) == 0,
    }
}

/// `rollingUpdate` of a deployment.
pub(crate) fn rolling(rolling: &Field<'_>, errors: &mut Errors) {
    let (missing, more) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
    number_or_percent(&missing, errors);
    number_or_percent(&more, errors);
    if is_zero(&missing) && is_zero(&more) {
        missing.invalid(errors, "may not be 0 when `maxSurge` is 0");
    }
    at_most_all(&missing, errors);
}

/// `rollingUpdate` of a daemon set: exactly one of the two is more than nothing.
pub(crate) fn rolling_on_nodes(rolling: &Field<'_>, errors: &mut Errors) {
    let (missing, more) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
    for field in [&missing, &more] {
        number_or_percent(field, errors);
        at_most_all(field, errors);
    }
    match (is_zero(&missing), is_zero(&more)) {
        (true, true) => missing.required(errors, "cannot be 0 when maxSurge is 0"),
        (false, false) => more.invalid(errors, "may not be set when maxUnavailable is non-zero"),
        _ => {}
    }
}
