//! `CertificateSigningRequest`: what is asked for is for life; whether it is approved, and the certificate, come by endpoints
//! of their own. Who asks is set by the server (`write/admission/certificates.rs` of the API server).

use base64::{Engine, engine::general_purpose::STANDARD};
use hypernetes_certificates::{pem, request::SigningRequest};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{is_legacy, signer_name};
use crate::{
    columns::{Cell, age, column, duration, list, name, path, text},
    field::{Errors, Field, quote},
    format,
    resource::Resource,
    subresource::{Behaviour, Subresource},
};

pub(crate) fn resource() -> Resource {
    Resource::kubernetes::<CertificateSigningRequest>("certificatesigningrequests")
        .short_names(&["csr"])
        .subresources([Subresource::new("approval", Behaviour::Approval), Subresource::status()])
        .selectable(["spec.signerName"])
        .columns(vec![
            name(),
            age(),
            column("SignerName", path("spec.signerName")),
            column("Requestor", path("spec.username")),
            column("RequestedDuration", Cell::Of(requested)),
            column("Condition", Cell::Of(condition)),
        ])
        .names(format::path_segment)
        .first_status(|_| json!({}))
        .kept(&[&["spec"]])
        .check(check)
        .on_status(status)
        .on_approval(approval)
}

/// Every usage that there is, in upstream's order.
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
const SHORTEST_SECONDS: i64 = 600;

fn check(object: &Field<'_>, errors: &mut Errors) {
    let spec = object.get("spec");
    let request = spec.get("request");
    let decoded = STANDARD.decode(request.text()).unwrap_or_default();
    if let Err(error) = SigningRequest::parse(&decoded) {
        request.invalid(errors, error.to_string());
    }
    let usages = spec.get("usages");
    usages.not_empty(errors);
    usages.items().for_each(|usage| usage.one_of(errors, &USAGES));
    let all: Vec<Field<'_>> = usages.items().collect();
    for (at, usage) in all.iter().enumerate() {
        // Of those that are known there are few.
        if all.iter().take(at.min(USAGES.len() * 2)).any(|before| before.value == usage.value) {
            usage.duplicate(errors);
        }
    }
    let signer = spec.get("signerName");
    match is_legacy(&signer) {
        true => signer.invalid(errors, "the legacy signerName is not allowed via this API version"),
        false => signer_name(&signer, errors),
    }
    let seconds = spec.get("expirationSeconds");
    if seconds.int().is_some_and(|asked| asked < SHORTEST_SECONDS) {
        seconds.invalid(errors, "may not specify a duration less than 600 seconds (10 minutes)");
    }
}

const APPROVED: &str = "Approved";
const DENIED: &str = "Denied";
const FAILED: &str = "Failed";

fn conditions(list: &Field<'_>, errors: &mut Errors) {
    let mut seen: Vec<&str> = Vec::new();
    for one in list.items() {
        let (kind, status) = (one.get("type"), one.get("status"));
        kind.not_empty(errors);
        let known: &[&str] = match kind.text() {
            APPROVED | DENIED | FAILED => &["True"],
            _ => &["False", "True", "Unknown"],
        };
        status.required_one_of(errors, known);
        let other = match kind.text() {
            APPROVED => DENIED,
            DENIED => APPROVED,
            _ => "",
        };
        if !other.is_empty() && seen.contains(&other) {
            let why = "Approved and Denied conditions are mutually exclusive";
            list.invalid_as(errors, quote(kind.text()), why);
        }
        if seen.contains(&kind.text()) {
            kind.duplicate(errors);
        }
        seen.push(kind.text());
    }
}

/// What there is of a type, in order.
fn of_type<'v>(object: &Field<'v>, kind: &str) -> Vec<&'v Value> {
    list(object.value, "status.conditions").filter(|condition| condition["type"] == kind).collect()
}

/// What holds for both endpoints: what was said once is not taken back.
fn changed(object: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    let list = object.walk(["status", "conditions"]);
    conditions(&list, errors);
    for kind in [APPROVED, DENIED, FAILED] {
        if of_type(object, kind).len() < of_type(old, kind).len() {
            list.change_forbidden(errors, format!("updates may not remove a condition of type {kind:?}"));
        }
    }
}

fn approval(object: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    changed(object, old, errors);
}

/// Approval is not the signer's to give, and a certificate is given once.
fn status(object: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    let list = object.walk(["status", "conditions"]);
    let certificate = object.walk(["status", "certificate"]);
    let before = old.walk(["status", "certificate"]);
    changed(object, old, errors);
    let other = certificate.text() != before.text();
    if other && let Err(why) = check_certificate(certificate.text()) {
        certificate.invalid_quoted(errors, "<certificate data>", why);
    }
    for kind in [APPROVED, DENIED] {
        let (now, then) = (of_type(object, kind), of_type(old, kind));
        if now.len() > then.len() {
            list.change_forbidden(errors, format!("updates may not add a condition of type {kind:?}"));
        } else if now.len() == then.len() && now != then {
            list.change_forbidden(errors, format!("updates may not modify a condition of type {kind:?}"));
        }
    }
    if other && !before.is_empty() {
        certificate.change_forbidden(errors, "updates may not modify existing certificate content");
    }
}

/// A certificate and perhaps those of its authorities, as PEM; nothing at all is good, too.
fn check_certificate(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Ok(());
    }
    let mut any = false;
    for block in pem::blocks(&STANDARD.decode(text).unwrap_or_default()) {
        if block.label != "CERTIFICATE" {
            return Err(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", block.label));
        }
        if block.headers {
            return Err("no PEM block headers are permitted".into());
        }
        match X509Certificate::from_der(&block.content) {
            Ok(([], _)) => any = true,
            _ => return Err("x509: malformed certificate".into()),
        }
    }
    any.then_some(()).ok_or_else(|| "must contain at least one CERTIFICATE PEM block".into())
}

fn requested(object: &Value) -> Value {
    match object["spec"]["expirationSeconds"].as_i64() {
        Some(seconds) => duration(seconds).into(),
        None => "<none>".into(),
    }
}

fn condition(object: &Value) -> Value {
    let has = |kind: &str| list(object, "status.conditions").any(|condition| condition["type"] == kind);
    let mut said = match (has(DENIED), has(APPROVED)) {
        (true, _) => DENIED,
        (_, true) => APPROVED,
        _ => "Pending",
    }
    .to_owned();
    for (is, more) in [(has(FAILED), ",Failed"), (!text(object, "status.certificate").is_empty(), ",Issued")] {
        if is {
            said.push_str(more);
        }
    }
    said.into()
}
