//! What a `ResourceQuota` counts: how much an object takes of it, which objects it is about, and what there is no room for.
//!
//! ```text
//! object ─▶ Counted (how objects of its kind are measured) ─▶ Amounts ─▶ Quota (what is used, and how much may be) ─▶ room, or why not
//! ```
//!
//! All of it is arithmetic on objects in JSON. The API server asks it before a write, the controller when it adds up what there is. What
//! [`pod`] adds up is asked by limit ranges, too.
#![forbid(unsafe_code)]

pub mod amounts;
mod counted;
pub mod pod;
mod quota;
mod scope;

pub use amounts::Amounts;
pub use counted::Counted;
pub use quota::{Quota, admit};
