//! `CSIDriver`.

use std::collections::HashSet;

use k8s_openapi::api::storage::v1::CSIDriver;
use serde_json::Value;

use crate::{
    columns::{Cell, between, boolean, column, list, or, text, texts},
    core::volume,
    field::{Errors, Field},
    resource::Resource,
};

pub(crate) fn resource() -> Resource {
    Resource::kubernetes::<CSIDriver>("csidrivers")
        .columns(between([
            column("AttachRequired", Cell::Of(|o| (o["spec"]["attachRequired"] != false).into())).kind("boolean"),
            boolean("PodInfoOnMount", "spec.podInfoOnMount"),
            boolean("StorageCapacity", "spec.storageCapacity"),
            column("TokenRequests", Cell::Of(token_requests)),
            boolean("RequiresRepublish", "spec.requiresRepublish"),
            column(
                "Modes",
                Cell::Of(|o| or(&texts(o, "spec.volumeLifecycleModes").collect::<Vec<_>>().join(","), "<none>")),
            ),
        ]))
        .check(check)
        .on_update(update)
}

fn token_requests(driver: &Value) -> Value {
    let audiences: Vec<&str> = list(driver, "spec.tokenRequests").map(|request| text(request, "audience")).collect();
    if audiences.is_empty() { "<unset>".into() } else { audiences.join(",").into() }
}

/// How often a node's number of volumes may be counted at most.
const LEAST_PERIOD_SECONDS: i64 = 10;
const MODES: &[&str] = &["Persistent", "Ephemeral"];

fn check(driver: &Field<'_>, errors: &mut Errors) {
    let spec = driver.get("spec");
    spec.get("fsGroupPolicy").optional_one_of(errors, &["File", "None", "ReadWriteOnceWithFSType"]);
    let mut audiences = HashSet::new();
    for token in spec.get("tokenRequests").items() {
        let audience = token.get("audience");
        if !audiences.insert(audience.text()) {
            audience.duplicate(errors);
        }
        volume::token_life(&token.get("expirationSeconds"), errors);
    }
    let secret = spec.get("serviceAccountTokenInSecrets");
    if secret.is_set() && spec.get("tokenRequests").is_empty() {
        secret.invalid(errors, "serviceAccountTokenInSecrets is set but no tokenRequests are specified");
    }
    let modes = spec.get("volumeLifecycleModes");
    for mode in modes.items().filter(|mode| !MODES.contains(&mode.text())) {
        // Upstream's path is the list's.
        Field::at(mode.value, modes.path.clone()).not_supported(errors, MODES);
    }
    let period = spec.get("nodeAllocatableUpdatePeriodSeconds");
    if period.int().is_some_and(|seconds| seconds < LEAST_PERIOD_SECONDS) {
        period.invalid(errors, format!("must be greater than or equal to {LEAST_PERIOD_SECONDS} seconds"));
    }
}

fn update(driver: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    let (spec, before) = (driver.get("spec"), old.get("spec"));
    // Upstream's path has another name.
    let attach = Field::at(spec.get("attachRequired").value, spec.path.child("attachedRequired"));
    attach.kept(errors, &before.get("attachRequired"));
    spec.get("volumeLifecycleModes").kept(errors, &before.get("volumeLifecycleModes"));
}
