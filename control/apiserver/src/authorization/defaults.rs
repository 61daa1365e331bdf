//! The roles and bindings that every logical cluster has from the start, of which `defaults.txt` is the table. They are shared
//! by all tenants, and stored by none that has not written them.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use bytes::Bytes;
use hypernetes_store::Revision;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::{
    authorization::{
        compiled::{Binding, Role, Rules, aggregate},
        rbac::Rule,
    },
    stored_form,
};

pub const GROUP: &str = "rbac.authorization.k8s.io";
pub const ROLES: &str = "clusterroles";
pub const BINDINGS: &str = "clusterrolebindings";
/// The version at which defaults are shown: older than whatever is written.
pub const REVISION: Revision = Revision(1);
const TABLE: &str = include_str!("defaults.txt");
/// When they are said to have been made: they are older than any cluster.
const CREATED: &str = "2026-01-01T00:00:00Z";

/// One role or binding.
pub struct Given<T> {
    /// As it is stored when it is written.
    pub value: Bytes,
    pub compiled: Arc<T>,
}

/// By name.
pub struct Defaults {
    pub roles: BTreeMap<String, Given<Role>>,
    pub bindings: BTreeMap<String, Given<Binding>>,
    /// Those that are for anybody, by name: they are looked through for each question.
    pub granting: Vec<Arc<Binding>>,
}

/// All of them.
pub fn all() -> &'static Defaults {
    static ALL: LazyLock<Defaults> = LazyLock::new(|| Defaults::read(TABLE));
    &ALL
}

/// The stored form of a default of this resource and name.
pub fn value(plural: &str, name: &str) -> Option<&'static Bytes> {
    match plural {
        ROLES => all().roles.get(name).map(|role| &role.value),
        BINDINGS => all().bindings.get(name).map(|binding| &binding.value),
        _ => None,
    }
}

/// A default as it is made anew when what was written over it is deleted: another object of the same name.
pub fn anew(value: &Bytes) -> Bytes {
    let Ok(mut object) = serde_json::from_slice::<Value>(stored_form::json(value)) else { return value.clone() };
    object["metadata"]["uid"] = Uuid::new_v4().to_string().into();
    object["metadata"]["creationTimestamp"] = hypernetes_api::time::now().to_string().into();
    stored_form::encode(&object).unwrap_or_else(|_| value.clone())
}

impl Defaults {
    /// What a line does not say as the table's head has it is left out.
    fn read(table: &str) -> Self {
        let (mut roles, mut bindings): (Vec<Value>, Vec<Value>) = Default::default();
        for line in table.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            match (words.as_slice(), roles.last_mut()) {
                (["role", name, rest @ ..], _) => roles.push(role(name, rest)),
                (["binding", name, role, subjects @ ..], _) => bindings.push(binding(name, role, subjects)),
                (_, Some(role)) if line.starts_with(' ') => {
                    if let (Some(rule), Some(rules)) = (rule(line), role["rules"].as_array_mut()) {
                        rules.push(rule);
                    }
                }
                _ => {}
            }
        }
        let compiled: Vec<(String, Arc<Role>)> =
            roles.iter().map(|role| (name_of(role).to_owned(), Arc::new(Role::compile(role)))).collect();
        // As a controller writes it into those that are stored.
        let by_name = compiled.iter().map(|(name, role)| (name.as_str(), role)).collect();
        for role in roles.iter_mut().filter(|role| role["aggregationRule"].is_object()) {
            role["rules"] = listed(&aggregate(name_of(role), &by_name));
        }
        let roles = compiled.into_iter().zip(&roles).filter_map(|((name, compiled), role)| {
            Some((name, Given { value: stored_form::encode(role).ok()?, compiled }))
        });
        let bindings = bindings.iter().filter_map(|binding| {
            let compiled = Arc::new(Binding::compile(binding, "", name_of(binding)));
            Some((name_of(binding).to_owned(), Given { value: stored_form::encode(binding).ok()?, compiled }))
        });
        let bindings: BTreeMap<String, Given<Binding>> = bindings.collect();
        let granting = bindings.values().map(|binding| binding.compiled.clone());
        let granting = granting.filter(|binding| !binding.subjects.is_empty()).collect();
        Self { roles: roles.collect(), bindings, granting }
    }

    /// The roles, by name.
    pub fn compiled_roles(&self) -> BTreeMap<&str, &Arc<Role>> {
        self.roles.iter().map(|(name, default)| (name.as_str(), &default.compiled)).collect()
    }
}

/// Rules as an object shows them: each once.
fn listed(rules: &Rules) -> Value {
    let mut listed: Vec<&Rule> = Vec::new();
    for rule in rules.iter().flat_map(|part| part.iter()) {
        if !listed.contains(&rule) {
            listed.push(rule);
        }
    }
    listed.into_iter().map(Rule::to_json).collect()
}

fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// The label by which a role's rules are also a level's.
fn level(name: &str) -> String {
    let domain = if name.starts_with("keystone") { "rbac.hypernetes.io" } else { GROUP };
    format!("{domain}/aggregate-to-{name}")
}

fn metadata(kind: &str, name: &str) -> Value {
    let digest = ring::digest::digest(&ring::digest::SHA256, format!("{kind}/{name}").as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.as_ref()[..16]);
    json!({
        "name": name,
        "uid": uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string(),
        "creationTimestamp": CREATED,
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
    })
}

fn role(name: &str, rest: &[&str]) -> Value {
    let mut role = json!({"apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRole",
        "metadata": metadata("ClusterRole", name), "rules": []});
    let levels = |of: &str| rest.iter().find_map(|word| word.strip_prefix(of)).map(|words| words.split(',').map(level));
    for label in levels("to=").into_iter().flatten() {
        role["metadata"]["labels"][label] = "true".into();
    }
    if let Some(selected) = levels("of=") {
        let selectors: Vec<Value> =
            selected.map(|label| json!({"matchLabels": Map::from_iter([(label, "true".into())])})).collect();
        role["aggregationRule"] = json!({"clusterRoleSelectors": selectors});
    }
    role
}

fn rule(line: &str) -> Option<Value> {
    let mut parts = line.split('|').map(|part| part.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    let verbs: Vec<String> = match parts.next()?.as_slice() {
        [word] if word == "read" => words("get list watch"),
        [word] if word == "write" => words("create delete deletecollection patch update"),
        [word] if word == "all" => words("create delete deletecollection get list patch update watch"),
        verbs => verbs.to_vec(),
    };
    let (second, resources, names) = (parts.next()?, parts.next(), parts.next().unwrap_or_default());
    let groups = || second.iter().map(|group| if group == "core" { String::new() } else { group.clone() }).collect();
    let rule = match resources {
        Some(resources) => Rule { groups: groups(), resources, names, verbs, ..Rule::default() },
        None => Rule { paths: second, verbs, ..Rule::default() },
    };
    Some(rule.to_json())
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn binding(name: &str, role: &str, subjects: &[&str]) -> Value {
    let subjects = subjects.iter().filter_map(|subject| {
        let (kind, name) = subject.split_once(':')?;
        Some(match name.split_once('/').filter(|_| kind == "ServiceAccount") {
            Some((namespace, name)) => json!({"kind": kind, "name": name, "namespace": namespace}),
            None => json!({"kind": kind, "apiGroup": GROUP, "name": name}),
        })
    });
    let subjects: Vec<Value> = subjects.collect();
    let mut binding = json!({"apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRoleBinding",
        "metadata": metadata("ClusterRoleBinding", name),
        "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": role}});
    if !subjects.is_empty() {
        binding["subjects"] = subjects.into();
    }
    binding
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authorization::{Attributes, rights::Rights};

    fn may(role: &str, verb: &str, group: &str, resource: &str) -> bool {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let wanted =
            Attributes { verb, group, resource, subresource, namespace: Some("default"), ..Attributes::default() };
        let rules = Rights::default().role("", role, true).unwrap();
        rules.iter().flat_map(|part| part.iter()).any(|rule| rule.allows(&wanted))
    }

    #[test]
    fn every_line_of_the_table_says_something() {
        let lines = |start: &str| TABLE.lines().filter(|line| line.starts_with(start)).count();
        let defaults = all();
        assert_eq!(defaults.roles.len(), lines("role "));
        assert_eq!(defaults.bindings.len(), lines("binding "));
        let own = |role: &Role| if role.is_aggregated() { 0 } else { role.own().iter().map(|part| part.len()).sum() };
        assert_eq!(defaults.roles.values().map(|role| own(&role.compiled)).sum::<usize>(), lines("  "));
        for binding in defaults.bindings.values() {
            assert!(defaults.roles.contains_key(&*binding.compiled.role.name), "{}", binding.compiled.name);
        }
        let words = TABLE.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace);
        assert!(words.clone().all(|word| word != "to=" && word != "of="));
    }

    #[test]
    fn levels_build_on_each_other() {
        assert!(may("edit", "create", "", "pods") && !may("view", "create", "", "pods"));
        assert!(may("view", "list", "", "pods") && may("view", "get", "", "pods/log"));
        assert!(!may("view", "get", "", "secrets") && may("edit", "get", "", "secrets"));
        assert!(!may("view", "create", "", "pods/exec") && may("edit", "create", "", "pods/exec"));
        assert!(may("admin", "create", "", "pods/exec") && may("keystone:member", "list", "", "nodes"));
        assert!(!may("edit", "list", "", "nodes") && !may("keystone:reader", "get", "", "secrets"));
        assert!(may("admin", "create", GROUP, "rolebindings") && !may("edit", "create", GROUP, "rolebindings"));
        assert!(!may("admin", "bind", GROUP, "clusterroles") && !may("admin", "escalate", GROUP, "roles"));
        assert!(may("cluster-admin", "escalate", GROUP, "roles"));
        assert!(Rights::default().role("", "other", true).is_none());
    }

    #[test]
    fn no_level_decides_where_a_pod_runs_or_what_became_of_it() {
        for role in ["view", "edit", "admin", "keystone:member", "keystone:reader"] {
            for resource in ["pods/binding", "pods/status", "nodes", "nodes/status", "namespaces", "endpoints"] {
                for verb in ["create", "update", "patch"] {
                    assert!(!may(role, verb, "", resource), "{role} {verb} {resource}");
                }
            }
            assert!(!may(role, "impersonate", "", "users") && !may(role, "impersonate", "", "groups"));
        }
    }
}
