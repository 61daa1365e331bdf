//! `ControllerRevision`: a snapshot of a template, which does not change.

use k8s_openapi::api::apps::v1::ControllerRevision;
use serde_json::Value;

use crate::{
    columns::{Cell, between, column, list, number_at, text},
    field::{Errors, Field},
    resource::Resource,
};

pub(crate) fn resource() -> Resource {
    Resource::kubernetes::<ControllerRevision>("controllerrevisions")
        .columns(between([column("Controller", Cell::Of(controller)), column("Revision", number_at("revision"))]))
        .check(check)
        .on_update(update)
}

pub(crate) fn check(revision: &Field<'_>, errors: &mut Errors) {
    revision.get("revision").non_negative(errors);
    if !revision.get("data").is_set() {
        revision.get("data").required(errors, "data is mandatory");
    }
}

pub(crate) fn update(revision: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    revision.get("data").kept(errors, &old.get("data"));
}

fn controller(revision: &Value) -> Value {
    let Some(owner) = list(revision, "metadata.ownerReferences").find(|owner| owner["controller"] == true) else {
        return "<none>".into();
    };
    let (kind, name) = (text(owner, "kind").to_lowercase(), text(owner, "name"));
    match text(owner, "apiVersion").split_once('/') {
        Some((group, _)) => format!("{kind}.{group}/{name}").into(),
        None => format!("{kind}/{name}").into(),
    }
}
