//! `authentication.k8s.io`: questions.

use k8s_openapi::api::authentication::v1::{SelfSubjectReview, TokenReview};

use crate::resource::{Home, Resource};

pub(crate) fn resources() -> Vec<Resource> {
    vec![
        Resource::kubernetes::<SelfSubjectReview>("selfsubjectreviews").home(Home::Virtual),
        Resource::kubernetes::<TokenReview>("tokenreviews").home(Home::Virtual),
    ]
}
