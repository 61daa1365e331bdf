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

use super::Request;
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
