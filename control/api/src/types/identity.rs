//! `identity.hypernetes.io`: Keystone's things, kept in the system cluster. `metadata.name` is the Keystone id
//! (32 hex digits, or `default` for the default domain).
//! A user's password hash is not here but in the Secret `user-<id>` of the system cluster's namespace `hypernetes-identity`.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where password hashes and token keys are kept, in the system cluster.
pub const IDENTITY_NAMESPACE: &str = "hypernetes-identity";

/// A Keystone domain: a namespace for the names of projects, users and groups.
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[kube(group = "identity.hypernetes.io", version = "v1alpha1", kind = "Domain", plural = "domains")]
#[serde(rename_all = "camelCase", default)]
pub struct DomainSpec {
    pub display_name: String,
    pub description: String,
    pub enabled: bool,
}

/// A Keystone project: a tenant, and so a logical cluster.
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "identity.hypernetes.io",
    version = "v1alpha1",
    kind = "Project",
    plural = "projects",
    status = "ProjectStatus"
)]
#[serde(rename_all = "camelCase", default)]
pub struct ProjectSpec {
    pub display_name: String,
    /// Id of the domain.
    pub domain: String,
    pub description: String,
    pub enabled: bool,
    pub tags: Vec<String>,
    /// The tenant's budgets, by name, where they are other than the defaults: those of the API server's table, of which each
    /// node checks [`IMAGE_BYTES`] and [`LOG_BYTES`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, u64>,
}

/// A budget that each node checks for itself.
#[derive(Debug, Clone, Copy)]
pub struct NodeBudget {
    /// In [`ProjectSpec::limits`].
    pub name: &'static str,
    /// Of a tenant of which nothing is said there.
    pub default: u64,
}

/// Bytes of images that the tenant has pulled and that are still on the node; what they share counts once.
pub const IMAGE_BYTES: NodeBudget = NodeBudget { name: "imageBytes", default: 32 << 30 };
/// Bytes of logs of the tenant's containers on the node.
pub const LOG_BYTES: NodeBudget = NodeBudget { name: "logBytes", default: 4 << 30 };

impl ProjectSpec {
    /// What the tenant may have on each node.
    pub fn limit(&self, budget: NodeBudget) -> u64 {
        self.limits.get(budget.name).copied().unwrap_or(budget.default)
    }
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ProjectStatus {
    /// `Ready` when the logical cluster has its namespaces, service accounts and default network.
    pub phase: String,
}

/// A Keystone user.
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[kube(group = "identity.hypernetes.io", version = "v1alpha1", kind = "User", plural = "users")]
#[serde(rename_all = "camelCase", default)]
pub struct UserSpec {
    pub display_name: String,
    /// Id of the domain.
    pub domain: String,
    pub description: String,
    pub email: String,
    pub enabled: bool,
    /// Id of the project used when a request names none.
    pub default_project: Option<String>,
}

/// A Keystone role.
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[kube(group = "identity.hypernetes.io", version = "v1alpha1", kind = "Role", plural = "roles")]
#[serde(rename_all = "camelCase", default)]
pub struct RoleSpec {
    pub display_name: String,
    /// Id of the domain for a domain-specific role.
    pub domain: Option<String>,
    pub description: String,
}

/// A Keystone group of users.
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[kube(group = "identity.hypernetes.io", version = "v1alpha1", kind = "Group", plural = "groups")]
#[serde(rename_all = "camelCase", default)]
pub struct GroupSpec {
    pub display_name: String,
    /// Id of the domain.
    pub domain: String,
    pub description: String,
    /// Ids of the users in it.
    pub members: Vec<String>,
}

/// A role that a user or group has in a scope. Exactly one of `user` and `group`, and one of `project`, `domain` and `system`.
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[kube(group = "identity.hypernetes.io", version = "v1alpha1", kind = "RoleAssignment", plural = "roleassignments")]
#[serde(rename_all = "camelCase", default)]
pub struct RoleAssignmentSpec {
    /// Id of the role.
    pub role: String,
    pub user: Option<String>,
    pub group: Option<String>,
    pub project: Option<String>,
    pub domain: Option<String>,
    pub system: bool,
    /// Inherited by the projects of the domain.
    pub inherited: bool,
}

/// Credentials that are no longer valid though they have not expired: a token by its audit id, all tokens of a user or project
/// issued before a moment, or a client certificate (then its name says which: `certificate-<serial>`).
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[kube(group = "identity.hypernetes.io", version = "v1alpha1", kind = "TokenRevocation", plural = "tokenrevocations")]
#[serde(rename_all = "camelCase", default)]
pub struct TokenRevocationSpec {
    pub audit_id: Option<String>,
    pub user: Option<String>,
    pub project: Option<String>,
    /// Serial number of a client certificate, in lower-case hexadecimal digits.
    pub certificate: Option<String>,
    /// Whose it counts as, of those that one may have: id of the project, or of the user, that the credential was of.
    pub charged_to: Option<String>,
    /// RFC 3339; tokens issued before it are revoked.
    pub issued_before: String,
    /// RFC 3339; after it the record can be forgotten, because the tokens have expired.
    pub expires_at: String,
}
