//! `ControllerRevision`: a snapshot of a template, which does not change.

use k8s_openapi::api::apps::v1::ControllerRevision;

use crate::{
    field::{Errors, Field},
    resource::Resource,
};

pub(crate) fn resource() -> Resource {
    Resource::kubernetes::<ControllerRevision>("controllerrevisions").check(check).on_update(update)
}

pub(crate) fn check(revision: &Field<'_>, errors: &mut Errors) {
    if !revision.get("data").is_set() {
        revision.get("data").required(errors, "data is mandatory");
    }
    revision.get("revision").non_negative(errors);
}

pub(crate) fn update(revision: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    revision.get("data").kept(errors, &old.get("data"));
}
