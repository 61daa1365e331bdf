//! What a request's query and a delete's body ask for, read by upstream's rules before anything is done. What does not parse
//! is refused, and never taken for something wider.

use std::time::Duration;

use http::header;
use hypernetes_api::{ApiError, error::Cause};
use hypernetes_kinds::registry;
use hypernetes_schema::{FieldValidation, managed::MAX_MANAGER_LENGTH};
use serde_json::{Value, json};

use crate::{
    Call,
    request::{Query, selectors::Selector},
};

/// Longest grace period, in seconds; upstream takes any number of 64 bits, which no clock can be set by.
pub const MAX_GRACE: i64 = i32::MAX as i64;

/// What is wrong with options of one kind, as upstream's `Invalid` lists it.
struct Problems {
    kind: &'static str,
    causes: Vec<Cause>,
}

impl Problems {
    fn of(kind: &'static str) -> Self {
        Self { kind, causes: Vec::new() }
    }

    fn say(&mut self, reason: &str, field: &str, message: String) {
        self.causes.push(Cause { reason: reason.into(), message, field: field.into() });
    }

    fn forbid(&mut self, field: &str, why: &str) {
        self.say("FieldValueForbidden", field, format!("Forbidden: {why}"));
    }

    fn invalid(&mut self, field: &str, value: &Value, why: &str) {
        self.say("FieldValueInvalid", field, format!("Invalid value: {value}: {why}"));
    }

    fn unsupported(&mut self, field: &str, value: &Value, supported: &[&str]) {
        let list: Vec<String> = supported.iter().map(|one| format!("{one:?}")).collect();
        let message = format!("Unsupported value: {value}: supported values: {}", list.join(", "));
        self.say("FieldValueNotSupported", field, message);
    }

    fn dry_run(&mut self, given: &[String]) -> bool {
        if given.iter().any(|one| one != "All") {
            self.unsupported("dryRun", &json!(given), &["All"]);
        }
        !given.is_empty()
    }

    fn end(self) -> Result<(), ApiError> {
        if self.causes.is_empty() { Ok(()) } else { Err(ApiError::invalid("meta.k8s.io", self.kind, "", self.causes)) }
    }
}

/// `CreateOptions`, `UpdateOptions` or `PatchOptions`.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    pub dry_run: bool,
    pub validation: FieldValidation,
    /// Who is noted as the writer: `fieldManager`, else what the client calls itself.
    pub manager: String,
    /// An apply takes fields from their managers.
    pub force: bool,
}

/// The kinds of options, which upstream's messages name; a patch has rules of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptionsOf {
    Create,
    Update,
    Patch,
    Apply,
}

impl WriteOptions {
    /// # Errors
    /// `Invalid` with each option that is none.
    pub fn parse(call: &Call, of: OptionsOf) -> Result<Self, ApiError> {
        let query = &call.query;
        let mut problems = Problems::of(match of {
            OptionsOf::Create => "CreateOptions",
            OptionsOf::Update => "UpdateOptions",
            OptionsOf::Patch | OptionsOf::Apply => "PatchOptions",
        });
        let given = query.get("fieldManager");
        match of {
            OptionsOf::Apply if given.is_empty() => {
                let message = "Required value: is required for apply patch";
                problems.say("FieldValueRequired", "fieldManager", message.into());
            }
            OptionsOf::Patch if query.choice("force").is_some() => {
                problems.forbid("force", "may not be specified for non-apply patch");
            }
            _ => {}
        }
        if given.len() > MAX_MANAGER_LENGTH {
            let message = format!("Too long: may not be more than {MAX_MANAGER_LENGTH} bytes");
            problems.say("FieldValueTooLong", "fieldManager", message);
        }
        if given.chars().any(char::is_control) {
            problems.invalid("fieldManager", &json!(given), "should only contain printable characters");
        }
        let dry_run = problems.dry_run(query.all("dryRun"));
        let validation = FieldValidation::parse(query.get("fieldValidation")).unwrap_or_else(|_| {
            let value = json!(query.get("fieldValidation"));
            problems.unsupported("fieldValidation", &value, &["", "Ignore", "Strict", "Warn"]);
            FieldValidation::default()
        });
        problems.end()?;
        let manager = if given.is_empty() { agent(call) } else { given.to_owned() };
        Ok(Self { dry_run, validation, manager, force: query.flag("force") })
    }
}

/// What the client calls itself, up to the version.
fn agent(call: &Call) -> String {
    let agent = call.headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("unknown");
    agent.split('/').next().unwrap_or("unknown").chars().take(MAX_MANAGER_LENGTH).collect()
}

/// `DeleteOptions`, from body and query.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// Seconds.
    pub grace: Option<i64>,
    pub policy: Option<String>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub dry_run: bool,
}

impl DeleteOptions {
    /// The body is asked first, then the query; a dry run is one if either says so.
    ///
    /// # Errors
    /// `BadRequest` for a body that is none, `Invalid` for options that are none.
    pub fn parse(call: &Call) -> Result<Self, ApiError> {
        let body = match call.body.iter().all(u8::is_ascii_whitespace) {
            true => json!({}),
            false => {
                let ty = registry::kind("", "v1", "DeleteOptions");
                let ty = ty.ok_or_else(|| ApiError::internal("DeleteOptions are not known"))?;
                ty.decode(&call.body, FieldValidation::Ignore)?.object
            }
        };
        Self::read(&body, &call.query)
    }

    /// From a body that has the shape of `DeleteOptions`.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn read(body: &Value, query: &Query) -> Result<Self, ApiError> {
        let mut problems = Problems::of("DeleteOptions");
        let mut dry_run: Vec<String> =
            body["dryRun"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        dry_run.extend_from_slice(query.all("dryRun"));
        let dry_run = problems.dry_run(&dry_run);
        let grace = match body["gracePeriodSeconds"].as_i64() {
            Some(seconds) => Some(seconds),
            None => query.number("gracePeriodSeconds")?,
        };
        if let Some(seconds) = grace.filter(|seconds| *seconds > MAX_GRACE) {
            let why = format!("must be less than or equal to {MAX_GRACE}");
            problems.invalid("gracePeriodSeconds", &json!(seconds), &why);
        }
        let word = |name: &str| body[name].as_str().map(str::to_owned).or_else(|| query.all(name).first().cloned());
        let policy = word("propagationPolicy");
        let orphan = body["orphanDependents"].as_bool().or_else(|| query.choice("orphanDependents"));
        if let Some(policy) = &policy {
            if orphan.is_some() {
                let why = "orphanDependents and deletionPropagation cannot be both set";
                problems.invalid("propagationPolicy", &json!(policy), why);
            }
            if !["Foreground", "Background", "Orphan"].contains(&policy.as_str()) {
                let supported = ["Foreground", "Background", "Orphan", "nil"];
                problems.unsupported("propagationPolicy", &json!(policy), &supported);
            }
        }
        problems.end()?;
        let policy = policy.or(orphan.map(|orphan| if orphan { "Orphan" } else { "Background" }.to_owned()));
        let precondition = |name: &str| body["preconditions"][name].as_str().map(str::to_owned);
        Ok(Self {
            // Less than none is as short as there is, as upstream has it.
            grace: grace.map(|seconds| if seconds < 0 { 1 } else { seconds }),
            policy,
            uid: precondition("uid"),
            resource_version: precondition("resourceVersion"),
            dry_run,
        })
    }
}

/// How exactly a list's resource version is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    Exact,
    NotOlderThan,
}

/// `ListOptions`: of a list, a watch, and what a collection is deleted by.
#[derive(Debug)]
pub struct ListOptions {
    pub selector: Selector,
    /// 0: no limit.
    pub limit: usize,
    /// The token of the next page.
    pub token: Option<String>,
    /// None: the newest. 0: any.
    pub version: Option<u64>,
    pub matching: Option<Match>,
    pub timeout: Option<Duration>,
    pub bookmarks: bool,
    pub initial_events: Option<bool>,
}

impl ListOptions {
    /// # Errors
    /// `BadRequest` for what does not parse, `Invalid` for options that do not go together.
    pub fn parse(call: &Call, watch: bool) -> Result<Self, ApiError> {
        let query = &call.query;
        let selectable = &call.resource.selectable;
        let selector = Selector::parse(selectable, query.get("labelSelector"), query.get("fieldSelector"))?;
        let version = match query.get("resourceVersion") {
            "" => None,
            text => {
                let invalid = |_| ApiError::bad_request(format!("resourceVersion: Invalid value: {text:?}"));
                Some(text.parse().map_err(invalid)?)
            }
        };
        let limit = query.number("limit")?.unwrap_or(0);
        let timeout = query.number("timeoutSeconds")?.filter(|seconds| *seconds != 0);
        let token = Some(query.get("continue")).filter(|token| !token.is_empty()).map(str::to_owned);
        let initial_events = query.choice("sendInitialEvents");
        let mut problems = Problems::of("ListOptions");
        let word = query.get("resourceVersionMatch");
        let matching = match word {
            "Exact" => Some(Match::Exact),
            "NotOlderThan" => Some(Match::NotOlderThan),
            _ => None,
        };
        let field = "resourceVersionMatch";
        if watch {
            if initial_events.is_some() && matching != Some(Match::NotOlderThan) {
                let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
                problems.forbid(field, why);
            }
            if !word.is_empty() {
                if initial_events.is_none() {
                    let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
                    problems.forbid(field, why);
                }
                if matching != Some(Match::NotOlderThan) {
                    problems.unsupported(field, &json!(word), &["NotOlderThan"]);
                }
            }
        } else {
            if !word.is_empty() {
                if version.is_none() {
                    problems.forbid(field, "resourceVersionMatch is forbidden unless resourceVersion is provided");
                }
                if matching.is_none() {
                    problems.unsupported(field, &json!(word), &["Exact", "NotOlderThan", ""]);
                }
                if matching == Some(Match::Exact) && version == Some(0) {
                    let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
                    problems.forbid(field, why);
                }
            }
            if initial_events.is_some() {
                problems.forbid("sendInitialEvents", "sendInitialEvents is forbidden for list");
            }
        }
        if !word.is_empty() && token.is_some() {
            problems.forbid(field, "resourceVersionMatch is forbidden when continue is provided");
        }
        problems.end()?;
        if token.is_some() && version.is_some_and(|version| version != 0) {
            return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
        }
        Ok(Self {
            selector,
            limit: usize::try_from(limit).unwrap_or(0),
            token,
            version,
            matching,
            // A time that is over already ends a watch at once.
            timeout: timeout.map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0))),
            bookmarks: query.flag("allowWatchBookmarks"),
            initial_events,
        })
    }
}
