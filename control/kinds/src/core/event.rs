//! `Event`, of the core group and of `events.k8s.io`: the same objects, whose fields have other names there.

use hypernetes_schema::ObjectType;
use k8s_openapi::api::{core::v1::Event, events};
use serde_json::{Map, Value};

use crate::{
    columns::{Cell, at, column, number, path, path_or, since, text, wide},
    field::{Errors, Field},
    format,
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
            column("Last Seen", Cell::AsOf(|o| since(last_seen(o)))),
            column("Type", path_or("type", "")),
            column("Reason", path_or("reason", "")),
            column("Object", Cell::Of(object)),
            wide("Subobject", path_or("involvedObject.fieldPath", "")),
            wide("Source", Cell::Of(source)),
            column("Message", Cell::Of(|o| text(o, "message").trim().into())),
            wide("First Seen", Cell::AsOf(|o| since(first_seen(o)))),
            wide("Count", Cell::Of(times)),
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
        .names(format::path_segment)
        .plain_finalizers()
        .metadata_last()
        .check(check)
}

/// The most characters of an event's words, and of its message.
const MAX_WORDS: usize = 128;
const MAX_MESSAGE: usize = 1024;

/// An event with `eventTime` says who saw what and did what; one without is about something of its own namespace, or, in
/// `default`, of none.
fn check(event: &Field<'_>, errors: &mut Errors) {
    if !event.get("eventTime").is_set() {
        let (own, of) = (event.walk(["metadata", "namespace"]), event.walk(["involvedObject", "namespace"]));
        if of.text() != own.text() && !(of.is_empty() && own.text() == "default") {
            of.invalid_text(errors, "does not match event.namespace");
        }
        return;
    }
    // Upstream does not show what is too long.
    let short = |field: &Field<'_>, most: usize, errors: &mut Errors| {
        if field.text().len() > most {
            field.invalid_quoted(errors, "", format!("can have at most {most} characters"));
        }
    };
    let controller = event.get("reportingComponent");
    controller.not_empty(errors);
    controller.faulty(errors, format::qualified_name(controller.text()));
    for name in ["reportingInstance", "action", "reason"] {
        event.get(name).not_empty(errors);
        short(&event.get(name), MAX_WORDS, errors);
    }
    short(&event.get("message"), MAX_MESSAGE, errors);
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

/// The first of some texts that is one.
fn either<'v>(event: &'v Value, paths: &[&str]) -> &'v str {
    paths.iter().map(|path| text(event, path)).find(|text| !text.is_empty()).unwrap_or_default()
}

fn first_seen(event: &Value) -> &str {
    either(event, &["firstTimestamp", "eventTime"])
}

fn last_seen(event: &Value) -> &str {
    either(event, &["series.lastObservedTime", "lastTimestamp", "firstTimestamp", "eventTime"])
}

fn times(event: &Value) -> Value {
    match at(event, "series") {
        Some(series) if series.is_object() => number(series, "count").into(),
        _ => number(event, "count").max(1).into(),
    }
}

fn object(event: &Value) -> Value {
    let kind = text(event, "involvedObject.kind").to_lowercase();
    match text(event, "involvedObject.name") {
        "" => kind.into(),
        name => format!("{kind}/{name}").into(),
    }
}

fn source(event: &Value) -> Value {
    let component = either(event, &["source.component", "reportingComponent"]);
    match either(event, &["source.host", "reportingInstance"]) {
        "" => component.into(),
        host => format!("{component}, {host}").into(),
    }
}
