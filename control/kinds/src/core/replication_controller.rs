//! `ReplicationController`.

use super::pod_template;
use crate::field::{Errors, Field};

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
