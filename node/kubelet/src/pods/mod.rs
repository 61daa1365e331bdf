//! The pods of this node: which are taken, one worker for each, and what is left of those that are gone.

mod admission;
pub mod manager;
mod orphans;
mod panic_guard;
mod runtime_events;
pub mod tenants;
mod validation;
