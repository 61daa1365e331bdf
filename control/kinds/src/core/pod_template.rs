//! Templates of pods: `PodTemplate`, and the `template` of every workload.

use hypernetes_schema::walk::{self, child};
use k8s_openapi::api::core::v1::PodTemplate;
use serde_json::{Map, Value};

use super::pod_spec;
use crate::{
    columns::{Cell, at, column, labels, name, of_containers},
    field::{Errors, Field},
    meta,
    resource::Resource,
    selector,
};

pub(crate) fn resource() -> Resource {
    Resource::kubernetes::<PodTemplate>("podtemplates")
        .columns(vec![
            name(),
            column("Containers", Cell::Of(|o| of_containers(o, "template", "name"))),
            column("Images", Cell::Of(|o| of_containers(o, "template", "image"))),
            column("Pod Labels", Cell::Of(|o| labels(at(o, "template.metadata.labels")))),
        ])
        .check(object)
        .on_write(|object, errors| pod_spec::unambiguous(&object.walk(["template", "spec"]), errors))
}

/// The object `PodTemplate`.
pub(crate) fn object(object: &Field<'_>, errors: &mut Errors) {
    check(&object.get("template"), errors);
}

/// A template of a workload.
pub(crate) fn check(template: &Field<'_>, errors: &mut Errors) {
    // Upstream's paths of a template's labels and annotations leave `metadata` out.
    let at = |name: &'static str| Field::at(template.walk(["metadata", name]).value, template.path.child(name));
    meta::labels(&at("labels"), errors);
    meta::annotations(&at("annotations"), errors);
    pod_spec::check(&template.get("spec"), "", errors);
    let ephemeral = template.walk(["spec", "ephemeralContainers"]);
    if !ephemeral.is_empty() {
        ephemeral.forbidden(errors, "ephemeral containers not allowed in pod template");
    }
}

/// Addresses in a workload's template as they should be written.
pub(crate) fn unambiguous(workload: &Field<'_>, errors: &mut Errors) {
    pod_spec::unambiguous(&workload.walk(["spec", "template", "spec"]), errors);
}

/// An error when a workload would not find the pods that it makes.
pub(crate) fn selected(template: &Field<'_>, selector: &Field<'_>, errors: &mut Errors) {
    let labels = template.walk(["metadata", "labels"]);
    let everything = selector.is_set() && selector::is_empty(selector);
    if !everything && selector::matches(selector, labels.value) == Some(false) {
        labels.invalid(errors, "`selector` does not match template `labels`");
    }
}

/// A template of pods that go on for ever.
pub(crate) fn of_service(template: &Field<'_>, kind: &str, errors: &mut Errors) {
    let spec = template.get("spec");
    if !spec.is_set() {
        return;
    }
    let policy = spec.get("restartPolicy");
    if policy.text() != "Always" {
        policy.not_supported(errors, &["Always"]);
    }
    let deadline = spec.get("activeDeadlineSeconds");
    if *deadline.value != Value::Null {
        deadline.forbidden(errors, format!("activeDeadlineSeconds in {kind} is not Supported"));
    }
}

/// Some workloads take their labels from the template of their pods when they have none.
pub(crate) fn template_labels(object: &mut Map<String, Value>) {
    let labels = object.get("spec").and_then(|spec| walk::get(spec, "template.metadata.labels")).cloned();
    if let Some(labels @ Value::Object(_)) = labels {
        let metadata = child(object, "metadata");
        if metadata.get("labels").and_then(Value::as_object).is_none_or(Map::is_empty) {
            metadata.insert("labels".into(), labels);
        }
    }
}
