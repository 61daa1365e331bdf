//! The table of all built-in resources: one line each. Discovery, routing, authorization and storage read it.

use std::{collections::HashMap, sync::Arc};

use hypernetes_schema::ObjectType;
use hypernetes_store::ResourceId;

use crate::{request::Verb, subresource::Subresource};

/// Where a resource's objects live, and who may write them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// Each tenant has its own.
    Tenant,
    /// The operator's; tenants see them and do not write them.
    Projected,
    /// The operator's; tenants do not see that it exists.
    System,
    /// Not stored: a question that is answered (`create` only).
    Virtual,
}

/// One resource.
#[derive(Debug)]
pub struct Resource {
    pub ty: Arc<ObjectType>,
    pub plural: &'static str,
    pub singular: String,
    pub short_names: Vec<&'static str>,
    pub categories: Vec<&'static str>,
    pub subresources: Vec<Subresource>,
    pub home: Home,
    /// Its `status` is written by infrastructure alone.
    pub guarded_status: bool,
    pub id: ResourceId,
}

impl Resource {
    pub fn has_status(&self) -> bool {
        self.subresources.contains(&Subresource::Status)
    }

    pub fn verbs(&self) -> &'static [Verb] {
        use Verb::{Create, Delete, DeleteCollection, Get, List, Patch, Update, Watch};
        match (self.home, self.id.plural.as_ref()) {
            (Home::Virtual, _) => &[Create],
            // As upstream's: what deletes all that a namespace has names it.
            (_, "namespaces") => &[Create, Delete, Get, List, Patch, Update, Watch],
            _ => &[Create, Delete, DeleteCollection, Get, List, Patch, Update, Watch],
        }
    }

    /// [`Self::verbs`], as discovery shows them.
    pub fn shown_verbs(&self) -> Vec<&'static str> {
        self.verbs().iter().map(|verb| verb.as_str()).collect()
    }
}

use Home::{Projected as P, System as S, Tenant as T, Virtual as V};

type Row = (&'static str, &'static str, &'static str, &'static str, &'static str, &'static str, &'static str, Home);

/// Group, version, kind, plural, short names, categories, subresources, home.
const ROWS: &[Row] = &[
    ("", "v1", "ConfigMap", "configmaps", "cm", "", "", T),
    ("", "v1", "Endpoints", "endpoints", "ep", "", "", T),
    ("", "v1", "Event", "events", "ev", "", "", T),
    ("", "v1", "LimitRange", "limitranges", "limits", "", "", T),
    ("", "v1", "Namespace", "namespaces", "ns", "", "status finalize", T),
    ("", "v1", "Node", "nodes", "no", "", "status", P),
    ("", "v1", "PersistentVolume", "persistentvolumes", "pv", "", "status", T),
    ("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", "pvc", "", "status", T),
    ("", "v1", "Pod", "pods", "po", "all", "status binding eviction log exec attach portforward", T),
    ("", "v1", "PodTemplate", "podtemplates", "", "", "", T),
    ("", "v1", "ReplicationController", "replicationcontrollers", "rc", "all", "status scale", T),
    ("", "v1", "ResourceQuota", "resourcequotas", "quota", "", "status", T),
    ("", "v1", "Secret", "secrets", "", "", "", T),
    ("", "v1", "Service", "services", "svc", "all", "status", T),
    ("", "v1", "ServiceAccount", "serviceaccounts", "sa", "", "token", T),
    ("apps", "v1", "ControllerRevision", "controllerrevisions", "", "", "", T),
    ("apps", "v1", "DaemonSet", "daemonsets", "ds", "all", "status", T),
    ("apps", "v1", "Deployment", "deployments", "deploy", "all", "status scale", T),
    ("apps", "v1", "ReplicaSet", "replicasets", "rs", "all", "status scale", T),
    ("apps", "v1", "StatefulSet", "statefulsets", "sts", "all", "status scale", T),
    ("batch", "v1", "CronJob", "cronjobs", "cj", "all", "status", T),
    ("batch", "v1", "Job", "jobs", "", "all", "status", T),
    ("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", "hpa", "all", "status", T),
    ("coordination.k8s.io", "v1", "Lease", "leases", "", "", "", T),
    ("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", "", "", "", T),
    ("networking.k8s.io", "v1", "Ingress", "ingresses", "ing", "", "status", T),
    ("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", "netpol", "", "", T),
    ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", "pdb", "", "status", T),
    ("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", "", "", "", T),
    ("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings", "", "", "", T),
    ("rbac.authorization.k8s.io", "v1", "Role", "roles", "", "", "", T),
    ("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings", "", "", "", T),
    ("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", "pc", "", "", P),
    ("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses", "", "", "", P),
    ("storage.k8s.io", "v1", "CSIDriver", "csidrivers", "", "", "", P),
    ("storage.k8s.io", "v1", "CSINode", "csinodes", "", "", "", P),
    ("storage.k8s.io", "v1", "StorageClass", "storageclasses", "sc", "", "", P),
    ("authentication.k8s.io", "v1", "SelfSubjectReview", "selfsubjectreviews", "", "", "", V),
    ("authentication.k8s.io", "v1", "TokenReview", "tokenreviews", "", "", "", V),
    ("authorization.k8s.io", "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews", "", "", "", V),
    ("authorization.k8s.io", "v1", "SelfSubjectRulesReview", "selfsubjectrulesreviews", "", "", "", V),
    ("authorization.k8s.io", "v1", "SubjectAccessReview", "subjectaccessreviews", "", "", "", V),
    ("identity.hypernetes.io", "v1alpha1", "Domain", "domains", "", "hypernetes", "", S),
    ("identity.hypernetes.io", "v1alpha1", "Group", "groups", "", "hypernetes", "", S),
    ("identity.hypernetes.io", "v1alpha1", "Project", "projects", "", "hypernetes", "status", S),
    ("identity.hypernetes.io", "v1alpha1", "Role", "roles", "", "hypernetes", "", S),
    ("identity.hypernetes.io", "v1alpha1", "RoleAssignment", "roleassignments", "", "hypernetes", "", S),
    ("identity.hypernetes.io", "v1alpha1", "TokenRevocation", "tokenrevocations", "", "hypernetes", "", S),
    ("identity.hypernetes.io", "v1alpha1", "User", "users", "", "hypernetes", "", S),
    ("network.hypernetes.io", "v1alpha1", "Network", "networks", "net", "hypernetes", "status", T),
    ("network.hypernetes.io", "v1alpha1", "Port", "ports", "", "hypernetes", "status", T),
    ("network.hypernetes.io", "v1alpha1", "Subnet", "subnets", "", "hypernetes", "", T),
    ("volume.hypernetes.io", "v1alpha1", "Attachment", "attachments", "", "hypernetes", "status", T),
    ("volume.hypernetes.io", "v1alpha1", "Volume", "volumes", "vol", "hypernetes", "status", T),
];

/// The resources that a server has, by group, version and plural.
pub struct Table {
    resources: Vec<Arc<Resource>>,
    by_name: HashMap<(String, String, String), Arc<Resource>>,
}

impl Table {
    pub fn builtin() -> Self {
        let words = |text: &'static str| text.split_whitespace().collect::<Vec<_>>();
        let resources: Vec<Arc<Resource>> = ROWS
            .iter()
            .filter_map(|(group, version, kind, plural, short, categories, subresources, home)| {
                Some(Arc::new(Resource {
                    ty: ObjectType::builtin(group, version, kind)?,
                    plural,
                    singular: kind.to_lowercase(),
                    short_names: words(short),
                    categories: words(categories),
                    subresources: subresources.split_whitespace().filter_map(Subresource::parse).collect(),
                    home: *home,
                    guarded_status: group.ends_with(".hypernetes.io"),
                    id: ResourceId::new(group, plural),
                }))
            })
            .collect();
        let by_name = resources
            .iter()
            .map(|r| ((r.ty.group.clone(), r.ty.version.clone(), r.plural.to_owned()), r.clone()))
            .collect();
        Self { resources, by_name }
    }

    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.by_name.get(&(group.to_owned(), version.to_owned(), plural.to_owned()))
    }

    pub fn all(&self) -> &[Arc<Resource>] {
        &self.resources
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_a_kind_that_the_schemas_know() {
        let table = Table::builtin();
        for row in ROWS {
            let resource = table.find(row.0, row.1, row.3);
            let resource = resource.unwrap_or_else(|| panic!("{row:?}"));
            assert_eq!(resource.subresources.len(), row.6.split_whitespace().count(), "{row:?}");
        }
    }
}
