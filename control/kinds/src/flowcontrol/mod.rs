//! `flowcontrol.apiserver.k8s.io`: which requests are told apart, and how many of them are served at once. What there is of it steers nothing
//! here: every tenant has its share of the server, whatever it says of its own requests.

mod flow_schema;
mod priority_level;

use std::{collections::HashSet, sync::LazyLock};

use serde_json::Value;

use crate::{
    field::{Errors, Field},
    resource::Resource,
};

pub(crate) fn resources() -> Vec<Resource> {
    vec![flow_schema::resource(), priority_level::resource()]
}

pub const GROUP: &str = "flowcontrol.apiserver.k8s.io";
/// What may only be as it is: a schema and a level each.
const EXEMPT: &str = "exempt";
const CATCH_ALL: &str = "catch-all";

/// What every cluster has from the start, as kube-apiserver 1.36.2 makes it: kind, name and spec of each.
pub fn bootstrap() -> &'static [Value] {
    static ALL: LazyLock<Vec<Value>> = LazyLock::new(|| {
        include_str!("bootstrap.jsonl").lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    });
    &ALL
}

/// Status, reason and message of a schema's condition `Dangling`, by whether the level that it names is there.
pub fn dangling(level: &str, is_there: bool) -> (&'static str, &'static str, String) {
    let (status, reason, is) = match is_there {
        true => ("False", "Found", "and it exists"),
        false => ("True", "NotFound", "but there is no such object"),
    };
    (status, reason, format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} {is}"))
}

/// The spec that an object of a kind and name must have, if it is one of those that may only be as they are.
fn fixed(kind: &str, name: &str) -> Option<&'static Value> {
    let known = [EXEMPT, CATCH_ALL].contains(&name);
    bootstrap().iter().find(|one| known && one["kind"] == kind && one["name"] == name).map(|one| &one["spec"])
}

/// No two of a type, and none without one.
fn check_status(object: &Field<'_>, _: &Field<'_>, errors: &mut Errors) {
    let mut types = HashSet::new();
    for condition in object.walk(["status", "conditions"]).items() {
        let ty = condition.get("type");
        if !types.insert(ty.text()) {
            ty.duplicate(errors);
        }
        ty.not_empty(errors);
    }
}

/// Whether all is said by a wildcard; an error where more is said beside it.
fn is_all(list: &Field<'_>, what: &str, errors: &mut Errors) -> bool {
    let all = list.items().any(|item| item.text() == "*");
    if all && list.len() > 1 {
        list.invalid(errors, format!("if '*' is present, must not specify other {what}"));
    }
    all
}

/// A number that is not said is this.
fn set_number(fields: &mut serde_json::Map<String, Value>, name: &str, number: u32, zero_too: bool) {
    let is_there = fields.get(name).is_some_and(|value| !(value.is_null() || zero_too && value == 0));
    if !is_there {
        fields.insert(name.to_owned(), number.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_from_the_start_is_valid() {
        assert_eq!(bootstrap().len(), 19);
        for one in bootstrap() {
            let resource = crate::registry::builtin_of(GROUP, "v1", one["kind"].as_str().unwrap()).unwrap();
            let object = serde_json::json!({"metadata": {"name": one["name"]}, "spec": one["spec"]});
            assert_eq!(resource.errors_of_create(&object).count(), 0, "{one}");
        }
        assert!(fixed("FlowSchema", EXEMPT).is_some() && fixed("FlowSchema", "probes").is_none());
    }
}
