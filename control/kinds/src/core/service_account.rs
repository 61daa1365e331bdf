//! `ServiceAccount`.

use k8s_openapi::api::core::v1::ServiceAccount;

use crate::{resource::Resource, subresource::Subresource};

pub(crate) fn resource() -> Resource {
    Resource::kubernetes::<ServiceAccount>("serviceaccounts").short_names(&["sa"]).subresources(&[Subresource::Token])
}
