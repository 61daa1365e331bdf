//! `scheduling.k8s.io`.

use k8s_openapi::api::scheduling::v1::PriorityClass;

use crate::{
    columns::{age, boolean, column, integer, name, path_or},
    field::{Errors, Field},
    resource::{Home, Resource},
};

pub(crate) fn resources() -> Vec<Resource> {
    let class = Resource::kubernetes::<PriorityClass>("priorityclasses")
        .home(Home::Projected)
        .short_names(&["pc"])
        .columns(vec![
            name(),
            integer("Value", "value"),
            boolean("Global-Default", "globalDefault"),
            age(),
            column("PreemptionPolicy", path_or("preemptionPolicy", "")),
        ])
        .on_create(create)
        .on_update(update);
    vec![class]
}

/// Classes that there always are: what is above all of the users' priorities.
const OF_SYSTEM: [(&str, i64); 2] =
    [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];
const HIGHEST_OF_USERS: i64 = 1_000_000_000;

fn create(class: &Field<'_>, errors: &mut Errors) {
    let (name, value) = (class.walk(["metadata", "name"]), class.get("value"));
    let number = value.int().unwrap_or(0);
    if name.text().starts_with("system-") {
        let why = match OF_SYSTEM.iter().find(|known| known.0 == name.text()) {
            Some((_, right)) if *right == number => None,
            Some((known, right)) => Some(format!("value of {known} PriorityClass must be {right}")),
            None => Some(format!("{} is not a known system priority class", name.text())),
        };
        if let Some(why) = why {
            const RESERVED: &str = "priority class names with 'system-' prefix are reserved for system use only";
            name.forbidden(errors, format!("{RESERVED}. error: {why}"));
        }
    } else if number > HIGHEST_OF_USERS {
        value.forbidden(errors, format!("maximum allowed value of a user defined priority is {HIGHEST_OF_USERS}"));
    }
    class.get("preemptionPolicy").optional_one_of(errors, &["PreemptLowerPriority", "Never"]);
}

fn update(class: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    let value = class.get("value");
    if value.int().unwrap_or(0) != old.get("value").int().unwrap_or(0) {
        value.change_forbidden(errors, "may not be changed in an update.");
    }
    class.get("preemptionPolicy").kept(errors, &old.get("preemptionPolicy"));
}
