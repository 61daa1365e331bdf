//! `VolumeAttributesClass`.

use k8s_openapi::api::storage::v1::VolumeAttributesClass;

use super::storage_class;
use crate::{
    columns::{between, column, path_or},
    field::{Errors, Field, same},
    resource::Resource,
};

pub(crate) fn resource() -> Resource {
    Resource::kubernetes::<VolumeAttributesClass>("volumeattributesclasses")
        .short_names(&["vac"])
        .columns(between([column("DriverName", path_or("driverName", ""))]))
        .check(check)
        .change_first()
        .on_update(update)
}

fn check(class: &Field<'_>, errors: &mut Errors) {
    storage_class::provisioner(&class.get("driverName"), errors);
    let parameters = class.get("parameters");
    storage_class::parameters(&parameters, errors);
    if parameters.is_empty() {
        parameters.required(errors, "must contain at least one key/value pair");
    }
}

fn update(class: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    for name in ["driverName", "parameters"] {
        if !same(class.get(name).value, old.get(name).value) {
            class.get(name).change_forbidden(errors, format!("updates to {name} are forbidden."));
        }
    }
}
