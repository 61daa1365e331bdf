//! What a tenant may take of the server.

use hypernetes_api::{ApiError, Reason};
use hypernetes_store::{Exceeded, TxnError};

use crate::Call;

/// The tenant keeps as much as it may: said as upstream's quota does.
pub(crate) fn over_quota(call: &Call, name: &str, error: &TxnError) -> ApiError {
    let why = match error {
        TxnError::Quota { what, used, limit } => {
            let what = match what {
                Exceeded::Objects => "objects",
                Exceeded::Bytes => "bytes",
            };
            format!("exceeded quota: tenant, used: {what}={used}, limited: {what}={limit}")
        }
        other => other.to_string(),
    };
    let (group, plural) = (&call.resource.ty.group, call.resource.plural);
    let resource = if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") };
    ApiError::new(Reason::Forbidden, format!("{resource} {name:?} is forbidden: {why}"))
}
