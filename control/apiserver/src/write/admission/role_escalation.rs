//! Nobody gives away rights that they do not have.

use futures::{FutureExt, future::BoxFuture};
use hypernetes_api::ApiError;
use serde_json::Value;

use super::{Additions, Operation, Plugin, Request, Step};
use crate::authorization::escalation;

pub(super) const PLUGIN: Plugin = Plugin { name: "RoleEscalation", about, step: Step::Validate(validate) };

/// A deletion says nothing but that it is one.
fn about(request: &Request<'_>) -> bool {
    let writes = matches!(request.operation, Operation::Create | Operation::Update);
    writes && request.call.resource.ty.group == "rbac.authorization.k8s.io"
}

fn validate<'a>(
    request: &'a Request<'a>,
    object: &'a Value,
    _: &'a mut Additions,
) -> BoxFuture<'a, Result<(), ApiError>> {
    escalation::check(request.server, request.call, object, request.old).boxed()
}
