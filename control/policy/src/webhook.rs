//! Admission webhooks: which requests one is asked about, what it is sent, and what its answer means (`admission.k8s.io`).

use std::{collections::BTreeMap, sync::OnceLock, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use hypernetes_kinds::expressions::admission::Variables;
use hypernetes_schema::walk::{list, text};
use serde_json::{Value, json};

use crate::{
    evaluation::{Subject, conditions},
    expressions::Expressions,
    matching::Matching,
};

/// A webhook of a configuration.
#[derive(Debug)]
pub struct Webhook {
    pub name: String,
    pub configuration: String,
    pub matching: Matching,
    pub destination: Destination,
    /// Who signs for its server: certificates in PEM.
    pub authorities: Vec<u8>,
    /// What cannot be found out is refused.
    pub fails: bool,
    pub timeout: Duration,
    /// It may be asked about what is only tried.
    pub dry_run: bool,
    /// It is asked again where something changes an object after it.
    pub reinvoked: bool,
    /// The first version of `AdmissionReview` that it takes and we send; none: there is none.
    version: Option<&'static str>,
    conditions: Value,
    compiled: OnceLock<Result<Expressions, String>>,
}

/// Where its server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    Service {
        namespace: String,
        name: String,
        port: u16,
        /// With a slash in front; may be empty.
        path: String,
    },
    Url(String),
}

const VERSIONS: [&str; 2] = ["v1", "v1beta1"];
const USUAL_TIMEOUT: u64 = 10;
const USUAL_PORT: u16 = 443;
/// Of annotations and warnings more are not taken, and none that is longer.
const MOST_SAID: usize = 64;
const LONGEST_SAID: usize = 4 << 10;

/// What a webhook has answered.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub allowed: bool,
    /// A JSON patch; none: nothing is to change.
    pub patch: Option<Vec<u8>>,
    pub warnings: Vec<String>,
    pub annotations: BTreeMap<String, String>,
    pub refusal: Refusal,
}

/// As what something is refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusal {
    /// At least 400.
    pub code: u16,
    pub reason: String,
    pub message: String,
}

impl Webhook {
    /// Those of a configuration, in its order.
    pub fn of_configuration(configuration: &Value) -> Vec<Self> {
        let name = text(configuration, "metadata.name");
        list(configuration, "webhooks").iter().map(|webhook| Self::of(name, webhook)).collect()
    }

    fn of(configuration: &str, webhook: &Value) -> Self {
        let client = &webhook["clientConfig"];
        let service = &client["service"];
        let port = service["port"].as_u64().and_then(|port| u16::try_from(port).ok());
        let versions = webhook["admissionReviewVersions"].as_array();
        let known = |version: &Value| VERSIONS.into_iter().find(|known| version == known);
        Self {
            name: text(webhook, "name").to_owned(),
            configuration: configuration.to_owned(),
            matching: Matching::of_webhook(webhook),
            destination: match service.is_object() {
                true => Destination::Service {
                    namespace: text(service, "namespace").to_owned(),
                    name: text(service, "name").to_owned(),
                    port: port.unwrap_or(USUAL_PORT),
                    path: text(service, "path").to_owned(),
                },
                false => Destination::Url(text(client, "url").to_owned()),
            },
            authorities: BASE64_STANDARD.decode(text(client, "caBundle")).unwrap_or_default(),
            fails: webhook["failurePolicy"] != "Ignore",
            timeout: Duration::from_secs(webhook["timeoutSeconds"].as_u64().unwrap_or(USUAL_TIMEOUT)),
            dry_run: matches!(text(webhook, "sideEffects"), "None" | "NoneOnDryRun"),
            reinvoked: webhook["reinvocationPolicy"] == "IfNeeded",
            version: versions.into_iter().flatten().find_map(known),
            conditions: json!({"matchConditions": webhook["matchConditions"]}),
            compiled: OnceLock::new(),
        }
    }

    /// Whether its conditions are met; with no failure to be refused, one that fails is not met.
    ///
    /// # Errors
    /// What is wrong with those that have no value.
    pub fn is_met(&self, subject: Subject<'_>) -> (Result<bool, String>, u64) {
        let compile = || {
            let variables = Variables { params: false, authorizer: true, mutates: false };
            Expressions::compile(&self.conditions, variables)
        };
        match self.compiled.get_or_init(compile) {
            Err(why) => (Err(why.clone()), 0),
            Ok(expressions) => match conditions(expressions, subject) {
                (Err(_), cost) if !self.fails => (Ok(false), cost),
                other => other,
            },
        }
    }

    /// Whether it has conditions at all.
    pub fn has_conditions(&self) -> bool {
        !list(&self.conditions, "matchConditions").is_empty()
    }

    /// The `AdmissionReview` that it is sent; `request` is as [`crate::About::request`] makes it.
    ///
    /// # Errors
    /// When it takes no version that we send.
    pub fn review(&self, uid: &str, mut request: Value, object: &Value, old: &Value) -> Result<Value, String> {
        let Some(version) = self.version else {
            return Err("webhook does not accept known AdmissionReview versions (v1, v1beta1)".to_owned());
        };
        request["uid"] = uid.into();
        request["object"] = object.clone();
        request["oldObject"] = old.clone();
        Ok(json!({"kind": "AdmissionReview", "apiVersion": format!("admission.k8s.io/{version}"), "request": request}))
    }

    /// What its answer to the review of that uid means.
    ///
    /// # Errors
    /// What is wrong with the answer.
    pub fn verify(&self, uid: &str, mutates: bool, review: &Value) -> Result<Answer, String> {
        let response = &review["response"];
        if !response.is_object() {
            return Err("webhook response was absent".to_owned());
        }
        let patch = text(response, "patch");
        let patch_type = response.get("patchType").filter(|ty| !ty.is_null());
        // Of the version before nothing was checked.
        if self.version == Some("v1") {
            let given = text(response, "uid");
            if given != uid {
                return Err(format!("expected response.uid={uid:?}, got {given:?}"));
            }
            let (group, kind) = (text(review, "apiVersion"), text(review, "kind"));
            if (group, kind) != ("admission.k8s.io/v1", "AdmissionReview") {
                let wanted = "admission.k8s.io/v1, Kind=AdmissionReview";
                return Err(format!("expected webhook response of {wanted}, got {group}, Kind={kind}"));
            }
            check_patch(patch, patch_type, mutates)?;
        }
        let patch = match patch {
            patch if patch.is_empty() || !mutates => None,
            patch => Some(BASE64_STANDARD.decode(patch).map_err(|error| error.to_string())?),
        };
        let warnings = response["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let annotations = response["auditAnnotations"].as_object().into_iter().flatten();
        let annotations = annotations.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
        Ok(Answer {
            allowed: response["allowed"] == true,
            patch,
            warnings: warnings.take(MOST_SAID).filter(|one| one.len() <= LONGEST_SAID).map(str::to_owned).collect(),
            annotations: annotations
                .take(MOST_SAID)
                .filter(|(key, value)| key.len() <= LONGEST_SAID && value.len() <= LONGEST_SAID)
                .collect(),
            refusal: self.refusal(&response["status"]),
        })
    }

    fn refusal(&self, status: &Value) -> Refusal {
        let denied = format!("admission webhook {:?} denied the request", self.name);
        let (reason, message) = (text(status, "reason"), text(status, "message"));
        let code = status["code"].as_u64().and_then(|code| u16::try_from(code).ok());
        Refusal {
            code: code.filter(|code| (400..600).contains(code)).unwrap_or(400),
            reason: reason.to_owned(),
            message: match (message, reason) {
                ("", "") => format!("{denied} without explanation"),
                ("", reason) => format!("{denied}: {reason}"),
                (message, _) => format!("{denied}: {message}"),
            },
        }
    }
}

fn check_patch(patch: &str, ty: Option<&Value>, mutates: bool) -> Result<(), String> {
    let wrong = |why: &str| Err(why.to_owned());
    match (mutates, patch.is_empty(), ty.map(Value::as_str)) {
        (true, false, None) => wrong("webhook returned response.patch but not response.patchType"),
        (true, true, Some(_)) => wrong("webhook returned response.patchType but not response.patch"),
        (true, _, Some(None | Some(""))) => wrong("webhook returned invalid response.patchType of \"\""),
        (true, _, Some(Some(ty))) if ty != "JSONPatch" => Err(format!("unsupported patch type {ty:?}")),
        (false, false, _) => wrong("validating webhook may not return response.patch"),
        (false, true, Some(_)) => wrong("validating webhook may not return response.patchType"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook(more: Value) -> Webhook {
        let mut webhook = json!({"name": "w.example.org", "admissionReviewVersions": ["v2", "v1"], "rules": []});
        webhook.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Webhook::of_configuration(&json!({"metadata": {"name": "c"}, "webhooks": [webhook]})).remove(0)
    }

    #[test]
    fn what_is_left_open_is_strict() {
        let webhook = webhook(json!({"clientConfig": {"service": {"name": "s", "namespace": "n"}}}));
        assert!(webhook.fails && !webhook.dry_run && !webhook.reinvoked);
        assert_eq!(webhook.timeout, Duration::from_secs(10));
        let path = String::new();
        let service = Destination::Service { namespace: "n".into(), name: "s".into(), port: 443, path };
        assert_eq!(webhook.destination, service);
    }

    #[test]
    fn an_answer_is_the_reviews_own() {
        let webhook = webhook(json!({}));
        let review = webhook.review("u", json!({"name": "x"}), &json!({"a": 1}), &Value::Null).unwrap();
        assert_eq!(review["apiVersion"], "admission.k8s.io/v1");
        assert_eq!(review["request"], json!({"name": "x", "uid": "u", "object": {"a": 1}, "oldObject": null}));
        let answer = |response: Value| {
            let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
            webhook.verify("u", true, &review)
        };
        assert!(answer(json!({"uid": "u", "allowed": true})).unwrap().allowed);
        assert!(!answer(json!({"uid": "u"})).unwrap().allowed);
        assert_eq!(answer(json!({"uid": "v", "allowed": true})), Err("expected response.uid=\"u\", got \"v\"".into()));
        assert!(
            answer(json!({"uid": "u", "allowed": true, "patch": "W10="}))
                .unwrap_err()
                .contains("not response.patchType")
        );
        let patched = answer(json!({"uid": "u", "allowed": true, "patch": "W10=", "patchType": "JSONPatch"})).unwrap();
        assert_eq!(patched.patch.as_deref(), Some(&b"[]"[..]));
        let refused = answer(json!({"uid": "u", "allowed": false, "status": {"code": 200, "message": "no"}})).unwrap();
        assert_eq!(
            (refused.refusal.code, refused.refusal.message.as_str()),
            (400, "admission webhook \"w.example.org\" denied the request: no")
        );
    }
}
