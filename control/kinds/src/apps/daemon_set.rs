//! `DaemonSet`.

use k8s_openapi::api::apps::v1::DaemonSet;
use serde_json::json;

use super::strategy;
use crate::{
    columns::{Cell, at, between, column, containers, integer, labels, selector},
    core::pod_template::{self, template_labels},
    field::{Errors, Field, shown},
    resource::Resource,
    selector,
    subresource::Subresource,
};

pub(crate) fn resource() -> Resource {
    Resource::kubernetes::<DaemonSet>("daemonsets")
        .short_names(&["ds"])
        .categories(&["all"])
        .subresources([Subresource::status()])
        .columns(between([
        integer("Desired", "status.desiredNumberScheduled"),
        integer("Current", "status.currentNumberScheduled"),
        integer("Ready", "status.numberReady"),
        integer("Up-to-date", "status.updatedNumberScheduled"),
        integer("Available", "status.numberAvailable"),
        column("Node Selector", Cell::Of(|o| labels(at(o, "spec.template.spec.nodeSelector")))),
    ])
    .into_iter()
    .chain(containers())
    .chain([selector()])
    .collect())
        .defaults(template_labels)
        .counts_changes()
        .first_status(|_| {
            json!({"currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0})
        })
        .check(check)
        .on_write(pod_template::unambiguous)
        .immutable(&[&["spec", "selector"]])
        .change_first()
}

pub(crate) fn check(set: &Field<'_>, errors: &mut Errors) {
    let spec = set.get("spec");
    let (selector, template) = (spec.get("selector"), spec.get("template"));
    selector::check(&selector, errors);
    // Without a selector nothing is selected.
    let labels = template.walk(["metadata", "labels"]);
    if selector::matches(&selector, labels.value) == Some(false) {
        labels.invalid(errors, "`selector` does not match template `labels`");
    }
    if selector.is_set() && selector::is_empty(&selector) {
        selector.invalid_as(errors, selector::shown(&selector), "empty selector is invalid for daemonset");
    }
    pod_template::check(&template, errors);
    pod_template::of_service(&template, "DaemonSet", errors);
    spec.get("minReadySeconds").non_negative(errors);
    let update = spec.get("updateStrategy");
    let (kind, rolling) = (update.get("type"), update.get("rollingUpdate"));
    match kind.text() {
        "OnDelete" => {}
        "RollingUpdate" if rolling.is_set() => strategy::rolling_on_nodes(&rolling, errors),
        "RollingUpdate" => rolling.required(errors, ""),
        _ => {
            let internal = format!("{{\"Type\":{},\"RollingUpdate\":null}}", shown(&kind.text().into()));
            update.not_supported_as(errors, internal, &["RollingUpdate", "OnDelete"]);
        }
    }
    spec.get("revisionHistoryLimit").non_negative(errors);
}
