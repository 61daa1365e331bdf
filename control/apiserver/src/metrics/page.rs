//! `/metrics`: the operator sees the whole server and how much each tenant asks, a tenant its own requests.

use std::{collections::BTreeMap, sync::atomic::Ordering};

use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};
use hypernetes_api::{ApiError, TenantId};
use hypernetes_kinds::{Home, registry};
use hypernetes_store::Prefix;

use super::{
    CODES, Counts, FlowControl, Requests,
    histogram::{DURATIONS, SIZES},
    labels::{Labels, OTHER},
    process,
    rejected::Why,
    text::{CONTENT_TYPE, Label, Text},
};
use crate::{Inner, answer::bytes_response};

/// # Errors
/// When the store cannot be read.
pub async fn answer(server: &Inner, tenant: &TenantId) -> Result<Response<Body>, ApiError> {
    let mut text = Text::default();
    if tenant.is_system() {
        write_server(&mut text, server);
        write_flow_control(&mut text, &server.seats.standing());
        write_requests(&mut text, &server.metrics.all);
        write_tenants(&mut text, server);
    } else {
        let account = server.accounts.of(tenant);
        write_requests(&mut text, &account.counts);
        let name = "apiserver_flowcontrol_current_executing_seats";
        text.family(name, "gauge", "Requests that are worked on.");
        text.sample(name, &FLOW, account.seats.load(Ordering::Relaxed));
        let counts = Why::ALL.map(|(why, reason)| (reason, account.rejected.read(why)));
        write_rejected(&mut text, &counts);
    }
    write_objects(&mut text, server, tenant).await?;
    let mut response = bytes_response(StatusCode::OK, text.end().into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    Ok(response)
}

fn write_server(text: &mut Text, server: &Inner) {
    let metrics = &server.metrics;
    process::write(text, metrics.started);
    let name = "apiserver_current_inflight_requests";
    text.family(name, "gauge", "Requests that are being answered, by kind.");
    for (kind, count) in [("mutating", &metrics.mutating), ("readOnly", &metrics.read_only)] {
        text.sample(name, &[("request_kind", kind)], count.load(Ordering::Relaxed));
    }
    if let Some(audit) = server.audit.get() {
        let (events, errors) = audit.counts();
        let name = "apiserver_audit_event_total";
        text.family(name, "counter", "Audit events that were written.");
        text.sample(name, &[], events);
        let name = "apiserver_audit_error_total";
        text.family(name, "counter", "Audit events that were lost.");
        text.sample(name, &[("plugin", "log")], errors);
    }
}

/// There is one level, in which the tenants are.
const FLOW: [Label<'static>; 2] = [("flow_schema", "tenants"), ("priority_level", "tenants")];

fn write_flow_control(text: &mut Text, standing: &FlowControl) {
    let FlowControl { total, taken, waiting, served, full, late } = *standing;
    let of = |what: &str| format!("apiserver_flowcontrol_{what}");
    let mut one = |what: &str, kind: &str, help: &str, labels: &[Label<'_>], value: u64| {
        text.family(&of(what), kind, help);
        text.sample(&of(what), labels, value);
    };
    one("nominal_limit_seats", "gauge", "Requests that may be worked on at once.", &FLOW[1..], total);
    one("current_executing_seats", "gauge", "Requests that are worked on.", &FLOW, taken);
    one("current_inqueue_requests", "gauge", "Requests that wait to be worked on.", &FLOW, waiting);
    one("dispatched_requests_total", "counter", "Requests that were worked on.", &FLOW, served);
    write_rejected(text, &[("queue-full", full), ("time-out", late)]);
}

fn write_rejected(text: &mut Text, counts: &[(&str, u64)]) {
    let name = "apiserver_flowcontrol_rejected_requests_total";
    text.family(name, "counter", "Requests that were not worked on.");
    for (reason, count) in counts {
        text.sample(name, &[&FLOW[..], &[("reason", *reason)]].concat(), *count);
    }
}

/// Labels that all families of requests have.
fn shared(labels: &Labels) -> [Label<'static>; 7] {
    [
        ("component", "apiserver"),
        ("group", labels.group),
        ("resource", labels.resource),
        ("scope", labels.scope),
        ("subresource", labels.subresource),
        ("verb", labels.verb),
        ("version", labels.version),
    ]
}

fn write_requests(text: &mut Text, counts: &Counts) {
    let mut all: Vec<(&Labels, &Requests)> =
        counts.0.all().map(|(labels, requests)| (labels.unwrap_or(&OTHER), requests)).collect();
    all.sort_by_key(|(labels, _)| shared(labels));
    let name = "apiserver_request_total";
    let help = "Requests, by verb, dry run, group, version, resource, subresource, scope and HTTP code.";
    text.family(name, "counter", help);
    for (labels, requests) in &all {
        for (code, count) in CODES.iter().zip(&requests.codes) {
            let count = count.load(Ordering::Relaxed);
            if count > 0 {
                let code = if *code == 0 { "other".to_owned() } else { code.to_string() };
                let own = [("code", code.as_str()), ("dry_run", labels.dry_run)];
                text.sample(name, &[&own[..], &shared(labels)].concat(), count);
            }
        }
    }
    let name = "apiserver_request_duration_seconds";
    text.family(name, "histogram", "How long requests took until they were answered.");
    for (labels, requests) in all.iter().filter(|(_, requests)| requests.durations.read().1 > 0) {
        let labels = [&[("dry_run", labels.dry_run)][..], &shared(labels)].concat();
        text.histogram(name, &labels, &DURATIONS, &requests.durations, 1e-9);
    }
    let name = "apiserver_response_sizes";
    text.family(name, "histogram", "Bytes of answers to what was read.");
    for (labels, requests) in all.iter().filter(|(_, requests)| requests.sizes.read().1 > 0) {
        text.histogram(name, &shared(labels), &SIZES, &requests.sizes, 1.0);
    }
    let name = "apiserver_longrunning_requests";
    text.family(name, "gauge", "Watches, logs and connections to pods that are open.");
    for (labels, requests) in &all {
        let running = requests.running.load(Ordering::Relaxed);
        if running > 0 {
            text.sample(name, &shared(labels), running);
        }
    }
    let mut events: BTreeMap<_, u64> = BTreeMap::new();
    for (labels, requests) in &all {
        let told = requests.events.load(Ordering::Relaxed);
        if told > 0 {
            *events.entry((labels.group, labels.resource, labels.version)).or_default() += told;
        }
    }
    let name = "apiserver_watch_events_total";
    text.family(name, "counter", "Events that watches were sent.");
    for ((group, resource, version), told) in events {
        text.sample(name, &[("group", group), ("resource", resource), ("version", version)], told);
    }
}

/// One line a tenant and class of codes: what all of them asked for is not told apart.
fn write_tenants(text: &mut Text, server: &Inner) {
    let name = "hypernetes_tenant_requests_total";
    text.family(name, "counter", "Requests of each tenant, by the first digit of their HTTP code.");
    let mut tenants = server.accounts.tenants();
    tenants.sort();
    for tenant in tenants {
        let mut classes: BTreeMap<u16, u64> = BTreeMap::new();
        for (_, requests) in server.accounts.of(&tenant).counts.0.all() {
            for (code, count) in CODES.iter().zip(&requests.codes) {
                *classes.entry(code / 100).or_default() += count.load(Ordering::Relaxed);
            }
        }
        for (class, count) in classes.into_iter().filter(|(_, count)| *count > 0) {
            let class = if class == 0 { "other".to_owned() } else { format!("{class}xx") };
            text.sample(name, &[("code", &class), ("tenant", tenant.as_str())], count);
        }
    }
}

async fn write_objects(text: &mut Text, server: &Inner, tenant: &TenantId) -> Result<(), ApiError> {
    let name = "apiserver_storage_objects";
    text.family(name, "gauge", "Stored objects, by resource.");
    for resource in registry::builtin() {
        let own = matches!(resource.home, Home::Tenant) || (tenant.is_system() && resource.is_stored());
        if !own {
            continue;
        }
        let prefix = match tenant.is_system() {
            true => Prefix::all_tenants(&resource.id, &server.all_tenants),
            false => Prefix::tenant(&resource.id, tenant, None)?,
        };
        let count = server.store.count(&prefix).await?;
        if count > 0 {
            let group = &resource.ty.group;
            let full = if group.is_empty() { resource.plural.clone() } else { format!("{}.{group}", resource.plural) };
            text.sample(name, &[("resource", &full)], count);
        }
    }
    Ok(())
}
