//! The roles that every logical cluster has without storing them: `cluster-admin`, `admin`, `edit`, `view`, with the rules
//! that Kubernetes gives them, and what Keystone's roles have besides.

use std::sync::LazyLock;

use crate::{
    authentication::authorities::openid,
    authorization::{certificates, rbac::Rule},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    View,
    Edit,
    Admin,
}

/// From which level on, which verbs, on which group's resources.
type Row = (Level, &'static str, &'static str, &'static str);

const READ: &str = "get list watch";
const WRITE: &str = "create delete deletecollection patch update";

use Level::{Admin, Edit, View};

/// Each level has what is above it in the order of [`Level`] left out, and all the rest.
const ROWS: &[Row] = &[
    (
        View,
        READ,
        "",
        "configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods \
        replicationcontrollers replicationcontrollers/scale serviceaccounts services services/status",
    ),
    (
        View,
        READ,
        "",
        "bindings events limitranges namespaces namespaces/status pods/log pods/status \
        replicationcontrollers/status resourcequotas resourcequotas/status",
    ),
    (
        View,
        READ,
        "apps",
        "controllerrevisions daemonsets daemonsets/status deployments deployments/scale \
        deployments/status replicasets replicasets/scale replicasets/status statefulsets statefulsets/scale \
        statefulsets/status",
    ),
    (View, READ, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
    (View, READ, "batch", "cronjobs cronjobs/status jobs jobs/status"),
    (View, READ, "discovery.k8s.io", "endpointslices"),
    (View, READ, "networking.k8s.io", "ingresses ingresses/status networkpolicies"),
    (View, READ, "policy", "poddisruptionbudgets poddisruptionbudgets/status"),
    (Edit, READ, "", "pods/attach pods/exec pods/portforward secrets"),
    (
        Edit,
        WRITE,
        "",
        "configmaps events persistentvolumeclaims pods pods/attach pods/exec pods/portforward \
        replicationcontrollers replicationcontrollers/scale secrets serviceaccounts services",
    ),
    (Edit, "create", "", "pods/eviction serviceaccounts/token"),
    (Edit, "impersonate", "", "serviceaccounts"),
    (
        Edit,
        WRITE,
        "apps",
        "daemonsets deployments deployments/scale replicasets replicasets/scale statefulsets \
        statefulsets/scale",
    ),
    (Edit, WRITE, "autoscaling", "horizontalpodautoscalers"),
    (Edit, WRITE, "batch", "cronjobs jobs"),
    (Edit, WRITE, "networking.k8s.io", "ingresses networkpolicies"),
    (Edit, WRITE, "policy", "poddisruptionbudgets"),
    (Edit, READ, "coordination.k8s.io", "leases"),
    (Edit, WRITE, "coordination.k8s.io", "leases"),
    (Admin, READ, "rbac.authorization.k8s.io", "rolebindings roles"),
    (Admin, WRITE, "rbac.authorization.k8s.io", "rolebindings roles"),
    // The system's own kinds, as whoever adds kinds to a cluster adds them to these roles.
    (View, READ, "network.hypernetes.io", "networks networks/status ports ports/status subnets"),
    (View, READ, "volume.hypernetes.io", "attachments attachments/status volumes volumes/status"),
    (Edit, WRITE, "network.hypernetes.io", "networks ports subnets"),
    (Edit, WRITE, "volume.hypernetes.io", "volumes"),
];

/// What Keystone's readers and members see besides: their roles are for the whole of a tenant's cluster.
const CLUSTER: &[Row] = &[
    (View, READ, "", "nodes persistentvolumes"),
    (View, READ, "coordination.k8s.io", "leases"),
    (View, READ, "node.k8s.io", "runtimeclasses"),
    (View, READ, "scheduling.k8s.io", "priorityclasses"),
    (View, READ, "storage.k8s.io", "csidrivers storageclasses"),
];

fn rules(level: Level, rows: &[&[Row]]) -> Vec<Rule> {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
    let own = rows.iter().flat_map(|rows| rows.iter()).filter(|(from, ..)| *from <= level);
    own.map(|(_, verbs, group, resources)| Rule {
        groups: vec![(*group).to_owned()],
        resources: words(resources),
        verbs: words(verbs),
        ..Rule::default()
    })
    .collect()
}

/// Reading what the cluster's issuer of tokens is known by. Upstream binds it to all service accounts.
pub fn issuer_discovery() -> &'static [Rule] {
    static RULES: LazyLock<[Rule; 1]> = LazyLock::new(|| {
        let paths = [openid::CONFIGURATION, openid::KEYS].map(str::to_owned).to_vec();
        [Rule { paths, verbs: vec!["get".to_owned()], ..Rule::default() }]
    });
    &*RULES
}

/// Reading whom the cluster trusts. Upstream binds it to all service accounts, too, where there are such bundles.
pub fn trust_discovery() -> &'static [Rule] {
    static RULES: LazyLock<[Rule; 1]> = LazyLock::new(|| [rule("get list watch", "clustertrustbundles", &[])]);
    &*RULES
}

/// Of the group of certificates.
fn rule(verbs: &str, resource: &str, names: &[&str]) -> Rule {
    Rule {
        groups: vec![certificates::GROUP.to_owned()],
        resources: vec![resource.to_owned()],
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        verbs: verbs.split_whitespace().map(str::to_owned).collect(),
        ..Rule::default()
    }
}

/// Upstream's roles about certificate signing requests.
fn of_certificates(name: &str) -> Option<&'static [Rule]> {
    const APPROVER: &str = "-approver";
    static ROLES: LazyLock<Vec<(String, [Rule; 1])>> = LazyLock::new(|| {
        let group = "system:certificates.k8s.io:";
        let signers = ["kube-apiserver-client", "kube-apiserver-client-kubelet", "kubelet-serving", "legacy-unknown"];
        let approvers = signers.map(|signer| {
            let rules = [rule("approve", "signers", &[&format!("kubernetes.io/{signer}")])];
            (format!("{group}{signer}{APPROVER}"), rules)
        });
        let auto = ["nodeclient", "selfnodeclient"].map(|kind| {
            let resource = format!("{}/{kind}", certificates::REQUESTS);
            (format!("{group}{}:{kind}", certificates::REQUESTS), [rule("create", &resource, &[])])
        });
        let bootstrapper = [rule("create get list watch", certificates::REQUESTS, &[])];
        let mut roles = vec![("system:node-bootstrapper".to_owned(), bootstrapper)];
        roles.extend(approvers.into_iter().chain(auto));
        roles
    });
    ROLES.iter().find(|(known, _)| known == name).map(|(_, rules)| rules.as_slice())
}

/// The rules of a role of Kubernetes' own, if the name is one's.
pub fn builtin(name: &str) -> Option<&'static [Rule]> {
    static CLUSTER_ADMIN: LazyLock<[Rule; 2]> = LazyLock::new(Rule::all);
    static LEVELS: LazyLock<[Vec<Rule>; 3]> = LazyLock::new(|| [View, Edit, Admin].map(|level| rules(level, &[ROWS])));
    let [view, edit, admin] = &*LEVELS;
    Some(match name {
        "cluster-admin" => &*CLUSTER_ADMIN,
        "admin" => admin,
        "edit" => edit,
        "view" => view,
        "system:service-account-issuer-discovery" => issuer_discovery(),
        "system:cluster-trust-bundle-discovery" => trust_discovery(),
        name => return of_certificates(name),
    })
}

/// What Keystone's role `member` or `reader` allows in the cluster of the project.
pub fn keystone(level: Level) -> &'static [Rule] {
    static READER: LazyLock<Vec<Rule>> = LazyLock::new(|| rules(View, &[ROWS, CLUSTER]));
    static MEMBER: LazyLock<Vec<Rule>> = LazyLock::new(|| rules(Edit, &[ROWS, CLUSTER]));
    if level == View { &READER } else { &MEMBER }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authorization::Attributes;

    fn may(role: &str, verb: &str, group: &str, resource: &str) -> bool {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let wanted =
            Attributes { verb, group, resource, subresource, namespace: Some("default"), ..Default::default() };
        builtin(role).unwrap().iter().any(|rule| rule.allows(&wanted))
    }

    #[test]
    fn levels_build_on_each_other() {
        assert!(may("edit", "create", "", "pods") && !may("view", "create", "", "pods"));
        assert!(may("view", "list", "", "pods") && may("view", "get", "", "pods/log"));
        assert!(!may("view", "get", "", "secrets") && may("edit", "get", "", "secrets"));
        assert!(!may("view", "create", "", "pods/exec") && may("edit", "create", "", "pods/exec"));
        let bindings = ("rbac.authorization.k8s.io", "rolebindings");
        assert!(may("admin", "create", bindings.0, bindings.1) && !may("edit", "create", bindings.0, bindings.1));
        assert!(!may("admin", "bind", bindings.0, "clusterroles") && !may("admin", "escalate", bindings.0, "roles"));
        assert!(may("cluster-admin", "escalate", bindings.0, "roles") && builtin("other").is_none());
    }

    #[test]
    fn no_level_decides_where_a_pod_runs_or_what_became_of_it() {
        for role in ["view", "edit", "admin"] {
            for resource in ["pods/binding", "pods/status", "nodes", "nodes/status", "namespaces", "endpoints"] {
                for verb in ["create", "update", "patch"] {
                    assert!(!may(role, verb, "", resource), "{role} {verb} {resource}");
                }
            }
            assert!(!may(role, "impersonate", "", "users") && !may(role, "impersonate", "", "groups"));
        }
    }
}
