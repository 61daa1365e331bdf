//! `IPAddress`: an address that one of a tenant's own services has.

use k8s_openapi::api::networking::v1::IPAddress;
use serde_json::Value;

use crate::{
    columns::{Cell, column, name, text},
    field::{Errors, Field},
    format::{self, Faults},
    internal::{Internal, TEXT},
    resource::Resource,
};

pub(crate) fn resource() -> Resource {
    Resource::kubernetes::<IPAddress>("ipaddresses")
        .short_names(&["ip"])
        .columns(vec![name(), column("ParentRef", Cell::Of(parent))])
        .names(names)
        .check(check)
        .on_update(|new, old, errors| {
            let path = ["spec", "parentRef"];
            PARENT.kept(&new.walk(path), &old.walk(path), errors);
        })
}

const PARENT: Internal = Internal::Pointer(&Internal::Struct(&[
    ("group", "Group", TEXT),
    ("resource", "Resource", TEXT),
    ("namespace", "Namespace", TEXT),
    ("name", "Name", TEXT),
]));

fn names(text: &str) -> Faults {
    let faults = format::ip(text);
    if faults.is_empty() { format::canonical_ip(text) } else { faults }
}

fn check(address: &Field<'_>, errors: &mut Errors) {
    let parent = address.walk(["spec", "parentRef"]);
    if !parent.is_set() {
        return parent.required(errors, "");
    }
    // Services are of the group without a name.
    parent.get("group").optional_text(errors, format::subdomain);
    parent.get("resource").required_text(errors, format::path_segment);
    parent.get("name").required_text(errors, format::path_segment);
    parent.get("namespace").optional_text(errors, format::path_segment);
}

fn parent(address: &Value) -> Value {
    let parent = &address["spec"]["parentRef"];
    if parent.is_null() {
        return "<none>".into();
    }
    let qualified =
        |group: &str, rest: &str| if group.is_empty() { rest.to_owned() } else { format!("{rest}.{group}") };
    let resource = qualified(text(parent, "group"), text(parent, "resource")).to_lowercase();
    match text(parent, "namespace") {
        "" => format!("{resource}/{}", text(parent, "name")).into(),
        namespace => format!("{resource}/{namespace}/{}", text(parent, "name")).into(),
    }
}
