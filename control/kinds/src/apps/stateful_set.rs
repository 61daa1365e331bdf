//! `StatefulSet`.

use k8s_openapi::api::apps::v1::StatefulSet;
use serde_json::{Value, json};

use super::{selected, strategy};
use crate::{
    columns::{Cell, between, column, containers, ratio},
    core::{persistent_volume_claim, pod_template},
    field::{Errors, Field, same, shown},
    format,
    resource::Resource,
    subresource::Subresource,
};

pub(crate) fn resource() -> Resource {
    Resource::kubernetes::<StatefulSet>("statefulsets")
        .short_names(&["sts"])
        .categories(&["all"])
        .subresources([Subresource::status(), Subresource::usual_scale()])
        .columns(
            between([column("Ready", Cell::Of(|o| ratio(o, "status.readyReplicas", "spec.replicas")))])
                .into_iter()
                .chain(containers())
                .collect(),
        )
        // Names of its pods, which have them as labels, begin with it.
        .names(format::label)
        .counts_changes()
        .first_status(|_| json!({"replicas": 0, "availableReplicas": 0}))
        .check(check)
        .on_write(pod_template::unambiguous)
        .on_update(update)
}

/// Fields of the spec that may change.
const MUTABLE: &[&str] = &[
    "replicas",
    "template",
    "updateStrategy",
    "minReadySeconds",
    "ordinals",
    "persistentVolumeClaimRetentionPolicy",
    "revisionHistoryLimit",
];

pub(crate) fn check(set: &Field<'_>, errors: &mut Errors) {
    let spec = set.get("spec");
    let management = spec.get("podManagementPolicy");
    match management.text() {
        "" => management.required(errors, ""),
        "OrderedReady" | "Parallel" => {}
        _ => management.invalid(errors, "must be 'OrderedReady' or 'Parallel'"),
    }
    update_strategy(&spec.get("updateStrategy"), errors);
    let retention = spec.get("persistentVolumeClaimRetentionPolicy");
    for name in ["whenDeleted", "whenScaled"] {
        retention.get(name).optional_one_of(errors, &["Retain", "Delete"]);
    }
    spec.get("replicas").non_negative(errors);
    spec.get("minReadySeconds").non_negative(errors);
    spec.walk(["ordinals", "start"]).non_negative(errors);
    for claim in spec.get("volumeClaimTemplates").items() {
        // Of one without a name the volume that it becomes is wrong.
        claim.walk(["metadata", "name"]).optional_text(errors, format::label);
        persistent_volume_claim::spec(&claim.get("spec"), errors);
    }
    spec.get("serviceName").optional_text(errors, format::label);
    // Volumes of its claims are each pod's own: the template's containers mount them by the claims' names.
    let whole = with_claims(&spec);
    selected(&Field::at(&whole, spec.path.clone()), "statefulset", "", errors);
    pod_template::of_service(&spec.get("template"), "StatefulSet", errors);
}

fn update_strategy(update: &Field<'_>, errors: &mut Errors) {
    let rolling = update.get("rollingUpdate");
    match update.get("type").text() {
        "" => update.required(errors, ""),
        "OnDelete" if rolling.is_set() => {
            let part = |name: &'static str| shown(rolling.get(name).value);
            let internal =
                format!("{{\"Partition\":{},\"MaxUnavailable\":{}}}", part("partition"), part("maxUnavailable"));
            rolling.invalid_as(errors, internal, "only allowed for updateStrategy 'RollingUpdate'");
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            rolling.get("partition").non_negative(errors);
            let missing = rolling.get("maxUnavailable");
            if missing.is_set() {
                strategy::number_or_percent(&missing, errors);
                if strategy::is_zero(&missing) {
                    missing.invalid(errors, "cannot be 0");
                }
            }
        }
        other => {
            let internal = format!("{{\"Type\":{},\"RollingUpdate\":null}}", shown(&other.into()));
            update.invalid_as(errors, internal, "must be 'RollingUpdate' or 'OnDelete'");
        }
    }
}

/// The spec with a volume for each claim in its template, in place of one of that name.
fn with_claims(spec: &Field<'_>) -> Value {
    let mut whole = spec.value.clone();
    let claims = spec.get("volumeClaimTemplates");
    let names: Vec<&str> = claims.items().map(|claim| claim.walk(["metadata", "name"]).text()).collect();
    if names.is_empty() {
        return whole;
    }
    let Some(pod) = whole.pointer_mut("/template/spec").and_then(Value::as_object_mut) else { return whole };
    let volumes = pod.entry("volumes").or_insert(Value::Null);
    if volumes.is_null() {
        *volumes = json!([]);
    }
    if let Some(list) = volumes.as_array_mut() {
        let is_claim = |volume: &Value| volume.get("name").and_then(Value::as_str).is_some_and(|n| names.contains(&n));
        list.retain(|volume| !is_claim(volume));
        for name in names.iter().filter(|name| name.is_empty() || format::label(name).is_empty()) {
            list.push(json!({"name": name, "persistentVolumeClaim": {"claimName": name}}));
        }
    }
    whole
}

pub(crate) fn update(set: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    let rest = |set: &Field<'_>| {
        let mut spec = set.get("spec").value.clone();
        if let Some(fields) = spec.as_object_mut() {
            MUTABLE.iter().for_each(|name| drop(fields.remove(*name)));
        }
        // Clients leave out the status that defaulting gives to the templates of claims.
        for claim in spec.get_mut("volumeClaimTemplates").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(fields) = claim.as_object_mut() {
                fields.remove("status");
            }
        }
        spec
    };
    if !same(&rest(set), &rest(old)) {
        let why = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
        set.get("spec").change_forbidden(errors, why);
    }
}
