//! The group `certificates.k8s.io`.

mod signing_request;
mod trust_bundle;

use hypernetes_certificates::signer::LEGACY;

use crate::{
    field::{Errors, Field},
    format,
    resource::Resource,
};

pub(crate) fn resources() -> Vec<Resource> {
    vec![signing_request::resource(), trust_bundle::resource()]
}

/// A domain, and a path of names with dots.
const MAX_DOMAIN: usize = 253;
const MAX_SIGNER: usize = MAX_DOMAIN + 1 + 253 + 63 + 1;

/// The name of a signer: `example.com/signer-name`.
fn signer_name(signer: &Field<'_>, errors: &mut Errors) {
    if signer.is_empty() {
        return signer.required(errors, "");
    }
    let (domain, path) = match signer.text().split_once('/') {
        Some((domain, path)) if !path.contains('/') => (domain, path),
        _ => {
            let form = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
            return signer.invalid(errors, form);
        }
    };
    if domain.len() > MAX_DOMAIN {
        signer.too_long(errors, MAX_DOMAIN);
    }
    parts(signer, domain, format::label, errors);
    if !domain.contains('.') {
        signer.invalid_quoted(errors, domain, "should be a domain with at least two segments separated by dots");
    }
    parts(signer, path, format::subdomain, errors);
    if signer.text().len() > MAX_SIGNER {
        signer.too_long(errors, MAX_SIGNER);
    }
}

/// What is wrong with the first bad one of the words between dots.
fn parts(signer: &Field<'_>, text: &str, check: fn(&str) -> format::Faults, errors: &mut Errors) {
    let bad = text.split('.').map(|part| (part, check(part))).find(|(_, faults)| !faults.is_empty());
    let Some((part, faults)) = bad else { return };
    for fault in faults {
        signer.invalid_quoted(errors, text, format!("validating label {part:?}: {fault}"));
    }
}

/// What upstream's API of this version no longer takes.
fn is_legacy(signer: &Field<'_>) -> bool {
    signer.text() == LEGACY
}
