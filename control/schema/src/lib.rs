//! What the API server knows about the shape of objects: pure functions over `serde_json::Value`, no I/O, and no kind by name.
//!
//! The entry point is [`ObjectType`]: one per group, version and kind, shared, its [`Schema`] built on first use. Which kinds
//! there are, and what each is besides its shape, is in `hypernetes-kinds`.
//!
//! All input is bounded by [`limits`]: hostile depth or size is an error, never a stack overflow.
#![forbid(unsafe_code)]

mod decode;
pub mod defaults;
pub mod facts;
mod fieldset;
pub mod limits;
pub mod managed;
pub mod openapi;
mod overlay;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod requests;
mod strategic;
pub mod structural;
mod tree;
mod types;
pub mod walk;

pub use decode::{Decoded, FieldValidation};
pub use facts::{ListKind, ListPatch};
pub use overlay::overlay;
pub use structural::Structural;
pub use tree::{Field, Schema, Struct};
pub use types::{ObjectType, Scope, Written};
