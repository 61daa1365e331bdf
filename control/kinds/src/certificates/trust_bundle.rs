//! `ClusterTrustBundle`: certificates of authorities that a cluster trusts, of a signer or of nobody in particular (KEP-3257).
//!
//! Upstream's 1.36 serves it as `v1beta1` where that is switched on, which a cluster here cannot be asked to do: it is on.

use std::collections::HashMap;

use hypernetes_certificates::pem;
use k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle;
use serde_json::Value;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::signer_name;
use crate::{
    columns::{column, name, path},
    field::{Errors, Field},
    format,
    resource::Resource,
};

pub(crate) fn resource() -> Resource {
    Resource::kubernetes::<ClusterTrustBundle>("clustertrustbundles")
        .selectable(["spec.signerName"])
        .columns(vec![name(), column("SignerName", path("spec.signerName"))])
        .names(format::path_segment)
        .check(check)
        .immutable(&[&["spec", "signerName"]])
}

fn check(bundle: &Field<'_>, errors: &mut Errors) {
    let (called, spec) = (bundle.walk(["metadata", "name"]), bundle.get("spec"));
    let signer = spec.get("signerName");
    check_name(&called, signer.text(), errors);
    if !signer.is_empty() {
        signer_name(&signer, errors);
    }
    if let Err(why) = anchors(spec.get("trustBundle").value) {
        spec.get("trustBundle").invalid_quoted(errors, "<value omitted>", why);
    }
}

/// A signer's bundles are called `<domain>:<path>:<name>`, the others have no colon.
fn check_name(called: &Field<'_>, signer: &str, errors: &mut Errors) {
    let text = called.text();
    let rest = match signer.split_once('/') {
        Some((domain, path)) if !path.contains('/') => {
            let prefix = format!("{domain}:{path}:");
            let Some(rest) = text.strip_prefix(&prefix) else {
                let why = format!("ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}");
                return called.invalid(errors, why);
            };
            rest
        }
        None if signer.is_empty() && text.contains(':') => {
            return called.invalid(errors, "ClusterTrustBundle without signer name must not have \":\" in its name");
        }
        _ => text,
    };
    called.faulty(errors, format::subdomain(rest));
}

/// At least one certificate of an authority, none twice.
fn anchors(bundle: &Value) -> Result<(), String> {
    let mut seen: HashMap<Vec<u8>, Vec<usize>> = HashMap::new();
    for (at, block) in pem::blocks(bundle.as_str().unwrap_or_default().as_bytes()).enumerate() {
        if block.label != "CERTIFICATE" {
            return Err(format!("entry {at} has bad block type: {}", block.label));
        }
        if block.headers {
            return Err(format!("entry {at} has PEM block headers"));
        }
        match X509Certificate::from_der(&block.content) {
            Ok(([], certificate)) => {
                if !certificate.is_ca() {
                    return Err(format!("entry {at} does not have the CA bit set"));
                }
            }
            _ => return Err(format!("entry {at} does not parse as X.509")),
        }
        seen.entry(block.content).or_default().push(at);
    }
    if seen.is_empty() {
        return Err("at least one trust anchor must be provided".into());
    }
    match seen.values().find(|places| places.len() > 1) {
        Some(places) => {
            let places: Vec<String> = places.iter().map(ToString::to_string).collect();
            Err(format!("duplicate trust anchor (indices [{}])", places.join(" ")))
        }
        None => Ok(()),
    }
}
