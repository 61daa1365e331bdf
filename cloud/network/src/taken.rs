//! What the API server says where another object has an address or a segment already.

/// Whether a write was refused for something that no two objects have, and another has (`unique` of the resource's record).
pub(crate) fn is_taken(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 422 && causes.into_iter().any(|cause| cause.reason == "FieldValueDuplicate")
}
