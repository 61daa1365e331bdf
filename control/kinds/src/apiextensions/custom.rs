//! The resources of a definition: one for each version that is served, all of the same objects.

use std::sync::Arc;

use hypernetes_names::{DnsLabel, DnsSubdomain};
use hypernetes_schema::{ObjectType, walk};
use serde_json::Value;

use super::{columns, is_established, names};
use crate::{
    format,
    resource::Resource,
    scale::{PodSelector, Scale},
    selectable::Selectable,
    subresource::Subresource,
};

/// Of a definition that is being deleted.
const CLOSED: &str = "create not allowed while custom resource definition is terminating";

/// Gives a definition again, as it was written.
pub type Again = Arc<dyn Fn() -> Value + Send + Sync>;

/// None while a definition is not established, or where its names are not what names can be: what is stored may be from before
/// a rule was.
pub fn resources(definition: &Value, again: &Again) -> Vec<Resource> {
    let accepted = |name: &str| walk::text(definition, &format!("status.acceptedNames.{name}"));
    let kind = accepted("kind");
    // They become parts of keys.
    let (Ok(group), Ok(plural)) =
        (DnsSubdomain::new(walk::text(definition, "spec.group")), DnsLabel::new(accepted("plural")))
    else {
        return Vec::new();
    };
    let (group, plural) = (group.as_str(), plural.as_str());
    let good = is_established(definition)
        && format::letter_label(plural).is_empty()
        && format::letter_label(&kind.to_lowercase()).is_empty()
        && !names::is_servers_own(group);
    if !good {
        return Vec::new();
    }
    let namespaced = walk::text(definition, "spec.scope") == "Namespaced";
    let type_of = |version: &Value| {
        let (again, name) = (again.clone(), name_of(version).to_owned());
        let written = Box::new(move || schema(again(), &name));
        Arc::new(ObjectType::defined(group, name_of(version), kind, namespaced, written))
    };
    let versions = walk::list(definition, "spec.versions");
    let Some(stored) = versions.iter().find(|version| version["storage"] == true) else { return Vec::new() };
    let stored_type = type_of(stored);
    // What was stored by an earlier schema is looked at anew when it is read.
    let changed = definition["metadata"]["generation"].as_i64() != Some(1);
    let closed = definition["metadata"]["deletionTimestamp"].is_string().then_some(CLOSED);
    // While it goes its objects can be reached as they are stored, served or not.
    let reached = |version: &&Value| version["served"] == true || closed.is_some() && version["storage"] == true;
    let served = versions.iter().filter(reached);
    let resource = |version: &Value| {
        let ty = if std::ptr::eq(version, stored) { stored_type.clone() } else { type_of(version) };
        let texts = |name: &str| {
            let list = walk::list(definition, &format!("status.acceptedNames.{name}"));
            list.iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
        };
        let deprecation = deprecation(group, kind, version, versions);
        let base = Resource::defined(ty, stored_type.clone(), plural, changed, deprecation, closed);
        Resource {
            singular: accepted("singular").to_owned(),
            list_kind: accepted("listKind").to_owned(),
            short_names: texts("shortNames"),
            categories: texts("categories"),
            subresources: subresources(version),
            selectable: selectable(version).into(),
            columns: columns::of_version(version),
            ..base
        }
        .counts_changes()
    };
    let mut served: Vec<&Value> = served.collect();
    served.sort_by_key(|version| std::cmp::Reverse(names::rank(name_of(version))));
    served.into_iter().map(resource).collect()
}

/// The schema of one of a definition's versions.
fn schema(mut definition: Value, name: &str) -> Value {
    let versions = definition.pointer_mut("/spec/versions").and_then(Value::as_array_mut).into_iter().flatten();
    let version = versions.into_iter().find(|version| name_of(version) == name);
    version.and_then(|version| version.pointer_mut("/schema/openAPIV3Schema")).map(Value::take).unwrap_or_default()
}

fn name_of(version: &Value) -> &str {
    version["name"].as_str().unwrap_or_default()
}

/// What is said to whoever uses a version that shall not be used any more.
fn deprecation(group: &str, kind: &str, version: &Value, all: &[Value]) -> Option<String> {
    if version["deprecated"] != true {
        return None;
    }
    if let Some(said) = version["deprecationWarning"].as_str() {
        return Some(said.to_owned());
    }
    let name = name_of(version);
    let better = all.iter().filter(|other| other["served"] == true && other["deprecated"] != true).map(name_of);
    let better = better.filter(|other| names::rank(other) > names::rank(name)).max_by_key(|other| names::rank(other));
    let instead = better.map(|other| format!("; use {group}/{other} {kind}")).unwrap_or_default();
    Some(format!("{group}/{name} {kind} is deprecated{instead}"))
}

/// `.spec.replicas` without its first dot.
fn path(text: &Value) -> String {
    text.as_str().unwrap_or_default().trim_start_matches('.').to_owned()
}

fn subresources(version: &Value) -> Vec<Subresource> {
    let said = &version["subresources"];
    let status = said["status"].is_object().then(Subresource::status);
    let scale = said["scale"].is_object().then(|| {
        let scale = &said["scale"];
        Subresource::scale(Scale {
            replicas: path(&scale["specReplicasPath"]),
            status_replicas: path(&scale["statusReplicasPath"]),
            selector: PodSelector::Text(path(&scale["labelSelectorPath"])),
        })
    });
    status.into_iter().chain(scale).collect()
}

fn selectable(version: &Value) -> Vec<Selectable> {
    let fields = version["selectableFields"].as_array().into_iter().flatten();
    fields.map(|field| Selectable::field(&path(&field["jsonPath"]))).collect()
}
