//! Service account tokens: what one says, and how it is signed and read.
//!
//! A tenant's tokens have the issuer `https://kubernetes.default.svc/clusters/<id>`, which is also where its key is
//! published (`openid.rs`), and name their key. Which key a token is checked with goes by that name alone; whose tenant's it
//! is goes by the key.

use hypernetes_api::{ApiError, TenantId};
use jsonwebtoken::{Algorithm, Header, Validation, errors::Error};
use serde::{Deserialize, Serialize};

use super::material::{Authority, Earlier};

/// Whom a token is for that does not say: this API server. What all tokens were issued by before there were issuers.
pub const AUDIENCE: &str = "https://kubernetes.default.svc";
/// No token is good for longer, in seconds.
pub const LONGEST_SECONDS: i64 = 86_400;
/// By how much clocks may differ, in seconds.
const LEEWAY: u64 = 5;

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

impl ServiceAccountClaims {
    pub fn is_for(&self, audiences: &[String]) -> bool {
        self.aud.iter().any(|audience| audiences.contains(audience))
    }

    /// As it is looked at when the token is read.
    pub fn is_over(&self, now: jiff::Timestamp) -> bool {
        self.exp.saturating_add_unsigned(LEEWAY) < now.as_second()
    }
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

/// Who issues a tenant's tokens. The host is the name that the server's certificate always has: a tenant's issuer stays what
/// it is wherever the server is reached.
pub fn issuer(tenant: &TenantId) -> String {
    format!("{AUDIENCE}/clusters/{tenant}")
}

/// The key that a token says it was signed with, if it is a token of this kind at all.
pub fn key_of(token: &str) -> Option<Option<String>> {
    let header = jsonwebtoken::decode_header(token).ok()?;
    (header.alg == Algorithm::ES256).then_some(header.kid)
}

/// Whom a token is for is asked where that is known ([`ServiceAccountClaims::is_for`]).
fn validation(issuer: &str) -> Validation {
    let mut validation = Validation::new(Algorithm::ES256);
    validation.set_required_spec_claims(&["exp", "iss", "aud"]);
    validation.set_issuer(&[issuer]);
    validation.validate_aud = false;
    validation.leeway = LEEWAY;
    validation
}

impl Authority {
    /// # Errors
    /// When it is another tenant's, or cannot be signed.
    pub fn sign(&self, claims: &ServiceAccountClaims) -> Result<String, ApiError> {
        if claims.tenant != self.tenant {
            return Err(ApiError::internal("a token is signed by its own tenant's key"));
        }
        let header = Header { kid: Some(self.kid.clone()), ..Header::new(Algorithm::ES256) };
        let failed = |error: Error| ApiError::internal(format!("signing a token: {error}"));
        jsonwebtoken::encode(&header, claims, &self.encoding).map_err(failed)
    }

    /// What a token says, if it is this tenant's.
    pub fn claims(&self, token: &str) -> Option<ServiceAccountClaims> {
        let validation = validation(&issuer(&self.tenant));
        let claims = jsonwebtoken::decode::<ServiceAccountClaims>(token, &self.decoding, &validation).ok()?.claims;
        (claims.tenant == self.tenant).then_some(claims)
    }
}

impl Earlier {
    /// What a token says that was issued when one key signed for all. Who has that key still makes no new ones: the last of
    /// them end a day after.
    pub fn claims(&self, token: &str) -> Option<ServiceAccountClaims> {
        let validation = validation(AUDIENCE);
        let claims = jsonwebtoken::decode::<ServiceAccountClaims>(token, &self.decoding, &validation).ok()?.claims;
        let until = self.until.as_second();
        (claims.iat <= until && claims.exp <= until.saturating_add(LONGEST_SECONDS)).then_some(claims)
    }
}

#[cfg(test)]
pub mod tests {
    use jsonwebtoken::EncodingKey;
    use rcgen::KeyPair;

    use super::*;
    use crate::authentication::authorities::material;

    const ACME: &str = "0123456789abcdef0123456789abcdef";
    const GLOBEX: &str = "fedcba9876543210fedcba9876543210";

    fn claims(tenant: &str, issuer: &str, iat: i64, seconds: i64) -> ServiceAccountClaims {
        let named = Named { name: "robot".into(), uid: "1".into() };
        ServiceAccountClaims {
            iss: issuer.into(),
            sub: "system:serviceaccount:default:robot".into(),
            aud: vec![AUDIENCE.into()],
            exp: iat.saturating_add(seconds),
            iat,
            nbf: iat,
            jti: "1".into(),
            tenant: tenant.parse().unwrap(),
            kubernetes: KubernetesClaims {
                namespace: "default".into(),
                serviceaccount: named,
                pod: None,
                secret: None,
            },
        }
    }

    /// A token that a tenant's key could have signed now.
    pub fn claims_of(tenant: &str) -> ServiceAccountClaims {
        claims(tenant, &issuer(&tenant.parse().unwrap()), now(), 600)
    }

    fn authority(tenant: &str) -> Authority {
        let tenant: TenantId = tenant.parse().unwrap();
        Authority::read(tenant.clone(), &material::tenants(&tenant, "1").unwrap()).unwrap()
    }

    fn now() -> i64 {
        jiff::Timestamp::now().as_second()
    }

    #[test]
    fn a_key_signs_and_speaks_for_its_own_tenant_alone() {
        let (acme, globex) = (authority(ACME), authority(GLOBEX));
        let (of_acme, of_globex) = (issuer(&acme.tenant), issuer(&globex.tenant));
        let own = acme.sign(&claims(ACME, &of_acme, now(), 600)).unwrap();
        assert_eq!(key_of(&own), Some(Some(acme.kid.clone())));
        let read = acme.claims(&own).unwrap();
        assert_eq!(read.tenant, acme.tenant);
        assert!(read.is_for(&["vault".into(), AUDIENCE.into()]) && !read.is_for(&["vault".into()]));
        assert!(globex.claims(&own).is_none());
        assert!(acme.sign(&claims(GLOBEX, &of_globex, now(), 600)).is_err());
        // As whoever has acme's key would.
        let forged = |tenant: &str, issuer: &str, kid: &str, iat: i64| {
            let header = Header { kid: Some(kid.into()), ..Header::new(Algorithm::ES256) };
            jsonwebtoken::encode(&header, &claims(tenant, issuer, iat, 600), &acme.encoding).unwrap()
        };
        for (tenant, issuer) in [(GLOBEX, &of_globex), (GLOBEX, &of_acme), (ACME, &of_globex), ("system", &of_acme)] {
            assert!(acme.claims(&forged(tenant, issuer, &acme.kid, now())).is_none(), "{tenant} {issuer}");
            assert!(globex.claims(&forged(tenant, issuer, &globex.kid, now())).is_none(), "{tenant} {issuer}");
        }
        assert!(acme.claims(&forged(ACME, AUDIENCE, &acme.kid, now())).is_none());
        assert!(acme.claims(&forged(ACME, &of_acme, &acme.kid, now() - 1000)).is_none(), "expired");
    }

    #[test]
    fn what_has_no_signature_or_another_kind_is_no_token() {
        // {"alg":"none"} and {"alg":"HS256"}
        for header in ["eyJhbGciOiJub25lIn0", "eyJhbGciOiJIUzI1NiJ9"] {
            assert_eq!(key_of(&format!("{header}.e30.")), None, "{header}");
        }
        for text in ["", ".", "..", "a.b.c", "gAAAAABo"] {
            assert_eq!(key_of(text), None, "{text:?}");
        }
    }

    #[test]
    fn the_key_of_before_has_an_end() {
        let key = KeyPair::generate().unwrap();
        let until = jiff::Timestamp::now().checked_sub(jiff::SignedDuration::from_secs(60)).unwrap();
        let earlier = Earlier::read(&material::systems(Some(&key.public_key_pem()), until).unwrap()).unwrap().unwrap();
        let encoding = EncodingKey::from_ec_pem(key.serialize_pem().as_bytes()).unwrap();
        let token = |issuer: &str, iat: i64, seconds: i64| {
            jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims(ACME, issuer, iat, seconds), &encoding)
                .unwrap()
        };
        let accepted = |token: &str| earlier.claims(token).is_some();
        assert!(accepted(&token(AUDIENCE, now() - 600, 3600)));
        assert!(accepted(&token(AUDIENCE, now() - 600, LONGEST_SECONDS)));
        assert!(!accepted(&token(AUDIENCE, now() - 600, 500)), "expired");
        assert!(!accepted(&token(AUDIENCE, now(), 3600)), "issued after");
        assert!(!accepted(&token(AUDIENCE, now() - 600, LONGEST_SECONDS + 1000)), "longer than any was");
        assert!(!accepted(&token(&issuer(&ACME.parse().unwrap()), now() - 600, 3600)), "a new issuer");
        assert!(!accepted(&authority(ACME).sign(&claims(ACME, AUDIENCE, now() - 600, 3600)).unwrap()), "another key");
    }
}
