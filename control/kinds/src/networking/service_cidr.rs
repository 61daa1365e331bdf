//! `ServiceCIDR`: a range of addresses of a tenant's own services, one of each family at most.

use k8s_openapi::api::networking::v1::ServiceCIDR;
use serde_json::json;

use crate::{
    columns::{Cell, between, column, texts},
    field::{ErrorKind, Errors, Field, shown},
    format,
    resource::Resource,
    subresource::Subresource,
};

pub(crate) fn resource() -> Resource {
    let ranges = column("CIDRs", Cell::Of(|o| texts(o, "spec.cidrs").collect::<Vec<_>>().join(",").into()));
    Resource::kubernetes::<ServiceCIDR>("servicecidrs")
        .subresources([Subresource::status()])
        .columns(between([ranges]))
        .first_status(|_| json!({}))
        .on_create(|object, errors| ranges_of(&object.walk(["spec", "cidrs"]), errors))
        .on_update(update)
}

fn ranges_of(list: &Field<'_>, errors: &mut Errors) {
    if list.is_empty() {
        return list.required(errors, "at least one CIDR required");
    }
    if list.len() > 2 {
        // What upstream shows is its own type of the spec.
        return list.invalid_as(errors, format!("{{\"CIDRs\":{}}}", shown(list.value)), "may only hold up to 2 values");
    }
    let mut families = Vec::new();
    for range in list.items() {
        let faults = format::cidr(range.text());
        let faults = if faults.is_empty() { format::canonical_cidr(range.text()) } else { faults };
        range.faulty(errors, faults);
        families.extend(format::parse_cidr(range.text()).map(|(address, _)| address.is_ipv4()));
    }
    if families.len() == 2 && families[0] == families[1] {
        let why = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        list.invalid(errors, why);
    }
}

/// A range stays as it is; one of the other family may be added.
fn update(object: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    let (new, before) = (object.walk(["spec", "cidrs"]), old.walk(["spec", "cidrs"]));
    let grows = (before.len(), new.len()) == (1, 2);
    if !grows && before.len() != new.len() {
        return new.changed(errors, ErrorKind::Invalid, shown(new.value), "field is immutable");
    }
    for (range, was) in new.items().zip(before.items()) {
        range.kept(errors, &was);
    }
    if grows {
        ranges_of(&new, errors);
    }
}
