//! `ServiceAccount`.

use k8s_openapi::api::core::v1::ServiceAccount;

use crate::{
    resource::Resource,
    subresource::{Behaviour, Subresource},
};

pub(crate) fn resource() -> Resource {
    let token = Subresource::of("token", Behaviour::IssueToken, ("authentication.k8s.io", "v1", "TokenRequest"));
    Resource::kubernetes::<ServiceAccount>("serviceaccounts").short_names(&["sa"]).subresources([token])
}
