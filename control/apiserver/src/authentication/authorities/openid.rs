//! OpenID Connect discovery of a logical cluster's issuer, so that others than this server can check its service accounts'
//! tokens (KEP-1393): `/.well-known/openid-configuration` and `/openid/v1/jwks`.

use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};
use hypernetes_api::{ApiError, TenantId};
use serde_json::json;

use super::{Authorities, claims::issuer};
use crate::answer::json_response;

pub const CONFIGURATION: &str = "/.well-known/openid-configuration";
pub const KEYS: &str = "/openid/v1/jwks";

/// The document at a path of a tenant's cluster; `None` where there is none.
///
/// # Errors
/// As [`Authorities::of`].
pub async fn document(
    authorities: &Authorities,
    tenant: &TenantId,
    path: &str,
) -> Result<Option<Response<Body>>, ApiError> {
    let of = issuer(tenant);
    Ok(match path {
        CONFIGURATION => Some(json_response(
            StatusCode::OK,
            &json!({
                "issuer": of, "jwks_uri": format!("{of}{KEYS}"), "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["ES256"],
            }),
        )),
        KEYS => {
            let authority = authorities.of(tenant).await?;
            let (x, y) = &authority.point;
            let key = json!({"use": "sig", "kty": "EC", "kid": authority.kid, "crv": "P-256", "alg": "ES256", "x": x, "y": y});
            let mut answer = json_response(StatusCode::OK, &json!({"keys": [key]}));
            answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
            Some(answer)
        }
        _ => None,
    })
}
