//! `scheduling.k8s.io`.

use k8s_openapi::api::scheduling::v1::PriorityClass;

use crate::resource::{Home, Resource};

pub(crate) fn resources() -> Vec<Resource> {
    vec![Resource::kubernetes::<PriorityClass>("priorityclasses").home(Home::Projected).short_names(&["pc"])]
}
