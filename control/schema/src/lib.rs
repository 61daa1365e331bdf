//! What the API server knows about the shape of objects: pure functions over `serde_json::Value`, no I/O.
//!
//! The entry point is [`ObjectType`]: one per group, version and kind, shared, its [`Schema`] built on first use.
//! The life of a write, in the order in which the API server calls:
//!
//! | step | create | update | patch | apply |
//! | --- | --- | --- | --- | --- |
//! | 1 | [`ObjectType::decode`] | the same | [`patch::json_patch`], [`patch::merge_patch`], [`patch::strategic_merge_patch`], then [`ObjectType::check`] | [`ObjectType::decode`], then [`managed::apply`] |
//! | 2 | [`ObjectType::set_defaults`] | the same | the same | the same |
//! | 3 | [`ObjectType::prepare_create`] | [`ObjectType::prepare_update`] | as update | as create or update |
//! | 4 | the rules of the kind: `hypernetes_kinds::create` | `hypernetes_kinds::update` | as update | as create or update |
//! | 5 | admission, and the rules again for what it changed | the same | the same | the same |
//! | 6 | [`managed::track_update`] | the same | the same | (done by apply) |
//!
//! All input is bounded by [`limits`]: hostile depth or size is an error, never a stack overflow.
#![forbid(unsafe_code)]

mod decode;
mod defaults;
mod facts;
mod fieldset;
pub mod limits;
pub mod managed;
pub mod openapi;
pub mod patch;
mod prepare;
pub mod protobuf;
pub mod quantity;
pub mod requests;
mod strategic;
pub mod table;
mod tree;
mod types;
mod walk;

pub use decode::{Decoded, FieldValidation};
pub use tree::{Field, ListKind, ListPatch, Schema, Struct};
pub use types::ObjectType;
