//! `DeviceClass`.

use k8s_openapi::api::resource::v1::DeviceClass;

use super::devices;
use crate::{
    core::resources,
    field::{Errors, Field},
    resource::Resource,
};

pub(crate) fn resource() -> Resource {
    Resource::kubernetes::<DeviceClass>("deviceclasses").counts_changes().check(check)
}

fn check(class: &Field<'_>, errors: &mut Errors) {
    let spec = class.get("spec");
    devices::selectors(&spec.get("selectors"), errors);
    let (configurations, resource) = (spec.get("config"), spec.get("extendedResourceName"));
    match configurations.len() > devices::MAX_CONFIGURATIONS {
        true => configurations.too_many(errors, devices::MAX_CONFIGURATIONS),
        false => configurations.items().for_each(|one| devices::configuration(&one, errors)),
    }
    if resource.is_set() && !resources::is_extended(resource.text()) {
        resource.invalid(errors, "must be a valid extended resource name");
    }
}
