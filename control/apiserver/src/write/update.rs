//! `update`: of an object, its status, or its finalizers.

use axum::body::Body;
use http::Response;
use hypernetes_api::ApiError;
use serde_json::Value;

use super::{Operation, Proposal, Write, check_name, text, transact};
use crate::{
    Call, Inner,
    request::options::{OptionsOf, WriteOptions},
};

/// What is not there is not made: `NotFound`.
pub(crate) async fn update(server: &Inner, call: &Call) -> Result<Response<Body>, ApiError> {
    let options = WriteOptions::parse(call, OptionsOf::Update)?;
    let decoded = call.decode(options.validation)?;
    let name = call.target.name.as_deref().unwrap_or_default();
    check_name(name, &decoded.object)?;
    let once = !text(&decoded.object, &["metadata", "resourceVersion"]).is_empty();
    let write = Write { server, call, options: &options };
    let propose = |old: Option<&Value>| {
        if old.is_none() {
            return Err(call.not_found(name));
        }
        let (object, warnings) = (decoded.object.clone(), decoded.warnings.clone());
        Ok(Proposal { operation: Operation::Update, object, warnings, managed: false, once })
    };
    transact(&write, Some(name), propose).await?.answer(call)
}
