//! Upstream's PodSecurity: what the labels of a namespace ask of its pods (Pod Security Standards), by what they are refused, recorded and
//! warned of. Of what makes pods its author is warned; pods that are there already are told when a namespace asks for more.

mod baseline;
mod checks;
mod pod;
mod policy;
mod restricted;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{FutureExt, future::BoxFuture};
use hypernetes_api::{ApiError, error::Cause};
use hypernetes_schema::walk::list;
use hypernetes_store::{Prefix, RangeOptions, ResourceId};
use serde_json::Value;

use self::{
    checks::Violations,
    pod::Pod,
    policy::{Level, PREFIX, Policy, Standard},
};
use super::{Additions, Operation, Plugin, Request, Step, namespace_of, text};
use crate::{exemptions::Exemptions, stored_form};

pub(super) const PLUGIN: Plugin = Plugin { name: "PodSecurity", about, step: Step::Validate(validate) };

/// What says nothing of a pod's specification.
const OTHER_PARTS: [&str; 8] = ["attach", "binding", "eviction", "exec", "log", "portforward", "proxy", "status"];
/// Pods that are looked at when a namespace asks for more, and for how long: upstream's.
const MOST_PODS: usize = 3000;
const LONGEST: Duration = Duration::from_secs(1);
/// After so many of them others have their turn.
const AT_ONCE: usize = 64;

fn about(request: &Request<'_>) -> bool {
    if !matches!(request.operation, Operation::Create | Operation::Update) {
        return false;
    }
    let subresource = request.call.subresource.as_ref().map(|one| one.name);
    match subresource {
        None => request.is("", "Pod") || request.is("", "Namespace") || template(request).is_some(),
        Some(name) => request.is("", "Pod") && !OTHER_PARTS.contains(&name),
    }
}

/// Where an object of its kind has the pods that are made of it.
fn template(request: &Request<'_>) -> Option<&'static str> {
    let ty = &request.call.resource.ty;
    match (ty.group.as_str(), ty.kind.as_str()) {
        ("", "PodTemplate") => Some("/template"),
        ("", "ReplicationController")
        | ("apps", "ReplicaSet" | "Deployment" | "StatefulSet" | "DaemonSet")
        | ("batch", "Job") => Some("/spec/template"),
        ("batch", "CronJob") => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}

fn validate<'a>(
    request: &'a Request<'a>,
    object: &'a Value,
    added: &'a mut Additions,
) -> BoxFuture<'a, Result<(), ApiError>> {
    async move {
        match template(request) {
            _ if request.is("", "Namespace") => check_namespace(request, object, added).await,
            Some(at) => {
                let Some(template) = object.pointer(at).filter(|template| template.is_object()) else { return Ok(()) };
                let pod = Pod { metadata: &template["metadata"], spec: &template["spec"] };
                check_pod(request, text(object, &["metadata", "name"]), pod, false, added)
            }
            None => {
                if request.old.is_some_and(|old| !runs_something_else(object, old)) {
                    return Ok(());
                }
                let pod = Pod { metadata: &object["metadata"], spec: &object["spec"] };
                check_pod(request, text(object, &["metadata", "name"]), pod, true, added)
            }
        }
    }
    .boxed()
}

/// What a namespace asks for, read once of each version of it.
struct Asked {
    policy: Policy,
    faults: Vec<Cause>,
}

fn asked(request: &Request<'_>) -> Result<Option<Arc<Asked>>, ApiError> {
    let Some(namespace) = namespace_of(request)? else { return Ok(None) };
    let read = || {
        let (policy, faults) = Policy::of(&stored_form::decode(&namespace).unwrap_or_default());
        Arc::new(Asked { policy, faults })
    };
    Ok(Some(namespace.form(read).clone()))
}

/// Only what its containers run can change of a pod that is there, and that some are added.
fn runs_something_else(pod: &Value, old: &Value) -> bool {
    let same = |list_name: &str| {
        let (now, before) = (list(&pod["spec"], list_name), list(&old["spec"], list_name));
        now.len() == before.len() && now.iter().zip(before).all(|(now, before)| now["image"] == before["image"])
    };
    let of_old = list(&old["spec"], "ephemeralContainers");
    let known = |one: &Value| of_old.iter().any(|old| old["name"] == one["name"] && old["image"] == one["image"]);
    !same("containers") || !same("initContainers") || !list(&pod["spec"], "ephemeralContainers").iter().all(known)
}

/// `enforce`: it is a pod, and not what pods are made of.
fn check_pod(
    request: &Request<'_>,
    name: &str,
    pod: Pod<'_>,
    enforce: bool,
    added: &mut Additions,
) -> Result<(), ApiError> {
    let Some(asked) = asked(request)? else { return Ok(()) };
    let Policy { enforce: enforced, audit, warn } = asked.policy;
    let is_open = match enforce {
        true => asked.policy.is_open(),
        false => audit.level == Level::Privileged && warn.level == Level::Privileged,
    };
    if is_open && asked.faults.is_empty() {
        return Ok(());
    }
    let note = |key: &str, value: String| request.call.trail.annotate(format!("{PREFIX}{key}"), value);
    if let Some(why) = exemptions(request).and_then(|exempt| why_exempt(request, exempt, pod)) {
        note("exempt", why.to_owned());
        return Ok(());
    }
    if !asked.faults.is_empty() {
        note("error", format!("Failed to parse policy: {}", said(&asked.faults)));
    }
    let details = |standard: Standard| {
        let violations = Violations::of(pod, standard);
        (!violations.is_empty()).then(|| violations.details())
    };
    let refused = if enforce { details(enforced) } else { None };
    if enforce {
        note("enforce-policy", enforced.to_string());
    }
    if let Some(details) = details(audit) {
        note("audit-violations", format!("would violate PodSecurity \"{audit}\": {details}"));
    }
    if let Some(details) = refused {
        return Err(request.forbidden(name, &format!("violates PodSecurity \"{enforced}\": {details}")));
    }
    let warning = details(warn).map(|details| format!("would violate PodSecurity \"{warn}\": {details}"));
    added.warnings.extend(warning);
    Ok(())
}

fn said(faults: &[Cause]) -> String {
    let each: Vec<String> = faults.iter().map(|fault| format!("{}: {}", fault.field, fault.message)).collect();
    match each.as_slice() {
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    }
}

fn exemptions<'a>(request: &'a Request<'_>) -> Option<&'a Exemptions> {
    request.server.exemptions.get()
}

fn why_exempt(request: &Request<'_>, exempt: &Exemptions, pod: Pod<'_>) -> Option<&'static str> {
    let namespace = request.call.target.namespace.as_deref().unwrap_or_default();
    let class = pod.spec["runtimeClassName"].as_str().unwrap_or_default();
    if exempt.namespaces.contains(namespace) {
        Some("namespace")
    } else if exempt.users.contains(&request.call.user.name) {
        Some("user")
    } else if exempt.runtime_classes.contains(class) {
        Some("runtimeClass")
    } else {
        None
    }
}

/// The labels are some; and whoever asks for more is told which pods have less.
async fn check_namespace(request: &Request<'_>, namespace: &Value, added: &mut Additions) -> Result<(), ApiError> {
    let name = text(namespace, &["metadata", "name"]);
    let (policy, faults) = Policy::of(namespace);
    let before = request.old.map(Policy::of);
    let same = |(_, old): &(Policy, Vec<Cause>)| said(old) == said(&faults);
    if !faults.is_empty() && !before.as_ref().is_some_and(same) {
        return Err(ApiError::invalid("", "Namespace", name, faults));
    }
    let old = before.map(|(policy, _)| policy.enforce);
    let (new, exempt) = (policy.enforce, exemptions(request).is_some_and(|exempt| exempt.namespaces.contains(name)));
    let asks_for_less = |old: Standard| {
        new == old || new.level == Level::Privileged || (new.version == old.version && new.level <= old.level)
    };
    match old {
        Some(old) if asks_for_less(old) => {}
        _ if exempt => added.warnings.extend(ignored(name, &policy, namespace)),
        Some(_) => added.warnings.extend(pods_with_less(request, name, new).await?),
        None => {}
    }
    Ok(())
}

/// What a namespace asks for that is exempt.
fn ignored(name: &str, policy: &Policy, namespace: &Value) -> Option<String> {
    if policy.is_open() {
        return None;
    }
    let labels = &namespace["metadata"]["labels"];
    let modes = [("enforce", policy.enforce), ("audit", policy.audit), ("warn", policy.warn)];
    let asked = modes.into_iter().filter(|(mode, standard)| {
        let has = |suffix: &str| labels.get(format!("{PREFIX}{mode}{suffix}")).is_some();
        standard.level != Level::Privileged && (has("") || has("-version"))
    });
    let asked: Vec<String> = asked.map(|(mode, standard)| format!("{mode}={standard}")).collect();
    let asked = asked.join(", ");
    Some(format!("namespace {name:?} is exempt from Pod Security, and the policy ({asked}) will be ignored"))
}

/// What the first of them have less than is asked for.
async fn pods_with_less(request: &Request<'_>, namespace: &str, standard: Standard) -> Result<Vec<String>, ApiError> {
    let (store, call, began) = (&request.server.store, request.call, Instant::now());
    let prefix = Prefix::tenant(&ResourceId::new("", "pods"), &call.tenant()?, Some(namespace))?;
    let all = store.count(&prefix).await?;
    let entries = store.range(&prefix, RangeOptions { limit: MOST_PODS, ..RangeOptions::default() }).await?.entries;
    let (mut checked, mut found) = (0, BTreeMap::<String, Vec<String>>::new());
    for some in entries.chunks(AT_ONCE) {
        if began.elapsed() > LONGEST {
            break;
        }
        for entry in some {
            let pod = stored_form::decode(entry)?;
            checked += 1;
            if let Some(exempt) = exemptions(request)
                && exempt.runtime_classes.contains(text(&pod, &["spec", "runtimeClassName"]))
            {
                continue;
            }
            let violations = Violations::of(Pod { metadata: &pod["metadata"], spec: &pod["spec"] }, standard);
            if !violations.is_empty() {
                found.entry(violations.reasons()).or_default().push(entry.key.name().to_owned());
            }
        }
        call.pause().await;
    }
    let mut warnings = Vec::new();
    if checked < all {
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {checked} of {all} existing pods"
        ));
    }
    if !found.is_empty() {
        warnings.push(format!(
            "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{standard}\""
        ));
    }
    let mut of_pods: Vec<String> = found.into_iter().map(|(reasons, pods)| of_some(&reasons, &pods)).collect();
    of_pods.sort_unstable();
    warnings.extend(of_pods);
    Ok(warnings)
}

/// The first of them by name, and how many others.
fn of_some(reasons: &str, pods: &[String]) -> String {
    let first = pods.first().map(String::as_str).unwrap_or_default();
    match pods.len() {
        1 => format!("{first}: {reasons}"),
        2 => format!("{first} (and 1 other pod): {reasons}"),
        many => format!("{first} (and {} other pods): {reasons}", many - 1),
    }
}
