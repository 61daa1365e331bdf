//! Who may do what: nodes, members of tenants, roles and bindings, impersonation, tokens. The API in process.

mod bench;
mod certificates;
mod credentials;
mod escalation;
mod identity;
mod nodes;
mod placement;
mod reviews;
mod tls;
