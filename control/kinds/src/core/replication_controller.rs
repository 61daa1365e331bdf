//! `ReplicationController`.

use k8s_openapi::api::core::v1::ReplicationController;

use super::pod_template;
use crate::{
    columns::{Cell, Column, age, column, containers, name, path_or, selector, wide},
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
        .columns(columns())
        .selectable([Selectable::field("status.replicas").or("0")])
        .counts_changes()
        .check(check)
}

/// Of what keeps a number of pods.
pub(crate) fn columns() -> Vec<Column> {
    vec![
        name(),
        column("Desired", path_or("spec.replicas", "0")),
        column("Current", path_or("status.replicas", "0")),
        column("Ready", path_or("status.readyReplicas", "0")),
        age(),
        wide("Containers", Cell::Of(|o| containers(o, "name"))),
        wide("Images", Cell::Of(|o| containers(o, "image"))),
        wide("Selector", Cell::Of(selector)),
    ]
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
