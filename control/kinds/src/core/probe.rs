//! Probes and hooks: what is done to a container to see how it is, or to tell it something.

use serde_json::Value;

use crate::{
    field::{Errors, Field},
    format,
};

type Check = fn(&Field<'_>, &mut Errors);

const HANDLERS: &[(&str, Check)] = &[("exec", exec), ("httpGet", http), ("tcpSocket", socket), ("grpc", socket)];

/// A probe that one success ends: liveness and startup.
pub(crate) fn liveness(probe: &Field<'_>, errors: &mut Errors) {
    if !probe.is_set() {
        return;
    }
    check(probe, errors);
    let threshold = probe.get("successThreshold");
    if threshold.int() != Some(1) {
        threshold.invalid(errors, "must be 1");
    }
}

pub(crate) fn readiness(probe: &Field<'_>, errors: &mut Errors) {
    if !probe.is_set() {
        return;
    }
    check(probe, errors);
    let grace = probe.get("terminationGracePeriodSeconds");
    if grace.is_set() {
        grace.invalid(errors, "must not be set for readinessProbes");
    }
}

fn check(probe: &Field<'_>, errors: &mut Errors) {
    handler(probe, None, errors);
    for name in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        probe.get(name).non_negative(errors);
    }
    let grace = probe.get("terminationGracePeriodSeconds");
    if grace.int().is_some_and(|seconds| seconds <= 0) {
        grace.invalid(errors, "must be greater than 0");
    }
}

/// A hook of a container whose pod has so many seconds to end.
pub(crate) fn hook(hook: &Field<'_>, grace: Option<i64>, errors: &mut Errors) {
    handler(hook, Some(grace), errors);
}

/// Exactly one way to do it; hooks may sleep.
fn handler(handler: &Field<'_>, hook: Option<Option<i64>>, errors: &mut Errors) {
    let mut found = false;
    for (name, rules) in HANDLERS {
        let way = handler.get(name);
        if !way.is_set() || (*name == "grpc" && hook.is_some()) {
            continue;
        }
        match std::mem::replace(&mut found, true) {
            true => way.forbidden(errors, "may not specify more than 1 handler type"),
            false => rules(&way, errors),
        }
    }
    let sleep = handler.get("sleep");
    if let Some(grace) = hook
        && sleep.is_set()
    {
        match std::mem::replace(&mut found, true) {
            true => sleep.forbidden(errors, "may not specify more than 1 handler type"),
            false => sleep_within(&sleep, grace, errors),
        }
    }
    if !found {
        handler.required(errors, "must specify a handler type");
    }
}

fn sleep_within(sleep: &Field<'_>, grace: Option<i64>, errors: &mut Errors) {
    let seconds = sleep.get("seconds");
    let (slept, Some(grace)) = (seconds.int().unwrap_or(0), grace) else { return };
    if slept < 0 || slept > grace {
        let why = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        Field::at(seconds.value, sleep.path.clone()).invalid(errors, why);
    }
}

fn exec(action: &Field<'_>, errors: &mut Errors) {
    action.get("command").not_empty(errors);
}

fn http(action: &Field<'_>, errors: &mut Errors) {
    action.get("path").not_empty(errors);
    port(&action.get("port"), errors);
    action.get("scheme").one_of(errors, &["HTTP", "HTTPS"]);
    let headers = action.get("httpHeaders");
    for header in headers.items() {
        let name = header.get("name").text();
        format::header_name(name).into_iter().for_each(|fault| headers.invalid_quoted(errors, name, fault));
    }
}

fn socket(action: &Field<'_>, errors: &mut Errors) {
    port(&action.get("port"), errors);
}

/// A port by its number or by its name.
pub(crate) fn port(port: &Field<'_>, errors: &mut Errors) {
    match port.value {
        Value::String(name) => port.faulty(errors, format::port_name(name)),
        other => {
            if let Some(fault) = format::port(other.as_i64().unwrap_or(0)) {
                port.invalid_as(errors, other.as_i64().unwrap_or(0).to_string(), fault);
            }
        }
    }
}
