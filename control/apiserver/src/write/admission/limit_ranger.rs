//! What containers, pods and claims of a namespace may ask for, and what they ask for when they do not say: upstream's LimitRanger.

use futures::{FutureExt, future::BoxFuture};
use hypernetes_api::ApiError;
use hypernetes_quota::{
    Amounts, amounts,
    pod::{self, Of, View},
};
use hypernetes_schema::{quantity::Quantity, walk::list};
use hypernetes_store::Entry;
use serde_json::{Value, json};

use super::{Additions, Operation, Plugin, Request, Step, fields, rules_of, text};
use crate::stored_form;

pub(super) const PLUGIN: Plugin = Plugin { name: "LimitRanger", about, step: Step::Both(mutate, validate) };

const ANNOTATION: &str = "kubernetes.io/limit-ranger";
/// Larger amounts are compared in whole units, as upstream's are: in thousandths they would not fit.
const MAX_MILLI: i64 = i64::MAX / 1000;

/// A pod's containers are what they were from the start, but for a resize.
fn about(request: &Request<'_>) -> bool {
    match (request.operation, request.call.subresource.as_ref().map(|one| one.name)) {
        (Operation::Create, None) => request.is("", "Pod") || request.is("", "PersistentVolumeClaim"),
        (Operation::Update, None) => request.is("", "PersistentVolumeClaim"),
        (Operation::Update, Some("resize")) => request.is("", "Pod"),
        _ => false,
    }
}

fn mutate<'a>(
    request: &'a Request<'a>,
    object: &'a mut Value,
    added: &'a mut Additions,
) -> BoxFuture<'a, Result<(), ApiError>> {
    async move {
        if request.is("", "Pod") {
            for range in ranges(request, added).await? {
                set_defaults(object, &range);
            }
        }
        Ok(())
    }
    .boxed()
}

fn validate<'a>(
    request: &'a Request<'a>,
    object: &'a Value,
    added: &'a mut Additions,
) -> BoxFuture<'a, Result<(), ApiError>> {
    async move {
        let check = if request.is("", "Pod") { check_pod } else { check_claim };
        for range in ranges(request, added).await? {
            let faults = range.limits.iter().flat_map(|limit| check(limit, object));
            if let Some(why) = together(faults) {
                return Err(request.forbidden(text(object, &["metadata", "name"]), &why));
            }
        }
        Ok(())
    }
    .boxed()
}

/// What is being deleted is left alone.
async fn ranges(request: &Request<'_>, added: &Additions) -> Result<Vec<Range>, ApiError> {
    if request.old.is_some_and(|old| old["metadata"]["deletionTimestamp"].is_string()) {
        return Ok(Vec::new());
    }
    let rules = rules_of(request, added).await?;
    Ok(rules.iter().flat_map(|rules| &rules.limits).filter_map(Range::of).collect())
}

/// Several as one, each once, as upstream's aggregates say them.
fn together(faults: impl Iterator<Item = String>) -> Option<String> {
    let mut once: Vec<String> = Vec::new();
    for fault in faults {
        if !once.contains(&fault) {
            once.push(fault);
        }
    }
    match once.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        several => Some(format!("[{}]", several.join(", "))),
    }
}

/// A `LimitRange`, read once of each version of it.
#[derive(Clone)]
struct Range {
    limits: std::sync::Arc<[Limit]>,
}

struct Limit {
    /// Of what: `Pod`, `Container`, `PersistentVolumeClaim`, or something that nobody knows.
    of: String,
    min: Amounts,
    max: Amounts,
    ratio: Amounts,
    default: Amounts,
    request: Amounts,
}

impl Range {
    fn of(entry: &Entry) -> Option<Self> {
        let read = || {
            let range = stored_form::decode(entry).ok()?;
            Some(Self { limits: list(&range["spec"], "limits").iter().map(Limit::of).collect() })
        };
        entry.form(read).clone()
    }

    fn of_containers(&self) -> impl Iterator<Item = &Limit> {
        self.limits.iter().filter(|limit| limit.of == "Container")
    }
}

impl Limit {
    fn of(limit: &Value) -> Self {
        let amounts = |name: &str| amounts::read(&limit[name]);
        Self {
            of: text(limit, &["type"]).to_owned(),
            min: amounts("min"),
            max: amounts("max"),
            ratio: amounts("maxLimitRequestRatio"),
            default: amounts("default"),
            request: amounts("defaultRequest"),
        }
    }

    /// What is wrong with these requests and limits.
    fn faults(&self, requests: &Amounts, limits: &Amounts) -> Vec<String> {
        let (of, mut faults) = (&self.of, Vec::new());
        for (name, least) in &self.min {
            let begin = format!("minimum {name} usage per {of} is {least}");
            faults.extend(match (requests.get(name), limits.get(name)) {
                (None, _) => Some(format!("{begin}.  No request is specified")),
                (Some(request), limit) if is_more(least, request, limit) => {
                    Some(format!("{begin}, but request is {request}"))
                }
                (Some(request), Some(limit)) if is_more(least, limit, Some(request)) => {
                    Some(format!("{begin}, but limit is {limit}"))
                }
                _ => None,
            });
        }
        for (name, most) in &self.max {
            let begin = format!("maximum {name} usage per {of} is {most}");
            faults.extend(match (requests.get(name), limits.get(name)) {
                (_, None) => Some(format!("{begin}.  No limit is specified")),
                (request, Some(limit)) if is_more(limit, most, request) => {
                    Some(format!("{begin}, but limit is {limit}"))
                }
                (Some(request), Some(limit)) if is_more(request, most, Some(limit)) => {
                    Some(format!("{begin}, but request is {request}"))
                }
                _ => None,
            });
        }
        for (name, most) in &self.ratio {
            let begin = format!("{name} max limit to request ratio per {of} is {most}");
            let some = |amounts: &Amounts| amounts.get(name).copied().filter(|amount| !amount.is_zero());
            faults.extend(match (some(requests), some(limits)) {
                (None, _) => Some(format!("{begin}, but no request is specified or request is 0")),
                (_, None) => Some(format!("{begin}, but no limit is specified or limit is 0")),
                (Some(request), Some(limit)) => {
                    let ratio = ratio(&limit, &request);
                    let is_more = match most.value() <= MAX_MILLI {
                        true => ratio * 1000.0 > most.milli() as f64,
                        false => ratio > most.value() as f64,
                    };
                    is_more.then(|| format!("{begin}, but provided ratio is {ratio:.6}"))
                }
            });
        }
        faults
    }
}

/// Whether all of them fit into thousandths.
fn in_thousandths<'a>(amounts: impl IntoIterator<Item = &'a Quantity>) -> bool {
    amounts.into_iter().all(|amount| amount.value() <= MAX_MILLI)
}

/// In thousandths if they and the third fit.
fn is_more(a: &Quantity, b: &Quantity, third: Option<&Quantity>) -> bool {
    match in_thousandths([a, b].into_iter().chain(third)) {
        true => a.milli() > b.milli(),
        false => a.value() > b.value(),
    }
}

fn ratio(limit: &Quantity, request: &Quantity) -> f64 {
    match in_thousandths([limit, request]) {
        true => limit.milli() as f64 / request.milli() as f64,
        false => limit.value() as f64 / request.value() as f64,
    }
}

fn check_pod(limit: &Limit, pod: &Value) -> Vec<String> {
    match limit.of.as_str() {
        "Container" => {
            let spec = &pod["spec"];
            let containers = list(spec, "containers").iter().chain(list(spec, "initContainers"));
            let own = |container: &Value, which: &str| amounts::read(&container["resources"][which]);
            containers.flat_map(|one| limit.faults(&own(one, "requests"), &own(one, "limits"))).collect()
        }
        "Pod" => {
            let [requests, limits] = [Of::Requests, Of::Limits].map(|of| pod::total(pod, of, View::Specified));
            limit.faults(&requests, &limits)
        }
        _ => Vec::new(),
    }
}

/// A claim says what it asks for, and that alone: it is its limit, too.
fn check_claim(limit: &Limit, claim: &Value) -> Vec<String> {
    if limit.of != "PersistentVolumeClaim" {
        return Vec::new();
    }
    let requests = amounts::read(&claim["spec"]["resources"]["requests"]);
    let least = Limit { of: limit.of.clone(), min: limit.min.clone(), ..Limit::of(&Value::Null) };
    let mut faults = least.faults(&requests, &Amounts::new());
    for (name, most) in &limit.max {
        let begin = format!("maximum {name} usage per {} is {most}", limit.of);
        faults.extend(match requests.get(name) {
            None => Some(format!("{begin}.  No request is specified")),
            Some(request) if is_more(request, most, None) => Some(format!("{begin}, but request is {request}")),
            Some(_) => None,
        });
    }
    faults
}

/// Fills in what containers leave open, and notes what that was.
fn set_defaults(pod: &mut Value, range: &Range) {
    let (mut requests, mut limits) = (Amounts::new(), Amounts::new());
    for limit in range.of_containers() {
        requests.extend(limit.request.clone());
        limits.extend(limit.default.clone());
    }
    let mut notes = Vec::new();
    for (list, called) in [("containers", "container"), ("initContainers", "init container")] {
        for container in pod["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let name = text(container, &["name"]).to_owned();
            for (which, what, defaults) in [("requests", "request", &requests), ("limits", "limit", &limits)] {
                let set = fill(container, which, defaults);
                if !set.is_empty() {
                    notes.push(format!("{} {what} for {called} {name}", set.join(", ")));
                }
            }
        }
    }
    if !notes.is_empty() {
        let note = format!("LimitRanger plugin set: {}", notes.join("; "));
        fields(pod, &["metadata", "annotations"]).insert(ANNOTATION.into(), note.into());
    }
}

/// Which of them it had to fill in.
fn fill<'a>(container: &mut Value, which: &str, defaults: &'a Amounts) -> Vec<&'a str> {
    let missing = |container: &Value, name: &str| container["resources"][which].get(name).is_none();
    let set: Vec<&str> = defaults.keys().map(String::as_str).filter(|name| missing(container, name)).collect();
    for name in &set {
        let amount = json!(defaults[*name].to_string());
        fields(container, &["resources", which]).insert((*name).to_owned(), amount);
    }
    set
}
