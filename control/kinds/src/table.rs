//! Which kind has which rules.

use crate::{
    apps, autoscaling, batch, core, discovery,
    field::{Errors, Field},
    networking, policy, rbac,
};

type Check = fn(&Field<'_>, &mut Errors);
type Change = fn(&Field<'_>, &Field<'_>, &mut Errors);

/// The rules of one kind, besides those of `metadata`.
pub(crate) struct Rules {
    group: &'static str,
    kind: &'static str,
    /// What holds for every object of the kind.
    pub check: Check,
    /// What holds for new ones only.
    pub create: Option<Check>,
    /// What a change may not do: the new object, and the old.
    pub update: Option<Change>,
    /// What a change of the status may not do.
    pub status: Option<Change>,
}

impl Rules {
    const fn of(group: &'static str, kind: &'static str, check: Check) -> Self {
        Self { group, kind, check, create: None, update: None, status: None }
    }

    const fn create(mut self, create: Check) -> Self {
        self.create = Some(create);
        self
    }

    const fn update(mut self, update: Change) -> Self {
        self.update = Some(update);
        self
    }

    const fn status(mut self, status: Change) -> Self {
        self.status = Some(status);
        self
    }
}

const APPS: &str = "apps";
const RBAC: &str = "rbac.authorization.k8s.io";
const NETWORKING: &str = "networking.k8s.io";

/// Every kind that has rules besides those of metadata and [`IMMUTABLE`].
pub(crate) const RULES: &[Rules] = &[
    Rules::of("", "ConfigMap", core::config_map::check).update(core::config_map::update),
    Rules::of("", "Endpoints", core::endpoints::check),
    Rules::of("", "LimitRange", core::limit_range::check),
    Rules::of("", "Namespace", |_, _| {}).create(core::namespace::create),
    Rules::of("", "Node", core::node::check),
    Rules::of("", "PersistentVolume", core::persistent_volume::check).update(core::persistent_volume::update),
    Rules::of("", "PersistentVolumeClaim", core::persistent_volume_claim::check)
        .update(core::persistent_volume_claim::update),
    Rules::of("", "Pod", core::pod::check)
        .create(core::pod::create)
        .update(core::pod::update)
        .status(core::pod::status),
    Rules::of("", "PodTemplate", core::pod_template::object),
    Rules::of("", "ReplicationController", core::replication_controller::check),
    Rules::of("", "ResourceQuota", core::resource_quota::check).update(core::resource_quota::update),
    Rules::of("", "Secret", core::secret::check).update(core::secret::update),
    Rules::of("", "Service", core::service::check).update(core::service::update),
    Rules::of(APPS, "ControllerRevision", apps::controller_revision::check).update(apps::controller_revision::update),
    Rules::of(APPS, "DaemonSet", apps::daemon_set::check),
    Rules::of(APPS, "Deployment", apps::deployment::check),
    Rules::of(APPS, "ReplicaSet", apps::replica_set::check),
    Rules::of(APPS, "StatefulSet", apps::stateful_set::check).update(apps::stateful_set::update),
    Rules::of("batch", "CronJob", batch::cron_job::check).create(batch::cron_job::create),
    Rules::of("batch", "Job", batch::job::check).create(batch::job::create).update(batch::job::update),
    Rules::of("autoscaling", "HorizontalPodAutoscaler", autoscaling::check),
    Rules::of("policy", "PodDisruptionBudget", policy::check),
    Rules::of(RBAC, "ClusterRole", rbac::cluster_role),
    Rules::of(RBAC, "ClusterRoleBinding", rbac::cluster_role_binding).update(rbac::binding_update),
    Rules::of(RBAC, "Role", rbac::role),
    Rules::of(RBAC, "RoleBinding", rbac::role_binding).update(rbac::binding_update),
    Rules::of(NETWORKING, "Ingress", networking::ingress),
    Rules::of(NETWORKING, "NetworkPolicy", networking::network_policy),
    Rules::of("discovery.k8s.io", "EndpointSlice", discovery::endpoint_slice).update(discovery::endpoint_slice_update),
];

/// The rules of a kind that has any.
pub(crate) fn rules(group: &str, kind: &str) -> Option<&'static Rules> {
    RULES.iter().find(|rules| (rules.group, rules.kind) == (group, kind))
}

/// Fields that are for life: group, kind, path.
const IMMUTABLE: &[(&str, &str, &[&str])] = &[
    ("apps", "Deployment", &["spec", "selector"]),
    ("apps", "ReplicaSet", &["spec", "selector"]),
    ("apps", "DaemonSet", &["spec", "selector"]),
    ("storage.k8s.io", "StorageClass", &["provisioner"]),
    ("network.hypernetes.io", "Subnet", &["spec", "network"]),
    ("network.hypernetes.io", "Subnet", &["spec", "cidr"]),
    ("volume.hypernetes.io", "Attachment", &["spec", "volume"]),
];

/// Says which of the fields that are for life have changed.
pub(crate) fn immutable(group: &str, kind: &str, object: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    for (_, _, path) in IMMUTABLE.iter().filter(|row| (row.0, row.1) == (group, kind)) {
        let (mut new, mut before) = (object.clone(), old.clone());
        for name in *path {
            (new, before) = (new.get(name), before.get(name));
        }
        new.kept(errors, &before);
    }
}
