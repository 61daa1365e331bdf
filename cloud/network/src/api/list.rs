//! Filters, order, pages and fields of lists.

use std::collections::BTreeMap;

use hypernetes_facade::{Page, Parameters};
use serde_json::{Map, Value, json};

use super::Error;

/// Parameters that are not filters.
const CONTROLS: &[&str] = &["fields", "limit", "marker", "page_reverse", "sort_key", "sort_dir"];

/// The body of a list: what passes the filters, in order, from the marker on. `url` is what a link to the next page
/// begins with.
pub(crate) fn answer(
    collection: &str,
    objects: Vec<Map<String, Value>>,
    parameters: &Parameters,
    url: &str,
) -> Result<Value, Error> {
    let mut filters: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, value) in parameters.iter().filter(|(name, _)| !CONTROLS.contains(name)) {
        filters.entry(name).or_default().push(value);
    }
    let mut objects: Vec<_> = objects.into_iter().filter(|object| passes(object, &filters)).collect();
    sort(&mut objects, parameters)?;
    let page = Page::wanted(parameters)?;
    objects.drain(..page.start(&objects, |object, id| object["id"] == id)?);
    let mut links = Vec::new();
    if let Some(limit) = page.limit.filter(|limit| *limit > 0 && objects.len() > *limit) {
        objects.truncate(limit);
        let marker = objects.last().and_then(|object| object["id"].as_str()).unwrap_or_default();
        links.push(json!({"rel": "next", "href": format!("{url}?limit={limit}&marker={marker}")}));
    }
    let objects: Vec<Value> = objects.into_iter().map(|object| fields(object, parameters)).collect();
    let mut body = json!({collection: objects});
    if !links.is_empty() {
        body[format!("{collection}_links")] = links.into();
    }
    Ok(body)
}

/// Only the fields that are asked for.
pub(crate) fn fields(mut object: Map<String, Value>, parameters: &Parameters) -> Value {
    let wanted: Vec<&str> = parameters.all("fields").collect();
    if !wanted.is_empty() {
        object.retain(|name, _| wanted.contains(&name.as_str()));
    }
    Value::Object(object)
}

/// Values of one name are alternatives; names that the objects do not have filter nothing, as in Neutron.
fn passes(object: &Map<String, Value>, filters: &BTreeMap<&str, Vec<&str>>) -> bool {
    filters.iter().all(|(name, wanted)| match object.get(*name) {
        None => true,
        Some(value) => wanted.iter().any(|wanted| matches(value, wanted)),
    })
}

fn matches(value: &Value, wanted: &str) -> bool {
    match value {
        Value::String(text) => text == wanted,
        Value::Bool(flag) => {
            matches!((wanted.to_ascii_lowercase().as_str(), flag), ("true" | "1", true) | ("false" | "0", false))
        }
        Value::Number(number) => number.to_string() == wanted,
        Value::Null => wanted.is_empty() || wanted == "null",
        Value::Array(list) => list.iter().any(|item| matches(item, wanted)),
        // `fixed_ips=ip_address=10.0.0.2`
        Value::Object(map) => wanted
            .split_once('=')
            .is_some_and(|(name, wanted)| map.get(name).is_some_and(|value| matches(value, wanted))),
    }
}

/// By `sort_key` and `sort_dir`, several of them in turn; otherwise as they came.
fn sort(objects: &mut [Map<String, Value>], parameters: &Parameters) -> Result<(), Error> {
    let keys: Vec<&str> = parameters.all("sort_key").collect();
    let mut directions: Vec<&str> = parameters.all("sort_dir").collect();
    if let Some(bad) = directions.iter().find(|direction| !matches!(**direction, "asc" | "desc")) {
        let bad: String = bad.chars().take(32).collect();
        return Err(Error::bad_request(format!("The sort direction '{bad}' is neither asc nor desc")));
    }
    directions.resize(keys.len(), "asc");
    let text = |object: &Map<String, Value>, key: &str| object.get(key).map(Value::to_string).unwrap_or_default();
    objects.sort_by(|a, b| {
        let each = keys.iter().zip(&directions).map(|(key, direction)| {
            let order = text(a, key).cmp(&text(b, key));
            if *direction == "desc" { order.reverse() } else { order }
        });
        each.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then)
    });
    Ok(())
}
