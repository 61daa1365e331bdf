//! The roles and bindings that every logical cluster has from the start, of which `defaults.txt` is the table. They are shared
//! by all tenants, and stored by none that has not written them.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::{
    authorization::{
        compiled::{Binding, Role, Rules, aggregate},
        rbac::Rule,
    },
    from_start, stored_form,
};

pub const GROUP: &str = "rbac.authorization.k8s.io";
const TABLE: &str = include_str!("defaults.txt");

/// What is in one namespace, or in none.
#[derive(Default)]
pub struct Place {
    /// By name.
    pub roles: BTreeMap<String, Arc<Role>>,
    /// Those that are for anybody, by name: they are looked through for each question.
    pub granting: Vec<Arc<Binding>>,
}

#[derive(Default)]
pub struct Defaults {
    /// As they are stored when they are written: by plural, namespace and name.
    values: BTreeMap<[String; 3], Bytes>,
    /// By namespace; what is in none has the empty one.
    places: BTreeMap<String, Place>,
}

/// All of them.
pub fn all() -> &'static Defaults {
    static ALL: LazyLock<Defaults> = LazyLock::new(|| Defaults::read(TABLE));
    &ALL
}

/// The stored form of a default of this resource, namespace and name.
pub fn value(plural: &str, namespace: &str, name: &str) -> Option<&'static Bytes> {
    all().values.get(&[plural, namespace, name].map(str::to_owned))
}

/// Namespaces and names of all defaults of a resource.
pub fn names(plural: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    all().values.keys().filter(move |[of, ..]| of == plural).map(|[_, namespace, name]| (&**namespace, &**name))
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
        let mut made = Self::default();
        for role in &roles {
            let place = made.places.entry(namespace_of(role).to_owned()).or_default();
            place.roles.insert(name_of(role).to_owned(), Arc::new(Role::compile(role)));
        }
        // As a controller writes it into those that are stored.
        for role in roles.iter_mut().filter(|role| role["aggregationRule"].is_object()) {
            role["rules"] = listed(&aggregate(name_of(role), &made.cluster_roles()));
        }
        for binding in &bindings {
            let (namespace, name) = (namespace_of(binding), name_of(binding));
            let compiled = Arc::new(Binding::compile(binding, namespace, name));
            if !compiled.subjects.is_empty() {
                made.places.entry(namespace.to_owned()).or_default().granting.push(compiled);
            }
        }
        for object in roles.iter().chain(&bindings) {
            let plural = format!("{}s", object["kind"].as_str().unwrap_or_default().to_lowercase());
            if let Ok(value) = stored_form::encode(object) {
                made.values.insert([&plural, namespace_of(object), name_of(object)].map(str::to_owned), value);
            }
        }
        made
    }

    /// What is in a namespace, or, with the empty one, in none.
    pub fn place(&self, namespace: &str) -> Option<&Place> {
        self.places.get(namespace)
    }

    /// The roles of the whole cluster, by name.
    pub fn cluster_roles(&self) -> BTreeMap<&str, &Arc<Role>> {
        let roles = self.places.get("").into_iter().flat_map(|place| &place.roles);
        roles.map(|(name, role)| (name.as_str(), role)).collect()
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

/// Empty for what is in none.
fn namespace_of(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or_default()
}

/// The label by which a role's rules are also a level's.
fn level(name: &str) -> String {
    let domain = if name.starts_with("keystone") { "rbac.hypernetes.io" } else { GROUP };
    format!("{domain}/aggregate-to-{name}")
}

fn metadata(kind: &str, name: &str) -> Value {
    let mut metadata = from_start::metadata(kind, name);
    metadata["labels"] = json!({"kubernetes.io/bootstrapping": "rbac-defaults"});
    metadata["annotations"] = json!({"rbac.authorization.kubernetes.io/autoupdate": "true"});
    metadata
}

/// The kind of what has this name, which is in a namespace or in none.
fn kind(of_namespace: &'static str, of_cluster: &'static str, name: &str) -> &'static str {
    if name.contains('/') { of_namespace } else { of_cluster }
}

fn role(name: &str, rest: &[&str]) -> Value {
    let kind = kind("Role", "ClusterRole", name);
    let metadata = metadata(kind, name);
    let mut role = json!({"apiVersion": format!("{GROUP}/v1"), "kind": kind, "metadata": metadata, "rules": []});
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
    let (own, of) = (kind("RoleBinding", "ClusterRoleBinding", name), kind("Role", "ClusterRole", name));
    let mut binding = json!({"apiVersion": format!("{GROUP}/v1"), "kind": own, "metadata": metadata(own, name),
        "roleRef": {"apiGroup": GROUP, "kind": of, "name": role}});
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
        let count = |plurals: [&str; 2]| plurals.into_iter().flat_map(names).count();
        assert_eq!(count(["roles", "clusterroles"]), lines("role "));
        assert_eq!(count(["rolebindings", "clusterrolebindings"]), lines("binding "));
        let own = |role: &Role| if role.is_aggregated() { 0 } else { role.own().iter().map(|part| part.len()).sum() };
        let roles = all().places.values().flat_map(|place| place.roles.values());
        assert_eq!(roles.map(|role| own(role)).sum::<usize>(), lines("  "));
        for (of, plural) in [("rolebindings", "roles"), ("clusterrolebindings", "clusterroles")] {
            for (namespace, name) in names(of) {
                let binding: Value =
                    serde_json::from_slice(stored_form::json(value(of, namespace, name).unwrap())).unwrap();
                assert!(value(plural, namespace, binding["roleRef"]["name"].as_str().unwrap()).is_some(), "{name}");
            }
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
