//! Who may do what: RBAC in each logical cluster, the groups that Keystone roles give, and what nodes may.

use hypernetes_api::{ApiError, Reason, TenantId, auth::UserInfo, error::Details, names};
use hypernetes_store::{Prefix, RangeOptions, ResourceId, Store};
use serde_json::Value;

use crate::codec;

/// A question: may this user do this here?
#[derive(Debug, Clone, Default)]
pub struct Attributes<'a> {
    pub verb: &'a str,
    pub group: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: Option<&'a str>,
    pub name: Option<&'a str>,
    /// For what is no resource: its path.
    pub path: Option<&'a str>,
}

impl Attributes<'_> {
    fn full_resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.to_owned()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }
}

/// Part of a rule that Kubernetes has built in for `view`, `edit` and `admin`.
struct Builtin {
    group: &'static str,
    resources: &'static [&'static str],
    write: bool,
    /// Only `admin`, not `edit`.
    admin: bool,
}

/// What `view` sees, `edit` writes (`write`), and `admin` has besides (`admin`). Subresources go with their resource.
const BUILTIN: &[Builtin] = &[
    Builtin {
        group: "",
        resources: &[
            "configmaps",
            "endpoints",
            "persistentvolumeclaims",
            "pods",
            "replicationcontrollers",
            "serviceaccounts",
            "services",
            "events",
        ],
        write: true,
        admin: false,
    },
    Builtin {
        group: "",
        resources: &["bindings", "limitranges", "namespaces", "resourcequotas", "nodes", "persistentvolumes"],
        write: false,
        admin: false,
    },
    Builtin {
        group: "apps",
        resources: &["controllerrevisions", "daemonsets", "deployments", "replicasets", "statefulsets"],
        write: true,
        admin: false,
    },
    Builtin { group: "batch", resources: &["cronjobs", "jobs"], write: true, admin: false },
    Builtin { group: "autoscaling", resources: &["horizontalpodautoscalers"], write: true, admin: false },
    Builtin { group: "networking.k8s.io", resources: &["ingresses", "networkpolicies"], write: true, admin: false },
    Builtin { group: "policy", resources: &["poddisruptionbudgets"], write: true, admin: false },
    Builtin { group: "coordination.k8s.io", resources: &["leases"], write: true, admin: false },
    Builtin { group: "discovery.k8s.io", resources: &["endpointslices"], write: false, admin: false },
    Builtin { group: "storage.k8s.io", resources: &["storageclasses", "csidrivers"], write: false, admin: false },
    Builtin { group: "network.hypernetes.io", resources: &["networks", "ports", "subnets"], write: true, admin: false },
    Builtin { group: "volume.hypernetes.io", resources: &["volumes", "attachments"], write: true, admin: false },
    Builtin { group: "rbac.authorization.k8s.io", resources: &["roles", "rolebindings"], write: true, admin: true },
    // Secrets are read by whoever may also write them: what is in them is worth a service account.
    Builtin { group: "", resources: &["secrets"], write: true, admin: false },
];

const READ: [&str; 3] = ["get", "list", "watch"];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    View,
    Edit,
    Admin,
}

fn builtin_allows(level: Level, wanted: &Attributes<'_>) -> bool {
    let read = READ.contains(&wanted.verb);
    if level == Level::View && wanted.resource == "secrets" {
        return false;
    }
    // A shell in a pod is more than looking at it.
    if level == Level::View && matches!(wanted.subresource, "exec" | "attach" | "portforward" | "token") {
        return false;
    }
    BUILTIN.iter().any(|rule| {
        let named = rule.group == wanted.group && rule.resources.contains(&wanted.resource);
        named && ((read && !rule.admin) || (rule.write && level >= if rule.admin { Level::Admin } else { Level::Edit }))
    })
}

/// Roles that every logical cluster has without storing them.
fn builtin_role(name: &str, wanted: &Attributes<'_>) -> Option<bool> {
    Some(match name {
        "cluster-admin" => true,
        "admin" => builtin_allows(Level::Admin, wanted),
        "edit" => builtin_allows(Level::Edit, wanted),
        "view" => builtin_allows(Level::View, wanted),
        _ => return None,
    })
}

pub struct Authorizer<'a> {
    pub store: &'a dyn Store,
}

impl Authorizer<'_> {
    /// # Errors
    /// `Forbidden`, worded as Kubernetes does.
    pub async fn check(&self, user: &UserInfo, tenant: &TenantId, wanted: &Attributes<'_>) -> Result<(), ApiError> {
        if self.allows(user, tenant, wanted).await? { Ok(()) } else { Err(forbidden(user, wanted)) }
    }

    pub async fn allows(&self, user: &UserInfo, tenant: &TenantId, wanted: &Attributes<'_>) -> Result<bool, ApiError> {
        let has = |group: &str| user.groups.iter().any(|g| g == group);
        if has(names::GROUP_MASTERS) || has(names::GROUP_INFRASTRUCTURE) || has(names::GROUP_KEYSTONE_ADMIN) {
            return Ok(true);
        }
        // Every known user may ask what the server has, and what they may do themselves.
        let known = has(names::GROUP_AUTHENTICATED);
        if let Some(path) = wanted.path {
            let public = matches!(path, "/healthz" | "/livez" | "/readyz" | "/version");
            let discovery =
                ["/api", "/apis", "/openapi"].iter().any(|p| path == *p || path.starts_with(&format!("{p}/")));
            if public || (known && (discovery || path == "/")) {
                return Ok(true);
            }
        }
        let own_review =
            matches!(wanted.resource, "selfsubjectaccessreviews" | "selfsubjectrulesreviews" | "selfsubjectreviews");
        if known && own_review && wanted.verb == "create" {
            return Ok(true);
        }
        if has(names::GROUP_NODES) && user.tenant.is_system() && node_allows(wanted) {
            return Ok(true);
        }
        if has(names::GROUP_KEYSTONE_MEMBER) && builtin_allows(Level::Edit, wanted) {
            return Ok(true);
        }
        if has(names::GROUP_KEYSTONE_READER) && builtin_allows(Level::View, wanted) {
            return Ok(true);
        }
        self.rbac(user, tenant, wanted).await
    }

    async fn rbac(&self, user: &UserInfo, tenant: &TenantId, wanted: &Attributes<'_>) -> Result<bool, ApiError> {
        for binding in self.list(tenant, "clusterrolebindings", None).await? {
            if subject_of(&binding, user, None) && self.role_allows(tenant, &binding["roleRef"], None, wanted).await? {
                return Ok(true);
            }
        }
        let Some(namespace) = wanted.namespace else { return Ok(false) };
        for binding in self.list(tenant, "rolebindings", Some(namespace)).await? {
            if subject_of(&binding, user, Some(namespace))
                && self.role_allows(tenant, &binding["roleRef"], Some(namespace), wanted).await?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn list(&self, tenant: &TenantId, plural: &str, namespace: Option<&str>) -> Result<Vec<Value>, ApiError> {
        let prefix = Prefix::tenant(&ResourceId::new("rbac.authorization.k8s.io", plural), tenant, namespace)?;
        let listing = self.store.range(&prefix, RangeOptions::default()).await;
        let listing = listing.map_err(|error| ApiError::internal(error.to_string()))?;
        listing.entries.iter().map(codec::decode).collect()
    }

    async fn role_allows(
        &self,
        tenant: &TenantId,
        reference: &Value,
        namespace: Option<&str>,
        wanted: &Attributes<'_>,
    ) -> Result<bool, ApiError> {
        let name = reference["name"].as_str().unwrap_or_default();
        let cluster = reference["kind"] == "ClusterRole";
        if cluster && let Some(allowed) = builtin_role(name, wanted) {
            return Ok(allowed);
        }
        let (plural, namespace) = if cluster { ("clusterroles", None) } else { ("roles", namespace) };
        let roles = self.list(tenant, plural, namespace).await?;
        let role = roles.iter().find(|role| role["metadata"]["name"] == name);
        let rules = role.and_then(|role| role["rules"].as_array());
        Ok(rules.is_some_and(|rules| rules.iter().any(|rule| rule_allows(rule, wanted))))
    }
}

fn texts(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn rule_allows(rule: &Value, wanted: &Attributes<'_>) -> bool {
    let has = |field: &str, value: &str| texts(&rule[field]).any(|have| have == "*" || have == value);
    if !has("verbs", wanted.verb) {
        return false;
    }
    if let Some(path) = wanted.path {
        return texts(&rule["nonResourceURLs"])
            .any(|url| url == path || url.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix)));
    }
    let any_with_subresource = format!("*/{}", wanted.subresource);
    let resource = has("resources", &wanted.full_resource())
        || (!wanted.subresource.is_empty() && texts(&rule["resources"]).any(|r| r == any_with_subresource));
    let mut named = texts(&rule["resourceNames"]).peekable();
    has("apiGroups", wanted.group)
        && resource
        && (named.peek().is_none() || wanted.name.is_some_and(|name| named.any(|n| n == name)))
}

fn subject_of(binding: &Value, user: &UserInfo, namespace: Option<&str>) -> bool {
    binding["subjects"].as_array().into_iter().flatten().any(|subject| {
        let name = subject["name"].as_str().unwrap_or_default();
        match subject["kind"].as_str() {
            Some("User") => user.name == name,
            Some("Group") => user.groups.iter().any(|group| group == name),
            Some("ServiceAccount") => {
                let namespace = subject["namespace"].as_str().or(namespace).unwrap_or_default();
                user.name == format!("system:serviceaccount:{namespace}:{name}")
            }
            _ => false,
        }
    })
}

/// What a node does for the pods on it. That it does so for these pods only is not checked yet (see the threat model).
fn node_allows(wanted: &Attributes<'_>) -> bool {
    let read = READ.contains(&wanted.verb);
    match (wanted.group, wanted.resource, wanted.subresource) {
        ("", "pods", "") => read || wanted.verb == "delete",
        ("", "pods" | "nodes", "status") => matches!(wanted.verb, "update" | "patch"),
        ("", "nodes", "") => true,
        ("", "events", _) => matches!(wanted.verb, "create" | "patch" | "update"),
        ("", "serviceaccounts", "token") => wanted.verb == "create",
        (
            "",
            "configmaps"
            | "secrets"
            | "persistentvolumeclaims"
            | "persistentvolumes"
            | "serviceaccounts"
            | "services"
            | "namespaces",
            "",
        ) => read,
        ("coordination.k8s.io", "leases", _) => true,
        ("storage.k8s.io" | "node.k8s.io", _, _) => read,
        ("network.hypernetes.io", _, "") => read,
        ("network.hypernetes.io", "ports", "status") => true,
        ("volume.hypernetes.io", "volumes", "") => read,
        // That a volume is attached is the volume service's to say.
        ("volume.hypernetes.io", "attachments", "") => read || matches!(wanted.verb, "create" | "delete"),
        _ => false,
    }
}

fn forbidden(user: &UserInfo, wanted: &Attributes<'_>) -> ApiError {
    if let Some(path) = wanted.path {
        let message = format!("forbidden: User {:?} cannot {} path {path:?}", user.name, wanted.verb);
        return ApiError::new(Reason::Forbidden, message);
    }
    let resource = wanted.full_resource();
    let qualified = if wanted.group.is_empty() {
        wanted.resource.to_owned()
    } else {
        format!("{}.{}", wanted.resource, wanted.group)
    };
    let place = match wanted.namespace {
        Some(namespace) => format!("in the namespace {namespace:?}"),
        None => "at the cluster scope".to_owned(),
    };
    let name = wanted.name.map_or_else(|| " ".to_owned(), |name| format!(" {name:?} "));
    let message = format!(
        "{qualified}{name}is forbidden: User {:?} cannot {} resource {resource:?} in API group {:?} {place}",
        user.name, wanted.verb, wanted.group
    );
    ApiError::new(Reason::Forbidden, message).with_details(Details {
        name: wanted.name.unwrap_or_default().into(),
        group: wanted.group.into(),
        kind: wanted.resource.into(),
        ..Details::default()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wanted<'a>(verb: &'a str, group: &'a str, resource: &'a str) -> Attributes<'a> {
        Attributes { verb, group, resource, namespace: Some("default"), ..Default::default() }
    }

    #[test]
    fn levels_build_on_each_other() {
        let pods = wanted("create", "", "pods");
        assert!(builtin_allows(Level::Edit, &pods) && !builtin_allows(Level::View, &pods));
        assert!(builtin_allows(Level::View, &wanted("list", "", "pods")));
        assert!(!builtin_allows(Level::View, &wanted("get", "", "secrets")));
        assert!(builtin_allows(Level::Edit, &wanted("get", "", "secrets")));
        let bind = wanted("create", "rbac.authorization.k8s.io", "rolebindings");
        assert!(builtin_allows(Level::Admin, &bind) && !builtin_allows(Level::Edit, &bind));
        let exec = Attributes { subresource: "exec", ..wanted("get", "", "pods") };
        assert!(!builtin_allows(Level::View, &exec) && builtin_allows(Level::Edit, &exec));
        assert!(!builtin_allows(Level::Admin, &wanted("update", "", "nodes")));
    }

    #[test]
    fn a_node_takes_volumes_and_gives_them_back() {
        let may = |verb, group, resource, subresource| {
            node_allows(&Attributes { subresource, namespace: None, ..wanted(verb, group, resource) })
        };
        for verb in ["create", "get", "list", "watch", "delete"] {
            assert!(may(verb, "volume.hypernetes.io", "attachments", ""), "{verb}");
        }
        for verb in ["get", "list", "watch"] {
            assert!(may(verb, "volume.hypernetes.io", "volumes", ""), "{verb}");
        }
        assert!(may("get", "", "persistentvolumes", "") && may("get", "", "persistentvolumeclaims", ""));
        assert!(!may("update", "volume.hypernetes.io", "attachments", ""));
        assert!(!may("patch", "volume.hypernetes.io", "attachments", "status"));
        assert!(!may("delete", "volume.hypernetes.io", "volumes", ""));
        assert!(!may("patch", "", "persistentvolumeclaims", ""));
    }

    #[test]
    fn rules_are_met_in_every_part() {
        let rule =
            json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "pods/log"], "resourceNames": ["a"]});
        let named = |name| Attributes { name: Some(name), ..wanted("get", "", "pods") };
        assert!(rule_allows(&rule, &named("a")) && !rule_allows(&rule, &named("b")));
        assert!(!rule_allows(&rule, &Attributes { verb: "delete", ..named("a") }));
        assert!(!rule_allows(&rule, &Attributes { subresource: "exec", ..named("a") }));
        let all = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]});
        assert!(rule_allows(&all, &wanted("patch", "apps", "deployments")));
        let urls = json!({"verbs": ["get"], "nonResourceURLs": ["/metrics", "/logs/*"]});
        let path = |path| Attributes { verb: "get", path: Some(path), ..Default::default() };
        assert!(rule_allows(&urls, &path("/logs/x")) && !rule_allows(&urls, &path("/other")));
    }
}
