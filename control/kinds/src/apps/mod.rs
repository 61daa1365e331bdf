//! The group `apps`: what keeps pods running.

mod controller_revision;
mod daemon_set;
pub(crate) mod deployment;
mod replica_set;
mod stateful_set;
mod strategy;

use serde_json::Value;

use crate::{
    core::pod_template,
    field::{Errors, Field},
    resource::Resource,
    selector,
};

pub(crate) fn resources() -> Vec<Resource> {
    vec![
        controller_revision::resource(),
        daemon_set::resource(),
        deployment::resource(),
        replica_set::resource(),
        stateful_set::resource(),
    ]
}

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
        pod_template::selected(&template, &selector, errors);
    }
    pod_template::check(&template, errors);
}
