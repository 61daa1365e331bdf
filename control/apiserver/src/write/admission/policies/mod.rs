//! A tenant's own admission policies: which of them a write is about, and what they make of it.
//!
//! ```text
//! policies::OfTenant ─▶ Shown (the write as policies see it) ─▶ bound policies that match ─▶ parameters ─▶ hypernetes_policy
//! ```
//!
//! A policy holds for everybody who writes into the tenant's cluster, the system's own controllers included; but what infrastructure says
//! has happened (statuses, placements, ends of pods) is not for it, and nothing that is infrastructure's to say is changed by it.

pub(super) mod bounds;
mod checks;
pub(super) mod mutating;
mod parameters;
mod shown;
pub(super) mod validating;

use std::sync::Arc;

use hypernetes_api::ApiError;
use hypernetes_kinds::Home;
use hypernetes_policy::{Matched, Matching};
use serde_json::Value;

use self::shown::Shown;
use super::{Operation, Request};
use crate::{
    authorization::{Attributes, nodes},
    policies::{GROUP, OfTenant},
};

/// Units of cost that all policies together may take of one write: ten times what one may.
const MOST_COST: u64 = 10 * hypernetes_policy::BUDGET;

/// Whether policies have a say in it.
fn about(request: &Request<'_>) -> bool {
    let call = request.call;
    // Upstream's too: a policy that refused its own removal would be there for ever.
    if call.resource.ty.group == GROUP || call.resource.home != Home::Tenant {
        return false;
    }
    let wanted = Attributes {
        verb: "update",
        group: &call.resource.ty.group,
        resource: &call.resource.plural,
        subresource: call.subresource.as_ref().map_or("", |one| one.name),
        ..Attributes::default()
    };
    if nodes::is_reserved(&wanted) {
        return false;
    }
    let ends_pod = request.operation == Operation::Delete && request.is("", "Pod");
    !(call.is_infrastructure() && (ends_pod || call.resource.ty.is_own()))
}

/// The policies of the tenant that it is a write of.
async fn of_tenant(request: &Request<'_>) -> Result<Option<Arc<OfTenant>>, ApiError> {
    request.server.policies.of(&request.call.tenant()?).await
}

/// In what version something matches, of those in which there are such objects.
fn matched<'s>(matching: &Matching, shown: &'s Shown<'_>) -> Result<Option<Matched<'s>>, String> {
    matching.matches(&shown.about(), || shown.namespace_labels(), &shown.others())
}

/// What is done with a cost that no write comes to by itself.
fn spend(spent: &mut u64, cost: u64) -> Result<(), String> {
    *spent = spent.saturating_add(cost);
    if *spent > MOST_COST {
        return Err("all policies together run out of cost budget".to_owned());
    }
    Ok(())
}

fn name_of(object: &Value) -> &str {
    super::text(object, &["metadata", "name"])
}
