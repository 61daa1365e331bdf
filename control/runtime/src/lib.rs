//! What everyone who acts on API objects is made of (controllers, scheduler, the services of the cloud): [`Informers`]
//! (one watch for each kind, of all tenants, shared), a [`Queue`] of keys with back-off, and a [`Reconciler`] that brings
//! one key's object to where it should be.
//!
//! Of several servers one acts, while it holds a lease: [`Election`].
//!
//! What is worked on is tenants' data. An object on which a reconciler panics, or with which it does not come to an end,
//! costs that object's owner an event and nobody else anything: [`work`] catches it and tries again later.
#![forbid(unsafe_code)]

mod context;
mod election;
mod events;
mod guard;
mod informer;
mod owners;
mod queue;
mod work;

pub use context::{Context, During, Error, write_status};
pub use election::{Election, Takeover, Term, Timing, server_of};
pub use events::{Recorder, Severity, Subject};
pub use guard::{Mishap, attempt, call, mishaps};
pub use hypernetes_client::found_by::matches;
pub use informer::{Cache, Informer, Informers, Key, Object};
pub use owners::{claim, controller_of, make, owner_reference};
pub use queue::{Queue, Tenanted};
pub use work::{Reconciler, drive, work};
