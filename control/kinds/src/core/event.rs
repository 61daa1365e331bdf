//! `Event`, of the core group and of `events.k8s.io`: the same objects, whose fields have other names there.

use hypernetes_schema::ObjectType;
use jiff::Timestamp;
use k8s_openapi::api::{core::v1::Event, events};
use serde_json::{Map, Value};

use crate::{
    columns::{Cell, column, path, since, text, wide},
    resource::{Conversion, Resource},
    selectable::Selectable,
};

pub(crate) fn resource() -> Resource {
    Resource::kubernetes::<Event>("events")
        .also_as(
            ObjectType::kubernetes::<events::v1::Event>(),
            Conversion { from_stored: to_events, to_stored: from_events },
        )
        .short_names(&["ev"])
        .columns(vec![
            column("Last Seen", Cell::Of(last_seen)),
            column("Type", path("type")),
            column("Reason", path("reason")),
            column("Object", Cell::Of(object)),
            column("Message", path("message")),
            wide("Name", path("metadata.name")),
        ])
        .selectable([
            "involvedObject.kind".into(),
            "involvedObject.namespace".into(),
            "involvedObject.name".into(),
            "involvedObject.uid".into(),
            "involvedObject.apiVersion".into(),
            "involvedObject.resourceVersion".into(),
            "involvedObject.fieldPath".into(),
            "reason".into(),
            "reportingComponent".into(),
            Selectable::field("source").at(&["source.component", "reportingComponent"]),
            "type".into(),
        ])
}

fn last_seen(event: &Value) -> Value {
    let times =
        ["lastTimestamp", "series.lastObservedTime", "eventTime", "firstTimestamp", "metadata.creationTimestamp"];
    let time = times.iter().map(|path| text(event, path)).find(|time| !time.is_empty()).unwrap_or_default();
    since(time, Timestamp::now()).into()
}

fn object(event: &Value) -> Value {
    format!("{}/{}", text(event, "involvedObject.kind").to_lowercase(), text(event, "involvedObject.name")).into()
}

/// Of the core group, and of `events.k8s.io`.
const NAMES: &[(&str, &str)] = &[
    ("message", "note"),
    ("involvedObject", "regarding"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

fn rename(event: &mut Map<String, Value>, from: &str, to: &str) {
    if let Some(value) = event.remove(from) {
        event.insert(to.into(), value);
    }
}

fn to_events(event: &mut Map<String, Value>) {
    NAMES.iter().for_each(|(core, events)| rename(event, core, events));
}

fn from_events(event: &mut Map<String, Value>) {
    NAMES.iter().for_each(|(core, events)| rename(event, events, core));
}
