//! `Binding`: what is sent to `bindings` is sent to `pods/<name>/binding`.

use k8s_openapi::api::core::v1::Binding;

use crate::resource::{Home, Resource};

pub(crate) fn resource() -> Resource {
    Resource::kubernetes::<Binding>("bindings").home(Home::Virtual)
}
