//! The group `apps`: what keeps pods running.

pub(crate) mod controller_revision;
pub(crate) mod daemon_set;
pub(crate) mod deployment;
pub(crate) mod replica_set;
pub(crate) mod stateful_set;
mod strategy;

use serde_json::Value;

use crate::{
    core::pod_template,
    field::{Errors, Field},
    selector,
};

/// A selector that has to be there and select something, and the template that it has to match.
///
/// `unparsed` is what is said of a selector that is none.
fn selected(spec: &Field<'_>, kind: &str, unparsed: &str, errors: &mut Errors) {
    let (selector, template) = (spec.get("selector"), spec.get("template"));
    if selector.is_set() {
        selector::check(&selector, errors);
        if selector::is_empty(&selector) {
            let why = format!("empty selector is invalid for {kind}");
            selector.invalid_as(errors, selector::shown(&selector), why);
        }
        if selector::matches(&selector, &Value::Null).is_none() {
            return selector.invalid_as(errors, selector::shown(&selector), unparsed);
        }
        pod_template::selected(&template, &selector, errors);
    } else {
        selector.required(errors, "");
    }
    pod_template::check(&template, errors);
}
