//! `ValidatingAdmissionPolicyBinding` and `MutatingAdmissionPolicyBinding`: where a policy holds, and with which parameters.

use std::collections::HashSet;

use k8s_openapi::api::admissionregistration::v1::{MutatingAdmissionPolicyBinding, ValidatingAdmissionPolicyBinding};
use serde_json::Value;

use super::matching;
use crate::{
    columns::{Cell, between, column, list, path_or, text, texts},
    field::{Errors, Field},
    format,
    resource::Resource,
    selector,
};

pub(super) fn resources() -> Vec<Resource> {
    let record = |resource: Resource| {
        let columns = [column("PolicyName", path_or("spec.policyName", "")), column("ParamRef", Cell::Of(param_ref))];
        resource.columns(between(columns)).counts_changes()
    };
    vec![
        record(Resource::kubernetes::<ValidatingAdmissionPolicyBinding>("validatingadmissionpolicybindings"))
            .check(check_validating),
        record(Resource::kubernetes::<MutatingAdmissionPolicyBinding>("mutatingadmissionpolicybindings"))
            .check(check_mutating),
    ]
}

fn check_validating(binding: &Field<'_>, errors: &mut Errors) {
    let spec = binding.get("spec");
    check_spec(&spec, errors);
    check_actions(&spec.get("validationActions"), errors);
}

fn check_mutating(binding: &Field<'_>, errors: &mut Errors) {
    let spec = binding.get("spec");
    check_spec(&spec, errors);
    matching::check_mutated(&spec.get("matchResources"), errors);
}

fn check_spec(spec: &Field<'_>, errors: &mut Errors) {
    spec.get("policyName").required_text(errors, format::subdomain);
    check_param_ref(&spec.get("paramRef"), errors);
    matching::check(&spec.get("matchResources"), errors);
}

/// By name, or by labels.
fn check_param_ref(param: &Field<'_>, errors: &mut Errors) {
    if !param.is_set() {
        return;
    }
    let (name, labels, action) = (param.get("name"), param.get("selector"), param.get("parameterNotFoundAction"));
    let both = !name.is_empty() && labels.is_set();
    name.optional_text(errors, format::path_segment);
    if both {
        name.forbidden(errors, "name and selector are mutually exclusive");
    }
    selector::check(&labels, errors);
    if both {
        labels.forbidden(errors, "name and selector are mutually exclusive");
    }
    if name.is_empty() && !labels.is_set() {
        param.required(errors, "one of name or selector must be specified");
    }
    action.required_one_of(errors, &["Deny", "Allow"]);
}

/// What is done about a request that a policy does not let in.
fn check_actions(actions: &Field<'_>, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for action in actions.items() {
        action.one_of(errors, &["Audit", "Deny", "Warn"]);
        if !seen.insert(action.text()) {
            action.duplicate(errors);
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        let why = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        actions.invalid(errors, why);
    }
    if seen.is_empty() {
        actions.required(errors, "at least one validation action is required");
    }
}

fn param_ref(binding: &Value) -> Value {
    let Some(param) = binding["spec"].get("paramRef") else { return "<unset>".into() };
    match (text(param, "name"), text(param, "namespace")) {
        ("", _) => selector_in_go(&param["selector"]).into(),
        // Whether it is in a namespace is not said here.
        (name, "") => format!("*/{name}").into(),
        (name, namespace) => format!("{namespace}/{name}").into(),
    }
}

/// A label selector as upstream shows it here: as Go prints its struct.
fn selector_in_go(selector: &Value) -> String {
    let labels = selector["matchLabels"].as_object().into_iter().flatten();
    let mut labels: Vec<String> =
        labels.map(|(key, value)| format!("{key}: {},", value.as_str().unwrap_or_default())).collect();
    labels.sort_unstable();
    let term = |term: &Value| {
        let values: Vec<&str> = texts(term, "values").collect();
        let (key, operator, values) = (text(term, "key"), text(term, "operator"), values.join(" "));
        format!("LabelSelectorRequirement{{Key:{key},Operator:{operator},Values:[{values}],}},")
    };
    let terms: String = list(selector, "matchExpressions").map(term).collect();
    let labels = labels.concat();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{terms}}},}}"
    )
}
