//! Who asks: client certificate, service account token, bootstrap token, Keystone token, or nobody in particular.

pub mod authorities;
pub mod bootstrap;

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use http::{HeaderMap, header::AUTHORIZATION};
use hypernetes_api::{
    ApiError, Reason, TenantId,
    auth::{TokenAuthority, TokenError, TokenInfo, TokenScope, UserInfo},
    names,
};
use hypernetes_store::{Key, ResourceId, Store};
use serde::{Deserialize, de::IgnoredAny};

pub use crate::authentication::authorities::client::{Certificate, Issuer, certificate};
use crate::{
    authentication::authorities::{
        Authorities,
        claims::{AUDIENCE, KubernetesClaims, ServiceAccountClaims},
    },
    stored_form,
};

/// Longest credential that is looked at.
const MAX_TOKEN: usize = 8 << 10;

/// Who a request is from by the way that it has come.
#[derive(Clone, Copy)]
pub enum Connection<'a> {
    /// One of the server's own components.
    Known(&'a UserInfo),
    Certificate(&'a Certificate),
    /// A certificate of ours that is nobody's.
    Refused,
    Anonymous,
}

impl<'a> Connection<'a> {
    /// By a request's extensions: [`UserInfo`] inside the process, `Option<Certificate>` from TLS.
    pub fn of(extensions: &'a http::Extensions) -> Self {
        match (extensions.get::<UserInfo>(), extensions.get::<Option<Certificate>>()) {
            (Some(user), _) => Self::Known(user),
            (None, Some(Some(certificate))) => Self::Certificate(certificate),
            (None, Some(None)) => Self::Refused,
            (None, None) => Self::Anonymous,
        }
    }
}

pub struct Authenticator {
    pub authorities: Authorities,
    keystone: OnceLock<Arc<dyn TokenAuthority>>,
}

impl Authenticator {
    pub fn new(authorities: Authorities) -> Self {
        Self { authorities, keystone: OnceLock::new() }
    }

    /// Once, when the identity service is there.
    pub fn set_token_authority(&self, authority: Arc<dyn TokenAuthority>) {
        let _ = self.keystone.set(authority);
    }

    ///
    /// # Errors
    /// `Unauthorized` for a credential that is none, or none any more.
    pub async fn authenticate(
        &self,
        store: &Store,
        headers: &HeaderMap,
        connection: Connection<'_>,
    ) -> Result<UserInfo, ApiError> {
        let unauthorized = || ApiError::new(Reason::Unauthorized, "Unauthorized");
        if let Some(header) = headers.get(AUTHORIZATION) {
            let text = header.to_str().map_err(|_| unauthorized())?;
            let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
            let token = token.trim();
            if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() || token.len() > MAX_TOKEN {
                return Err(unauthorized());
            }
            if let Some(claims) = self.authorities.claims(token, &[AUDIENCE.to_owned()]).await? {
                return if is_current(store, &claims).await? {
                    Ok(service_account(claims))
                } else {
                    Err(unauthorized())
                };
            }
            if let Some((id, secret)) = bootstrap::parts(token) {
                return bootstrap::authenticate(store, id, secret).await?.ok_or_else(unauthorized);
            }
            let Some(keystone) = self.keystone.get() else { return Err(unauthorized()) };
            return match keystone.validate(token).await {
                Ok(info) => keystone_user(info).ok_or_else(unauthorized),
                Err(TokenError::Invalid) => Err(unauthorized()),
                Err(TokenError::Unavailable(why)) => Err(ApiError::new(Reason::ServiceUnavailable, why)),
            };
        }
        match connection {
            Connection::Known(user) => Ok(user.clone()),
            Connection::Certificate(certificate) => {
                let good = is_open(store, &certificate.user.tenant).await?
                    && self.authorities.stand_by(certificate).await?
                    && !is_revoked(store, certificate).await?;
                if good { Ok(certificate.user.clone()) } else { Err(unauthorized()) }
            }
            Connection::Refused => Err(unauthorized()),
            Connection::Anonymous => Ok(anonymous()),
        }
    }
}

/// Whether the tenant, the service account, and the pod or secret that the token was made for, are still those that it names.
pub async fn is_current(store: &Store, claims: &ServiceAccountClaims) -> Result<bool, ApiError> {
    if !is_open(store, &claims.tenant).await? {
        return Ok(false);
    }
    let KubernetesClaims { namespace, serviceaccount, pod, secret } = &claims.kubernetes;
    let named = [("serviceaccounts", Some(serviceaccount)), ("pods", pod.as_ref()), ("secrets", secret.as_ref())];
    for (plural, named) in named.into_iter().filter_map(|(plural, named)| Some((plural, named?))) {
        let key = Key::new(&ResourceId::new("", plural), &claims.tenant, namespace, &named.name)?;
        let Some(entry) = store.get(&key).await? else { return Ok(false) };
        if stored_form::decode(&entry)?["metadata"]["uid"] != named.uid.as_str() {
            return Ok(false);
        }
    }
    Ok(true)
}

pub fn service_account(claims: ServiceAccountClaims) -> UserInfo {
    let KubernetesClaims { namespace, serviceaccount, .. } = claims.kubernetes;
    UserInfo {
        name: format!("{}{namespace}:{}", names::USER_SERVICE_ACCOUNT_PREFIX, serviceaccount.name),
        uid: serviceaccount.uid,
        groups: vec![
            names::GROUP_SERVICE_ACCOUNTS.into(),
            format!("{}:{namespace}", names::GROUP_SERVICE_ACCOUNTS),
            names::GROUP_AUTHENTICATED.into(),
        ],
        extra: BTreeMap::new(),
        tenant: claims.tenant,
    }
}

fn anonymous() -> UserInfo {
    UserInfo {
        name: names::USER_ANONYMOUS.into(),
        uid: String::new(),
        groups: vec![names::GROUP_UNAUTHENTICATED.into()],
        extra: BTreeMap::new(),
        tenant: TenantId::system(),
    }
}

/// The identity of the server's own components.
pub fn infrastructure() -> UserInfo {
    UserInfo {
        name: "hypernetes:server".into(),
        uid: String::new(),
        groups: vec![
            names::GROUP_INFRASTRUCTURE.into(),
            names::GROUP_MASTERS.into(),
            names::GROUP_AUTHENTICATED.into(),
        ],
        extra: BTreeMap::new(),
        tenant: TenantId::system(),
    }
}

/// The name of a Keystone user in Kubernetes: the user's own in the default domain, `name@domain` in the others. The domain
/// is what is behind the last `@`, so that no two users have one name; one that has an `@` itself is named by its id.
/// `None` for a name that only the system gives.
fn keystone_name(info: &TokenInfo) -> Option<String> {
    let name = &info.user_name;
    if name.is_empty() || names::is_reserved(name) {
        return None;
    }
    let default = info.user_domain_id == names::DEFAULT_DOMAIN;
    Some(match &info.user_domain_name {
        _ if default && !name.contains('@') => name.clone(),
        domain if domain.contains('@') => format!("{name}@{}", info.user_domain_id),
        domain => format!("{name}@{domain}"),
    })
}

/// A token's user in the logical cluster of its project; a token without one is for Keystone alone.
fn keystone_user(info: TokenInfo) -> Option<UserInfo> {
    let mut groups = vec![names::GROUP_AUTHENTICATED.to_owned()];
    let tenant = match &info.scope {
        TokenScope::Project { id, .. } => {
            for (role, group) in [
                ("admin", names::GROUP_KEYSTONE_ADMIN),
                ("member", names::GROUP_KEYSTONE_MEMBER),
                ("reader", names::GROUP_KEYSTONE_READER),
            ] {
                if info.has_role(role) {
                    groups.push(group.into());
                }
            }
            id.clone()
        }
        TokenScope::System => {
            groups
                .push(if info.has_role("admin") { names::GROUP_MASTERS } else { names::GROUP_KEYSTONE_READER }.into());
            TenantId::system()
        }
        TokenScope::Unscoped | TokenScope::Domain { .. } => return None,
    };
    let name = keystone_name(&info)?;
    let extra = BTreeMap::from([("keystone.hypernetes.io/domain".to_owned(), vec![info.user_domain_name.clone()])]);
    Some(UserInfo { name, uid: info.user_id, groups, extra, tenant })
}

/// Whether a tenant's project is there and enabled, as its domain is. If not, nothing that was given out for it opens anything.
pub async fn is_open(store: &Store, tenant: &TenantId) -> Result<bool, ApiError> {
    if tenant.is_system() {
        return Ok(true);
    }
    let open = async |plural: &str, name: &str| {
        let resource = ResourceId::new("identity.hypernetes.io", plural);
        let Ok(key) = Key::new(&resource, &TenantId::system(), "", name) else { return Ok(None) };
        let entry = store.get(&key).await?;
        let closable = entry.map(|entry| Closable::of(&entry.value)).transpose()?;
        Ok::<_, ApiError>(closable.filter(Closable::is_open))
    };
    let Some(project) = open("projects", tenant.as_str()).await? else { return Ok(false) };
    Ok(open("domains", &project.spec.domain).await?.is_some())
}

/// What of a project or a domain says whether it is open. It is asked with each request of a tenant: nothing else is read.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Closable {
    metadata: ClosableMetadata,
    spec: ClosableSpec,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ClosableMetadata {
    deletion_timestamp: Option<IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ClosableSpec {
    enabled: bool,
    /// A project's.
    domain: String,
}

impl Closable {
    fn of(stored: &[u8]) -> Result<Self, ApiError> {
        serde_json::from_slice(stored_form::json(stored))
            .map_err(|error| ApiError::internal(format!("a stored object is damaged: {error}")))
    }

    fn is_open(&self) -> bool {
        self.spec.enabled && self.metadata.deletion_timestamp.is_none()
    }
}

async fn is_revoked(store: &Store, certificate: &Certificate) -> Result<bool, ApiError> {
    let name = format!("{}{}", names::CERTIFICATE_REVOCATION_PREFIX, certificate.serial);
    let resource = ResourceId::new("identity.hypernetes.io", "tokenrevocations");
    let key = Key::new(&resource, &TenantId::system(), "", &name)?;
    Ok(store.get(&key).await?.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_keystone_users_have_one_name() {
        let name = |user: &str, domain: (&str, &str)| {
            keystone_name(&TokenInfo {
                user_id: "1".into(),
                user_name: user.into(),
                user_domain_id: domain.0.into(),
                user_domain_name: domain.1.into(),
                scope: TokenScope::Unscoped,
                roles: Vec::new(),
                expires_at: jiff::Timestamp::UNIX_EPOCH,
            })
        };
        let (default, corp, odd) = (("default", "Default"), ("7f", "corp"), ("8e", "x@Default"));
        assert_eq!(name("ann", default).as_deref(), Some("ann"));
        assert_eq!(name("ann", corp).as_deref(), Some("ann@corp"));
        assert_eq!(name("ann@corp", default).as_deref(), Some("ann@corp@Default"));
        assert_eq!(name("ann", odd).as_deref(), Some("ann@8e"));
        for reserved in ["system:serviceaccount:default:robot", "system:node:a", "hypernetes:server", ""] {
            assert_eq!(name(reserved, default), None, "{reserved}");
            assert_eq!(name(reserved, corp), None, "{reserved}");
        }
    }
}
