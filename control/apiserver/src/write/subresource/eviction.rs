//! `pods/eviction`: a deletion; disruption budgets are not looked at yet.

use axum::body::Body;
use http::{Response, StatusCode};
use hypernetes_api::ApiError;

use super::{super::delete::delete_one, decode, success};
use crate::{
    Call, Inner,
    answer::json_response,
    request::options::{DeleteOptions, OptionsOf, WriteOptions},
};

/// A dry run is one if the query or the eviction's own options say so.
pub(crate) async fn create(server: &Inner, call: &Call) -> Result<Response<Body>, ApiError> {
    let write = WriteOptions::parse(call, OptionsOf::Create)?;
    let eviction = decode(call, write.validation)?.object;
    let options = DeleteOptions::read(&eviction["deleteOptions"], &call.query)?;
    delete_one(server, call, call.target.name.as_deref().unwrap_or_default(), &options).await?;
    Ok(json_response(StatusCode::CREATED, &success()))
}
