//! `ReplicaSet`.

use k8s_openapi::api::apps::v1::ReplicaSet;
use serde_json::json;

use super::selected;
use crate::{
    columns::selector,
    core::{
        pod_template::{self, template_labels},
        replication_controller::replicas,
    },
    field::{Errors, Field},
    resource::Resource,
    selectable::Selectable,
    subresource::Subresource,
};

pub(crate) fn resource() -> Resource {
    Resource::kubernetes::<ReplicaSet>("replicasets")
        .short_names(&["rs"])
        .categories(&["all"])
        .subresources([Subresource::status(), Subresource::usual_scale()])
        .columns(replicas(selector()))
        .selectable([Selectable::field("status.replicas").or("0")])
        .defaults(template_labels)
        .counts_changes()
        .first_status(|_| json!({"replicas": 0}))
        .check(check)
        .on_write(pod_template::unambiguous)
        .immutable(&[&["spec", "selector"]])
}

pub(crate) fn check(set: &Field<'_>, errors: &mut Errors) {
    let spec = set.get("spec");
    spec.get("replicas").non_negative(errors);
    spec.get("minReadySeconds").non_negative(errors);
    selected(&spec, "deployment", "invalid label selector", errors);
    pod_template::of_service(&spec.get("template"), "ReplicaSet", errors);
}
