//! Admission by rules that a tenant writes: `ValidatingAdmissionPolicy` and `MutatingAdmissionPolicy` with their bindings, and webhooks.
//!
//! ```text
//! request ─▶ Matching (is it about this?) ─▶ Policy (compiled when it first is) ─▶ Evaluation (conditions, variables, budget)
//!                                                                             ├─▶ validating: verdicts, annotations
//!                                                                             └─▶ mutating: the object as it shall be
//!                              ╰▶ Webhook: the review that its server is sent, and what the answer means
//! ```
//!
//! All of it is a function of what is handed in: the API server finds policies, bindings and parameters, says who may do what, and
//! carries out what is decided. The rules are KEP-3488's and KEP-3962's, the words Kubernetes 1.36's.
#![forbid(unsafe_code)]

mod about;
mod binding;
mod evaluation;
mod expressions;
mod matching;
mod mutating;
mod policy;
pub mod type_checking;
mod validating;
mod webhook;

pub use about::{About, Matched, Request};
pub use binding::{Absent, Binding, Parameters, Which};
pub use evaluation::Subject;
pub use hypernetes_cel::{Attributes, AuthorizationRequest, Authorizer, Decision};
pub use matching::Matching;
pub use mutating::{Mutated, MutatingPolicy};
pub use policy::{ParameterKind, Policy};
pub use validating::{Outcome, ValidatingPolicy, Verdict};
pub use webhook::{Answer, Destination, Refusal, Webhook};

/// Units of cost that one policy may take of one request.
pub const BUDGET: u64 = hypernetes_cel::limits::RUNTIME_BUDGET;
