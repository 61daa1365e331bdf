//! `/api`, `/apis` and what is below them: groups, versions and resources, each document by itself.

use hypernetes_kinds::{Endpoint, Served, Subresource, View};
use ring::digest;
use serde_json::{Value, json};

use base64::{Engine, engine::general_purpose::STANDARD};

/// Upstream's order of its groups, by which a name that several groups have is decided. All others come behind, by name.
const ORDER: [&str; 21] = [
    "",
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "resource.k8s.io",
    "flowcontrol.apiserver.k8s.io",
];

/// A group, and its versions from the one that is preferred.
pub struct Group<'a> {
    pub name: &'a str,
    pub versions: Vec<&'a str>,
}

/// All that a view has, in order.
pub fn all(view: &View) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for Endpoint { served, .. } in view.all() {
        let (name, version) = (served.ty.group.as_str(), served.ty.version.as_str());
        match groups.iter_mut().find(|group| group.name == name) {
            Some(group) if group.versions.contains(&version) => {}
            Some(group) => group.versions.push(version),
            None => groups.push(Group { name, versions: vec![version] }),
        }
    }
    let place = |name: &str| ORDER.iter().position(|known| *known == name).unwrap_or(ORDER.len());
    groups.sort_by(|a, b| (place(a.name), a.name).cmp(&(place(b.name), b.name)));
    for group in &mut groups {
        group.versions.sort_by_key(|version| std::cmp::Reverse(rank(version)));
    }
    groups
}

/// Stable versions before others, newer before older: `v2`, `v1`, `v2beta1`, `v1alpha1`.
fn rank(version: &str) -> (u8, u32, u32) {
    let number = |text: &str| text.parse().unwrap_or(0);
    let rest = version.strip_prefix('v').unwrap_or_default();
    for (stage, word) in [(1, "beta"), (0, "alpha")] {
        if let Some((major, minor)) = rest.split_once(word) {
            return (stage, number(major), number(minor));
        }
    }
    (2, number(rest), 0)
}

/// The resources of a group and version, by name.
pub fn resources<'a>(view: &'a View, group: &str, version: &str) -> Vec<&'a Endpoint> {
    let mut found = view.of(group, version);
    found.sort_by(|a, b| a.resource.plural.cmp(&b.resource.plural));
    found
}

/// A resource's subresources, by name.
pub fn subresources(endpoint: &Endpoint) -> Vec<&Subresource> {
    let mut all: Vec<&Subresource> = endpoint.resource.subresources.iter().collect();
    all.sort_by_key(|one| one.name);
    all
}

pub fn group(Group { name, versions }: &Group<'_>) -> Value {
    let all: Vec<Value> =
        versions.iter().map(|v| json!({"groupVersion": format!("{name}/{v}"), "version": v})).collect();
    json!({"name": name, "versions": all, "preferredVersion": all[0]})
}

/// `APIResourceList`.
pub fn resource_list(view: &View, group: &str, version: &str) -> Option<Value> {
    let endpoints = resources(view, group, version);
    if endpoints.is_empty() {
        return None;
    }
    let mut list = Vec::new();
    for endpoint in endpoints {
        let Endpoint { resource, served } = endpoint;
        let mut one = json!({
            "name": resource.plural, "singularName": resource.singular, "namespaced": served.ty.namespaced,
            "kind": served.ty.kind, "verbs": resource.shown_verbs(),
        });
        for (field, names) in [("shortNames", &resource.short_names), ("categories", &resource.categories)] {
            if !names.is_empty() {
                one[field] = json!(names);
            }
        }
        if resource.is_stored() {
            one["storageVersionHash"] = stored_as(&resource.ty.group, &resource.ty.version, &resource.ty.kind).into();
        }
        list.push(one);
        for subresource in subresources(endpoint) {
            let (group, version, kind) = body(served, subresource);
            let mut one = json!({
                "name": format!("{}/{}", resource.plural, subresource.name), "singularName": "",
                "namespaced": served.ty.namespaced, "kind": kind, "verbs": sorted(subresource.shown_verbs()),
            });
            if !version.is_empty() {
                one["group"] = group.into();
                one["version"] = version.into();
            }
            list.push(one);
        }
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Some(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list}))
}

/// Group, version and kind of a subresource's bodies: nothing but the kind where they are of the resource's own group and version.
pub fn body<'a>(served: &'a Served, subresource: &'a Subresource) -> (&'a str, &'a str, &'a str) {
    let (group, version, kind) = served.kind_of(subresource);
    let own = group == served.ty.group && version == served.ty.version;
    if own { ("", "", kind) } else { (group, version, kind) }
}

pub fn sorted(mut verbs: Vec<&'static str>) -> Vec<&'static str> {
    verbs.sort_unstable();
    verbs
}

/// By which clients see that objects are stored in another version than before.
fn stored_as(group: &str, version: &str, kind: &str) -> String {
    let digest = digest::digest(&digest::SHA256, format!("{group}/{version}/{kind}").as_bytes());
    STANDARD.encode(&digest.as_ref()[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_and_stabler_versions_come_first() {
        let mut versions = ["v1beta1", "v1", "v2alpha1", "v2", "v10", "v1beta2", "other"];
        versions.sort_by_key(|version| std::cmp::Reverse(rank(version)));
        assert_eq!(versions, ["v10", "v2", "v1", "other", "v1beta2", "v1beta1", "v2alpha1"]);
    }

    #[test]
    fn how_objects_are_stored_is_told_as_upstream_tells_it() {
        assert_eq!(stored_as("apps", "v1", "ControllerRevision"), "85nkx63pcBU=");
        assert_eq!(stored_as("", "v1", "Pod"), "xPOwRZ+Yhw8=");
    }
}
