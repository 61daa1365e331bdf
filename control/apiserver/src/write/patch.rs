//! `patch`, in its four languages: JSON, merge, strategic merge, and apply, which may also create.

use axum::body::Body;
use http::{Response, header};
use hypernetes_api::{ApiError, Reason};
use hypernetes_schema::{Decoded, ObjectType, managed, patch as patches};
use serde_json::Value;

use super::{Operation, Proposal, Write, check_name, fields, now, transact};
use crate::{
    Call, Inner, media,
    request::options::{OptionsOf, WriteOptions},
};

/// A patch's language, by its content type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    Json,
    Merge,
    StrategicMerge,
    Apply,
}

impl Language {
    /// # Errors
    /// `UnsupportedMediaType`.
    pub fn of(call: &Call) -> Result<Self, ApiError> {
        let content = call.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let is_defined = call.served.ty.is_defined();
        match content.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Ok(Self::Json),
            "application/merge-patch+json" => Ok(Self::Merge),
            // What a tenant has defined says nothing of how lists are merged.
            "application/strategic-merge-patch+json" if !is_defined => Ok(Self::StrategicMerge),
            "application/apply-patch+yaml" => Ok(Self::Apply),
            other => {
                let strategic = if is_defined { "" } else { "application/strategic-merge-patch+json, " };
                let accepted = format!(
                    "application/json-patch+json, application/merge-patch+json, {strategic}application/apply-patch+yaml"
                );
                Err(media::unsupported(other, &accepted))
            }
        }
    }

    pub fn options(self, call: &Call) -> Result<WriteOptions, ApiError> {
        WriteOptions::parse(call, if self == Self::Apply { OptionsOf::Apply } else { OptionsOf::Patch })
    }

    /// `old` as the patch has it, in the shape of its kind. An apply is not for here.
    pub fn patched(
        self,
        ty: &ObjectType,
        old: Value,
        body: &[u8],
        options: &WriteOptions,
    ) -> Result<Decoded, ApiError> {
        let object = match self {
            Self::Json => patches::json_patch(old, body)?,
            Self::Merge => patches::merge_patch(old, body)?,
            Self::StrategicMerge => patches::strategic_merge_patch(ty.schema(), old, body)?,
            Self::Apply => return Err(ApiError::internal("an apply is merged by field managers")),
        };
        ty.check(object, options.validation)
    }
}

pub(crate) async fn patch(server: &Inner, call: &Call) -> Result<Response<Body>, ApiError> {
    let language = Language::of(call)?;
    let options = language.options(call)?;
    let name = call.target.name.as_deref().unwrap_or_default();
    let write = Write { server, call, options: &options };
    if language == Language::Apply {
        let configuration = call.decode(options.validation)?;
        check_name(name, &configuration.object)?;
        let propose = |old: Option<&Value>| apply(&write, name, &configuration, old);
        return transact(&write, Some(name), propose).await?.answer(call);
    }
    let propose = |old: Option<&Value>| {
        let old = old.ok_or_else(|| call.not_found(name))?;
        let old = call.served.from_stored(old.clone());
        let patched = language.patched(&call.served.ty, old, &call.body, &options)?;
        let Decoded { object, warnings } = call.to_stored(patched);
        Ok(Proposal { operation: Operation::Update, object, warnings, managed: false, once: false })
    };
    transact(&write, Some(name), propose).await?.answer(call)
}

/// Server-side apply; of what is not there it makes a new object, if it is the whole that is applied.
fn apply(write: &Write<'_>, name: &str, configuration: &Decoded, old: Option<&Value>) -> Result<Proposal, ApiError> {
    let Write { call, options, .. } = *write;
    let now = now();
    let object = &configuration.object;
    if old.is_none() {
        if call.subresource.is_some() {
            return Err(call.not_found(name));
        }
        if let Some(uid) = object["metadata"]["uid"].as_str() {
            let why =
                format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
            return Err(ApiError::new(Reason::Conflict, why));
        }
    }
    let mut own = object.clone();
    call.resource.keep_only_own_part(call.through(), &mut own);
    let mut merged = managed::apply(&call.resource.ty, old, &own, write.writer(&now), options.force)?;
    if let Some(old) = old {
        // A version that the configuration names has to be the current one.
        let named = object["metadata"]["resourceVersion"].as_str().map(Value::from);
        let version = named.unwrap_or_else(|| old["metadata"]["resourceVersion"].clone());
        fields(&mut merged, &["metadata"]).insert("resourceVersion".into(), version);
    }
    let operation = if old.is_some() { Operation::Update } else { Operation::Create };
    Ok(Proposal { operation, object: merged, warnings: configuration.warnings.clone(), managed: true, once: false })
}
