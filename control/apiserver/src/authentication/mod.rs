//! Who asks: client certificate, service account token, bootstrap token, Keystone token, or nobody in particular.

pub mod authorities;
pub mod bootstrap;
mod credentials;

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use http::{HeaderMap, header::AUTHORIZATION};
use hypernetes_api::{
    AllTenants, ApiError, Reason, TenantId,
    auth::{TokenAuthority, TokenError, TokenInfo, TokenScope, UserInfo},
    names,
};
use hypernetes_store::{Key, ResourceId, Store};

pub use crate::authentication::authorities::client::{Certificate, Issuer, certificate};
use crate::{
    authentication::{
        authorities::{
            Authorities,
            claims::{AUDIENCE, KubernetesClaims, ServiceAccountClaims},
        },
        credentials::{Checked, Credentials, Hash},
    },
    directory::Directory,
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
    /// By a request's extensions: [`UserInfo`] inside the process, `Option<Arc<Certificate>>` from TLS.
    pub fn of(extensions: &'a http::Extensions) -> Self {
        match (extensions.get::<UserInfo>(), extensions.get::<Option<Arc<Certificate>>>()) {
            (Some(user), _) => Self::Known(user),
            (None, Some(Some(certificate))) => Self::Certificate(certificate),
            (None, Some(None)) => Self::Refused,
            (None, None) => Self::Anonymous,
        }
    }
}

pub struct Authenticator {
    pub authorities: Authorities,
    store: Arc<Store>,
    directory: Arc<Directory>,
    credentials: Credentials,
    keystone: OnceLock<Arc<dyn TokenAuthority>>,
}

/// What a token is to us.
enum Token {
    /// One of ours, for one of the audiences.
    Account(Arc<ServiceAccountClaims>),
    /// One of Keystone's.
    User(UserInfo),
    /// Nobody's, or nobody's any more.
    Invalid,
}

fn unauthorized() -> ApiError {
    ApiError::new(Reason::Unauthorized, "Unauthorized")
}

impl Authenticator {
    pub fn new(
        store: Arc<Store>,
        authorities: Authorities,
        directory: Arc<Directory>,
        all_tenants: &AllTenants,
    ) -> Self {
        let credentials = Credentials::new(store.clone(), all_tenants);
        Self { authorities, store, directory, credentials, keystone: OnceLock::new() }
    }

    /// Once, when the identity service is there.
    pub fn set_token_authority(&self, authority: Arc<dyn TokenAuthority>) {
        let _ = self.keystone.set(authority);
    }

    ///
    /// # Errors
    /// `Unauthorized` for a credential that is none, or none any more.
    pub async fn authenticate(&self, headers: &HeaderMap, connection: Connection<'_>) -> Result<UserInfo, ApiError> {
        if let Some(header) = headers.get(AUTHORIZATION) {
            let text = header.to_str().map_err(|_| unauthorized())?;
            let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
            if !scheme.eq_ignore_ascii_case("bearer") {
                return Err(unauthorized());
            }
            if let Some((id, secret)) = bootstrap::parts(token) {
                return bootstrap::authenticate(&self.store, id, secret).await?.ok_or_else(unauthorized);
            }
            return match self.token(token.trim(), &[AUDIENCE.to_owned()]).await? {
                Token::Account(claims) => Ok(service_account(&claims)),
                Token::User(user) => Ok(user),
                Token::Invalid => Err(unauthorized()),
            };
        }
        self.credentials.catch_up();
        match connection {
            Connection::Known(user) => Ok(user.clone()),
            Connection::Certificate(certificate) => {
                let good = self.directory.is_open(&certificate.user.tenant).await?
                    && self.authorities.stand_by(certificate).await?
                    && !is_revoked(&self.store, certificate);
                if good { Ok(certificate.user.clone()) } else { Err(unauthorized()) }
            }
            Connection::Refused => Err(unauthorized()),
            Connection::Anonymous => Ok(anonymous()),
        }
    }

    /// Who has a token, and for which of the audiences it is.
    ///
    /// # Errors
    /// When it cannot be found out.
    pub async fn review(&self, token: &str, audiences: &[String]) -> Result<Option<(UserInfo, Vec<String>)>, ApiError> {
        let common = |of: &[String]| audiences.iter().filter(|audience| of.contains(audience)).cloned().collect();
        Ok(match self.token(token, audiences).await? {
            Token::Account(claims) => Some((service_account(&claims), common(&claims.aud))),
            // Keystone's are for this server.
            Token::User(user) => Some((user, common(&[AUDIENCE.to_owned()]))).filter(|(_, common)| !common.is_empty()),
            Token::Invalid => None,
        })
    }

    async fn token(&self, token: &str, audiences: &[String]) -> Result<Token, ApiError> {
        if token.is_empty() || token.len() > MAX_TOKEN {
            return Ok(Token::Invalid);
        }
        let hash = Hash::of(token);
        if let Some(Checked { claims, signer }) = self.credentials.get(hash).await?
            && !claims.is_over(jiff::Timestamp::now())
            && self.authorities.still_signs(&signer).await?
        {
            let good = claims.is_for(audiences) && self.directory.is_open(&claims.tenant).await?;
            return Ok(if good { Token::Account(claims) } else { Token::Invalid });
        }
        if let Some(signer) = self.authorities.signer(token).await?
            && let Some(claims) = signer.claims(token)
        {
            let checked = Checked { claims: Arc::new(claims), signer };
            let good = self.check(hash, &checked).await? && checked.claims.is_for(audiences);
            return Ok(if good { Token::Account(checked.claims) } else { Token::Invalid });
        }
        let Some(keystone) = self.keystone.get() else { return Ok(Token::Invalid) };
        match keystone.validate(token).await {
            Ok(info) => Ok(keystone_user(info).map_or(Token::Invalid, Token::User)),
            Err(TokenError::Invalid) => Ok(Token::Invalid),
            Err(TokenError::Unavailable(why)) => Err(ApiError::new(Reason::ServiceUnavailable, why)),
        }
    }

    /// Whether the tenant, the service account, and the pod or secret that a token was made for, are still those that it names.
    /// One of which they are is known from then on.
    async fn check(&self, hash: Hash, checked: &Checked) -> Result<bool, ApiError> {
        let claims = &checked.claims;
        if !self.directory.is_open(&claims.tenant).await? {
            return Ok(false);
        }
        let begun = self.credentials.begin(claims.tenant.as_str()).await?;
        let KubernetesClaims { namespace, serviceaccount, pod, secret } = &claims.kubernetes;
        let named = [("serviceaccounts", Some(serviceaccount)), ("pods", pod.as_ref()), ("secrets", secret.as_ref())];
        let mut keys = Vec::new();
        for (plural, named) in named.into_iter().filter_map(|(plural, named)| Some((plural, named?))) {
            let key = Key::new(&ResourceId::new("", plural), &claims.tenant, namespace, &named.name)?;
            let Some(entry) = self.store.get(&key).await? else { return Ok(false) };
            if stored_form::decode(&entry)?["metadata"]["uid"] != named.uid.as_str() {
                return Ok(false);
            }
            keys.push(key);
        }
        self.credentials.put(hash, checked.clone(), keys, begun).await?;
        Ok(true)
    }
}

/// As upstream names a service account and the token that it comes with.
fn service_account(claims: &ServiceAccountClaims) -> UserInfo {
    let KubernetesClaims { namespace, serviceaccount, pod, .. } = &claims.kubernetes;
    let extra = |name: &str, value: &str| (format!("authentication.kubernetes.io/{name}"), vec![value.to_owned()]);
    let of_pod = pod.iter().flat_map(|pod| [extra("pod-name", &pod.name), extra("pod-uid", &pod.uid)]);
    UserInfo {
        name: format!("{}{namespace}:{}", names::USER_SERVICE_ACCOUNT_PREFIX, serviceaccount.name),
        uid: serviceaccount.uid.clone(),
        groups: vec![
            names::GROUP_SERVICE_ACCOUNTS.into(),
            format!("{}:{namespace}", names::GROUP_SERVICE_ACCOUNTS),
            names::GROUP_AUTHENTICATED.into(),
        ],
        extra: [extra("credential-id", &format!("JTI={}", claims.jti))].into_iter().chain(of_pod).collect(),
        tenant: claims.tenant.clone(),
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

/// Whom the log names for a valid token, whatever that is good for: what is asked without a project is the operator's to see.
pub fn named(info: &TokenInfo) -> UserInfo {
    keystone_user(info.clone()).unwrap_or_else(|| UserInfo {
        name: keystone_name(info).unwrap_or_else(|| info.user_id.clone()),
        uid: info.user_id.clone(),
        groups: Vec::new(),
        extra: BTreeMap::new(),
        tenant: TenantId::system(),
    })
}

/// As the store was when the request was begun to be looked at: who asks waited for that, but for questions of health.
fn is_revoked(store: &Store, certificate: &Certificate) -> bool {
    store.recent(&certificate.revocation).is_some()
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
