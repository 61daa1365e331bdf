//! What is not this user's to write, whatever they may do to the kind: where a pod runs, what another node says, more rights
//! than their own.

use hypernetes_api::ApiError;
use serde_json::Value;

use super::{Operation, Request};
use crate::authorization::{escalation, nodes};

pub(super) async fn admit(request: &Request<'_>, object: &Value) -> Result<(), ApiError> {
    // A deletion says nothing but that it is one.
    if request.operation == Operation::Delete {
        return Ok(());
    }
    let (server, call, old) = (request.server, request.call, request.old);
    nodes::restrict_placement(call, object, old)?;
    nodes::restrict(server, call, object, old).await?;
    escalation::check(server, call, object, old).await
}
