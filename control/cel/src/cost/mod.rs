//! What calls cost: in fact, and as it can be told before anything runs.
//!
//! Figures are those of cel-go 0.26 (`common/cost.go`) and of Kubernetes 1.36's `CostEstimator`.

mod model;
mod size;

pub(crate) use model::{Argument, CallArguments, Cost, CostOf};
pub use size::CostEstimate;
pub(crate) use size::SizeEstimate;

/// An identifier or a selection of a field.
pub(crate) const SELECT: u64 = 1;
/// A list, a map, an object that is made.
pub(crate) const LIST: u64 = 10;
pub(crate) const MAP: u64 = 30;
pub(crate) const OBJECT: u64 = 40;
/// A character of a string that is gone through.
pub(crate) const CHARACTER: f64 = 0.1;
/// A character of a regular expression, for each unit of the string's cost.
pub(crate) const REGEX_CHARACTER: f64 = 0.25;
