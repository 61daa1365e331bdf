//! `Job`, and the templates of jobs in cron jobs.

use std::collections::{BTreeSet, HashSet};

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use serde_json::{Map, Value, json};

use super::success_policy;
use crate::{
    columns::{Ago, Cell, Shown, at, between, column, containers, duration, list, number, selector, text},
    core::pod_template::{self, template_labels},
    field::{ErrorKind, Errors, Field, quote, same, shown},
    format,
    resource::Resource,
    selectable::Selectable,
    selector,
    subresource::Subresource,
};

pub(crate) fn resource() -> Resource {
    Resource::kubernetes::<Job>("jobs")
        .categories(&["all"])
        .subresources([Subresource::status()])
        .columns(
            between([
                column("Status", Cell::Of(shown_status)),
                column("Completions", Cell::Of(completions)),
                column("Duration", Cell::AsOf(took)),
            ])
            .into_iter()
            .chain(containers())
            .chain([selector()])
            .collect(),
        )
        .selectable([Selectable::field("status.successful").at(&["status.succeeded"]).or("0")])
        .defaults(defaults)
        .counts_changes()
        .first_status(|_| json!({}))
        .check(check)
        .on_write(pod_template::unambiguous)
        .on_create(create)
        .on_update(update)
}

/// The most pods at once of a job whose successes are counted by index.
const MAX_INDEXED: i64 = 100_000;
/// The most rules of a failure policy, and the most exit codes in one.
const MAX_RULES: usize = 20;
const MAX_CODES: usize = 255;
/// The most indexes that may fail of a job; and, of one with many completions whose indexes fail each for itself, the most of
/// them and the most pods at once.
const MAX_FAILED: i64 = 100_000;
const MANY: i64 = 100_000;
const MAX_OF_MANY: i64 = 10_000;

pub(crate) fn check(job: &Field<'_>, errors: &mut Errors) {
    let job_spec = job.get("spec");
    let selector = job_spec.get("selector");
    spec(&job_spec, errors);
    if selector.is_set() {
        selector::check(&selector, errors);
        pod_template::selected(&job_spec.get("template"), &selector, errors);
    }
}

/// What holds for new jobs: a selector is made for them unless they bring their own and say so.
pub(crate) fn create(job: &Field<'_>, errors: &mut Errors) {
    let spec = job.get("spec");
    let selector = spec.get("selector");
    let manual = spec.get("manualSelector").is_true();
    match manual {
        true if !selector.is_set() => {
            selector.required(errors, "");
            pod_template::selected(&spec.get("template"), &selector, errors);
        }
        false if selector.is_set() && !selector::is_empty(&selector) => {
            selector.invalid_as(errors, selector::shown(&selector), "`selector` not auto-generated");
        }
        _ => {}
    }
    let name = job.walk(["metadata", "name"]);
    if !manual {
        // Its pods have its name as a label.
        let labels = Field::at(name.value, spec.path.child("template").child("labels"));
        labels.faulty(errors, format::label_value(name.text()));
    }
}

/// Labels as most workloads have them; a condition that a failure policy looks for is one that holds.
fn defaults(job: &mut Map<String, Value>) {
    template_labels(job);
    if let Some(spec) = job.get_mut("spec").and_then(Value::as_object_mut) {
        conditions_hold(spec);
    }
}

/// Of a job's spec.
pub(crate) fn conditions_hold(spec: &mut Map<String, Value>) {
    let rules = spec.get_mut("podFailurePolicy").and_then(|policy| policy.get_mut("rules"));
    for rule in rules.and_then(Value::as_array_mut).into_iter().flatten() {
        for condition in rule.get_mut("onPodConditions").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(condition) = condition.as_object_mut()
                && condition.get("status").and_then(Value::as_str).is_none_or(str::is_empty)
            {
                condition.insert("status".into(), "True".into());
            }
        }
    }
}

/// A job's spec but for its selector.
pub(crate) fn spec(spec: &Field<'_>, errors: &mut Errors) {
    const COUNTS: &[&str] = &[
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    COUNTS.iter().for_each(|name| spec.get(name).non_negative(errors));
    let (mode, completions, parallelism) =
        (spec.get("completionMode"), spec.get("completions"), spec.get("parallelism"));
    mode.optional_one_of(errors, &["NonIndexed", "Indexed"]);
    let indexed = mode.text() == "Indexed";
    if indexed && !completions.is_set() {
        completions.required(errors, "when completion mode is Indexed");
    }
    if indexed && parallelism.int().is_some_and(|count| count > MAX_INDEXED) {
        let why = format!("must be less than or equal to {MAX_INDEXED} when completion mode is Indexed");
        parallelism.invalid(errors, why);
    }
    for name in ["backoffLimitPerIndex", "maxFailedIndexes"] {
        if !indexed && spec.get(name).is_set() {
            spec.get(name).invalid(errors, "requires indexed completion mode");
        }
    }
    failed_indexes(spec, errors);
    let policy = spec.get("podFailurePolicy");
    failure_policy(spec, &policy, errors);
    success_policy::check(&spec.get("successPolicy"), indexed, completions.int().unwrap_or(0), errors);
    let replacement = spec.get("podReplacementPolicy");
    match policy.is_set() {
        true => replacement.optional_one_of(errors, &["Failed"]),
        false => replacement.optional_one_of(errors, &["Failed", "TerminatingOrFailed"]),
    }
    let manager = spec.get("managedBy");
    if manager.is_set() {
        manager.faulty(errors, domain_prefixed(manager.text()));
        if manager.text().len() > 63 {
            manager.too_long(errors, 63);
        }
    }
    let template = spec.get("template");
    pod_template::check(&template, errors);
    let restart = template.walk(["spec", "restartPolicy"]);
    match restart.text() {
        "OnFailure" | "Never" => {}
        "" | "Always" => restart.required(errors, "valid values: \"OnFailure\", \"Never\""),
        _ => restart.not_supported(errors, &["OnFailure", "Never"]),
    }
    if policy.is_set() && restart.text() != "Never" {
        restart.invalid(errors, "only \"Never\" is supported when podFailurePolicy is specified");
    }
}

/// How many indexes may fail, each after so many tries.
fn failed_indexes(spec: &Field<'_>, errors: &mut Errors) {
    let (tries, failed) = (spec.get("backoffLimitPerIndex"), spec.get("maxFailedIndexes"));
    let (completions, parallelism) = (spec.get("completions"), spec.get("parallelism"));
    if spec.get("completionMode").text() != "Indexed" {
        return;
    }
    if failed.is_set() && !tries.is_set() {
        tries.required(errors, "when maxFailedIndexes is specified");
    }
    if let (Some(count), Some(all)) = (failed.int(), completions.int()) {
        if count > all {
            failed.invalid(errors, "must be less than or equal to completions");
        }
        if count > MAX_FAILED {
            failed.invalid(errors, format!("must be less than or equal to {MAX_FAILED}"));
        }
    }
    if tries.is_set() && completions.int().is_some_and(|all| all > MANY) {
        if !failed.is_set() {
            failed.required(errors, &format!("must be specified when completions is above {MANY}"));
        }
        let why = format!(
            "must be less than or equal to {MAX_OF_MANY} when completions are above {MANY} and used with backoff limit per index"
        );
        for number in [parallelism, failed] {
            if number.int().is_some_and(|number| number > MAX_OF_MANY) {
                number.invalid(errors, why.clone());
            }
        }
    }
}

/// `acme.io/foo`
fn domain_prefixed(text: &str) -> Vec<String> {
    match text.split_once('/') {
        Some((domain, path)) if !domain.is_empty() && !path.is_empty() => format::subdomain(domain),
        _ => vec!["must be a domain-prefixed path (such as \"acme.io/foo\")".to_owned()],
    }
}

fn failure_policy(spec: &Field<'_>, policy: &Field<'_>, errors: &mut Errors) {
    let rules = policy.get("rules");
    if rules.len() > MAX_RULES {
        return rules.too_many(errors, MAX_RULES);
    }
    let template = spec.walk(["template", "spec"]);
    let names: HashSet<&str> = ["containers", "initContainers"]
        .iter()
        .flat_map(|list| template.get(list).items())
        .map(|container| container.get("name").text())
        .collect();
    for rule in rules.items() {
        let (action, codes, conditions) = (rule.get("action"), rule.get("onExitCodes"), rule.get("onPodConditions"));
        if action.text() == "FailIndex" && !spec.get("backoffLimitPerIndex").is_set() {
            action.invalid(errors, "requires the backoffLimitPerIndex to be set");
        }
        known(&action, &["Count", "FailIndex", "FailJob", "Ignore"], errors);
        if codes.is_set() {
            let (operator, values, container) =
                (codes.get("operator"), codes.get("values"), codes.get("containerName"));
            known(&operator, &["In", "NotIn"], errors);
            if container.is_set() && !names.contains(container.text()) {
                let why = "must be one of the container or initContainer names in the pod template";
                container.invalid(errors, why);
            }
            if values.is_empty() {
                values.invalid(errors, "at least one value is required");
            } else if values.len() > MAX_CODES {
                values.too_many(errors, MAX_CODES);
            }
            let mut seen = BTreeSet::new();
            for value in values.items() {
                if operator.text() == "In" && value.int() == Some(0) {
                    value.invalid(errors, "must not be 0 for the In operator");
                }
                if !seen.insert(value.int()) {
                    value.duplicate(errors);
                }
            }
            let numbers: Vec<_> = values.items().map(|value| value.int()).collect();
            if !numbers.is_sorted() {
                values.invalid(errors, "must be ordered");
            }
        }
        for condition in conditions.items() {
            let kind = condition.get("type");
            kind.faulty(errors, format::qualified_name(kind.text()));
            condition.get("status").required_one_of(errors, &["False", "True", "Unknown"]);
        }
        match (codes.is_set(), conditions.is_empty()) {
            (true, false) => {
                rule.invalid_as(errors, "", "specifying both OnExitCodes and OnPodConditions is not supported");
            }
            (false, true) => {
                rule.invalid_as(errors, "", "specifying one of OnExitCodes and OnPodConditions is required");
            }
            _ => {}
        }
    }
}

/// One of the words that there are, which an error of what is absent lists.
fn known(field: &Field<'_>, words: &[&str], errors: &mut Errors) {
    let list: Vec<String> = words.iter().map(|word| quote(word)).collect();
    match field.is_empty() {
        true => field.required(errors, &format!("valid values: [{}]", list.join(" "))),
        false => field.one_of(errors, words),
    }
}

/// What a change may not do: what runs is what was asked for.
pub(crate) fn update(job: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    let (spec, before) = (job.get("spec"), old.get("spec"));
    let completions = spec.get("completions");
    // An indexed job may be made larger or smaller with its parallelism.
    match spec.get("completionMode").text() == "Indexed" && completions.is_set() {
        false => completions.kept(errors, &before.get("completions")),
        true if completions.value == before.get("completions").value => {}
        true if completions.value == spec.get("parallelism").value => {}
        true => {
            let why = "can only be modified in tandem with spec.parallelism";
            completions.changed(errors, ErrorKind::Invalid, shown(completions.value), why);
        }
    }
    let selector = spec.get("selector");
    if before.get("selector").is_set() && !same(selector.value, before.get("selector").value) {
        selector.changed(errors, ErrorKind::Invalid, selector::shown(&selector), "field is immutable");
    }
    template(&spec, &before, old, errors);
    spec.get("completionMode").kept(errors, &before.get("completionMode"));
    for (name, internal) in [
        ("podFailurePolicy", failure_policy_shown as fn(&Field<'_>) -> String),
        ("backoffLimitPerIndex", |limit| shown(limit.value)),
        ("managedBy", |manager| shown(manager.value)),
        ("successPolicy", |policy| success_policy::internal(&policy.get("rules"))),
    ] {
        let field = spec.get(name);
        if !same(field.value, before.get(name).value) {
            let value = if field.is_set() { internal(&field) } else { "null".to_owned() };
            field.changed(errors, ErrorKind::Invalid, value, "field is immutable");
        }
    }
}

/// Upstream's own type of a failure policy as it is printed.
fn failure_policy_shown(policy: &Field<'_>) -> String {
    if !policy.get("rules").is_set() {
        return "{\"Rules\":null}".to_owned();
    }
    let rules = policy.get("rules").items().map(|rule| {
        let (codes, conditions) = (rule.get("onExitCodes"), rule.get("onPodConditions"));
        let part = |of: &Field<'_>, name: &'static str| shown(of.get(name).value);
        let exit = match codes.is_set() {
            false => "null".to_owned(),
            true => format!(
                "{{\"ContainerName\":{},\"Operator\":{},\"Values\":{}}}",
                part(&codes, "containerName"),
                part(&codes, "operator"),
                part(&codes, "values")
            ),
        };
        let conditions = match conditions.is_set() {
            false => "null".to_owned(),
            true => {
                let one = |c: Field<'_>| format!("{{\"Type\":{},\"Status\":{}}}", part(&c, "type"), part(&c, "status"));
                format!("[{}]", conditions.items().map(one).collect::<Vec<_>>().join(","))
            }
        };
        format!("{{\"Action\":{},\"OnExitCodes\":{exit},\"OnPodConditions\":{conditions}}}", part(&rule, "action"))
    });
    format!("{{\"Rules\":[{}]}}", rules.collect::<Vec<_>>().join(","))
}

/// The template is for life; but where a job that has not begun yet may run can still change.
fn template(spec: &Field<'_>, before: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    let waits = before.get("suspend").is_true() && !old.walk(["status", "startTime"]).is_set();
    let rest = |spec: &Field<'_>| {
        let mut template = spec.get("template").value.clone();
        if !waits {
            return template;
        }
        if let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut) {
            ["annotations", "labels"].iter().for_each(|name| drop(metadata.remove(*name)));
        }
        if let Some(pod) = template.get_mut("spec").and_then(Value::as_object_mut) {
            ["nodeSelector", "tolerations", "schedulingGates"].iter().for_each(|name| drop(pod.remove(*name)));
            let affinity = pod.get_mut("affinity").and_then(Value::as_object_mut);
            if affinity.is_some_and(|affinity| affinity.remove("nodeAffinity").is_some() && affinity.is_empty()) {
                pod.remove("affinity");
            }
        }
        template
    };
    if !same(&rest(spec), &rest(before)) {
        let new = spec.get("template");
        new.changed(errors, ErrorKind::Invalid, shown(new.value), "field is immutable");
    }
}

fn shown_status(job: &Value) -> Value {
    let holds = |kind: &str| list(job, "status.conditions").any(|c| c["type"] == kind && c["status"] == "True");
    let deleted = !text(job, "metadata.deletionTimestamp").is_empty();
    let all = ["Complete", "Failed", "Terminating", "Suspended", "FailureTarget", "SuccessCriteriaMet"];
    let shown = all.into_iter().find(|state| if *state == "Terminating" { deleted } else { holds(state) });
    shown.unwrap_or("Running").into()
}

fn completions(job: &Value) -> Value {
    let done = number(job, "status.succeeded");
    match (at(job, "spec.completions").and_then(Value::as_i64), number(job, "spec.parallelism")) {
        (Some(wanted), _) => format!("{done}/{wanted}").into(),
        (None, parallel) if parallel > 1 => format!("{done}/1 of {parallel}").into(),
        (None, _) => format!("{done}/1").into(),
    }
}

/// Until its end, or until now.
fn took(job: &Value) -> Shown {
    let time = |name: &str| text(job, &format!("status.{name}")).parse::<Timestamp>().ok();
    match (time("startTime"), time("completionTime")) {
        (None, _) => Shown::Always("".into()),
        (Some(began), Some(ended)) => Shown::Always(duration(ended.as_second() - began.as_second()).into()),
        (Some(time), None) => Shown::Ago(Ago { before: String::new(), time, after: "" }),
    }
}
