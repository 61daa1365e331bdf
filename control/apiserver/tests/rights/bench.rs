//! Two tenants that have the same names, and who acts in them.

use hypernetes_api::auth::UserInfo;
use hypernetes_testing::{
    requests::user,
    server::{ACME, GLOBEX, InProcess},
};

pub const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// A tenant's admin, as Keystone knows them.
pub fn admin(tenant: &str) -> UserInfo {
    user("admin", &["keystone:admin"], tenant)
}

pub fn member(tenant: &str) -> UserInfo {
    user("member", &["keystone:member"], tenant)
}

pub fn operator() -> UserInfo {
    user("operator", &["system:masters"], "system")
}

pub fn node(name: &str) -> UserInfo {
    user(&format!("system:node:{name}"), &["system:nodes"], "system")
}

/// Both tenants, and the system, have the namespace `default` with its service account.
pub async fn furnished() -> InProcess {
    let api = InProcess::with_tenants().await;
    for tenant in ["system", ACME, GLOBEX] {
        api.account(tenant).await;
    }
    api
}
