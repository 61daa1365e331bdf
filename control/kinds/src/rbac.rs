//! The group `rbac.authorization.k8s.io`.

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use serde_json::{Map, Value};

use crate::{
    columns::{Cell, Column, between, column, created_at, list, name, text, wide},
    field::{ErrorKind, Errors, Field, shown},
    format,
    resource::Resource,
    selector,
};

pub(crate) fn resources() -> Vec<Resource> {
    let roles = || vec![name(), created_at()];
    vec![
        Resource::kubernetes::<ClusterRole>("clusterroles").columns(roles()).check(cluster_role),
        Resource::kubernetes::<ClusterRoleBinding>("clusterrolebindings")
            .columns(binding_columns())
            .defaults(groups)
            .check(cluster_role_binding)
            .on_update(binding_update),
        Resource::kubernetes::<Role>("roles").columns(roles()).check(role),
        Resource::kubernetes::<RoleBinding>("rolebindings")
            .columns(binding_columns())
            .defaults(groups)
            .check(role_binding)
            .on_update(binding_update),
    ]
    .into_iter()
    .map(|resource| resource.names(format::path_segment))
    .collect()
}

const GROUP: &str = "rbac.authorization.k8s.io";

/// `Role`: rules are about resources of a namespace.
pub(crate) fn role(role: &Field<'_>, errors: &mut Errors) {
    role.get("rules").items().for_each(|rule| policy_rule(&rule, true, errors));
}

/// `ClusterRole`: rules may be about paths, and may be other roles' rules.
pub(crate) fn cluster_role(role: &Field<'_>, errors: &mut Errors) {
    role.get("rules").items().for_each(|rule| policy_rule(&rule, false, errors));
    let aggregation = role.get("aggregationRule");
    if !aggregation.is_set() {
        return;
    }
    let selectors = aggregation.get("clusterRoleSelectors");
    if selectors.is_empty() {
        selectors.required(errors, "at least one clusterRoleSelector required if aggregationRule is non-nil");
    }
    for labels in selectors.items() {
        let before = errors.count();
        selector::check(&labels, errors);
        if errors.count() > before {
            labels.invalid_as(errors, "null", "invalid label selector.");
        }
    }
}

fn policy_rule(rule: &Field<'_>, namespaced: bool, errors: &mut Errors) {
    let (verbs, urls) = (rule.get("verbs"), rule.get("nonResourceURLs"));
    let (groups, resources) = (rule.get("apiGroups"), rule.get("resources"));
    if verbs.is_empty() {
        verbs.required(errors, "verbs must contain at least one value");
    }
    if !urls.is_empty() {
        if namespaced {
            urls.invalid(errors, "namespaced rules cannot apply to non-resource URLs");
        }
        if [&groups, &resources, &rule.get("resourceNames")].iter().any(|list| !list.is_empty()) {
            urls.invalid(errors, "rules cannot apply to both regular resources and non-resource URLs");
        }
        return;
    }
    if groups.is_empty() {
        groups.required(errors, "resource rules must supply at least one api group");
    }
    if resources.is_empty() {
        resources.required(errors, "resource rules must supply at least one resource");
    }
}

/// `RoleBinding`.
pub(crate) fn role_binding(binding: &Field<'_>, errors: &mut Errors) {
    role_reference(&binding.get("roleRef"), &["Role", "ClusterRole"], errors);
    binding.get("subjects").items().for_each(|subject| one_subject(&subject, true, errors));
}

/// `ClusterRoleBinding`.
pub(crate) fn cluster_role_binding(binding: &Field<'_>, errors: &mut Errors) {
    role_reference(&binding.get("roleRef"), &["ClusterRole"], errors);
    binding.get("subjects").items().for_each(|subject| one_subject(&subject, false, errors));
}

/// Roles, users and groups are of this group, unless another is named.
fn groups(binding: &mut Map<String, Value>) {
    let set = |map: &mut Map<String, Value>| {
        if map.get("apiGroup").and_then(Value::as_str).is_none_or(str::is_empty) {
            map.insert("apiGroup".into(), GROUP.into());
        }
    };
    if let Some(role) = binding.get_mut("roleRef").and_then(Value::as_object_mut) {
        set(role);
    }
    for subject in binding.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(subject) = subject.as_object_mut()
            && ["User", "Group"].contains(&subject.get("kind").and_then(Value::as_str).unwrap_or_default())
        {
            set(subject);
        }
    }
}

fn role_reference(reference: &Field<'_>, kinds: &[&str], errors: &mut Errors) {
    reference.get("apiGroup").one_of(errors, &[GROUP]);
    reference.get("kind").one_of(errors, kinds);
    reference.get("name").required_text(errors, format::path_segment);
}

fn one_subject(subject: &Field<'_>, namespaced: bool, errors: &mut Errors) {
    let (kind, name, group) = (subject.get("kind"), subject.get("name"), subject.get("apiGroup"));
    name.not_empty(errors);
    match kind.text() {
        "ServiceAccount" => {
            name.optional_text(errors, format::subdomain);
            if !group.is_empty() {
                group.not_supported(errors, &[""]);
            }
            if !namespaced {
                subject.get("namespace").not_empty(errors);
            }
        }
        "User" | "Group" => {
            if group.text() != GROUP {
                group.not_supported(errors, &[GROUP]);
            }
        }
        _ => kind.not_supported(errors, &["ServiceAccount", "User", "Group"]),
    }
}

/// What a binding gives is for life.
pub(crate) fn binding_update(binding: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    let (role, was) = (binding.get("roleRef"), old.get("roleRef"));
    if role.value != was.value {
        let part = |name: &'static str| shown(&role.get(name).text().into());
        let internal =
            format!("{{\"APIGroup\":{},\"Kind\":{},\"Name\":{}}}", part("apiGroup"), part("kind"), part("name"));
        role.changed(errors, ErrorKind::Invalid, internal, "cannot change roleRef");
    }
}

fn binding_columns() -> Vec<Column> {
    let role = |o: &Value| format!("{}/{}", text(o, "roleRef.kind"), text(o, "roleRef.name")).into();
    between([column("Role", Cell::Of(role))])
        .into_iter()
        .chain([
            wide("Users", Cell::Of(|o| subjects(o, "User"))),
            wide("Groups", Cell::Of(|o| subjects(o, "Group"))),
            wide("ServiceAccounts", Cell::Of(|o| subjects(o, "ServiceAccount"))),
        ])
        .collect()
}

fn subjects(binding: &Value, kind: &str) -> Value {
    let of_kind = list(binding, "subjects").filter(|subject| text(subject, "kind") == kind);
    let names = of_kind.map(|subject| match kind {
        "ServiceAccount" => format!("{}/{}", text(subject, "namespace"), text(subject, "name")),
        _ => text(subject, "name").to_owned(),
    });
    names.collect::<Vec<_>>().join(", ").into()
}
