//! `CustomResourceDefinition`s: which names are a kind's ([`names`]), and that its objects go before it does ([`cleanup`]).

mod cleanup;
mod definition;
mod names;

pub use definition::Definition;

use crate::Wiring;

pub fn start(wiring: &Wiring<'_>) {
    names::start(wiring);
    cleanup::start(wiring);
}
