//! `ReplicationController`.

use hypernetes_schema::walk;
use k8s_openapi::api::core::v1::ReplicationController;
use serde_json::{Map, Value, json};

use super::pod_template::{self, template_labels};
use crate::{
    columns::{Cell, Column, at, between, containers, integer, labels, wide},
    field::{Errors, Field},
    resource::Resource,
    scale::{PodSelector, Scale},
    selectable::Selectable,
    subresource::Subresource,
};

pub(crate) fn resource() -> Resource {
    let scale = Scale::usual(PodSelector::Labels("spec.selector".into()));
    Resource::kubernetes::<ReplicationController>("replicationcontrollers")
        .short_names(&["rc"])
        .categories(&["all"])
        .subresources([Subresource::status(), Subresource::scale(scale)])
        .columns(replicas(wide("Selector", Cell::Of(|o| labels(at(o, "spec.selector"))))))
        .defaults(labels_of_template)
        .selectable([Selectable::field("status.replicas").or("0")])
        .counts_changes()
        .first_status(|_| json!({"replicas": 0}))
        .check(check)
        .on_write(pod_template::unambiguous)
}

/// Labels and selector, where there are none, are the template's labels.
fn labels_of_template(controller: &mut Map<String, Value>) {
    template_labels(controller);
    let Some(spec) = controller.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let labels = spec.get("template").and_then(|template| walk::get(template, "metadata.labels")).cloned();
    if let Some(labels @ Value::Object(_)) = labels
        && spec.get("selector").and_then(Value::as_object).is_none_or(Map::is_empty)
    {
        spec.insert("selector".into(), labels);
    }
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
