//! A tenant's own admission policies: which of them a write is about, and what they make of it.
//!
//! ```text
//! policies::OfTenant ─▶ Shown (the write as policies see it) ─▶ bound policies that match ─▶ parameters ─▶ hypernetes_policy
//! ```

pub(super) mod bounds;
pub(super) mod mutating;
mod parameters;
pub(super) mod validating;

use std::sync::Arc;

use hypernetes_api::ApiError;
use hypernetes_policy::{Binding, Matched, Policy};
use serde_json::Value;

use self::parameters::{Missing, collect};
use super::{Request, shown::Shown};
use crate::policies::OfTenant;

/// Units of cost that all policies together may take of one write: ten times what one may.
const MOST_COST: u64 = 10 * hypernetes_policy::BUDGET;

/// The policies of the tenant that it is a write of.
pub(super) async fn of_tenant(request: &Request<'_>) -> Result<Option<Arc<OfTenant>>, ApiError> {
    request.server.policies.of(&request.call.tenant()?).await
}

/// What is done with a cost that no write comes to by itself.
fn spend(spent: &mut u64, cost: u64) -> Result<(), String> {
    *spent = spent.saturating_add(cost);
    if *spent > MOST_COST {
        return Err("all policies together run out of cost budget".to_owned());
    }
    Ok(())
}

/// In what version a policy is about a write, if it is.
///
/// # Errors
/// As [`parameters_of`].
async fn is_about<'s, D>(
    request: &Request<'_>,
    shown: &'s Shown<'_>,
    policy: &Policy<D>,
) -> Result<Option<Matched<'s>>, Missing> {
    let Some(matched) = shown.matched(&policy.matching).map_err(Missing::Said)? else { return Ok(None) };
    match &policy.parameters {
        Some(kind) if parameters::resource(request, kind).await?.is_none() => {
            Err(Missing::Said(parameters::unknown(kind)))
        }
        _ => Ok(Some(matched)),
    }
}

/// The parameters by which a policy that is about a write holds for it, through a binding: none, where the binding is not about it.
///
/// # Errors
/// How policy or binding are not as they should be, in upstream's words; or that the store does not answer.
async fn parameters_of<D>(
    request: &Request<'_>,
    shown: &Shown<'_>,
    policy: &Policy<D>,
    binding: &Binding,
) -> Result<Vec<Value>, Missing> {
    match shown.matched(&binding.matching).map_err(Missing::Said)? {
        Some(_) => collect(request, policy.parameters.as_ref(), binding, shown.about().namespace).await,
        None => Ok(Vec::new()),
    }
}
