//! `ServiceAccount`.

use k8s_openapi::api::core::v1::ServiceAccount;

use crate::{
    columns::{between, column, count},
    resource::Resource,
    subresource::Subresource,
};

pub(crate) fn resource() -> Resource {
    Resource::kubernetes::<ServiceAccount>("serviceaccounts")
        .short_names(&["sa"])
        .subresources(&[Subresource::Token])
        .columns(between([column("Secrets", count("secrets"))]))
}
