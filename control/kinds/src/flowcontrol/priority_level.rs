//! `PriorityLevelConfiguration`: how many requests of a level are served at once, and which wait.

use k8s_openapi::api::flowcontrol::v1::PriorityLevelConfiguration;
use serde_json::{Map, Value, json};

use super::{EXEMPT, check_status, fixed, set_number};
use crate::{
    columns::{age, column, name, path, path_or},
    field::{Errors, Field, same},
    internal::{Internal, NULL, TEXT},
    resource::Resource,
    subresource::Subresource,
};

pub(super) fn resource() -> Resource {
    Resource::kubernetes::<PriorityLevelConfiguration>("prioritylevelconfigurations")
        .subresources([Subresource::status()])
        .columns(vec![
            name(),
            column("Type", path_or("spec.type", "")),
            column("NominalConcurrencyShares", path("spec.limited.nominalConcurrencyShares")),
            column("Queues", path("spec.limited.limitResponse.queuing.queues")),
            column("HandSize", path("spec.limited.limitResponse.queuing.handSize")),
            column("QueueLengthLimit", path("spec.limited.limitResponse.queuing.queueLengthLimit")),
            age(),
        ])
        .defaults(defaults)
        .first_status(|_| json!({}))
        .counts_changes()
        .check(check)
        .on_status(check_status)
}

/// Of the version before, which could not say zero.
const OF_V1BETA3: &str = "flowcontrol.k8s.io/v1beta3-preserve-zero-concurrency-shares";
const MAX_QUEUES: i64 = 10_000_000;
/// Bits of a hash that choose a hand of queues.
const MAX_BITS: i64 = 60;

static QUEUES: Internal = Internal::Struct(&[
    ("queues", "Queues", Internal::Plain("0")),
    ("handSize", "HandSize", Internal::Plain("0")),
    ("queueLengthLimit", "QueueLengthLimit", Internal::Plain("0")),
]);
static LIMITED: Internal = Internal::Struct(&[
    ("nominalConcurrencyShares", "NominalConcurrencyShares", Internal::Plain("0")),
    (
        "limitResponse",
        "LimitResponse",
        Internal::Struct(&[("type", "Type", TEXT), ("queuing", "Queuing", Internal::Pointer(&QUEUES))]),
    ),
    ("lendablePercent", "LendablePercent", NULL),
    ("borrowingLimitPercent", "BorrowingLimitPercent", NULL),
]);
static EXEMPTED: Internal = Internal::Struct(&[
    ("nominalConcurrencyShares", "NominalConcurrencyShares", NULL),
    ("lendablePercent", "LendablePercent", NULL),
]);
static SPEC: Internal = Internal::Struct(&[
    ("type", "Type", TEXT),
    ("limited", "Limited", Internal::Pointer(&LIMITED)),
    ("exempt", "Exempt", Internal::Pointer(&EXEMPTED)),
]);

fn defaults(level: &mut Map<String, Value>) {
    let Some(spec) = level.get_mut("spec").and_then(Value::as_object_mut) else { return };
    for (field, shares) in [("exempt", 0), ("limited", 30)] {
        if let Some(fields) = spec.get_mut(field).and_then(Value::as_object_mut) {
            set_number(fields, "nominalConcurrencyShares", shares, false);
            set_number(fields, "lendablePercent", 0, false);
        }
    }
    let queues = spec.get_mut("limited").and_then(|limited| limited.get_mut("limitResponse")?.get_mut("queuing"));
    if let Some(queues) = queues.and_then(Value::as_object_mut) {
        for (field, number) in [("handSize", 8), ("queues", 64), ("queueLengthLimit", 50)] {
            set_number(queues, field, number, true);
        }
    }
}

fn check(level: &Field<'_>, errors: &mut Errors) {
    let (name, annotations) = (level.walk(["metadata", "name"]), level.walk(["metadata", "annotations"]));
    if annotations.key(OF_V1BETA3).is_set() {
        annotations.forbidden(errors, format!("annotation '{OF_V1BETA3}' is forbidden"));
    }
    let spec = level.get("spec");
    let (ty, limited, exempt) = (spec.get("type"), spec.get("limited"), spec.get("exempt"));
    if (name.text() == EXEMPT) != (ty.text() == "Exempt") {
        ty.invalid_text(errors, "must be 'Exempt' if and only if `name` is 'exempt'");
    }
    match ty.text() {
        "Exempt" => {
            if limited.is_set() {
                limited.forbidden(errors, "must be nil if the type is not Limited");
            }
            check_number(&exempt.get("nominalConcurrencyShares"), "must be a non-negative integer", errors);
            check_percent(&exempt.get("lendablePercent"), errors);
        }
        "Limited" => {
            if exempt.is_set() {
                exempt.forbidden(errors, "must be nil if the type is Limited");
            }
            match limited.is_set() {
                true => check_limited(&limited, errors),
                false => limited.required(errors, "must not be empty when type is Limited"),
            }
        }
        _ => ty.not_supported(errors, &["Exempt", "Limited"]),
    }
    check_fixed(&name, &spec, errors);
}

/// Of the exempt one, how much others may borrow of it is whoever's to say who may write it.
fn check_fixed(name: &Field<'_>, spec: &Field<'_>, errors: &mut Errors) {
    let Some(fixed) = fixed("PriorityLevelConfiguration", name.text()) else { return };
    let is_exempt = name.text() == EXEMPT;
    let compared = |spec: &Value| {
        let mut spec = spec.clone();
        if let Some(fields) = spec.as_object_mut().filter(|_| is_exempt) {
            fields.remove("exempt");
        }
        spec
    };
    if !same(&compared(spec.value), &compared(fixed)) {
        let but = if is_exempt { " except the 'spec.exempt' field" } else { "" };
        let why = format!("spec of '{}'{but} must equal the fixed value", name.text());
        spec.invalid_as(errors, SPEC.shown(spec.value), why);
    }
}

fn check_limited(limited: &Field<'_>, errors: &mut Errors) {
    check_number(&limited.get("nominalConcurrencyShares"), "must be a non-negative integer", errors);
    let response = limited.get("limitResponse");
    let (ty, queuing) = (response.get("type"), response.get("queuing"));
    match ty.text() {
        "Reject" if queuing.is_set() => {
            queuing.forbidden(errors, "must be nil if limited.limitResponse.type is not Limited");
        }
        "Reject" => {}
        "Queue" if queuing.is_set() => check_queuing(&queuing, errors),
        "Queue" => queuing.required(errors, "must not be empty if limited.limitResponse.type is Limited"),
        _ => ty.not_supported(errors, &["Queue", "Reject"]),
    }
    check_percent(&limited.get("lendablePercent"), errors);
    check_number(&limited.get("borrowingLimitPercent"), "if specified, must be a non-negative integer", errors);
}

fn check_number(number: &Field<'_>, why: &str, errors: &mut Errors) {
    if number.int().is_some_and(i64::is_negative) {
        number.invalid(errors, why);
    }
}

fn check_percent(percent: &Field<'_>, errors: &mut Errors) {
    if percent.int().is_some_and(|number| !(0..=100).contains(&number)) {
        percent.invalid(errors, "must be between 0 and 100, inclusive");
    }
}

fn check_queuing(queuing: &Field<'_>, errors: &mut Errors) {
    let (queues, hand, length) = (queuing.get("queues"), queuing.get("handSize"), queuing.get("queueLengthLimit"));
    let (many, size) = (queues.int().unwrap_or(0), hand.int().unwrap_or(0));
    if length.int().unwrap_or(0) <= 0 {
        length.invalid(errors, "must be positive");
    }
    if many <= 0 {
        queues.invalid(errors, "must be positive");
    } else if many > MAX_QUEUES {
        queues.invalid(errors, format!("must not be greater than {MAX_QUEUES}"));
    }
    if size <= 0 {
        hand.invalid(errors, "must be positive");
    } else if size > many {
        hand.invalid(errors, format!("should not be greater than queues ({many})"));
    } else if bits(many, size) > MAX_BITS {
        let what = format!("required entropy bits of deckSize {many} and handSize {size}");
        hand.invalid(errors, format!("{what} should not be greater than {MAX_BITS}"));
    }
}

/// What a hand of so many of so many queues takes of a hash.
fn bits(queues: i64, hand: i64) -> i64 {
    ((queues as f64).log2() * hand as f64).ceil() as i64
}
