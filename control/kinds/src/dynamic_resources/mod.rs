//! `resource.k8s.io`: devices that pods ask for. Claims are a tenant's own; what devices there are, and which of them a claim has got,
//! is infrastructure's to say.
//!
//! Upstream also compiles the CEL expressions that select devices; here only their length is looked at.

mod claim;
mod claim_template;
mod device;
mod device_class;
mod devices;
mod request_policy;
mod resource_slice;

use crate::resource::{Home, Resource};

pub(crate) fn resources() -> Vec<Resource> {
    vec![
        device_class::resource().home(Home::Projected),
        claim::resource(),
        claim_template::resource(),
        resource_slice::resource().home(Home::Projected),
    ]
}
