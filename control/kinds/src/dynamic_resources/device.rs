//! One device of a slice.

use crate::{
    core::scheduling,
    field::{Errors, Field, quote},
    format,
    internal::{Internal, NULL},
};

use super::{
    devices::{self, set},
    request_policy,
};

const MAX_ATTRIBUTES_AND_CAPACITIES: usize = 32;
const MAX_TAINTS: usize = 16;
const MAX_CONSUMPTIONS: usize = 2;
const MAX_COUNTERS: usize = 32;
/// The most bytes of an attribute's text.
const MAX_VALUE: usize = 64;
/// Upstream shows longer keys with their middle left out.
const MAX_SHOWN_KEY: usize = 96;

/// `chosen`: each device says on which nodes it is.
pub(super) fn check(device: &Field<'_>, chosen: bool, errors: &mut Errors) {
    let (name, attributes, capacities) = (device.get("name"), device.get("attributes"), device.get("capacity"));
    name.faulty(errors, format::label(name.text()));
    let number = attributes.len() + capacities.len();
    if number > MAX_ATTRIBUTES_AND_CAPACITIES {
        let why =
            format!("the total number of attributes and capacities must not exceed {MAX_ATTRIBUTES_AND_CAPACITIES}");
        device.invalid_as(errors, number.to_string(), why);
    }
    for (key, value) in attributes.entries() {
        devices::qualified(&attributes, key, errors);
        attribute(&Field::at(value.value, attributes.path.key(&shortened(key, MAX_SHOWN_KEY))), errors);
    }
    let shared = device.get("allowMultipleAllocations").is_true();
    for (key, value) in capacities.entries() {
        devices::qualified(&capacities, key, errors);
        let capacity = Field::at(value.value, capacities.path.key(&shortened(key, MAX_SHOWN_KEY)));
        let policy = capacity.get("requestPolicy");
        match (policy.is_set(), shared) {
            (true, true) => request_policy::check(&policy, &capacity.get("value"), errors),
            (true, false) => policy.forbidden(errors, "allowMultipleAllocations must be true"),
            (false, _) => {}
        }
    }
    let taints = device.get("taints");
    match taints.len() > MAX_TAINTS {
        true => taints.too_many(errors, MAX_TAINTS),
        false => taints.items().for_each(|one| taint(&one, errors)),
    }
    let set_key = |one: &Field<'_>| quote(one.get("counterSet").text());
    set(
        &device.get("consumesCounters"),
        MAX_CONSUMPTIONS,
        set_key,
        |one, errors| {
            one.get("counterSet").required_text(errors, format::label);
            counters(&one.get("counters"), errors);
        },
        errors,
    );
    place(device, chosen, errors);
    devices::binding_conditions(device, errors);
}

/// On which nodes the device is, if not all of the slice are on the same.
fn place(device: &Field<'_>, chosen: bool, errors: &mut Errors) {
    let (node, selector, all) = (device.get("nodeName"), device.get("nodeSelector"), device.get("allNodes"));
    if !chosen {
        if node.is_set() || selector.is_set() || all.is_set() {
            let why = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
            device.invalid_as(errors, "null", why);
        }
        return;
    }
    let mut said = Vec::new();
    match (node.is_set(), node.is_empty()) {
        (true, true) => node.invalid(errors, "must not be empty"),
        (true, false) => {
            said.push("`nodeName`");
            node.faulty(errors, format::subdomain(node.text()));
        }
        (false, _) => {}
    }
    if selector.is_set() {
        said.push("`nodeSelector`");
        scheduling::node_selector(&selector, errors);
    }
    match all.flag() {
        Some(true) => said.push("`allNodes`"),
        Some(false) => all.invalid(errors, "must be either unset or set to true"),
        None => {}
    }
    let why = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    match said.len() {
        0 => device.required(errors, why),
        1 => {}
        _ => device.invalid_quoted(errors, &format!("{{{}}}", said.join(", ")), why),
    }
}

/// What devices share, or take of it.
pub(super) fn counters(counters: &Field<'_>, errors: &mut Errors) {
    if counters.is_empty() {
        return counters.required(errors, "");
    }
    if counters.len() > MAX_COUNTERS {
        return counters.too_many(errors, MAX_COUNTERS);
    }
    for (key, _) in counters.entries() {
        format::label(key).into_iter().for_each(|fault| counters.invalid_quoted(errors, key, fault));
    }
}

fn attribute(attribute: &Field<'_>, errors: &mut Errors) {
    let (text, version) = (attribute.get("string"), attribute.get("version"));
    if version.is_set() && !is_semantic_version(version.text()) {
        version.invalid(errors, "must be a string compatible with semver.org spec 2.0.0");
    }
    for field in [text, version].iter().filter(|field| field.text().len() > MAX_VALUE) {
        field.too_long(errors, MAX_VALUE);
    }
    match ["bool", "int", "string", "version"].iter().filter(|name| attribute.get(name).is_set()).count() {
        0 => attribute.invalid_quoted(errors, "", "exactly one value must be specified"),
        1 => {}
        _ => attribute.invalid_as(errors, ATTRIBUTE.shown(attribute.value), "exactly one value must be specified"),
    }
}

const ATTRIBUTE: Internal = Internal::Struct(&[
    ("int", "IntValue", NULL),
    ("bool", "BoolValue", NULL),
    ("string", "StringValue", NULL),
    ("version", "VersionValue", NULL),
    ("ints", "IntValues", NULL),
    ("bools", "BoolValues", NULL),
    ("strings", "StringValues", NULL),
    ("versions", "VersionValues", NULL),
]);

/// `1.2.3-rc.1+build`
fn is_semantic_version(text: &str) -> bool {
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let number = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) && (part == "0" || !part.starts_with('0'))
    };
    let release = |part: &str| word(part) && (number(part) || !part.bytes().all(|b| b.is_ascii_digit()));
    let (rest, build) = text.split_once('+').map_or((text, None), |(rest, build)| (rest, Some(build)));
    let (core, before) = rest.split_once('-').map_or((rest, None), |(core, before)| (core, Some(before)));
    core.split('.').count() == 3
        && core.split('.').all(number)
        && before.is_none_or(|before| before.split('.').all(release))
        && build.is_none_or(|build| build.split('.').all(word))
}

fn taint(taint: &Field<'_>, errors: &mut Errors) {
    let (key, value) = (taint.get("key"), taint.get("value"));
    key.faulty(errors, format::qualified_name(key.text()));
    value.optional_text(errors, format::label_value);
    taint.get("effect").required_one_of(errors, devices::EFFECTS);
}

/// A text with its middle left out, if it is longer than `most` bytes.
fn shortened(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let rest = most - "...".len();
    let (head, tail) = (rest.div_ceil(2), text.len() - rest / 2);
    let piece = |range: std::ops::Range<usize>| text.get(range).unwrap_or_default();
    format!("{}...{}", piece(0..head), piece(tail..text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for good in ["1.2.3", "0.0.0", "1.2.3-rc.1", "1.2.3-0a", "1.2.3+01", "1.2.3-a+b-c"] {
            assert!(is_semantic_version(good), "{good}");
        }
        for bad in ["", "1.2", "01.2.3", "1.2.3-", "1.2.3-01", "1.2.3+", "v1.2.3", "1.2.3.4", "1.2.3-a_b"] {
            assert!(!is_semantic_version(bad), "{bad}");
        }
    }

    #[test]
    fn long_keys_are_shortened() {
        assert_eq!(shortened("abcdefghijklmnopqrstuvwxyz", 16), "abcdefg...uvwxyz");
        assert_eq!(shortened("abc", 16), "abc");
    }
}
