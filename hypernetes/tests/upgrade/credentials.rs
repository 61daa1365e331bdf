//! Credentials as e5e31f4 made them, with its keys, which are in the fixture: those that it has made itself have ended by the
//! time that a test runs.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jiff::Timestamp;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use ring::{aead, hkdf};
use serde_json::{Value, json};

use crate::system::{Data, of_before, tenant};

fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap()
}

/// A token of the tenant's service account `robot`, given out half an hour ago and good for another; of a pod, if one is given.
pub fn service_account_token(data: &Data, of: &str, pod: Option<&Value>) -> String {
    // The server that has opened the directory takes none that is younger than that.
    let (issuer, now) = ("https://kubernetes.default.svc", Timestamp::now().as_second() - 1800);
    let robot = of_before(of, "ServiceAccount", "robot");
    let mut kubernetes = json!({"namespace": "default", "serviceaccount": {"name": "robot", "uid": uid(robot)}});
    if let Some(pod) = pod {
        kubernetes["pod"] = json!({"name": pod["metadata"]["name"], "uid": uid(pod)});
    }
    let claims = json!({
        "iss": issuer, "sub": "system:serviceaccount:default:robot", "aud": [issuer],
        "exp": now + 3600, "iat": now, "nbf": now, "jti": "4ad90b1c-0000-4000-8000-000000000000",
        "hypernetes.io/tenant": tenant(of), "kubernetes.io": kubernetes,
    });
    let key = jsonwebtoken::EncodingKey::from_ec_pem(data.service_account_key.as_bytes()).unwrap();
    jsonwebtoken::encode(&jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256), &claims, &key).unwrap()
}

/// A Keystone token of a user of the default domain in the tenant's project, good for some minutes: version, number of the key,
/// salt, and the claims encrypted by a key that is made of both.
pub fn keystone_token(user: &str, of: &str) -> String {
    let data = of_before("system", "Secret", "token-keys")["data"].as_object().unwrap();
    let (number, key) = data.iter().max_by_key(|(number, _)| number.parse::<u64>().unwrap()).unwrap();
    let (number, key) = (number.parse::<u64>().unwrap(), STANDARD.decode(key.as_str().unwrap()).unwrap());
    let now = Timestamp::now().as_microsecond();
    let user = crate::system::objects_of_before()["system"]
        .iter()
        .find(|object| object["kind"] == "User" && object["spec"]["displayName"] == user)
        .unwrap();
    let claims = json!({
        "u": user["metadata"]["name"], "s": {"p": tenant(of)}, "m": ["password"],
        "i": now, "e": now + 600_000_000, "a": ["AAAAAAAAAAAAAAAAAAAAAA"],
    });
    let header = [&[1][..], &number.to_be_bytes()].concat();
    let salt = [7; 24];
    let expanded = hkdf::Salt::new(hkdf::HKDF_SHA256, &salt).extract(&key);
    let expanded = expanded.expand(&[b"hypernetes token"], &aead::AES_256_GCM).unwrap();
    let cipher = aead::LessSafeKey::new(aead::UnboundKey::from(expanded));
    let mut content = claims.to_string().into_bytes();
    let nonce = aead::Nonce::assume_unique_for_key([0; aead::NONCE_LEN]);
    cipher.seal_in_place_append_tag(nonce, aead::Aad::from(&header), &mut content).unwrap();
    URL_SAFE_NO_PAD.encode([&header[..], &salt, &content].concat())
}

/// A client's certificate with its key, both PEM: of a tenant by its organizational unit, of the system without one.
pub fn certificate(data: &Data, user: &str, group: &str, of: Option<&str>) -> (String, String) {
    let authority = KeyPair::from_pem(&data.read("server/pki/ca.key")).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&data.read("server/pki/ca.crt"), authority).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, user);
    params.distinguished_name.push(DnType::OrganizationName, group);
    if let Some(of) = of {
        params.distinguished_name.push(DnType::OrganizationalUnitName, format!("tenant:{}", tenant(of)));
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
}
