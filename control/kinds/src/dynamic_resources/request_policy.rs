//! How much of a device's capacity can be asked for at once.

use hypernetes_schema::quantity::Quantity;

use super::devices::set;
use crate::{
    core::resources,
    field::{Errors, Field, quote},
};

const MAX_OPTIONS: usize = 10;

pub(super) fn check(policy: &Field<'_>, capacity: &Field<'_>, errors: &mut Errors) {
    let (values, range, default) = (policy.get("validValues"), policy.get("validRange"), policy.get("default"));
    let Some(capacity) = resources::quantity(capacity.value) else { return };
    match (!values.is_empty(), range.is_set()) {
        (true, true) => {
            let why = "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time";
            policy.forbidden(errors, why);
        }
        (true, false) => match resources::quantity(default.value) {
            None => default.required(errors, "required when validValues is defined"),
            Some(default) => one_of(&values, capacity, default, errors),
        },
        (false, true) => match resources::quantity(default.value) {
            None => default.required(errors, "required when validRange is defined"),
            Some(default) => within(&range, capacity, default, errors),
        },
        (false, false) => {}
    }
}

fn one_of(values: &Field<'_>, capacity: Quantity, default: Quantity, errors: &mut Errors) {
    let amounts: Vec<Quantity> = values.items().filter_map(|value| resources::quantity(value.value)).collect();
    for (place, pair) in amounts.windows(2).enumerate() {
        if let [before, after] = pair
            && before > after
            && let Some(value) = values.items().nth(place + 1)
        {
            value.invalid_quoted(errors, &after.to_string(), "values must be sorted in ascending order");
        }
    }
    // Upstream compares whole numbers.
    let key = |value: &Field<'_>| quote(&resources::quantity(value.value).map_or(0, Quantity::value).to_string());
    set(
        values,
        MAX_OPTIONS,
        key,
        |value, errors| {
            if let Some(amount) = resources::quantity(value.value).filter(|amount| *amount > capacity) {
                let why = format!("option is larger than capacity value: {capacity}");
                value.invalid_quoted(errors, &amount.to_string(), why);
            }
        },
        errors,
    );
    if values.len() > MAX_OPTIONS || !amounts.contains(&default) {
        let why = "default value is not valid according to the requestPolicy";
        values.invalid_quoted(errors, &default.to_string(), why);
    }
}

fn within(range: &Field<'_>, capacity: Quantity, default: Quantity, errors: &mut Errors) {
    let [min, max, step] =
        ["min", "max", "step"].map(|name| (range.get(name), resources::quantity(range.get(name).value)));
    let ((min_field, min), (max_field, max), (step_field, step)) = (min, max, step);
    let Some(min) = min else { return min_field.required(errors, "required when validRange is defined") };
    let say = |field: &Field<'_>, shown: Quantity, why: String, errors: &mut Errors| {
        field.invalid_quoted(errors, &shown.to_string(), why);
    };
    if min > capacity {
        say(&min_field, min, format!("min is larger than capacity value: {capacity}"), errors);
    }
    if default < min {
        say(&min_field, default, format!("default is less than min: {min}"), errors);
    }
    if let Some(max) = max {
        if min > max {
            say(&max_field, min, format!("min is larger than max: {max}"), errors);
        }
        if max > capacity {
            say(&max_field, max, format!("max is larger than capacity value: {capacity}"), errors);
        }
        if default > max {
            say(&max_field, default, format!("default is more than max: {max}"), errors);
        }
    }
    let Some(step) = step else { return };
    if min + step > capacity {
        let why = format!("one step {} is larger than capacity value: {capacity}", min + step);
        say(&step_field, step, why, errors);
    }
    for amount in [Some(default), max].into_iter().flatten() {
        let above = amount.value().saturating_sub(min.value());
        // Upstream divides by whatever it is.
        if above.checked_rem(step.value()).is_none_or(|rest| rest != 0) {
            let why = format!("value is not a multiple of a given step ({step}) from ({min})");
            say(&step_field, amount, why, errors);
        }
    }
}
