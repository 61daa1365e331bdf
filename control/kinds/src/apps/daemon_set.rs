//! `DaemonSet`.

use super::strategy;
use crate::{
    core::pod_template,
    field::{Errors, Field, shown},
    selector,
};

pub(crate) fn check(set: &Field<'_>, errors: &mut Errors) {
    let spec = set.get("spec");
    let (selector, template) = (spec.get("selector"), spec.get("template"));
    selector::check(&selector, errors);
    // Without a selector nothing is selected.
    let labels = template.walk(["metadata", "labels"]);
    if selector::matches(&selector, labels.value) == Some(false) {
        labels.invalid(errors, "`selector` does not match template `labels`");
    }
    if selector.is_set() && selector::is_empty(&selector) {
        selector.invalid_as(errors, selector::shown(&selector), "empty selector is invalid for daemonset");
    }
    pod_template::check(&template, errors);
    pod_template::of_service(&template, "DaemonSet", errors);
    spec.get("minReadySeconds").non_negative(errors);
    let update = spec.get("updateStrategy");
    let (kind, rolling) = (update.get("type"), update.get("rollingUpdate"));
    match kind.text() {
        "OnDelete" => {}
        "RollingUpdate" if rolling.is_set() => strategy::rolling_on_nodes(&rolling, errors),
        "RollingUpdate" => rolling.required(errors, ""),
        _ => {
            let internal = format!("{{\"Type\":{},\"RollingUpdate\":null}}", shown(&kind.text().into()));
            update.not_supported_as(errors, internal, &["RollingUpdate", "OnDelete"]);
        }
    }
    spec.get("revisionHistoryLimit").non_negative(errors);
}
