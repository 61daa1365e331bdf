//! What every controller is made of: [`Informers`] (one watch for each kind, of all tenants, shared), a [`Queue`] of
//! keys with back-off, and a [`Reconciler`] that brings one key's object to where it should be.

mod context;
mod events;
mod informer;
mod owners;
mod queue;

pub use context::{Context, During, Error, write_status};
pub use events::{Recorder, Severity, Subject};
pub use informer::{Informer, Informers, Key, Object};
pub use owners::{Claimed, claim, controller_of, matches, owner_reference};
pub use queue::{Queue, Reconciler, drive};
