//! `Node`.

use super::{resources, scheduling};
use crate::{
    field::{Errors, Field},
    format,
};

pub(crate) fn check(node: &Field<'_>, errors: &mut Errors) {
    let taints = node.walk(["spec", "taints"]);
    // Upstream's path of a node's taints is not where they are.
    scheduling::taints(&Field::at(taints.value, node.get("metadata").path.child("taints")), errors);
    node.walk(["spec", "podCIDRs"]).items().for_each(|range| range.faulty(errors, format::cidr(range.text())));
    for list in ["capacity", "allocatable"] {
        for (name, amount) in node.walk(["status", list]).entries() {
            resources::amount(name, &amount, errors);
        }
    }
}
