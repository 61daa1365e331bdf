//! `node.k8s.io`.

use std::collections::HashSet;

use k8s_openapi::api::node::v1::RuntimeClass;

use crate::{
    columns::{between, column, path_or},
    core::{resources::overhead, scheduling},
    field::{Errors, Field, shown},
    format, meta,
    resource::{Home, Resource},
};

pub(crate) fn resources() -> Vec<Resource> {
    let class = Resource::kubernetes::<RuntimeClass>("runtimeclasses")
        .home(Home::Projected)
        .columns(between([column("Handler", path_or("handler", ""))]))
        .plain_finalizers()
        .check(runtime_class)
        .immutable(&[&["handler"]]);
    vec![class]
}

/// `RuntimeClass`.
fn runtime_class(class: &Field<'_>, errors: &mut Errors) {
    class.get("handler").required_text(errors, format::label);
    let cost = class.get("overhead");
    // Upstream's path of these is the overhead's.
    overhead(&Field::at(cost.get("podFixed").value, cost.path.clone()), errors);
    let nodes = class.get("scheduling");
    meta::labels(&nodes.get("nodeSelector"), errors);
    let (tolerations, mut seen) = (nodes.get("tolerations"), HashSet::new());
    scheduling::tolerations(&tolerations, errors);
    for toleration in tolerations.items() {
        let shown = toleration_shown(&toleration);
        if !seen.insert(shown.clone()) {
            toleration.duplicate_as(errors, shown);
        }
    }
}

/// Upstream's own type of a toleration as it is printed.
fn toleration_shown(toleration: &Field<'_>) -> String {
    let part = |name: &'static str| shown(&toleration.get(name).text().into());
    format!(
        "{{\"Key\":{},\"Operator\":{},\"Value\":{},\"Effect\":{},\"TolerationSeconds\":{}}}",
        part("key"),
        part("operator"),
        part("value"),
        part("effect"),
        shown(toleration.get("tolerationSeconds").value)
    )
}
