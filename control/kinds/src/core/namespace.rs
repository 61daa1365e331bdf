//! `Namespace`.

use hypernetes_schema::walk::{self, child, put};
use k8s_openapi::api::core::v1::Namespace;
use serde_json::{Map, Value, json};

use crate::{
    columns::{between, column, path_or},
    field::{Errors, Field},
    format, meta,
    resource::Resource,
    subresource::{Behaviour, Subresource},
};

pub(crate) fn resource() -> Resource {
    Resource::kubernetes::<Namespace>("namespaces")
        .short_names(&["ns"])
        .subresources([Subresource::status(), Subresource::new("finalize", Behaviour::Finalize)])
        // As upstream's: what deletes all that a namespace has names it.
        .deleted_one_by_one()
        .names(format::label)
        .columns(between([column("Status", path_or("status.phase", ""))]))
        .selectable(["status.phase"])
        .defaults(name_label)
        .when_deleted(|namespace| put(child(namespace, "status"), "phase", Some("Terminating".into())))
        .first_status(|_| json!({"phase": "Active"}))
        // The finalizers of a namespace's content are changed by an endpoint of their own.
        .kept(&[&["spec", "finalizers"]])
        .on_create(create)
}

pub(crate) fn create(namespace: &Field<'_>, errors: &mut Errors) {
    let finalizers = namespace.walk(["spec", "finalizers"]);
    for item in finalizers.items() {
        let name = item.text();
        format::qualified_name(name).into_iter().for_each(|fault| finalizers.invalid_quoted(errors, name, fault));
        meta::standard_or_qualified(&finalizers, name, errors);
    }
}

fn name_label(namespace: &mut Map<String, Value>) {
    let name = namespace.get("metadata").map(|m| walk::text(m, "name").to_owned()).unwrap_or_default();
    // Until a generated name is known there is nothing to label.
    if !name.is_empty() {
        let labels = child(child(namespace, "metadata"), "labels");
        labels.insert("kubernetes.io/metadata.name".into(), name.into());
    }
}
