//! `meta.v1.Condition`: what an object says is so.

use std::collections::HashSet;

use crate::{
    field::{Errors, Field},
    format,
};

const MAX_REASON: usize = 1024;
const MAX_MESSAGE: usize = 32 * 1024;

/// What is wrong with a list of conditions.
pub(crate) fn check(list: &Field<'_>, errors: &mut Errors) {
    let mut types = HashSet::new();
    for condition in list.items() {
        let kind = condition.get("type");
        if !types.insert(kind.text()) {
            kind.duplicate(errors);
        }
        kind.faulty(errors, format::qualified_name(kind.text()));
        condition.get("status").one_of(errors, &["False", "True", "Unknown"]);
        let generation = condition.get("observedGeneration");
        if generation.int().is_some_and(i64::is_negative) {
            generation.invalid(errors, "must be greater than or equal to zero");
        }
        condition.get("lastTransitionTime").not_empty(errors);
        let (reason, message) = (condition.get("reason"), condition.get("message"));
        reason.required_text(errors, format::reason);
        if reason.text().len() > MAX_REASON {
            reason.too_long(errors, MAX_REASON);
        }
        if message.text().len() > MAX_MESSAGE {
            message.too_long(errors, MAX_MESSAGE);
        }
    }
}
