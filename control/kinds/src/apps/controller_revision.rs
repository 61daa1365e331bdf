//! `ControllerRevision`: a snapshot of a template, which does not change.

use crate::field::{Errors, Field};

pub(crate) fn check(revision: &Field<'_>, errors: &mut Errors) {
    if !revision.get("data").is_set() {
        revision.get("data").required(errors, "data is mandatory");
    }
    revision.get("revision").non_negative(errors);
}

pub(crate) fn update(revision: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    revision.get("data").kept(errors, &old.get("data"));
}
