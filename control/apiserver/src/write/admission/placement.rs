//! Where a pod runs is the scheduler's to say.

use futures::future::BoxFuture;
use hypernetes_api::ApiError;
use serde_json::Value;

use super::{Additions, Plugin, Request, Step, ready};
use crate::authorization::nodes;

pub(super) const PLUGIN: Plugin = Plugin { name: "PodPlacement", about, step: Step::Validate(validate) };

/// A deletion says nothing but that it is one.
fn about(request: &Request<'_>) -> bool {
    request.writes("", "Pod")
}

fn validate<'a>(
    request: &'a Request<'a>,
    object: &'a Value,
    _: &'a mut Additions,
) -> BoxFuture<'a, Result<(), ApiError>> {
    ready(nodes::restrict_placement(request.call, object, request.old))
}
