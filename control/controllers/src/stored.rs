//! Objects that were stored before the API refused what they say.
//!
//! They can be read, changed where they are right, and deleted. Whoever acts on objects does nothing for these, and says so
//! in an event: what a rule is there for may have been found out since.

use hypernetes_kinds::registry;
use kube::Resource;
use serde::Serialize;

/// The first thing that the API would say of an object's spec now; none: it would take it.
pub fn refused_today<K: Resource<DynamicType = ()> + Serialize>(object: &K) -> Option<String> {
    let resource = registry::builtin_of(&K::group(&()), &K::version(&()), &K::kind(&()))?;
    let errors = resource.errors_of_stored(&serde_json::to_value(object).ok()?).into_vec();
    let cause = errors.iter().find(|error| error.path.starts_with("spec"))?.cause();
    Some(format!("{}: {}", cause.field, cause.message))
}
