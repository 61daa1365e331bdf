//! What a tenant may take of the server: one table.
//!
//! Charged is the tenant of whoever asks; the operator's own, with the system's components and the nodes, is not. What is
//! stored is counted by the store in its commit, for the tenant that has it, whoever wrote it. The operator sets a
//! tenant's budgets in its Project's `spec.limits`, by the names of the table; the tenant reads them at `/budgets`.

use hypernetes_api::{
    ApiError, Reason,
    types::identity::{IMAGE_BYTES, LOG_BYTES},
};
use hypernetes_store::{Exceeded, METERED, TxnError};

use crate::Call;

/// What each of the store's `Metered` is.
pub(crate) const COUNTED: [Budget; METERED] =
    [Budget::Pods, Budget::MilliCpus, Budget::MemoryBytes, Budget::VolumeBytes];

/// Something that there is only so much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Budget {
    /// Objects in the store.
    Objects,
    /// Bytes of keys and values in the store.
    StoredBytes,
    /// Pods that are not over.
    Pods,
    /// Thousandths of a core that they ask for.
    MilliCpus,
    /// Memory that they ask for.
    MemoryBytes,
    /// Of volumes, by their size.
    VolumeBytes,
    /// Connections over which the tenant has asked for something.
    Connections,
    /// Requests that are being answered, or whose answers are being read; without watches.
    Requests,
    /// Bytes of their bodies.
    RequestBytes,
    /// Bytes of answers that are not read to their end.
    ResponseBytes,
    /// Watches.
    Watches,
    /// Connections to pods: `exec`, `attach`, `portforward`.
    Sessions,
    /// Thousandths of a core that the server works for it, in the long run.
    ServerMilliCpus,
    /// Bytes of audit events that wait to be written.
    AuditBytes,
    /// Of images that the tenant has pulled, on each node.
    ImageBytes,
    /// Of its containers' logs, on each node.
    LogBytes,
}

/// One line of the table.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub budget: Budget,
    pub name: &'static str,
    /// Where it is checked.
    pub checked: &'static str,
    /// For a tenant whose Project says nothing.
    pub default: u64,
    /// What a refusal says.
    pub reason: Reason,
}

/// All budgets of a tenant.
pub const TABLE: [Row; 16] = [
    row(Budget::Objects, "objects", "the store's commit", 50_000, Reason::Forbidden),
    // In memory it is about twice that: once as it is stored, once as the controllers see it.
    row(Budget::StoredBytes, "storedBytes", "the store's commit", 64 << 20, Reason::Forbidden),
    row(Budget::Pods, "pods", "the store's commit", 500, Reason::Forbidden),
    row(Budget::MilliCpus, "milliCpus", "the store's commit", 100_000, Reason::Forbidden),
    row(Budget::MemoryBytes, "memoryBytes", "the store's commit", 256 << 30, Reason::Forbidden),
    row(Budget::VolumeBytes, "volumeBytes", "the store's commit", 1 << 40, Reason::Forbidden),
    row(Budget::Connections, "connections", "the first request of each", 1000, Reason::TooManyRequests),
    row(Budget::Requests, "requests", "after authentication", 200, Reason::TooManyRequests),
    row(Budget::RequestBytes, "requestBytes", "as the body comes", 32 << 20, Reason::TooManyRequests),
    row(Budget::ResponseBytes, "responseBytes", "before the answer is sent", 128 << 20, Reason::TooManyRequests),
    row(Budget::Watches, "watches", "before the watch begins", 1000, Reason::TooManyRequests),
    row(Budget::Sessions, "sessions", "before the node is asked", 100, Reason::TooManyRequests),
    row(Budget::ServerMilliCpus, SERVER_MILLI_CPUS, "before a request is begun", 200, Reason::TooManyRequests),
    // Nothing is refused for it: the event is lost, which the log tells.
    row(Budget::AuditBytes, "auditBytes", "before an event waits", 1 << 20, Reason::TooManyRequests),
    // The node is told by its kubelet, which reads the Project. What is refused is the pod's image, not a request.
    row(
        Budget::ImageBytes,
        IMAGE_BYTES.name,
        "each node, before and after a pull",
        IMAGE_BYTES.default,
        Reason::Forbidden,
    ),
    row(Budget::LogBytes, LOG_BYTES.name, "each node, before a line is written", LOG_BYTES.default, Reason::Forbidden),
];

pub(crate) const SERVER_MILLI_CPUS: &str = "serverMilliCpus";
const fn row(budget: Budget, name: &'static str, checked: &'static str, default: u64, reason: Reason) -> Row {
    Row { budget, name, checked, default, reason }
}

pub(crate) fn row_of(budget: Budget) -> &'static Row {
    // The table is in the enum's order, which a test holds it to.
    &TABLE[budget as usize]
}

/// The tenant keeps as much as it may: said as upstream's quota does.
pub(crate) fn over_quota(call: &Call, name: &str, error: &TxnError) -> ApiError {
    let (row, why) = match error {
        TxnError::Quota { what, used, limit } => {
            let row = row_of(match what {
                Exceeded::Objects => Budget::Objects,
                Exceeded::Bytes => Budget::StoredBytes,
                Exceeded::Metered(place) => COUNTED[*place],
            });
            let what = row.name;
            (row, format!("exceeded quota: tenant, used: {what}={used}, limited: {what}={limit}"))
        }
        other => (row_of(Budget::Objects), other.to_string()),
    };
    let (group, plural) = (&call.resource.ty.group, &call.resource.plural);
    let resource = if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") };
    ApiError::new(row.reason, format!("{resource} {name:?} is forbidden: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threat_model_has_every_budget_with_its_default() {
        let text = include_str!("../../../../docs/threat-model.md");
        for row in &TABLE {
            let line = text.lines().find(|line| line.starts_with(&format!("| `{}` |", row.name)));
            let shown = line.and_then(|line| line.split('|').nth(2)).map(str::trim).unwrap_or_default();
            let (number, unit) = shown.split_once(' ').unwrap_or((shown, ""));
            let unit = 1
                << match unit {
                    "MiB" => 20,
                    "GiB" => 30,
                    "TiB" => 40,
                    _ => 0,
                };
            assert_eq!(number.replace(',', "").parse::<u64>().map(|n| n * unit), Ok(row.default), "{}", row.name);
        }
    }

    #[test]
    fn the_table_is_in_the_order_of_the_enum_and_names_each_once() {
        let names: std::collections::BTreeSet<_> = TABLE.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), TABLE.len());
        for (index, row) in TABLE.iter().enumerate() {
            assert_eq!(row.budget as usize, index, "{}", row.name);
        }
    }
}
