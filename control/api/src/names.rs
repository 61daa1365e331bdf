//! Well-known names: labels, annotations, users and groups that several components agree on.

/// Set by the API server on every object of an answer that spans tenants (`/clusters/*/…`), never stored.
/// The kubelet puts it on the sandbox that it asks the runtime for, too.
pub const TENANT_ANNOTATION: &str = "hypernetes.io/tenant";
/// On a Namespace: the name of the tenant's Network that pods of the namespace are put on.
pub const NETWORK_ANNOTATION: &str = "network.hypernetes.io/network";
/// The network every tenant has.
pub const DEFAULT_NETWORK: &str = "default";

/// The address of the Service `kubernetes` in every logical cluster: the first of 10.96.0.0/12, the range of services' addresses
/// (kubeadm's default), which is every tenant's own.
pub const KUBERNETES_ADDRESS: &str = "10.96.0.1";

/// `/clusters/<tenant>/…`
pub const CLUSTERS_PREFIX: &str = "/clusters/";
/// `/clusters/*/…`: every tenant, for infrastructure identities only.
pub const ALL_CLUSTERS: &str = "*";

/// Members may act in every tenant: the server's own controllers (`system:masters` is per logical cluster).
pub const GROUP_INFRASTRUCTURE: &str = "hypernetes:infrastructure";
/// Members are cluster-admin of the logical cluster that the request is for, as in Kubernetes.
pub const GROUP_MASTERS: &str = "system:masters";
pub const GROUP_NODES: &str = "system:nodes";
pub const GROUP_AUTHENTICATED: &str = "system:authenticated";
pub const GROUP_UNAUTHENTICATED: &str = "system:unauthenticated";
/// All service accounts of a logical cluster.
pub const GROUP_SERVICE_ACCOUNTS: &str = "system:serviceaccounts";
/// Who has a bootstrap token, and may ask for a node's certificate by it.
pub const GROUP_BOOTSTRAPPERS: &str = "system:bootstrappers";
/// `system:bootstrap:<token id>`
pub const USER_BOOTSTRAP_PREFIX: &str = "system:bootstrap:";
pub const USER_ANONYMOUS: &str = "system:anonymous";
pub const USER_NODE_PREFIX: &str = "system:node:";
/// `system:serviceaccount:<namespace>:<name>`
pub const USER_SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";
/// A client certificate's subject alternative name `hypernetes:tenant:<id>`, a URI, says whose it is: a tenant's, or the
/// system's own (`system`). One that says nothing is nobody's. The common name of a tenant's authority is this, too.
pub const CERTIFICATE_TENANT_URI: &str = "hypernetes:tenant:";
/// What tenants' certificates had before: the organizational unit `tenant:<id>`.
pub const CERTIFICATE_TENANT_UNIT: &str = "tenant:";
/// Name of the TokenRevocation of a certificate: this, and its serial number in lower-case hexadecimal digits.
pub const CERTIFICATE_REVOCATION_PREFIX: &str = "certificate-";

/// Id of Keystone's default domain.
pub const DEFAULT_DOMAIN: &str = "default";

/// Groups that a Keystone-authenticated user is in, by the roles of the token's scope.
pub const KEYSTONE_PREFIX: &str = "keystone:";
pub const GROUP_KEYSTONE_ADMIN: &str = "keystone:admin";
pub const GROUP_KEYSTONE_MEMBER: &str = "keystone:member";
pub const GROUP_KEYSTONE_READER: &str = "keystone:reader";

/// What a connection of the API server with a kubelet is upgraded to: a byte stream into a tenant's network.
pub const RELAY_PROTOCOL: &str = "hypernetes-relay";

/// Name of the CSI driver and provisioner of the built-in volume service.
pub const VOLUME_DRIVER: &str = "volume.csi.hypernetes.io";
/// In the directory of a mount that is really a block device for the VM (see `hypernetes-csi`).
pub const VOLUME_DESCRIPTOR: &str = "volume.hypernetes.json";

/// Whether a user or a group of this name is the system's to give, and no tenant's.
pub fn is_reserved(name: &str) -> bool {
    ["system:", "hypernetes:"].iter().any(|reserved| name.starts_with(reserved))
}
