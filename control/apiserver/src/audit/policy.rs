//! What is recorded of which requests: a `Policy` of `audit.k8s.io/v1`, by upstream's rules. The first rule that fits decides.

use hypernetes_api::auth::UserInfo;
use serde::Deserialize;

use crate::request::info::{Asked, RequestInfo};

/// How much of a request is recorded, from nothing on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Level {
    None,
    Metadata,
    Request,
    RequestResponse,
}

/// When something is recorded of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Stage {
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

impl Level {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }
}

impl Stage {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RequestReceived => "RequestReceived",
            Self::ResponseStarted => "ResponseStarted",
            Self::ResponseComplete => "ResponseComplete",
            Self::Panic => "Panic",
        }
    }
}

/// What applies where the operator says nothing: who changed what, and nothing of what is only read. What components say all the
/// time, of themselves and of what became of objects, would drown the rest.
const DEFAULT: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  verbs: [get, list, watch, head, options]
- level: None
  resources: [{group: "", resources: [events]}, {group: events.k8s.io, resources: [events]}, {group: coordination.k8s.io, resources: [leases]}]
- level: None
  userGroups: ["hypernetes:infrastructure", "system:nodes"]
  resources: [{group: "", resources: ["*/status"]}]
- level: None
  resources: [{group: authorization.k8s.io}, {group: authentication.k8s.io, resources: [selfsubjectreviews]}]
- level: Metadata
"#;

#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error("it is no Policy of audit.k8s.io/v1")]
    Shape(#[from] serde_saphyr::Error),
    #[error("it is {0}, and not a Policy of audit.k8s.io/v1")]
    Kind(String),
    #[error("it has no rules")]
    Empty,
    #[error("rule {0}: resources and namespaces do not go with nonResourceURLs")]
    Mixed(usize),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    api_version: String,
    kind: String,
    #[serde(default, rename = "metadata")]
    _metadata: serde_json::Value,
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<GroupResources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    paths: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GroupResources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

/// What is recorded of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub level: Level,
    pub omit_stages: Vec<Stage>,
    pub omit_managed_fields: bool,
    /// Not even the message of a refusal: it may quote what was sent.
    pub secret: bool,
}

/// Where the OpenStack façades are. Passwords and tokens are in what they are sent and answer.
const FACADES: [&str; 3] = ["/identity", "/networking", "/volume"];

/// What is never recorded, whatever a policy says: tokens, passwords, and what is kept where they usually are.
fn is_secret(info: &RequestInfo) -> bool {
    let target = match &info.asked {
        Asked::Resource { target, .. } => target,
        Asked::Path { path, .. } => return FACADES.iter().any(|facade| path.starts_with(facade)),
    };
    match (target.group.as_str(), target.plural.as_str()) {
        ("", "secrets" | "configmaps") | ("authentication.k8s.io", "tokenreviews") => true,
        ("", "serviceaccounts") => target.subresource.is_some(),
        (group, _) => group == "identity.hypernetes.io",
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self::parse(DEFAULT).unwrap_or_else(|_| Self {
            api_version: String::new(),
            kind: String::new(),
            _metadata: serde_json::Value::Null,
            rules: Vec::new(),
            omit_stages: Vec::new(),
            omit_managed_fields: false,
        })
    }
}

impl Policy {
    /// From YAML or JSON.
    ///
    /// # Errors
    /// When it is no policy.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let policy: Self = serde_saphyr::from_str(text)?;
        if (policy.api_version.as_str(), policy.kind.as_str()) != ("audit.k8s.io/v1", "Policy") {
            return Err(PolicyError::Kind(format!("{} of {}", policy.kind, policy.api_version)));
        }
        if policy.rules.is_empty() {
            return Err(PolicyError::Empty);
        }
        let of_resources = |rule: &Rule| [rule.resources.len(), rule.namespaces.len()].iter().any(|some| *some > 0);
        let mixed = |rule: &Rule| !rule.paths.is_empty() && of_resources(rule);
        match policy.rules.iter().position(mixed) {
            Some(place) => Err(PolicyError::Mixed(place + 1)),
            None => Ok(policy),
        }
    }

    /// None: nothing is recorded.
    pub fn decide(&self, info: &RequestInfo, user: Option<&UserInfo>) -> Option<Decision> {
        let rule = self.rules.iter().find(|rule| rule.fits(info, user)).filter(|rule| rule.level > Level::None)?;
        let secret = is_secret(info);
        Some(Decision {
            level: if secret { Level::Metadata } else { rule.level },
            omit_stages: self.omit_stages.iter().chain(&rule.omit_stages).copied().collect(),
            omit_managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields),
            secret,
        })
    }
}

fn has(list: &[String], one: &str) -> bool {
    list.iter().any(|have| have == one)
}

impl Rule {
    fn fits(&self, info: &RequestInfo, user: Option<&UserInfo>) -> bool {
        let users = self.users.is_empty() || user.is_some_and(|user| has(&self.users, &user.name));
        let in_group = |user: &UserInfo| user.groups.iter().any(|group| has(&self.user_groups, group));
        let groups = self.user_groups.is_empty() || user.is_some_and(in_group);
        let verbs = self.verbs.is_empty() || has(&self.verbs, info.verb());
        users && groups && verbs && self.is_about(info)
    }

    fn is_about(&self, info: &RequestInfo) -> bool {
        if !self.resources.is_empty() || !self.namespaces.is_empty() {
            let Some(target) = info.resource() else { return false };
            let namespace = target.namespace.as_deref().unwrap_or_default();
            if !self.namespaces.is_empty() && !has(&self.namespaces, namespace) {
                return false;
            }
            let subresource = target.subresource.as_deref().unwrap_or_default();
            let name = target.name.as_deref().unwrap_or_default();
            let is = |wanted: &String| match wanted.split_once('/') {
                None => wanted == "*" || (subresource.is_empty() && *wanted == target.plural),
                Some((resource, part)) => {
                    !subresource.is_empty()
                        && (resource == "*" || resource == target.plural)
                        && (part == "*" || part == subresource)
                }
            };
            return self.resources.is_empty()
                || self.resources.iter().any(|one| {
                    one.group == target.group
                        && (one.resources.is_empty()
                            || ((one.resource_names.is_empty() || has(&one.resource_names, name))
                                && one.resources.iter().any(is)))
                });
        }
        if !self.paths.is_empty() {
            let Asked::Path { path, .. } = &info.asked else { return false };
            return self.paths.iter().any(|wanted| match wanted.strip_suffix('*') {
                Some(prefix) => path.starts_with(prefix),
                None => path == wanted,
            });
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use hypernetes_api::TenantId;

    use super::*;

    fn info(method: &str, uri: &str) -> RequestInfo {
        RequestInfo::of(&Request::builder().method(method).uri(uri).body(()).unwrap().into_parts().0).unwrap()
    }

    fn user(name: &str, group: &str) -> UserInfo {
        let groups = vec![group.to_owned()];
        UserInfo {
            name: name.into(),
            uid: String::new(),
            groups,
            extra: Default::default(),
            tenant: TenantId::system(),
        }
    }

    #[test]
    fn writes_are_recorded_by_default_and_reads_are_not() {
        let (policy, ann) = (Policy::default(), user("ann", "people"));
        let level = |method: &str, uri: &str, user: &UserInfo| {
            policy.decide(&info(method, uri), Some(user)).map(|decision| decision.level)
        };
        let pod = "/api/v1/namespaces/a/pods/b";
        for uri in ["/api/v1/pods", pod, "/api/v1/pods?watch=1", "/healthz"] {
            assert_eq!(level("GET", uri, &ann), None, "{uri}");
        }
        for (method, uri) in
            [("PUT", pod), ("DELETE", pod), ("POST", "/api/v1/namespaces/a/pods/b/exec"), ("POST", "/x")]
        {
            assert_eq!(level(method, uri, &ann), Some(Level::Metadata), "{uri}");
        }
        // A connection begins with GET, and is none that only reads.
        assert_eq!(level("GET", "/api/v1/namespaces/a/pods/b/exec", &ann), Some(Level::Metadata));
        let server = user("hypernetes:server", "hypernetes:infrastructure");
        assert_eq!(level("PUT", &format!("{pod}/status"), &server), None);
        assert_eq!(level("PUT", &format!("{pod}/status"), &ann), Some(Level::Metadata));
        assert_eq!(level("POST", "/api/v1/namespaces/a/pods", &server), Some(Level::Metadata));
        assert_eq!(level("POST", "/api/v1/namespaces/a/events", &server), None);
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let rules = r#"{apiVersion: audit.k8s.io/v1, kind: Policy, omitStages: [RequestReceived], rules: [
            {level: None, users: [quiet]},
            {level: Request, userGroups: [writers], verbs: [create], omitManagedFields: true, omitStages: [ResponseStarted]},
            {level: None, nonResourceURLs: ["/healthz*", "/version"]},
            {level: RequestResponse, namespaces: [special], resources: [{group: apps, resources: ["*"]}]},
            {level: Metadata, resources: [{group: "", resources: [pods, "pods/log"], resourceNames: [one]}]},
            {level: None, resources: [{group: ""}]},
            {level: RequestResponse}]}"#;
        let policy = Policy::parse(rules).unwrap();
        let decide = |method: &str, uri: &str, user: &UserInfo| policy.decide(&info(method, uri), Some(user));
        let level = |method: &str, uri: &str| decide(method, uri, &user("ann", "x")).map(|decision| decision.level);
        assert_eq!(decide("POST", "/apis/apps/v1/namespaces/special/deployments", &user("quiet", "writers")), None);
        let writes = decide("POST", "/api/v1/namespaces/a/pods", &user("ann", "writers")).unwrap();
        let stages = vec![Stage::RequestReceived, Stage::ResponseStarted];
        assert_eq!((writes.level, writes.omit_managed_fields, writes.omit_stages), (Level::Request, true, stages));
        for (uri, expected) in [
            ("/healthz/x", None),
            ("/version", None),
            ("/versions", Some(Level::RequestResponse)),
            ("/apis/apps/v1/namespaces/special/deployments/a/scale", Some(Level::RequestResponse)),
            ("/api/v1/namespaces/a/pods/one", Some(Level::Metadata)),
            ("/api/v1/namespaces/a/pods/one/log", Some(Level::Metadata)),
            ("/api/v1/namespaces/a/pods/one/status", None),
            ("/api/v1/namespaces/a/pods/two", None),
            ("/apis/batch/v1/jobs", Some(Level::RequestResponse)),
        ] {
            assert_eq!(level("GET", uri), expected, "{uri}");
        }
    }

    #[test]
    fn secrets_are_never_more_than_named() {
        let all = "{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: RequestResponse}]}";
        let policy = Policy::parse(all).unwrap();
        for uri in [
            "/api/v1/namespaces/a/secrets",
            "/api/v1/namespaces/a/configmaps",
            "/api/v1/namespaces/a/serviceaccounts/b/token",
            "/apis/authentication.k8s.io/v1/tokenreviews",
            "/apis/identity.hypernetes.io/v1alpha1/users",
            "/identity/v3/auth/tokens",
            "/networking/v2.0/ports",
        ] {
            let decision = policy.decide(&info("POST", uri), None).unwrap();
            assert_eq!((decision.level, decision.secret), (Level::Metadata, true), "{uri}");
        }
        assert_eq!(
            policy.decide(&info("POST", "/api/v1/namespaces/a/pods"), None).unwrap().level,
            Level::RequestResponse
        );
    }

    #[test]
    fn what_is_no_policy_is_refused() {
        for (text, why) in [
            ("[", "it is no Policy"),
            ("{apiVersion: v1, kind: Policy, rules: [{level: None}]}", "it is Policy of v1"),
            ("{apiVersion: audit.k8s.io/v1, kind: Policy}", "it has no rules"),
            ("{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: Some}]}", "it is no Policy"),
            ("{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: None, user: [a]}]}", "it is no Policy"),
            (
                "{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: None, nonResourceURLs: [/x], namespaces: [a]}]}",
                "rule 1",
            ),
        ] {
            let error = Policy::parse(text).unwrap_err().to_string();
            assert!(error.starts_with(why), "{error}");
        }
    }
}
