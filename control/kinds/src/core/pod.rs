//! `Pod`.

use std::collections::HashMap;

use hypernetes_schema::walk::child;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Map, Value, json};

use super::{container, pod_columns, pod_spec, scheduling};
use crate::{
    core::qos,
    field::{ErrorKind, Errors, Field, same, shown},
    format,
    resource::Resource,
    selectable::Selectable,
    subresource::{Behaviour, Connection, Subresource},
};

pub(crate) fn resource() -> Resource {
    Resource::kubernetes::<Pod>("pods")
        .short_names(&["po"])
        .categories(&["all"])
        .subresources(subresources())
        .columns(pod_columns::columns())
        .selectable([
            "spec.nodeName".into(),
            "spec.restartPolicy".into(),
            "spec.schedulerName".into(),
            "spec.serviceAccountName".into(),
            Selectable::field("spec.hostNetwork").or("false"),
            "status.phase".into(),
            "status.podIP".into(),
            "status.nominatedNodeName".into(),
        ])
        .indexed("spec.nodeName")
        .defaults(requests_of_limits)
        .counts_changes()
        .first_status(|pod| json!({"phase": "Pending", "qosClass": pod.get("spec").map_or("BestEffort", qos::class)}))
        .check(check)
        .on_write(|pod, errors| pod_spec::unambiguous(&pod.get("spec"), errors))
        .on_create(create)
        .on_update(update)
        .on_status(status)
}

fn subresources() -> [Subresource; 7] {
    let connect = |name, to, options| Subresource::of(name, Behaviour::Connect(to), ("", "v1", options));
    [
        Subresource::status(),
        Subresource::of("binding", Behaviour::Bind, ("", "v1", "Binding")),
        Subresource::of("eviction", Behaviour::Evict, ("policy", "v1", "Eviction")),
        Subresource::new("log", Behaviour::Connect(Connection::Logs)),
        connect("exec", Connection::Exec, "PodExecOptions"),
        connect("attach", Connection::Attach, "PodAttachOptions"),
        connect("portforward", Connection::PortForward, "PodPortForwardOptions"),
    ]
}

/// What holds for every pod.
pub(crate) fn check(pod: &Field<'_>, errors: &mut Errors) {
    let (spec, annotations) = (pod.get("spec"), pod.walk(["metadata", "annotations"]));
    if annotations.value.get(MIRROR).is_some() && spec.get("nodeName").is_empty() {
        let mirror = annotations.key(MIRROR);
        mirror.invalid(errors, "must set spec.nodeName if mirror pod annotation is set");
    }
    let cost = annotations.key("controller.kubernetes.io/pod-deletion-cost");
    if cost.is_set() && !is_deletion_cost(cost.text()) {
        cost.invalid(errors, "must be a 32bit integer");
    }
    pod_spec::check(&spec, pod.walk(["metadata", "name"]).text(), errors);
    for list in ["containers", "initContainers"] {
        spec.get(list).items().for_each(|container| container::trimmed_image(&container, errors));
    }
}

const MIRROR: &str = "kubernetes.io/config.mirror";

/// A number of 32 bits, written without a plus or leading zeros.
fn is_deletion_cost(text: &str) -> bool {
    text.parse::<i32>().is_ok_and(|number| number.to_string() == text)
}

/// What holds for new pods.
pub(crate) fn create(pod: &Field<'_>, errors: &mut Errors) {
    let spec = pod.get("spec");
    let ephemeral = spec.get("ephemeralContainers");
    if !ephemeral.is_empty() {
        ephemeral.forbidden(errors, "cannot be set on create");
    }
    let labels = pod.walk(["metadata", "labels"]);
    scheduling::spread_twice(&spec.get("topologySpreadConstraints"), &labels, errors);
    let node = spec.get("nodeName");
    if !node.is_empty() && !spec.get("schedulingGates").is_empty() {
        node.forbidden(errors, "cannot be set until all schedulingGates have been cleared");
    }
}

const MUTABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// What a change of a pod may not do. Of its spec little may change: what runs has been started by it.
pub(crate) fn update(pod: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    mirror(pod, old, errors);
    let (spec, before) = (pod.get("spec"), old.get("spec"));
    for list in ["containers", "initContainers"] {
        if spec.get(list).len() != before.get(list).len() {
            return spec.get(list).change_forbidden(errors, "pod updates may not add or remove containers");
        }
    }
    if !deadline(&spec.get("activeDeadlineSeconds"), &before.get("activeDeadlineSeconds"), errors) {
        return;
    }
    tolerations(&spec.get("tolerations"), &before.get("tolerations"), errors);
    let gates: HashMap<&str, ()> =
        before.get("schedulingGates").items().map(|gate| (gate.get("name").text(), ())).collect();
    for gate in spec.get("schedulingGates").items() {
        let name = gate.get("name");
        if !gates.contains_key(name.text()) {
            let why = format!("only deletion is allowed, but found new scheduling gate '{}'", name.text());
            name.change_forbidden(errors, why);
        }
    }
    let mut rest = spec.value.clone();
    take_old(&mut rest, before.value);
    if !gates.is_empty() {
        gated(&spec, &before, &mut rest, errors);
    }
    if !same(&rest, before.value) {
        let changed = changes(&rest, before.value);
        let why = format!("pod updates may not change fields other than {MUTABLE}\n{changed}");
        spec.change_forbidden(errors, why);
    }
}

/// Puts the old values of what may change into a new spec: what still differs is what may not.
fn take_old(spec: &mut Value, old: &Value) {
    for list in ["containers", "initContainers"] {
        let olds = old.get(list).and_then(Value::as_array);
        let news = spec.get_mut(list).and_then(Value::as_array_mut);
        for (new, old) in news.into_iter().flatten().zip(olds.into_iter().flatten()) {
            put(new, "image", old);
        }
    }
    for name in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        put(spec, name, old);
    }
    let grace = |spec: &Value| spec.get("terminationGracePeriodSeconds").and_then(Value::as_i64);
    if grace(old).is_some_and(i64::is_negative) && grace(spec) == Some(1) {
        put(spec, "terminationGracePeriodSeconds", old);
    }
}

/// Gives an object the field that another has, or none if that has none.
fn put(object: &mut Value, name: &str, from: &Value) {
    if let Some(fields) = object.as_object_mut() {
        match from.get(name) {
            Some(value) => drop(fields.insert(name.to_owned(), value.clone())),
            None => drop(fields.remove(name)),
        }
    }
}

/// A pod that is held back may be told more about where to run, and nothing less.
fn gated(spec: &Field<'_>, old: &Field<'_>, rest: &mut Value, errors: &mut Errors) {
    let (nodes, before) = (spec.get("nodeSelector"), old.get("nodeSelector"));
    if before.entries().any(|(key, value)| nodes.key(key).value != value.value) {
        let why = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        nodes.changed(errors, ErrorKind::Invalid, shown(nodes.value), why);
    }
    put(rest, "nodeSelector", old.value);
    const PATH: [&str; 4] =
        ["affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"];
    let (terms, before) = (spec.walk(PATH), old.walk(PATH));
    if !before.is_empty() && before.len() != terms.len() {
        let why = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        terms.changed(errors, ErrorKind::Invalid, shown(terms.value), why);
    } else {
        for (term, was) in terms.items().zip(before.items()) {
            if !only_adds(&term, &was) {
                let why = "only additions are allowed (no mutations or deletions)";
                term.changed(errors, ErrorKind::Invalid, shown(term.value), why);
            }
        }
    }
    // Only the affinity to nodes is open: the rest of the affinity has to be as it was.
    let empty = |affinity: Option<&Value>| affinity.and_then(Value::as_object).is_none_or(serde_json::Map::is_empty);
    if let Some(affinity) = rest.get_mut("affinity") {
        put(affinity, "nodeAffinity", old.get("affinity").value);
    } else if old.get("affinity").value.as_object().is_some_and(|fields| fields.keys().all(|k| k == "nodeAffinity")) {
        put(rest, "affinity", old.value);
    }
    if empty(rest.get("affinity")) && !old.get("affinity").is_set() {
        put(rest, "affinity", old.value);
    }
}

/// Whether a term asks for all that it asked for, and maybe for more.
fn only_adds(term: &Field<'_>, old: &Field<'_>) -> bool {
    let lists = ["matchExpressions", "matchFields"];
    if lists.iter().all(|list| old.get(list).is_empty()) && lists.iter().any(|list| !term.get(list).is_empty()) {
        return false;
    }
    lists.iter().all(|list| {
        let (new, old) = (term.get(list), old.get(list));
        new.len() >= old.len() && new.items().zip(old.items()).all(|(new, old)| same(new.value, old.value))
    })
}

/// A deadline may be set, and may come nearer; false when that ends the checks, as upstream's do.
fn deadline(new: &Field<'_>, old: &Field<'_>, errors: &mut Errors) -> bool {
    match (new.int(), old.int()) {
        (Some(seconds), was) => {
            let why = match format::in_range(seconds, 0, i64::from(i32::MAX)) {
                Some(fault) => fault,
                None if was.is_some_and(|was| was < seconds) => {
                    "must be less than or equal to previous value".to_owned()
                }
                None => return true,
            };
            new.changed(errors, ErrorKind::Invalid, shown(new.value), why);
            false
        }
        (None, Some(_)) => {
            let why = "must not update from a positive integer to nil value";
            new.changed(errors, ErrorKind::Invalid, shown(new.value), why);
            true
        }
        (None, None) => true,
    }
}

/// Every old toleration has to be there; its seconds may be others.
fn tolerations(new: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    let key = |toleration: &Field<'_>| -> Vec<String> {
        ["key", "operator", "value", "effect"].iter().map(|name| toleration.get(name).text().to_owned()).collect()
    };
    let have: std::collections::HashSet<_> = new.items().map(|toleration| key(&toleration)).collect();
    if old.items().any(|toleration| !have.contains(&key(&toleration))) {
        let why = "existing toleration can not be modified except its tolerationSeconds";
        new.change_forbidden(errors, why);
    }
}

/// The mark of a static pod's mirror comes and goes with it.
fn mirror(pod: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    const PATH: [&str; 2] = ["metadata", "annotations"];
    let (new, before) = (pod.walk(PATH).key(MIRROR), old.walk(PATH).key(MIRROR));
    if before.is_set() && new.value != before.value {
        new.change_forbidden(errors, "may not remove or update mirror pod annotation");
    } else if new.is_set() && !before.is_set() {
        new.change_forbidden(errors, "may not add mirror pod annotation");
    }
}

/// The first fields of two objects that differ, one a line.
fn changes(new: &Value, old: &Value) -> String {
    const MOST: usize = 8;
    fn walk(new: &Value, old: &Value, path: String, found: &mut Vec<String>) {
        if found.len() >= MOST || same(new, old) {
            return;
        }
        match (new, old) {
            (Value::Object(a), Value::Object(b)) => {
                let mut names: Vec<&String> = a.keys().chain(b.keys()).collect();
                names.sort_unstable();
                names.dedup();
                for name in names {
                    let at = |map: &serde_json::Map<String, Value>| map.get(name).cloned().unwrap_or_default();
                    walk(&at(a), &at(b), format!("{path}.{name}"), found);
                }
            }
            (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
                for (at, (a, b)) in a.iter().zip(b).enumerate() {
                    walk(a, b, format!("{path}[{at}]"), found);
                }
            }
            _ => found.push(format!("  {path}")),
        }
    }
    let mut found = Vec::new();
    walk(new, old, "spec".to_owned(), &mut found);
    found.join("\n")
}

/// What a change of a pod's status may not do.
pub(crate) fn status(pod: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    mirror(pod, old, errors);
    let (status, before) = (pod.get("status"), old.get("status"));
    let conditions = status.get("conditions");
    for condition in conditions.items() {
        let kind = condition.get("type");
        if !["PodScheduled", "Ready", "Initialized"].contains(&kind.text()) {
            kind.faulty(errors, format::qualified_name(kind.text()));
        }
    }
    let nominated = status.get("nominatedNodeName");
    if nominated.text() != before.get("nominatedNodeName").text() {
        nominated.optional_text(errors, format::subdomain);
    }
    for list in ["podIPs", "hostIPs"] {
        for address in status.get(list).items() {
            let ip = address.get("ip");
            // Upstream's path is the item's. A node that does not know its address yet says none.
            if !ip.is_empty() {
                format::ip(ip.text()).into_iter().for_each(|fault| address.invalid_quoted(errors, ip.text(), fault));
            }
        }
    }
}

/// Limits are requests too, where those are not given.
fn requests_of_limits(pod: &mut Map<String, Value>) {
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else { return };
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let Some(resources) = container.get_mut("resources").and_then(Value::as_object_mut) else { continue };
            let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else { continue };
            let requests = child(resources, "requests");
            for (name, limit) in limits {
                requests.entry(name).or_insert(limit);
            }
        }
    }
}
