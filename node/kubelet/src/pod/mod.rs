//! One pod: what its worker does with it, from its specification to its status.

mod containers;
pub mod events;
mod objects;
pub mod rejection;
mod sandbox;
pub mod spec;
pub mod status;
mod sync;
mod sync_error;
pub mod termination;
pub mod volumes;
pub mod worker;
