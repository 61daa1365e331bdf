//! Who may do what: nodes, members of tenants, roles and bindings, impersonation, tokens. The API in process.

mod bench;
mod escalation;
mod identity;
mod nodes;
mod placement;
mod reviews;
