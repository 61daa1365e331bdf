//! `admissionregistration.k8s.io`: who a tenant asks besides before something is let into its cluster.

mod binding;
mod client;
mod expression;
mod matching;
mod policy;
mod webhook;

use crate::{
    field::{Errors, Field},
    resource::Resource,
};

pub(crate) fn resources() -> Vec<Resource> {
    let all = [policy::resources(), binding::resources(), webhook::resources()].into_iter().flatten();
    all.map(|resource| resource.categories(&["api-extensions"])).collect()
}

const REINVOCATION: &[&str] = &["IfNeeded", "Never"];

/// What becomes of a request when nobody can say whether it is let in.
fn check_failure_policy(policy: &Field<'_>, errors: &mut Errors) {
    policy.optional_one_of(errors, &["Fail", "Ignore"]);
}
