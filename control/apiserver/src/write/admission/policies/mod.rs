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

use hypernetes_kinds::{Endpoint, Served};
use hypernetes_policy::{Binding, Policy};
use serde_json::Value;

use self::parameters::Missing;
use super::{Request, shown::Shown};

/// Units of cost that all policies together may take of one write: ten times what one may.
const MOST_COST: u64 = 10 * hypernetes_policy::BUDGET;

/// What is done with a cost that no write comes to by itself.
fn spend(spent: &mut u64, cost: u64) -> Result<(), String> {
    *spent = spent.saturating_add(cost);
    if *spent > MOST_COST {
        return Err("all policies together run out of cost budget".to_owned());
    }
    Ok(())
}

/// How a policy is about a write.
struct About {
    version: Arc<Served>,
    /// Of its parameters; none, where it has none.
    parameters: Option<Endpoint>,
}

/// How a policy is about a write, if it is.
///
/// # Errors
/// As [`parameters_of`].
async fn is_about<D>(request: &Request<'_>, shown: &Shown<'_>, policy: &Policy<D>) -> Result<Option<About>, Missing> {
    let Some(version) = shown.matched(&policy.matching).map_err(Missing::Said)? else { return Ok(None) };
    let parameters = match &policy.parameters {
        Some(kind) => match parameters::resource(request, kind).await? {
            None => return Err(Missing::Said(parameters::unknown(kind))),
            found => found,
        },
        None => None,
    };
    Ok(Some(About { version, parameters }))
}

/// The parameters by which a policy that is about a write holds for it, through a binding: none, where the binding is not about it.
///
/// # Errors
/// How policy or binding are not as they should be, in upstream's words; or that the store does not answer.
async fn parameters_of(
    request: &Request<'_>,
    shown: &Shown<'_>,
    about: &About,
    binding: &Binding,
) -> Result<Vec<Value>, Missing> {
    match shown.matched(&binding.matching).map_err(Missing::Said)? {
        Some(_) => parameters::collect(request, about.parameters.as_ref(), binding, shown.about().namespace).await,
        None => Ok(Vec::new()),
    }
}
