//! `x-kubernetes-validations`: rules in CEL that a definition has for parts of its objects, compiled ([`Rule`], [`Rules`]), and objects
//! held to them. Whether they may be a definition's is said in `apiextensions`.

pub mod admission;
mod compile;
mod evaluate;
mod path;

pub(crate) use compile::{Fault, Rule, Rules, declare};
pub(crate) use path::normal;
