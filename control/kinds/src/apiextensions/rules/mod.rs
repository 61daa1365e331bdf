//! `x-kubernetes-validations`: rules in CEL that a definition has for parts of its objects. [`check`] says whether they are any,
//! when the definition is written; [`Rules`] holds objects to them.

mod check;
mod compile;
mod evaluate;
mod path;

pub(super) use check::check;
pub(crate) use compile::Rules;
