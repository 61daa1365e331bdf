//! What a node may say of itself and of what is on it, and who else may say it.

use futures::{FutureExt, future::BoxFuture};
use hypernetes_api::ApiError;
use serde_json::Value;

use super::{Additions, Operation, Plugin, Request, Step};
use crate::authorization::nodes;

pub(super) const PLUGIN: Plugin = Plugin { name: "NodeRestriction", about, step: Step::Validate(validate) };

/// A deletion says nothing but that it is one.
fn about(request: &Request<'_>) -> bool {
    matches!(request.operation, Operation::Create | Operation::Update)
}

fn validate<'a>(
    request: &'a Request<'a>,
    object: &'a Value,
    _: &'a mut Additions,
) -> BoxFuture<'a, Result<(), ApiError>> {
    nodes::restrict(request.server, request.call, object, request.old).boxed()
}
