//! Kinds that are no resource of their own: the bodies of subresources and of deletions, and what is not served yet.

use hypernetes_schema::ObjectType;
use k8s_openapi::{
    api::{
        admissionregistration::v1 as admissionregistration, authentication::v1 as authentication,
        autoscaling::v1 as autoscaling, certificates::v1 as certificates, core::v1 as core,
        flowcontrol::v1 as flowcontrol, networking::v1 as networking, policy::v1 as policy, resource::v1 as resource,
        storage::v1 as storage,
    },
    apimachinery::pkg::apis::meta::v1 as meta,
    kube_aggregator::pkg::apis::apiregistration::v1 as apiregistration,
};

macro_rules! kinds {
    ($($module:ident: $($kind:ident)+;)+) => { vec![$($(ObjectType::kubernetes::<$module::$kind>(),)+)+] };
}

pub(crate) fn kinds() -> Vec<ObjectType> {
    let mut kinds = kinds! {
        core: Binding ComponentStatus;
        autoscaling: HorizontalPodAutoscaler Scale;
        policy: Eviction;
        authentication: TokenRequest;
        storage: CSIStorageCapacity VolumeAttachment VolumeAttributesClass;
        networking: IPAddress IngressClass ServiceCIDR;
        certificates: CertificateSigningRequest;
        admissionregistration: MutatingAdmissionPolicy MutatingAdmissionPolicyBinding MutatingWebhookConfiguration
            ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding ValidatingWebhookConfiguration;
        flowcontrol: FlowSchema PriorityLevelConfiguration;
        resource: DeviceClass ResourceClaim ResourceClaimTemplate ResourceSlice;
        apiregistration: APIService;
    };
    kinds.push(ObjectType::whole::<meta::DeleteOptions>("", "v1", "DeleteOptions", false));
    kinds
}
