//! Who asks: client certificate, service account token, Keystone token, or nobody in particular.

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
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use crate::codec;

/// Longest credential that is looked at.
const MAX_TOKEN: usize = 8 << 10;
pub const ISSUER: &str = "https://kubernetes.default.svc";

/// What a service account's token says (KEP-1205), and which tenant it is of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServiceAccountClaims {
    pub iss: String,
    pub sub: String,
    pub aud: Vec<String>,
    pub exp: i64,
    pub iat: i64,
    pub nbf: i64,
    pub jti: String,
    #[serde(rename = "hypernetes.io/tenant")]
    pub tenant: TenantId,
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: KubernetesClaims,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KubernetesClaims {
    pub namespace: String,
    pub serviceaccount: Named,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pod: Option<Named>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub secret: Option<Named>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Named {
    pub name: String,
    pub uid: String,
}

pub struct Authenticator {
    encoding: EncodingKey,
    decoding: DecodingKey,
    keystone: OnceLock<Arc<dyn TokenAuthority>>,
}

impl Authenticator {
    /// `key` is a P-256 private key, PKCS #8 PEM, and `public` its public key, SPKI PEM.
    pub fn new(key: &str, public: &str) -> Result<Self, jsonwebtoken::errors::Error> {
        Ok(Self {
            encoding: EncodingKey::from_ec_pem(key.as_bytes())?,
            decoding: DecodingKey::from_ec_pem(public.as_bytes())?,
            keystone: OnceLock::new(),
        })
    }

    /// Once, when the identity service is there.
    pub fn set_token_authority(&self, authority: Arc<dyn TokenAuthority>) {
        let _ = self.keystone.set(authority);
    }

    /// `connection` is who the TLS connection's certificate says.
    ///
    /// # Errors
    /// `Unauthorized` for a credential that is none, or none any more.
    pub async fn authenticate(
        &self,
        store: &dyn Store,
        headers: &HeaderMap,
        connection: Option<&UserInfo>,
    ) -> Result<UserInfo, ApiError> {
        let unauthorized = || ApiError::new(Reason::Unauthorized, "Unauthorized");
        if let Some(header) = headers.get(AUTHORIZATION) {
            let text = header.to_str().map_err(|_| unauthorized())?;
            let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
            let token = token.trim();
            if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() || token.len() > MAX_TOKEN {
                return Err(unauthorized());
            }
            if let Some(claims) = self.claims(token, &[ISSUER.to_owned()]) {
                return if is_current(store, &claims).await? {
                    Ok(service_account(claims))
                } else {
                    Err(unauthorized())
                };
            }
            let Some(keystone) = self.keystone.get() else { return Err(unauthorized()) };
            return match keystone.validate(token).await {
                Ok(info) => keystone_user(info).ok_or_else(unauthorized),
                Err(TokenError::Invalid) => Err(unauthorized()),
                Err(TokenError::Unavailable(why)) => Err(ApiError::new(Reason::ServiceUnavailable, why)),
            };
        }
        Ok(connection.cloned().unwrap_or_else(anonymous))
    }

    pub fn issue(&self, claims: &ServiceAccountClaims) -> Result<String, ApiError> {
        jsonwebtoken::encode(&Header::new(Algorithm::ES256), claims, &self.encoding)
            .map_err(|error| ApiError::internal(format!("signing a token: {error}")))
    }

    /// What one of our tokens says, if it is for one of these audiences. Whether what it names is still there is not looked at.
    pub fn claims(&self, token: &str, audiences: &[String]) -> Option<ServiceAccountClaims> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(audiences);
        validation.leeway = 5;
        jsonwebtoken::decode(token, &self.decoding, &validation).ok().map(|data| data.claims)
    }
}

/// Whether the service account, and the pod or secret that the token was made for, are still those that it names.
pub async fn is_current(store: &dyn Store, claims: &ServiceAccountClaims) -> Result<bool, ApiError> {
    let KubernetesClaims { namespace, serviceaccount, pod, secret } = &claims.kubernetes;
    let named = [("serviceaccounts", Some(serviceaccount)), ("pods", pod.as_ref()), ("secrets", secret.as_ref())];
    for (plural, named) in named.into_iter().filter_map(|(plural, named)| Some((plural, named?))) {
        let key = Key::new(&ResourceId::new("", plural), &claims.tenant, namespace, &named.name)?;
        let Some(entry) = store.get(&key).await.map_err(crate::read::read_error)? else { return Ok(false) };
        if codec::decode(&entry)?["metadata"]["uid"] != named.uid.as_str() {
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
            "system:serviceaccounts".into(),
            format!("system:serviceaccounts:{namespace}"),
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
    if name.is_empty() || ["system:", "hypernetes:"].iter().any(|reserved| name.starts_with(reserved)) {
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

/// Who a client certificate is: common name, organizations, and the tenant in its organizational unit.
pub fn certificate_user(der: &[u8]) -> Option<UserInfo> {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| attribute.as_str().ok().map(str::to_owned);
    let name = subject.iter_common_name().next().and_then(text)?;
    let mut groups: Vec<String> = subject.iter_organization().filter_map(text).collect();
    groups.push(names::GROUP_AUTHENTICATED.into());
    let unit = subject
        .iter_organizational_unit()
        .filter_map(text)
        .find_map(|unit| unit.strip_prefix(names::CERTIFICATE_TENANT_PREFIX).map(str::to_owned));
    let tenant = match unit {
        Some(tenant) => tenant.parse().ok()?,
        None => TenantId::system(),
    };
    Some(UserInfo { name, uid: String::new(), groups, extra: BTreeMap::new(), tenant })
}
