//! `Deployment`.

use k8s_openapi::api::apps::v1::Deployment;
use serde_json::json;

use super::{selected, strategy};
use crate::{
    columns::{Cell, between, column, containers, number_at, ratio, selector},
    core::pod_template,
    field::{Errors, Field, shown},
    resource::Resource,
    subresource::Subresource,
};

pub(crate) fn resource() -> Resource {
    Resource::kubernetes::<Deployment>("deployments")
        .short_names(&["deploy"])
        .categories(&["all"])
        .subresources([Subresource::status(), Subresource::usual_scale()])
        .columns(
            between([
                column("Ready", Cell::Of(|o| ratio(o, "status.readyReplicas", "spec.replicas"))),
                column("Up-to-date", number_at("status.updatedReplicas")),
                column("Available", number_at("status.availableReplicas")),
            ])
            .into_iter()
            .chain(containers())
            .chain([selector()])
            .collect(),
        )
        .counts_changes()
        .first_status(|_| json!({}))
        .check(check)
        .on_write(pod_template::unambiguous)
        .immutable(&[&["spec", "selector"]])
}

pub(crate) fn check(deployment: &Field<'_>, errors: &mut Errors) {
    let spec = deployment.get("spec");
    spec.get("replicas").non_negative(errors);
    selected(&spec, "deployment", "invalid label selector", errors);
    pod_template::of_service(&spec.get("template"), "ReplicaSet", errors);
    let strategy = spec.get("strategy");
    let (kind, rolling) = (strategy.get("type"), strategy.get("rollingUpdate"));
    match kind.text() {
        "Recreate" if rolling.is_set() => {
            rolling.forbidden(errors, "may not be specified when strategy `type` is 'Recreate'");
        }
        "Recreate" => {}
        "RollingUpdate" if rolling.is_set() => strategy::rolling(&rolling, errors),
        "RollingUpdate" => rolling.required(errors, "this should be defaulted and never be nil"),
        _ => {
            let rolling = if rolling.is_set() { rolling_shown(&rolling) } else { "null".to_owned() };
            let internal = format!("{{\"Type\":{},\"RollingUpdate\":{rolling}}}", shown(&kind.text().into()));
            strategy.not_supported_as(errors, internal, &["Recreate", "RollingUpdate"]);
        }
    }
    let (progress, ready) = (spec.get("progressDeadlineSeconds"), spec.get("minReadySeconds"));
    ready.non_negative(errors);
    spec.get("revisionHistoryLimit").non_negative(errors);
    progress.non_negative(errors);
    if progress.int().is_some_and(|seconds| seconds <= ready.int().unwrap_or(0)) {
        progress.invalid(errors, "must be greater than minReadySeconds");
    }
}

/// Upstream's own type of a rolling update as it is printed.
fn rolling_shown(rolling: &Field<'_>) -> String {
    let part = |name: &'static str| match rolling.get(name) {
        field if field.is_set() => shown(field.value),
        _ => "0".to_owned(),
    };
    format!("{{\"MaxUnavailable\":{},\"MaxSurge\":{}}}", part("maxUnavailable"), part("maxSurge"))
}
