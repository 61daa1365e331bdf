//! `create`.

use axum::body::Body;
use http::Response;
use hypernetes_api::{ApiError, TenantId};
use hypernetes_kinds::Verb;
use serde_json::Value;

use super::{Operation, Proposal, Write, fields, transact};
use crate::{
    Call, Inner,
    authorization::Attributes,
    request::{
        Scope,
        options::{OptionsOf, WriteOptions},
    },
};

pub(crate) async fn create(server: &Inner, call: &Call) -> Result<Response<Body>, ApiError> {
    let options = WriteOptions::parse(call, OptionsOf::Create)?;
    let decoded = call.decode(options.validation)?;
    let write = Write { server, call, options: &options };
    let propose = |_: Option<&Value>| {
        let (object, warnings) = (decoded.object.clone(), decoded.warnings.clone());
        Ok(Proposal { operation: Operation::Create, object, warnings, managed: false, once: false })
    };
    transact(&write, None, propose).await?.answer(call)
}

/// Whether the caller may also create what they apply.
///
/// # Errors
/// `Forbidden`.
pub(super) async fn authorize(server: &Inner, call: &Call, name: &str) -> Result<(), ApiError> {
    let wanted = Attributes {
        verb: Verb::Create.as_str(),
        group: &call.target.group,
        resource: &call.target.plural,
        namespace: call.target.namespace.as_deref(),
        name: Some(name),
        ..Default::default()
    };
    let tenant = match &call.scope {
        Scope::Tenant(tenant) => tenant.clone(),
        Scope::All => TenantId::system(),
    };
    server.authorizer().check(&call.user, &tenant, &wanted).await
}

/// `generateName` and five letters that make no words, as upstream's.
pub(super) fn name(object: &mut Value) {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let metadata = fields(object, &["metadata"]);
    let base = metadata.get("generateName").and_then(Value::as_str).unwrap_or_default();
    let base: String = base.chars().take(58).collect();
    if !base.is_empty() {
        let suffix: String = (0..5).map(|_| LETTERS[rand::random_range(0..LETTERS.len())] as char).collect();
        metadata.insert("name".into(), format!("{base}{suffix}").into());
    }
}
