//! What a claim asks for, and the parts of it that classes and allocations have, too.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde_json::Value;

use crate::{
    core::volume,
    field::{Errors, Field, quote},
    format,
    internal::{Internal, NULL, TEXT},
};

/// The most requests of a claim, and devices of an allocation.
pub(super) const MAX_REQUESTS: usize = 32;
const MAX_CONSTRAINTS: usize = 32;
pub(super) const MAX_CONFIGURATIONS: usize = 32;
const MAX_SELECTORS: usize = 32;
const MAX_ALTERNATIVES: usize = 8;
/// The most bytes of a CEL expression, and of a driver's own parameters.
const MAX_EXPRESSION: usize = 10 * 1024;
const MAX_PARAMETERS: usize = 10 * 1024;
/// The most bytes of a pool's name, and of what stands behind an attribute's domain.
const MAX_POOL: usize = 253;
const MAX_ID: usize = 32;

const DEVICES: &[(&str, &str, Internal)] = &[
    ("deviceClassName", "DeviceClassName", TEXT),
    ("selectors", "Selectors", SELECTORS),
    ("allocationMode", "AllocationMode", TEXT),
    ("count", "Count", Internal::Plain("0")),
    ("adminAccess", "AdminAccess", NULL),
    ("tolerations", "Tolerations", TOLERATIONS),
    ("capacity", "Capacity", NULL),
];
const ALTERNATIVE: &[(&str, &str, Internal)] = &[
    ("name", "Name", TEXT),
    ("deviceClassName", "DeviceClassName", TEXT),
    ("selectors", "Selectors", SELECTORS),
    ("allocationMode", "AllocationMode", TEXT),
    ("count", "Count", Internal::Plain("0")),
    ("tolerations", "Tolerations", TOLERATIONS),
    ("capacity", "Capacity", NULL),
];
const SELECTORS: Internal = Internal::List(&Internal::Struct(&[(
    "cel",
    "CEL",
    Internal::Pointer(&Internal::Struct(&[("expression", "Expression", TEXT)])),
)]));
const TOLERATIONS: Internal = Internal::List(&Internal::Struct(&[
    ("key", "Key", TEXT),
    ("operator", "Operator", TEXT),
    ("value", "Value", TEXT),
    ("effect", "Effect", TEXT),
    ("tolerationSeconds", "TolerationSeconds", NULL),
]));
/// `spec` of a claim.
pub(super) const SPEC: Internal = Internal::Struct(&[(
    "devices",
    "Devices",
    Internal::Struct(&[
        (
            "requests",
            "Requests",
            Internal::List(&Internal::Struct(&[
                ("name", "Name", TEXT),
                ("exactly", "Exactly", Internal::Pointer(&Internal::Struct(DEVICES))),
                ("firstAvailable", "FirstAvailable", Internal::List(&Internal::Struct(ALTERNATIVE))),
            ])),
        ),
        ("constraints", "Constraints", NULL),
        ("config", "Config", NULL),
    ]),
)]);

/// The requests of a claim, each with the alternatives that it has.
pub(super) struct Requests<'a>(BTreeMap<&'a str, BTreeSet<&'a str>>);

impl<'a> Requests<'a> {
    /// Of a claim's spec.
    pub fn of(spec: &Field<'a>) -> Self {
        let alternatives = |request: &Field<'a>| {
            let alternatives = request.get("firstAvailable").items().map(|one| one.get("name").text());
            (request.get("name").text(), alternatives.collect())
        };
        Self(spec.walk(["devices", "requests"]).items().map(|request| alternatives(&request)).collect())
    }

    /// Whether there is such a request, or, behind a slash, such an alternative of it.
    fn has(&self, name: &str) -> bool {
        match name.split_once('/') {
            None => self.0.contains_key(name),
            Some((request, one)) => self.0.get(request).is_some_and(|alternatives| alternatives.contains(one)),
        }
    }
}

/// Every item by its rule, and none twice, unless there are more than `most`.
pub(super) fn set<'a>(
    list: &Field<'a>,
    most: usize,
    key: impl Fn(&Field<'a>) -> String,
    mut check: impl FnMut(&Field<'a>, &mut Errors),
    errors: &mut Errors,
) {
    if list.len() > most {
        return list.too_many(errors, most);
    }
    list.items().for_each(|item| check(&item, errors));
    let mut seen = HashSet::new();
    for item in list.items() {
        let key = key(&item);
        if !seen.insert(key.clone()) {
            item.duplicate_as(errors, key);
        }
    }
}

/// A text that is its own key.
pub(super) fn text_key(item: &Field<'_>) -> String {
    quote(item.text())
}

/// The key is the item's name.
pub(super) fn name_key(item: &Field<'_>) -> String {
    quote(item.get("name").text())
}

/// `spec` of a claim.
pub(super) fn claim(spec: &Field<'_>, errors: &mut Errors) {
    let (devices, requests) = (spec.get("devices"), Requests::of(spec));
    set(&devices.get("requests"), MAX_REQUESTS, name_key, request, errors);
    let (constraints, configurations) = (devices.get("constraints"), devices.get("config"));
    match constraints.len() > MAX_CONSTRAINTS {
        true => constraints.too_many(errors, MAX_CONSTRAINTS),
        false => constraints.items().for_each(|one| constraint(&one, &requests, errors)),
    }
    match configurations.len() > MAX_CONFIGURATIONS {
        true => configurations.too_many(errors, MAX_CONFIGURATIONS),
        false => configurations.items().for_each(|one| {
            references(&one.get("requests"), &requests, errors);
            configuration(&one, errors);
        }),
    }
}

fn request(request: &Field<'_>, errors: &mut Errors) {
    let (name, exactly, first) = (request.get("name"), request.get("exactly"), request.get("firstAvailable"));
    name.faulty(errors, format::label(name.text()));
    match (exactly.is_set(), !first.is_empty()) {
        (false, false) => request.required(errors, "exactly one of `exactly` or `firstAvailable` is required"),
        (true, true) => {
            let why = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            request.invalid_as(errors, "null", why);
        }
        (true, false) => wanted(&exactly, errors),
        (false, true) => set(&first, MAX_ALTERNATIVES, name_key, alternative, errors),
    }
}

fn alternative(one: &Field<'_>, errors: &mut Errors) {
    one.get("name").faulty(errors, format::label(one.get("name").text()));
    wanted(one, errors);
}

/// Of which class, which of them, and how many.
fn wanted(request: &Field<'_>, errors: &mut Errors) {
    request.get("deviceClassName").required_text(errors, format::subdomain);
    selectors(&request.get("selectors"), errors);
    let (mode, count) = (request.get("allocationMode"), request.get("count"));
    let number = count.int().unwrap_or(0);
    match mode.text() {
        "All" if number != 0 => count.invalid(errors, "must not be specified when allocationMode is 'All'"),
        "ExactCount" if number <= 0 => count.invalid_as(errors, number.to_string(), "must be greater than zero"),
        "All" | "ExactCount" => {}
        _ => mode.not_supported(errors, &["All", "ExactCount"]),
    }
    request.get("tolerations").items().for_each(|one| toleration(&one, errors));
}

pub(super) fn selectors(list: &Field<'_>, errors: &mut Errors) {
    if list.len() > MAX_SELECTORS {
        return list.too_many(errors, MAX_SELECTORS);
    }
    for selector in list.items() {
        let cel = selector.get("cel");
        if !cel.is_set() {
            cel.required(errors, "");
        } else if cel.get("expression").text().len() > MAX_EXPRESSION {
            cel.get("expression").too_long(errors, MAX_EXPRESSION);
        }
    }
}

fn toleration(toleration: &Field<'_>, errors: &mut Errors) {
    let (operator, value) = (toleration.get("operator"), toleration.get("value"));
    toleration.get("key").optional_text(errors, format::qualified_name);
    match operator.text() {
        "Exists" if !value.is_empty() => value.invalid(errors, "must be empty for operator `Exists`"),
        "Exists" => {}
        "Equal" => value.faulty(errors, format::label_value(value.text())),
        "" => operator.required(errors, ""),
        _ => operator.not_supported(errors, &["Equal", "Exists"]),
    }
    if !toleration.get("effect").is_empty() {
        toleration.get("effect").one_of(errors, EFFECTS);
    }
}

/// What a taint does.
pub(super) const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "None"];

fn constraint(constraint: &Field<'_>, requests: &Requests<'_>, errors: &mut Errors) {
    references(&constraint.get("requests"), requests, errors);
    let (same, distinct) = (constraint.get("matchAttribute"), constraint.get("distinctAttribute"));
    if same.is_set() {
        fully_qualified(&same, errors);
    } else if distinct.is_set() {
        fully_qualified(&distinct, errors);
    } else {
        let why = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
        constraint.required(errors, why);
    }
}

/// Names of requests of the claim.
pub(super) fn references(list: &Field<'_>, requests: &Requests<'_>, errors: &mut Errors) {
    set(list, MAX_REQUESTS, text_key, |name, errors| reference(name, requests, errors), errors);
}

/// The name of a request of the claim.
pub(super) fn reference(name: &Field<'_>, requests: &Requests<'_>, errors: &mut Errors) {
    let why = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
    if name.text().matches('/').count() > 1 {
        return name.invalid(errors, why);
    }
    for part in name.text().split('/') {
        format::label(part).into_iter().for_each(|fault| name.invalid_quoted(errors, part, fault));
    }
    if !requests.has(name.text()) {
        name.invalid_text(errors, why);
    }
}

/// A driver's own configuration.
pub(super) fn configuration(configuration: &Field<'_>, errors: &mut Errors) {
    let opaque = configuration.get("opaque");
    if !opaque.is_set() {
        return opaque.required(errors, "");
    }
    volume::driver_name(&opaque.get("driver"), errors);
    raw(&opaque.get("parameters"), MAX_PARAMETERS, errors);
}

/// Any object.
pub(super) fn raw(object: &Field<'_>, most: usize, errors: &mut Errors) {
    match object.value {
        Value::Null => object.required(errors, ""),
        Value::Object(_) if object.value.to_string().len() > most => object.too_long(errors, most),
        Value::Object(_) => {}
        _ => object.invalid_quoted(errors, "<value omitted>", "must be a valid JSON object"),
    }
}

/// The name of a pool of devices: names with slashes between them.
pub(super) fn pool_name(name: &Field<'_>, errors: &mut Errors) {
    if name.is_empty() {
        return name.required(errors, "");
    }
    if name.text().len() > MAX_POOL {
        name.too_long(errors, MAX_POOL);
    }
    for part in name.text().split('/') {
        format::subdomain(part).into_iter().for_each(|fault| name.invalid_quoted(errors, part, fault));
    }
}

/// What an attribute or a capacity is called, which is said of `field`: an identifier, before which may be a domain and a slash.
pub(super) fn qualified(field: &Field<'_>, name: &str, errors: &mut Errors) {
    let identifier = |id: &str, errors: &mut Errors| {
        if id.len() > MAX_ID {
            field.too_long(errors, MAX_ID);
        }
        format::c_identifier(id).into_iter().for_each(|fault| field.invalid_quoted(errors, id, fault));
    };
    match name.split('/').collect::<Vec<_>>().as_slice() {
        [id] => identifier(id, errors),
        [domain, id] => {
            match domain.is_empty() {
                true => field.invalid_quoted(errors, "", "the domain must not be empty"),
                false => volume::driver_name(&Field::at(&Value::from(*domain), field.path.clone()), errors),
            }
            match id.is_empty() {
                true => field.invalid_quoted(errors, "", "the name must not be empty"),
                false => identifier(id, errors),
            }
        }
        // Upstream takes what has more.
        _ => {}
    }
}

fn fully_qualified(name: &Field<'_>, errors: &mut Errors) {
    qualified(name, name.text(), errors);
    if !name.text().contains('/') {
        name.invalid_text(errors, "a fully qualified name must be a domain and a name separated by a slash");
    }
}

/// What has to be so before a device is used, and what says that it will not be.
pub(super) fn binding_conditions(device: &Field<'_>, errors: &mut Errors) {
    const MOST: usize = 4;
    let (ready, failed) = (device.get("bindingConditions"), device.get("bindingFailureConditions"));
    for list in [&ready, &failed] {
        match list.len() > MOST {
            true => list.too_many(errors, MOST),
            false => list.items().for_each(|name| name.faulty(errors, format::qualified_name(name.text()))),
        }
    }
    let mut seen = HashSet::new();
    ready.items().filter(|one| !seen.insert(one.text())).for_each(|one| one.duplicate(errors));
    let mut failures = HashSet::new();
    for one in failed.items() {
        if !failures.insert(one.text()) {
            one.duplicate(errors);
        }
        if seen.contains(one.text()) {
            one.invalid(errors, "bindingFailureConditions must not overlap with bindingConditions");
        }
    }
    let none = |list: &Field<'_>| if list.is_set() { "[]" } else { "null" };
    if ready.is_empty() && !failed.is_empty() {
        let why = "bindingConditions are required to use bindingFailureConditions";
        ready.invalid_as(errors, none(&ready), why);
    }
    if failed.is_empty() && !ready.is_empty() {
        let why = "bindingFailureConditions are required to use bindingConditions";
        failed.invalid_as(errors, none(&failed), why);
    }
}
