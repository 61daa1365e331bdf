//! `IngressClass`: each tenant's own, as what serves its ingresses is.

use k8s_openapi::api::networking::v1::IngressClass;
use serde_json::Value;

use crate::{
    columns::{Cell, age, column, path_or, text},
    field::{Errors, Field},
    format,
    resource::Resource,
};

/// An ingress that names no class gets the one that has this.
pub const DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";

/// The most bytes of a controller's name.
const MAX_CONTROLLER: usize = 250;

pub(crate) fn resource() -> Resource {
    Resource::kubernetes::<IngressClass>("ingressclasses")
        .columns(vec![
            column("Name", Cell::Of(name)),
            column("Controller", path_or("spec.controller", "")),
            column("Parameters", Cell::Of(parameters)),
            age(),
        ])
        .counts_changes()
        .check(check)
        .change_first()
        .immutable(&[&["spec", "controller"]])
}

fn check(class: &Field<'_>, errors: &mut Errors) {
    let (controller, parameters) = (class.walk(["spec", "controller"]), class.walk(["spec", "parameters"]));
    if controller.text().len() > MAX_CONTROLLER {
        controller.too_long(errors, MAX_CONTROLLER);
    }
    domain_prefixed_path(&controller, errors);
    if !parameters.is_set() {
        return;
    }
    let group = parameters.get("apiGroup");
    if group.is_set() {
        group.faulty(errors, format::subdomain(group.text()));
    }
    parameters.get("kind").required_text(errors, format::path_segment);
    parameters.get("name").required_text(errors, format::path_segment);
    let (scope, namespace) = (parameters.get("scope"), parameters.get("namespace"));
    if !scope.is_set() {
        return scope.required(errors, "");
    }
    match (scope.text(), namespace.is_set()) {
        ("Namespace", false) => namespace.required(errors, "`parameters.scope` is set to 'Namespace'"),
        ("Namespace", true) => namespace.faulty(errors, format::label(namespace.text())),
        ("Cluster", true) => namespace.forbidden(errors, "`parameters.scope` is set to 'Cluster'"),
        ("Cluster", false) => {}
        _ => scope.not_supported(errors, &["Cluster", "Namespace"]),
    }
}

/// `acme.io/foo`
fn domain_prefixed_path(field: &Field<'_>, errors: &mut Errors) {
    if field.is_empty() {
        return field.required(errors, "");
    }
    let parts = field.text().split_once('/').filter(|(host, path)| !host.is_empty() && !path.is_empty());
    let Some((host, path)) = parts else {
        return field.invalid(errors, "must be a domain-prefixed path (such as \"acme.io/foo\")");
    };
    format::subdomain(host).into_iter().for_each(|fault| field.invalid_quoted(errors, host, fault));
    format::http_path(path).into_iter().for_each(|fault| field.invalid_quoted(errors, path, fault));
}

fn name(class: &Value) -> Value {
    let (name, default) = (text(class, "metadata.name"), &class["metadata"]["annotations"][DEFAULT_CLASS]);
    if default == "true" { format!("{name} (default)").into() } else { name.into() }
}

fn parameters(class: &Value) -> Value {
    let parameters = &class["spec"]["parameters"];
    if parameters.is_null() {
        return "<none>".into();
    }
    let group = parameters["apiGroup"].as_str().map(|group| format!(".{group}")).unwrap_or_default();
    format!("{}{group}/{}", text(parameters, "kind"), text(parameters, "name")).into()
}
