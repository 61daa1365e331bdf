//! Who may do what: nodes, members of tenants, roles and bindings, impersonation, tokens. The API in process.

mod bench;
mod certificates;
mod cost;
mod credentials;
mod defaults;
mod escalation;
mod identity;
mod nodes;
mod placement;
mod reviews;
mod revocation;
mod tls;
