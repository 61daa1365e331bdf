//! The group `autoscaling`.

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;

use crate::{
    field::{Errors, Field},
    format,
    resource::Resource,
    subresource::Subresource,
};

pub(crate) fn resources() -> Vec<Resource> {
    let autoscaler = Resource::kubernetes::<HorizontalPodAutoscaler>("horizontalpodautoscalers")
        .short_names(&["hpa"])
        .categories(&["all"])
        .subresources(&[Subresource::Status])
        .check(check);
    vec![autoscaler]
}

/// `HorizontalPodAutoscaler`.
pub(crate) fn check(autoscaler: &Field<'_>, errors: &mut Errors) {
    let spec = autoscaler.get("spec");
    let (min, max) = (spec.get("minReplicas"), spec.get("maxReplicas"));
    let most = max.int().unwrap_or(0);
    if min.int().is_some_and(|least| least < 1) {
        min.invalid(errors, "must be greater than or equal to 1");
    }
    if most < 1 {
        max.required(errors, "must be set and greater than 0");
    }
    if min.int().is_some_and(|least| most < least) {
        max.invalid_as(errors, most.to_string(), "must be greater than or equal to `minReplicas`");
    }
    target(&spec.get("scaleTargetRef"), errors);
}

/// What is scaled: kind and name are segments of a path, and there is a group.
fn target(target: &Field<'_>, errors: &mut Errors) {
    target.get("kind").required_text(errors, format::path_segment);
    target.get("name").required_text(errors, format::path_segment);
    let version = target.get("apiVersion");
    let legacy = version.text() == "v1" && target.get("kind").text() == "ReplicationController";
    match version.text().split('/').collect::<Vec<_>>().as_slice() {
        [group, version] if !group.is_empty() && !version.is_empty() => {}
        [_] | [_, _] if legacy => {}
        [_] | [_, _] => version.invalid_text(errors, "apiVersion must specify API group"),
        _ => {
            let why = format!("unexpected GroupVersion string: {}", version.text());
            version.invalid_text(errors, why);
        }
    }
}
