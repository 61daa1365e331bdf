//! Watches that one bad object does not stop.
//!
//! kube decodes a list and each change as the kind's type, so that one object that is none fails the list of all
//! tenants, for ever. Here each object is decoded by itself, and what cannot be is told as [`Seen::Unreadable`].

use std::{
    borrow::Cow,
    fmt::Debug,
    sync::atomic::{AtomicU64, Ordering},
};

use futures::{Stream, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Client, Resource,
    runtime::{WatchStreamExt, watcher},
};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};

/// An object of a watch.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant)] // it is made once and taken apart at once
pub enum Seen<K> {
    Object(K),
    /// It is no `K`: what tells which object it is (namespace, name, uid, version and the tenant's annotation).
    Unreadable(ObjectMeta),
}

static UNREADABLE: AtomicU64 = AtomicU64::new(0);

/// How many objects this process has met in watches that were not of their kind's form.
pub fn unreadable_objects() -> u64 {
    UNREADABLE.load(Ordering::Relaxed)
}

/// All of a kind that the client sees, and each change from then on; begins again by itself when it is interrupted.
/// What is met that is not of the kind's form is counted ([`unreadable_objects`]) and logged.
pub fn watch<K>(client: Client, kind: &K::DynamicType) -> impl Stream<Item = watcher::Result<watcher::Event<Seen<K>>>>
where
    K: Resource + DeserializeOwned + Clone + Debug + Send + 'static,
    K::DynamicType: Clone,
{
    watch_with(client, kind, watcher::Config::default())
}

/// [`watch`] of those that `which` selects.
pub fn watch_with<K>(
    client: Client,
    kind: &K::DynamicType,
    which: watcher::Config,
) -> impl Stream<Item = watcher::Result<watcher::Event<Seen<K>>>>
where
    K: Resource + DeserializeOwned + Clone + Debug + Send + 'static,
    K::DynamicType: Clone,
{
    #[allow(clippy::disallowed_types)] // a collection's URL has no name in it
    let api: kube::Api<Seen<K>> = kube::Api::all_with(client, kind);
    watcher(api, which).default_backoff()
}

/// What of a watch is of the kind's form, for those who can do nothing about the rest. Such an object stays as it was last told.
pub fn readable<K>(
    watch: impl Stream<Item = watcher::Result<watcher::Event<Seen<K>>>>,
) -> impl Stream<Item = watcher::Result<watcher::Event<K>>> {
    use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
    watch.filter_map(async |event| {
        Some(match event {
            Ok(InitApply(Seen::Object(object))) => Ok(InitApply(object)),
            Ok(Apply(Seen::Object(object))) => Ok(Apply(object)),
            Ok(Delete(Seen::Object(object))) => Ok(Delete(object)),
            Ok(InitApply(_) | Apply(_) | Delete(_)) => return None,
            Ok(Init) => Ok(Init),
            Ok(InitDone) => Ok(InitDone),
            Err(error) => Err(error),
        })
    })
}

/// Which object it is, of whatever else it may be.
fn identity(text: &str) -> ObjectMeta {
    let object: Value = serde_json::from_str(text).unwrap_or_default();
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).map(str::to_owned);
    let tenant = object["metadata"]["annotations"][hypernetes_api::names::TENANT_ANNOTATION].as_str();
    ObjectMeta {
        name: text("/metadata/name"),
        namespace: text("/metadata/namespace"),
        uid: text("/metadata/uid"),
        resource_version: text("/metadata/resourceVersion"),
        annotations: tenant.map(|tenant| [(hypernetes_api::names::TENANT_ANNOTATION.into(), tenant.into())].into()),
        ..ObjectMeta::default()
    }
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Seen<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        let parsed = serde_json::from_str(text.get()).map(Self::Object);
        parsed.or_else(|error| Ok(Self::Unreadable(unreadable::<K>(text.get(), &error.to_string()))))
    }
}

/// Counts and logs one, and tells which it is.
pub(crate) fn unreadable<K>(text: &str, error: &str) -> ObjectMeta {
    let metadata = identity(text);
    UNREADABLE.fetch_add(1, Ordering::Relaxed);
    tracing::warn!(
        kind = std::any::type_name::<K>(),
        namespace = metadata.namespace,
        name = metadata.name,
        error,
        "an object that is not of its kind's form is passed over"
    );
    metadata
}

impl<K: Resource> Resource for Seen<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(kind: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(kind)
    }

    fn group(kind: &Self::DynamicType) -> Cow<'_, str> {
        K::group(kind)
    }

    fn version(kind: &Self::DynamicType) -> Cow<'_, str> {
        K::version(kind)
    }

    fn plural(kind: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(kind)
    }

    fn metadata_api() -> bool {
        K::metadata_api()
    }

    fn meta(&self) -> &ObjectMeta {
        match self {
            Self::Object(object) => object.meta(),
            Self::Unreadable(metadata) => metadata,
        }
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Self::Object(object) => object.meta_mut(),
            Self::Unreadable(metadata) => metadata,
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::core::{ObjectList, WatchEvent};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_bad_object_is_told_beside_good_ones() {
        let good = json!({"metadata": {"name": "good"}, "data": {"a": "b"}});
        let bad = json!({"metadata": {"name": "bad", "labels": 7, "resourceVersion": "3",
            "annotations": {"hypernetes.io/tenant": "acme", "other": "x"}}, "data": ["no", "map"]});
        let list = json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": {"resourceVersion": "9"},
            "items": [good, bad]});
        let list: ObjectList<Seen<ConfigMap>> = serde_json::from_str(&list.to_string()).unwrap();
        let Seen::Object(first) = &list.items[0] else { panic!("{list:?}") };
        assert_eq!(first.data.as_ref().unwrap()["a"], "b");
        assert!(matches!(&list.items[1], Seen::Unreadable(_)));
        let meta = list.items[1].meta();
        assert_eq!((meta.name.as_deref(), meta.resource_version.as_deref()), (Some("bad"), Some("3")));
        assert_eq!(crate::tenant_of(&list.items[1]), Some("acme".parse().unwrap()));
        for (object, readable) in [(good, true), (bad, false)] {
            let event = format!("{{\"type\":\"MODIFIED\",\"object\":{object}}}");
            match serde_json::from_str::<WatchEvent<Seen<ConfigMap>>>(&event).unwrap() {
                WatchEvent::Modified(seen) => assert_eq!(matches!(seen, Seen::Object(_)), readable),
                other => panic!("{other:?}"),
            }
        }
    }
}
