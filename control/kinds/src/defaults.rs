//! Defaulting: the table's facts, and what is a rule and no fact.

use hypernetes_schema::{ObjectType, defaults};
use serde_json::Value;

use crate::{
    core::{container, limit_range, pod_spec, service},
    resource::{Defaults, Resource},
};

/// What definitions have besides the table's defaults, wherever they occur.
const DEFINITIONS: &[(&str, Defaults)] = &[
    ("core.v1.Container", container::pull_policy),
    ("core.v1.EphemeralContainer", container::pull_policy),
    ("core.v1.ImageVolumeSource", container::pull_policy_of_volume),
    ("core.v1.LimitRangeItem", limit_range::item_defaults),
    ("core.v1.PodSpec", pod_spec::defaults),
    ("core.v1.ServiceSpec", service::spec_defaults),
];

/// Fills in what upstream's defaulting fills in, of a kind that is only sent. Idempotent.
pub fn set_defaults(ty: &ObjectType, object: &mut Value) {
    defaults::set(ty.schema(), object, &|definition, fields| {
        for (_, set) in DEFINITIONS.iter().filter(|(name, _)| *name == definition) {
            set(fields);
        }
    });
}

impl Resource {
    /// Fills in what upstream's defaulting fills in. Idempotent.
    pub fn set_defaults(&self, object: &mut Value) {
        match self.ty.structural() {
            Some(structural) => structural.set_defaults(object),
            None => set_defaults(&self.ty, object),
        }
        if let (Some(set), Some(fields)) = (self.defaults, object.as_object_mut()) {
            set(fields);
        }
    }
}
