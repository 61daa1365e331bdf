//! What is compiled, beside a look through everything there is.

use std::collections::BTreeMap;

use bytes::Bytes;
use hypernetes_api::auth::UserInfo;
use hypernetes_store::{Key, ResourceId, Revision};
use proptest::{collection::vec, option, prelude::*, sample::select, test_runner::TestCaseError};
use serde_json::{Value, json};

use super::*;
use crate::{authorization::Attributes, stored_form};

const TENANT: &str = "0123456789abcdef0123456789abcdef";
const NAMESPACES: [&str; 3] = ["a", "b", "kube-system"];
const USERS: [&str; 4] = ["ann", "bob", "system:serviceaccount:a:robot", "system:kube-scheduler"];
const GROUPS: [&str; 4] = ["staff", "keystone:reader", "system:authenticated", "system:serviceaccounts"];
const LABELS: [&str; 3] = ["one", "two", "rbac.authorization.k8s.io/aggregate-to-view"];

/// A default of a namespace: a role and its binding.
const LOCKING: &str = "system::leader-locking-kube-scheduler";

/// A role or a binding that is written, or deleted.
#[derive(Debug, Clone)]
struct Step {
    plural: &'static str,
    namespace: &'static str,
    name: &'static str,
    now: Option<Value>,
}

fn some(of: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    vec(select(of), 1..3)
}

fn rule() -> impl Strategy<Value = Value> {
    let resources = (
        some(&["get", "list", "*"]),
        some(&["", "apps", "*"]),
        some(&["pods", "pods/log", "*/log", "deployments", "*"]),
        option::weighted(0.3, some(&["x", "y"])),
    );
    let resources = resources.prop_map(|(verbs, groups, resources, names)| {
        let mut rule = json!({"verbs": verbs, "apiGroups": groups, "resources": resources});
        if let Some(names) = names {
            rule["resourceNames"] = json!(names);
        }
        rule
    });
    let paths = (some(&["get", "*"]), some(&["/x", "/logs/*", "*"]));
    let paths = paths.prop_map(|(verbs, paths)| json!({"verbs": verbs, "nonResourceURLs": paths}));
    prop_oneof![4 => resources, 1 => paths]
}

fn role() -> impl Strategy<Value = Value> {
    let selector = prop_oneof![
        select(&LABELS[..]).prop_map(|label| json!({"matchLabels": {label: "true"}})),
        select(&LABELS[..]).prop_map(|label| json!({"matchExpressions": [{"key": label, "operator": "DoesNotExist"}]})),
        Just(json!({"matchExpressions": [{"key": "one", "operator": "NotIn", "values": ["true"]}]})),
    ];
    let labels = option::weighted(0.5, vec(select(&LABELS[..]), 1..3));
    (vec(rule(), 0..3), labels, option::weighted(0.3, vec(selector, 1..3))).prop_map(|(rules, labels, selectors)| {
        let mut role = json!({"metadata": {"name": "x"}, "rules": rules});
        for label in labels.into_iter().flatten() {
            role["metadata"]["labels"][label] = "true".into();
        }
        if let Some(selectors) = selectors {
            role["aggregationRule"] = json!({"clusterRoleSelectors": selectors});
        }
        role
    })
}

fn binding() -> impl Strategy<Value = Value> {
    let subject = prop_oneof![
        select(&USERS[..]).prop_map(|name| json!({"kind": "User", "name": name})),
        select(&GROUPS[..]).prop_map(|name| json!({"kind": "Group", "name": name})),
        Just(json!({"kind": "ServiceAccount", "name": "robot", "namespace": "a"})),
        Just(json!({"kind": "ServiceAccount", "name": "robot"})),
    ];
    let role = (select(&["ClusterRole", "Role"][..]), select(&["r", "s", "view", "none", "system:discovery"][..]));
    (vec(subject, 0..4), role).prop_map(|(subjects, (kind, name))| {
        json!({"metadata": {"name": "x"}, "subjects": subjects, "roleRef": {"kind": kind, "name": name}})
    })
}

fn step() -> impl Strategy<Value = Step> {
    let namespace = || select(&NAMESPACES[..]);
    let role_name = || select(&["r", "s", "view", "system:discovery", LOCKING][..]);
    let binding_name = || select(&["m", "n", "system:discovery", "keystone:reader", LOCKING][..]);
    let step = |plural, (namespace, name, now)| Step { plural, namespace, name, now };
    let now = |of: BoxedStrategy<Value>| option::weighted(0.75, of);
    prop_oneof![
        (Just(""), role_name(), now(role().boxed())).prop_map(move |parts| step("clusterroles", parts)),
        (namespace(), role_name(), now(role().boxed())).prop_map(move |parts| step("roles", parts)),
        (Just(""), binding_name(), now(binding().boxed())).prop_map(move |parts| step("clusterrolebindings", parts)),
        (namespace(), binding_name(), now(binding().boxed())).prop_map(move |parts| step("rolebindings", parts)),
    ]
}

fn key(step: &Step) -> Key {
    let resource = ResourceId::new(defaults::GROUP, step.plural);
    Key::new(&resource, &TENANT.parse().unwrap(), step.namespace, step.name).unwrap()
}

/// Everything there is, by plural, namespace and name.
type Objects = BTreeMap<(&'static str, &'static str, String), Value>;

fn with_defaults() -> Objects {
    let decoded = |value: &Bytes| serde_json::from_slice::<Value>(stored_form::json(value)).unwrap();
    let of = |plural: &'static str| {
        defaults::names(plural).map(move |(namespace, name)| {
            let value = defaults::value(plural, namespace, name).unwrap();
            ((plural, namespace, name.to_owned()), decoded(value))
        })
    };
    ["clusterroles", "clusterrolebindings", "roles", "rolebindings"].into_iter().flat_map(of).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// By the rule of each role that selects others, as often as it takes until nothing is new.
fn all_rules(objects: &Objects) -> Objects {
    let is_role = |plural: &str| plural == "clusterroles" || plural == "roles";
    let own = |role: &Value| if role["aggregationRule"].is_object() { json!([]) } else { json!(list(&role["rules"])) };
    let roles: Vec<_> = objects.iter().filter(|((plural, ..), _)| is_role(plural)).collect();
    let mut rules: Objects = roles.iter().map(|(place, role)| ((*place).clone(), own(role))).collect();
    let selecting = roles.iter().filter(|(_, role)| role["aggregationRule"].is_object());
    let pairs: Vec<_> = selecting
        .flat_map(|(place, role)| {
            list(&role["aggregationRule"]["clusterRoleSelectors"]).iter().map(move |one| (*place, one))
        })
        .flat_map(|(place, selector)| {
            let others = roles.iter().filter(|((plural, ..), _)| *plural == "clusterroles");
            let selected = others.filter(move |(_, other)| selects(selector, &other["metadata"]["labels"]));
            selected.map(move |(other, _)| (place, *other))
        })
        .collect();
    loop {
        let mut grew = false;
        for (place, other) in &pairs {
            for rule in list(&rules[*other]).to_vec() {
                let have = rules.get_mut(*place).unwrap().as_array_mut().unwrap();
                if !have.contains(&rule) {
                    have.push(rule);
                    grew = true;
                }
            }
        }
        if !grew {
            return rules;
        }
    }
}

fn selects(selector: &Value, labels: &Value) -> bool {
    let equal = selector["matchLabels"].as_object().into_iter().flatten().all(|(key, value)| labels[key] == *value);
    equal
        && list(&selector["matchExpressions"]).iter().all(|term| {
            let have = &labels[term["key"].as_str().unwrap()];
            if term["operator"] == "DoesNotExist" { have.is_null() } else { !list(&term["values"]).contains(have) }
        })
}

fn allows(rule: &Value, wanted: &Attributes<'_>) -> bool {
    let has = |field: &str, text: &str| list(&rule[field]).iter().any(|one| *one == text);
    let any = |field: &str, text: &str| has(field, "*") || has(field, text);
    if !any("verbs", wanted.verb) {
        return false;
    }
    if let Some(path) = wanted.path {
        let begins = |one: &Value| one.as_str().unwrap().strip_suffix('*').is_some_and(|start| path.starts_with(start));
        return any("nonResourceURLs", path) || list(&rule["nonResourceURLs"]).iter().any(begins);
    }
    let resource = wanted.full_resource();
    let of_all = format!("*/{}", wanted.subresource);
    any("apiGroups", wanted.group)
        && (any("resources", &resource) || !wanted.subresource.is_empty() && has("resources", &of_all))
        && (list(&rule["resourceNames"]).is_empty() || wanted.name.is_some_and(|name| has("resourceNames", name)))
}

/// By all bindings and all of their subjects.
fn may(objects: &Objects, rules: &Objects, user: &UserInfo, wanted: &Attributes<'_>) -> bool {
    objects.iter().any(|((plural, namespace, _), binding)| {
        let local = *plural == "rolebindings" && wanted.namespace == Some(namespace);
        let counts = *plural == "clusterrolebindings" || local;
        let is = list(&binding["subjects"]).iter().any(|subject| {
            let name = subject["name"].as_str().unwrap();
            match subject["kind"].as_str().unwrap() {
                "User" => user.name == name,
                "Group" => user.groups.iter().any(|group| group == name),
                _ => {
                    let of = subject["namespace"].as_str().unwrap_or(namespace);
                    user.name == format!("system:serviceaccount:{of}:{name}")
                }
            }
        });
        let role = &binding["roleRef"];
        let (of, within) = if role["kind"] == "ClusterRole" { ("clusterroles", "") } else { ("roles", *namespace) };
        let rules = || rules.get(&(of, within, role["name"].as_str().unwrap().to_owned()));
        counts && is && rules().is_some_and(|rules| list(rules).iter().any(|rule| allows(rule, wanted)))
    })
}

fn questions() -> Vec<Attributes<'static>> {
    let mut all = Vec::new();
    for namespace in [None, Some("a"), Some("b")] {
        for (group, resource, subresource) in [("", "pods", ""), ("", "pods", "log"), ("apps", "deployments", "")] {
            for (verb, name) in [("get", None), ("get", Some("x")), ("list", None), ("delete", Some("y"))] {
                all.push(Attributes { verb, group, resource, subresource, namespace, name, ..Default::default() });
            }
        }
    }
    let locks = Attributes { group: "", resource: "configmaps", namespace: Some("kube-system"), ..Default::default() };
    all.push(Attributes { verb: "watch", ..locks.clone() });
    all.push(Attributes { verb: "update", name: Some("kube-scheduler"), ..locks });
    for path in ["/x", "/logs/a", "/api", "/metrics"] {
        all.push(Attributes { verb: "get", path: Some(path), ..Default::default() });
    }
    all
}

fn agree(objects: &Objects, rights: &mut Rights) -> Result<(), TestCaseError> {
    let rules = all_rules(objects);
    let groups = [&[][..], &["staff"], &["keystone:reader", "system:authenticated"], &[]];
    for (name, groups) in USERS.iter().zip(groups) {
        let user = UserInfo {
            name: (*name).into(),
            uid: String::new(),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            extra: BTreeMap::new(),
            tenant: TENANT.parse().unwrap(),
        };
        for wanted in questions() {
            let grants = rights.grants(&user, wanted.namespace);
            let found = grants.iter().any(|grant| grant.rules().any(|rule| rule.allows(&wanted)));
            prop_assert_eq!(found, may(objects, &rules, &user, &wanted), "{} {:?}", name, wanted);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn it_is_what_a_look_through_everything_finds(steps in vec(step(), 1..24)) {
        let (mut rights, mut objects) = (Rights::default(), with_defaults());
        for (index, step) in steps.iter().enumerate() {
            let place = (step.plural, step.namespace, step.name.to_owned());
            let entry = step.now.clone().map(|mut object| {
                object["metadata"]["name"] = step.name.into();
                if step.plural == "roles" {
                    // There is no such field in those.
                    object.as_object_mut().unwrap().remove("aggregationRule");
                }
                let value = stored_form::encode(&object).unwrap();
                objects.insert(place.clone(), object);
                stored_form::outside(key(step), &value, Revision(1), Revision(1))
            });
            if entry.is_none() {
                objects.remove(&place);
                if let Some(default) = with_defaults().remove(&place) {
                    objects.insert(place, default);
                }
            }
            rights.changed(&key(step), entry.as_ref());
            if index % 4 == 3 || index + 1 == steps.len() {
                agree(&objects, &mut rights)?;
            }
        }
        // And when all is gone, nothing is kept of it.
        for step in &steps {
            rights.changed(&key(step), None);
        }
        prop_assert!(rights.places.is_empty());
        agree(&with_defaults(), &mut rights)?;
    }
}
