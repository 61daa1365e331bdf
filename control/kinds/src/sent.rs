//! Kinds that are no resource of their own: the bodies of subresources and of deletions, and what is not served yet.

use hypernetes_schema::ObjectType;
use k8s_openapi::{
    api::{
        authentication::v1 as authentication, autoscaling::v1 as autoscaling, certificates::v1 as certificates,
        policy::v1 as policy,
    },
    apimachinery::pkg::apis::meta::v1 as meta,
    kube_aggregator::pkg::apis::apiregistration::v1 as apiregistration,
};

macro_rules! kinds {
    ($($module:ident: $($kind:ident)+;)+) => { vec![$($(ObjectType::kubernetes::<$module::$kind>(),)+)+] };
}

pub(crate) fn kinds() -> Vec<ObjectType> {
    let mut kinds = kinds! {
        autoscaling: Scale;
        policy: Eviction;
        authentication: TokenRequest;
        certificates: CertificateSigningRequest;
        apiregistration: APIService;
    };
    let of_meta = |ty: fn(&str, &str, &str, bool) -> ObjectType, kind: &str| ty("", "v1", kind, false);
    kinds.extend([
        of_meta(ObjectType::whole::<meta::DeleteOptions>, "DeleteOptions"),
        of_meta(ObjectType::whole::<meta::Status>, "Status"),
        of_meta(ObjectType::whole::<meta::APIVersions>, "APIVersions"),
        of_meta(ObjectType::whole::<meta::APIGroup>, "APIGroup"),
        of_meta(ObjectType::whole::<meta::APIGroupList>, "APIGroupList"),
        of_meta(ObjectType::whole::<meta::APIResourceList>, "APIResourceList"),
    ]);
    kinds
}
