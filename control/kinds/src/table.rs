//! Which kind has which rules.

use crate::field::{Errors, Field};

type Check = fn(&Field<'_>, &mut Errors);
type Change = fn(&Field<'_>, &Field<'_>, &mut Errors);

/// The rules of one kind, besides those of `metadata`.
pub(crate) struct Rules {
    /// What holds for every object of the kind.
    pub check: Check,
    /// What holds for new ones only.
    pub create: Option<Check>,
    /// What a change may not do: the new object, and the old.
    pub update: Option<Change>,
    /// What a change of the status may not do.
    pub status: Option<Change>,
}

/// The rules of a kind that has any.
pub(crate) fn rules(group: &str, kind: &str) -> Option<Rules> {
    match (group, kind) {
        _ => None,
    }
}

/// Fields that are for life: group, kind, path.
const IMMUTABLE: &[(&str, &str, &[&str])] = &[
    ("apps", "Deployment", &["spec", "selector"]),
    ("apps", "ReplicaSet", &["spec", "selector"]),
    ("apps", "DaemonSet", &["spec", "selector"]),
    ("batch", "Job", &["spec", "selector"]),
    ("rbac.authorization.k8s.io", "RoleBinding", &["roleRef"]),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding", &["roleRef"]),
    ("storage.k8s.io", "StorageClass", &["provisioner"]),
    ("", "Secret", &["type"]),
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
