//! `admissionregistration.k8s.io`: who a tenant asks besides before something is let into its cluster.

use k8s_openapi::api::admissionregistration::v1::{
    MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, ValidatingAdmissionPolicy,
    ValidatingAdmissionPolicyBinding,
};

use crate::{resource::Resource, subresource::Subresource};

pub(crate) fn resources() -> Vec<Resource> {
    vec![
        Resource::kubernetes::<ValidatingAdmissionPolicy>("validatingadmissionpolicies")
            .subresources([Subresource::status()])
            .counts_changes(),
        Resource::kubernetes::<ValidatingAdmissionPolicyBinding>("validatingadmissionpolicybindings").counts_changes(),
        Resource::kubernetes::<MutatingAdmissionPolicy>("mutatingadmissionpolicies").counts_changes(),
        Resource::kubernetes::<MutatingAdmissionPolicyBinding>("mutatingadmissionpolicybindings").counts_changes(),
    ]
}
