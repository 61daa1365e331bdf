//! Kubernetes' CEL: the expressions of custom resources' validation rules, of admission policies and of match conditions, as
//! Kubernetes 1.36 understands them.
//!
//! A source becomes a [`Program`] in an [`Environment`], which says what it may name; an [`Evaluation`] has the values, and runs
//! programs within a budget. What an object's schema says is a [`Declaration`]. The crate knows nothing of the API server.
//!
//! ```
//! use hypernetes_cel::{Declaration, Environment, Evaluation, Value, compile};
//!
//! let schema = serde_json::json!({"type": "object", "properties": {"replicas": {"type": "integer"}}});
//! let declared = Declaration::of_schema("selfType", &schema, false).unwrap();
//! let program = compile("self.replicas <= 3", &Environment::new().declared("self", &declared)).unwrap();
//! let object = serde_json::json!({"replicas": 2});
//! let value = Value::of_json(&object, Some(&declared)).unwrap();
//! assert_eq!(Evaluation::new(vec![value]).run(&program).value.unwrap().as_bool(), Some(true));
//! ```
//!
//! The parser is the `cel` crate's. The rest is ours: [`check`] gives types, [`plan`] makes a tree that runs, [`eval`] runs it,
//! [`library`] has the functions, a row each, [`cost`] what they cost, and [`estimate`] what that
//! can come to. Nothing here panics, hangs or grows beyond
//! [`limits`], whatever the source and the values are.
#![forbid(unsafe_code)]

mod check;
mod cost;
mod environment;
mod errors;
mod estimate;
mod eval;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod library;
pub mod limits;
mod meter;
pub mod names;
mod parse;
mod plan;
mod program;
mod types;
mod value;

pub use cost::CostEstimate;
pub use environment::Environment;
pub use errors::{CompileErrors, EvalError, Issue, Position};
pub use eval::{Evaluation, Outcome};
pub use program::{Program, compile};
pub use types::{Declaration, ObjectType, Opaque, Type};
pub use value::check::{Attributes, AuthorizationRequest, Authorizer, Decision};
pub use value::url::Url;
pub use value::{List, Made, Map, Text, TypeName, Value};
