//! `ReplicationController`.

use k8s_openapi::api::core::v1::ReplicationController;
use serde_json::json;

use super::pod_template;
use crate::{
    columns::{Cell, Column, at, between, containers, integer, labels, wide},
    field::{Errors, Field},
    resource::Resource,
    selectable::Selectable,
    subresource::Subresource,
};

pub(crate) fn resource() -> Resource {
    Resource::kubernetes::<ReplicationController>("replicationcontrollers")
        .short_names(&["rc"])
        .categories(&["all"])
        .subresources(&[Subresource::Status, Subresource::Scale])
        .columns(replicas(wide("Selector", Cell::Of(|o| labels(at(o, "spec.selector"))))))
        .selectable([Selectable::field("status.replicas").or("0")])
        .counts_changes()
        .first_status(|_| json!({"replicas": 0}))
        .check(check)
}

pub(crate) fn check(controller: &Field<'_>, errors: &mut Errors) {
    let spec = controller.get("spec");
    spec.get("minReadySeconds").non_negative(errors);
    let (selector, template) = (spec.get("selector"), spec.get("template"));
    selector.not_empty(errors);
    spec.get("replicas").non_negative(errors);
    if !template.is_set() {
        return template.required(errors, "");
    }
    let labels = template.walk(["metadata", "labels"]);
    if selector.entries().any(|(key, value)| labels.key(key).value != value.value) {
        labels.invalid(errors, "`selector` does not match template `labels`");
    }
    pod_template::check(&template, errors);
    pod_template::of_service(&template, "ReplicationController", errors);
}

/// The columns of what keeps a number of pods.
pub(crate) fn replicas(selector: Column) -> Vec<Column> {
    let counts = [
        integer("Desired", "spec.replicas"),
        integer("Current", "status.replicas"),
        integer("Ready", "status.readyReplicas"),
    ];
    between(counts).into_iter().chain(containers()).chain([selector]).collect()
}
