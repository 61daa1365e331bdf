//! Which requests a webhook or a policy is asked about: rules and selectors.

use std::collections::HashSet;

use crate::{
    field::{Errors, Field},
    format, selector,
};

const ALL: &str = "*";
const OPERATIONS: &[&str] = &[ALL, "CONNECT", "CREATE", "DELETE", "UPDATE"];
/// What is deleted is not changed.
const MUTATED: &[&str] = &[ALL, "CONNECT", "CREATE", "UPDATE"];

/// `MatchResources`; nothing where there is none.
pub(super) fn check(resources: &Field<'_>, errors: &mut Errors) {
    if !resources.is_set() {
        return;
    }
    check_policy(&resources.get("matchPolicy"), errors);
    selector::check(&resources.get("namespaceSelector"), errors);
    selector::check(&resources.get("objectSelector"), errors);
    for name in ["resourceRules", "excludeResourceRules"] {
        for rule in resources.get(name).items() {
            check_names(&rule.get("resourceNames"), errors);
            check_rule(&rule, errors);
        }
    }
}

/// The operations of those that a mutating policy is asked about.
pub(super) fn check_mutated(resources: &Field<'_>, errors: &mut Errors) {
    let rules = resources.get("resourceRules");
    for operation in rules.items().flat_map(|rule| rule.get("operations").items()) {
        // Upstream's path has no index.
        Field::at(operation.value, rules.path.child("operations")).one_of(errors, MUTATED);
    }
}

pub(super) fn check_policy(policy: &Field<'_>, errors: &mut Errors) {
    policy.optional_one_of(errors, &["Equivalent", "Exact"]);
}

fn check_names(names: &Field<'_>, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for name in names.items() {
        name.faulty(errors, format::path_segment(name.text()));
        if !seen.insert(name.text()) {
            name.duplicate(errors);
        }
    }
}

/// `RuleWithOperations`.
pub(super) fn check_rule(rule: &Field<'_>, errors: &mut Errors) {
    let operations = rule.get("operations");
    check_wildcard(&operations, "operations", errors);
    operations.items().for_each(|operation| operation.one_of(errors, OPERATIONS));
    check_wildcard(&rule.get("apiGroups"), "API groups", errors);
    let versions = rule.get("apiVersions");
    check_wildcard(&versions, "API versions", errors);
    versions.items().for_each(|version| version.not_empty(errors));
    check_resources(&rule.get("resources"), errors);
    rule.get("scope").optional_one_of(errors, &[ALL, "Cluster", "Namespaced"]);
}

/// Some of them, or all alone.
fn check_wildcard(list: &Field<'_>, what: &str, errors: &mut Errors) {
    list.not_empty(errors);
    if list.len() > 1 && list.items().any(|item| item.text() == ALL) {
        list.invalid(errors, format!("if '*' is present, must not specify other {what}"));
    }
}

/// `pods`, `pods/log`, `pods/*`, `*/scale`, `*`, `*/*`: none that an earlier one includes.
fn check_resources(resources: &Field<'_>, errors: &mut Errors) {
    resources.not_empty(errors);
    let (mut all_of, mut of_all) = (HashSet::new(), HashSet::new());
    let mut without_subresource = false;
    for item in resources.items() {
        if item.is_empty() {
            item.required(errors, "");
            continue;
        }
        let Some((resource, subresource)) = item.text().split_once('/') else {
            // The last one counts, as upstream.
            without_subresource = item.text() != ALL;
            continue;
        };
        if all_of.contains(resource) {
            let why = format!("if '{resource}/*' is present, must not specify {}", item.text());
            item.invalid(errors, why);
        }
        if of_all.contains(subresource) {
            let why = format!("if '*/{subresource}' is present, must not specify {}", item.text());
            item.invalid(errors, why);
        }
        if subresource == ALL {
            all_of.insert(resource);
        }
        if resource == ALL {
            of_all.insert(subresource);
        }
    }
    let has = |wanted: &str| resources.items().any(|item| item.text() == wanted);
    if resources.len() > 1 && has("*/*") {
        resources.invalid(errors, "if '*/*' is present, must not specify other resources");
    }
    if without_subresource && has(ALL) {
        let why = "if '*' is present, must not specify other resources without subresources";
        resources.invalid(errors, why);
    }
}
