//! `ComponentStatus`: how a part of the system is, as of when it is asked for.

use k8s_openapi::api::core::v1::ComponentStatus;
use serde_json::Value;

use crate::{
    columns::{Cell, column, list, name, text},
    resource::{Home, Resource},
};

pub(crate) fn resource() -> Resource {
    Resource::kubernetes::<ComponentStatus>("componentstatuses").short_names(&["cs"]).home(Home::Told).columns(vec![
        name(),
        column("Status", Cell::Of(status)),
        column("Message", Cell::Of(|o| of_health(o, "message").into())),
        column("Error", Cell::Of(|o| of_health(o, "error").into())),
    ])
}

fn health(component: &Value) -> Option<&Value> {
    list(component, "conditions").find(|condition| condition["type"] == "Healthy")
}

fn of_health<'v>(component: &'v Value, field: &str) -> &'v str {
    health(component).map(|condition| text(condition, field)).unwrap_or_default()
}

fn status(component: &Value) -> Value {
    match health(component) {
        None => "Unknown",
        Some(condition) if condition["status"] == "True" => "Healthy",
        Some(_) => "Unhealthy",
    }
    .into()
}
