//! How a webhook is reached: by a URL, or as a service of the cluster.

use hypernetes_cel::Url;

use crate::{
    field::{Errors, Field},
    format,
};

const FORM: &str = "; desired format: https://host[/path]";

/// `WebhookClientConfig`.
pub(super) fn check(client: &Field<'_>, errors: &mut Errors) {
    let (url, service) = (client.get("url"), client.get("service"));
    match (url.is_set(), service.is_set()) {
        (true, false) => check_url(&url, errors),
        (false, true) => check_service(&service, errors),
        _ => client.required(errors, "exactly one of url or service is required"),
    }
}

fn check_url(field: &Field<'_>, errors: &mut Errors) {
    let url = match Url::parse_reference(field.text()) {
        Ok(url) => url,
        Err(why) => return field.required(errors, &format!("url must be a valid URL: {why}{FORM}")),
    };
    if url.scheme != "https" {
        field.invalid_quoted(errors, &url.scheme, format!("'https' is the only allowed URL scheme{FORM}"));
    }
    if url.host.is_empty() {
        field.invalid_quoted(errors, "", format!("host must be specified{FORM}"));
    }
    if let Some(user) = &url.user {
        field.invalid_quoted(errors, user, "user information is not permitted in the URL");
    }
    if !url.fragment.is_empty() {
        field.invalid_quoted(errors, &url.fragment, "fragments are not permitted in the URL");
    }
    if !url.query.is_empty() {
        field.invalid_quoted(errors, &url.query, "query parameters are not permitted in the URL");
    }
}

fn check_service(service: &Field<'_>, errors: &mut Errors) {
    // Upstream tells of the one as of the other.
    for (name, told) in [("namespace", "name"), ("name", "namespace")] {
        if service.get(name).is_empty() {
            service.get(told).required(errors, "");
        }
    }
    let port = service.get("port");
    if let Some(fault) = port.int().and_then(format::port) {
        port.invalid(errors, format!("port is not valid: {fault}"));
    }
    check_path(&service.get("path"), errors);
}

/// Names between slashes.
fn check_path(path: &Field<'_>, errors: &mut Errors) {
    let text = path.text();
    match text {
        "" | "/" => return,
        "//" => return path.invalid(errors, "segment[0] may not be empty"),
        _ => {}
    }
    if !text.starts_with('/') {
        path.invalid(errors, "must start with a '/'");
    }
    // The first byte is taken for the slash, whatever it is.
    let steps = text.get(1..).unwrap_or(text);
    for (at, step) in steps.strip_suffix('/').unwrap_or(steps).split('/').enumerate() {
        if step.is_empty() {
            path.invalid(errors, format!("segment[{at}] may not be empty"));
            continue;
        }
        for fault in format::subdomain(step) {
            path.invalid(errors, format!("segment[{at}]: {fault}"));
        }
    }
}
