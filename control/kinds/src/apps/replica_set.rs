//! `ReplicaSet`.

use super::selected;
use crate::{
    core::pod_template,
    field::{Errors, Field},
};

pub(crate) fn check(set: &Field<'_>, errors: &mut Errors) {
    let spec = set.get("spec");
    spec.get("replicas").non_negative(errors);
    spec.get("minReadySeconds").non_negative(errors);
    selected(&spec, "deployment", "invalid label selector", errors);
    pod_template::of_service(&spec.get("template"), "ReplicaSet", errors);
}
