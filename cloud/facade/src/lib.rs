//! What every OpenStack façade has: who asks, bodies and queries within bounds, pages, errors, and writes beside others'.
//!
//! A service implements [`Facade`] for the state of its router. [`Caller`], [`Body`] and [`Parameters`] are then arguments
//! of its handlers. What they refuse is a [`Fault`], which the service tells in its own words and its own JSON
//! ([`ServiceError`]): the services differ in what they say, not in what they check.
#![forbid(unsafe_code)]

mod body;
mod caller;
mod error;
mod fault;
mod paging;
mod parameters;
mod service;
mod write;

#[cfg(test)]
mod tests;

pub use body::Body;
pub use caller::{Caller, Guarded, header, token};
pub use error::{ServiceError, keystone_error, respond};
pub use fault::{Fault, excerpt};
pub use paging::{Page, PageError, number};
pub use parameters::Parameters;
pub use service::{Facade, with_fallbacks};
pub use write::{NotUpdated, create, update};
