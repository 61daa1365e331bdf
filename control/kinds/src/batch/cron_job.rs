//! `CronJob`.

use k8s_openapi::api::batch::v1::CronJob;
use serde_json::{Map, Value, json};

use super::{job, schedule};
use crate::{
    columns::{Cell, Shown, at, between, column, label_selector, of_containers, path, path_or, since, text, wide},
    core::pod_template,
    field::{Errors, Field},
    resource::Resource,
    selector,
    subresource::Subresource,
};

pub(crate) fn resource() -> Resource {
    Resource::kubernetes::<CronJob>("cronjobs")
        .short_names(&["cj"])
        .categories(&["all"])
        .subresources([Subresource::status()])
        .columns(
            between([
                column("Schedule", path_or("spec.schedule", "")),
                column("Timezone", path("spec.timeZone")),
                column("Suspend", Cell::Of(|o| if o["spec"]["suspend"] == true { "True" } else { "False" }.into()))
                    .kind("boolean"),
                column("Active", Cell::Count("status.active".into())).kind("integer"),
                column("Last Schedule", Cell::AsOf(last_schedule)),
            ])
            .into_iter()
            .chain([
                wide("Containers", Cell::Of(|o| of_containers(o, "spec.jobTemplate.spec.template", "name"))),
                wide("Images", Cell::Of(|o| of_containers(o, "spec.jobTemplate.spec.template", "image"))),
                wide("Selector", Cell::Of(|o| label_selector(at(o, "spec.jobTemplate.spec.selector")))),
            ])
            .collect(),
        )
        .defaults(defaults)
        .counts_changes()
        .first_status(|_| json!({}))
        .check(check)
        .on_write(|cron, errors| {
            let job = cron.walk(["spec", "jobTemplate"]);
            pod_template::unambiguous(&job, errors);
        })
        .on_create(create)
}

fn defaults(cron: &mut Map<String, Value>) {
    let spec = cron.get_mut("spec").and_then(|spec| spec.get_mut("jobTemplate")).and_then(|job| job.get_mut("spec"));
    if let Some(spec) = spec.and_then(Value::as_object_mut) {
        job::conditions_hold(spec);
    }
}

/// The most bytes of a cron job's name: those of its jobs have eleven more.
const MAX_NAME: usize = 52;

pub(crate) fn check(cron: &Field<'_>, errors: &mut Errors) {
    let spec = cron.get("spec");
    let (when, zone) = (spec.get("schedule"), spec.get("timeZone"));
    if when.is_empty() {
        when.required(errors, "");
    } else {
        if let Err(why) = schedule::check(when.text()) {
            when.invalid(errors, why);
        }
        if when.text().contains("TZ") {
            when.invalid(errors, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
        }
    }
    spec.get("startingDeadlineSeconds").non_negative(errors);
    if let Some(why) = zone.is_set().then(|| zone_fault(zone.text())).flatten() {
        zone.invalid(errors, why);
    }
    spec.get("concurrencyPolicy").required_one_of(errors, &["Allow", "Forbid", "Replace"]);
    let template = spec.walk(["jobTemplate", "spec"]);
    job::spec(&template, errors);
    let (labels, manual) = (template.get("selector"), template.get("manualSelector"));
    if labels.is_set() {
        labels.invalid_as(errors, selector::shown(&labels), "`selector` will be auto-generated");
    }
    if manual.is_true() {
        manual.not_supported_as(errors, "true".to_owned(), &["nil", "false"]);
    }
    spec.get("successfulJobsHistoryLimit").non_negative(errors);
    spec.get("failedJobsHistoryLimit").non_negative(errors);
}

pub(crate) fn create(cron: &Field<'_>, errors: &mut Errors) {
    let name = cron.walk(["metadata", "name"]);
    if name.text().len() > MAX_NAME {
        name.invalid(errors, format!("must be no more than {MAX_NAME} characters"));
    }
}

/// Whether the host's list has a zone of just this name; every one is where there is no list.
fn is_zone(name: &str) -> bool {
    let zones = jiff::tz::db();
    zones.is_definitively_empty() || zones.get(name).is_ok_and(|zone| zone.iana_name() == Some(name))
}

/// A time zone is the path of a file below the directory of zones: words between slashes, never a way out.
fn zone_fault(zone: &str) -> Option<String> {
    let word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+-".contains(&b));
    match zone {
        "" => Some("timeZone must be nil or non-empty string".to_owned()),
        zone if zone.eq_ignore_ascii_case("local") => {
            Some("timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones".to_owned())
        }
        zone if zone.len() > 255 || !zone.split('/').all(word) || !is_zone(zone) => {
            Some(format!("unknown time zone {zone}"))
        }
        _ => None,
    }
}

fn last_schedule(cron: &Value) -> Shown {
    match text(cron, "status.lastScheduleTime") {
        "" => Shown::Always("<none>".into()),
        time => since(time),
    }
}
