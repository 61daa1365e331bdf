//! `authorization.k8s.io`: questions.

use k8s_openapi::api::authorization::v1::{
    LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview,
};

use crate::resource::{Home, Resource};

pub(crate) fn resources() -> Vec<Resource> {
    vec![
        Resource::kubernetes::<LocalSubjectAccessReview>("localsubjectaccessreviews").home(Home::Virtual),
        Resource::kubernetes::<SelfSubjectAccessReview>("selfsubjectaccessreviews").home(Home::Virtual),
        Resource::kubernetes::<SelfSubjectRulesReview>("selfsubjectrulesreviews").home(Home::Virtual),
        Resource::kubernetes::<SubjectAccessReview>("subjectaccessreviews").home(Home::Virtual),
    ]
}
