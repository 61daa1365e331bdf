//! `ValidatingWebhookConfiguration` and `MutatingWebhookConfiguration`: who is asked by HTTP.

use std::collections::HashSet;

use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};

use super::{
    REINVOCATION, check_failure_policy, client,
    expression::{check_amount, check_conditions},
    matching,
};
use crate::{
    columns::{Cell, between, column},
    field::{Errors, Field},
    format,
    resource::Resource,
    selector,
};

pub(super) fn resources() -> Vec<Resource> {
    let record = |resource: Resource| {
        let webhooks = column("Webhooks", Cell::Count("webhooks".into())).kind("integer");
        resource.columns(between([webhooks])).counts_changes().check(check)
    };
    vec![
        record(Resource::kubernetes::<ValidatingWebhookConfiguration>("validatingwebhookconfigurations")),
        record(Resource::kubernetes::<MutatingWebhookConfiguration>("mutatingwebhookconfigurations")),
    ]
}

/// Of one that is not called where a request changes nothing, or that has none.
const SIDE_EFFECTS: &[&str] = &["None", "NoneOnDryRun"];
/// Versions of `AdmissionReview` that are spoken here.
const VERSIONS: &[&str] = &["v1", "v1beta1"];
/// Labels of a domain that a webhook is called by.
const LEAST_LABELS: usize = 3;

fn check(configuration: &Field<'_>, errors: &mut Errors) {
    let webhooks = configuration.get("webhooks");
    if !check_amount(&webhooks, errors) {
        return;
    }
    let mut names = HashSet::new();
    for webhook in webhooks.items() {
        check_webhook(&webhook, errors);
        check_versions(&webhook.get("admissionReviewVersions"), errors);
        let name = webhook.get("name");
        if !name.is_empty() && !names.insert(name.text()) {
            name.duplicate(errors);
        }
    }
}

fn check_webhook(webhook: &Field<'_>, errors: &mut Errors) {
    check_name(&webhook.get("name"), errors);
    webhook.get("rules").items().for_each(|rule| matching::check_rule(&rule, errors));
    check_failure_policy(&webhook.get("failurePolicy"), errors);
    matching::check_policy(&webhook.get("matchPolicy"), errors);
    let effects = webhook.get("sideEffects");
    match effects.is_set() {
        true => effects.one_of(errors, SIDE_EFFECTS),
        false => effects.required(errors, &format!("must specify one of {}", SIDE_EFFECTS.join(", "))),
    }
    let timeout = webhook.get("timeoutSeconds");
    if timeout.int().is_some_and(|seconds| !(1..=30).contains(&seconds)) {
        timeout.invalid(errors, "the timeout value must be between 1 and 30 seconds");
    }
    selector::check(&webhook.get("namespaceSelector"), errors);
    selector::check(&webhook.get("objectSelector"), errors);
    webhook.get("reinvocationPolicy").optional_one_of(errors, REINVOCATION);
    client::check(&webhook.get("clientConfig"), errors);
    check_conditions(&webhook.get("matchConditions"), false, errors);
}

fn check_name(name: &Field<'_>, errors: &mut Errors) {
    let faults = format::subdomain(name.text());
    if name.is_empty() {
        name.required(errors, "");
    } else if !faults.is_empty() {
        name.invalid(errors, faults.join(","));
    } else if name.text().split('.').count() < LEAST_LABELS {
        name.invalid(errors, "should be a domain with at least three segments separated by dots");
    }
}

fn check_versions(versions: &Field<'_>, errors: &mut Errors) {
    if versions.is_empty() {
        return versions.required(errors, &format!("must specify one of {}", VERSIONS.join(", ")));
    }
    let mut seen = HashSet::new();
    for version in versions.items() {
        match seen.insert(version.text()) {
            true => version.faulty(errors, format::letter_label(version.text())),
            false => version.invalid(errors, "duplicate version"),
        }
    }
    if !VERSIONS.iter().any(|known| seen.contains(known)) {
        versions.invalid(errors, format!("must include at least one of {}", VERSIONS.join(", ")));
    }
}
