//! What one tenant's authority signs is worth nothing anywhere else, whatever it says.

use std::time::Duration;

use axum::body::Body;
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use http::Request;
use hypernetes_api::names;
use hypernetes_apiserver::authentication::authorities::openid;
use hypernetes_testing::{
    http::Answer,
    requests::{Refused, infrastructure, user},
    server::{ACME, GLOBEX, InProcess},
};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::KeyPair;
use serde_json::{Value, json};

use crate::{
    bench::{RBAC, admin, furnished, member, node, operator},
    tls::{Tls, authority, long_authority, secret, tenants},
};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const TOKEN: &str = "/api/v1/namespaces/default/serviceaccounts/default/token";
const ADMIN: &str = names::GROUP_KEYSTONE_ADMIN;
const AUDIENCE: &str = "https://kubernetes.default.svc";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_good_for_its_authoritys_own_tenant() {
    let bench = furnished().await;
    let tls = Tls::start(&bench.server).await;
    let (acme, globex) = (tenants(&bench, ACME).await, tenants(&bench, GLOBEX).await);
    assert_eq!(tls.code(&acme, ADMIN, &[ACME], MAPS).await, 200);
    assert_eq!(tls.code(&globex, ADMIN, &[GLOBEX], MAPS).await, 200);
    assert_eq!(tls.code(&tls.authority, names::GROUP_MASTERS, &["system"], MAPS).await, 200);
    // What it says of others, of nobody, or of more than one.
    for claimed in [&[GLOBEX][..], &["system"], &[], &[ACME, GLOBEX], &[ACME, "system"]] {
        for group in [ADMIN, names::GROUP_MASTERS, names::GROUP_INFRASTRUCTURE] {
            assert_eq!(tls.code(&acme, group, claimed, MAPS).await, 401, "{claimed:?} {group}");
        }
    }
    // Groups of the system's are nobody's in a tenant.
    for group in [names::GROUP_MASTERS, names::GROUP_INFRASTRUCTURE, names::GROUP_NODES, "system:serviceaccounts"] {
        for cluster in ["", &format!("/clusters/{GLOBEX}"), "/clusters/system", "/clusters/*"] {
            assert_eq!(tls.code(&acme, group, &[ACME], &format!("{cluster}{MAPS}")).await, 403, "{group} {cluster}");
        }
    }
    for cluster in [GLOBEX, "globex", "system", "*"] {
        let path = format!("/clusters/{cluster}{MAPS}");
        assert_eq!(tls.code(&acme, ADMIN, &[ACME], &path).await, 403, "{cluster}");
    }
    // An authority is known by its key, not by its name; one that there is not is nobody's.
    let none = "00000000000000000000000000000000";
    for name in ["hypernetes", &format!("hypernetes:tenant:{ACME}"), &format!("hypernetes:tenant:{none}"), "x"] {
        for claimed in [ACME, none, "system"] {
            let code = tls.code(&authority(name).0, names::GROUP_MASTERS, &[claimed], MAPS).await;
            assert_eq!(code, 0, "{name} {claimed}");
        }
    }
    // Nor does the system's authority sign for tenants any more.
    assert_eq!(tls.code(&tls.authority, ADMIN, &[ACME], MAPS).await, 401);
    assert_eq!(tls.code(&tls.authority, names::GROUP_MASTERS, &[], MAPS).await, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_authority_signed_ends_with_it() {
    let bench = furnished().await;
    let tls = Tls::start(&bench.server).await;
    let (acme, globex) = (tenants(&bench, ACME).await, tenants(&bench, GLOBEX).await);
    let mut open = tls.connect(&acme, ADMIN, &[ACME]).await.unwrap();
    let mut other = tls.connect(&globex, ADMIN, &[GLOBEX]).await.unwrap();
    let made = bench.post(&admin(ACME), TOKEN, json!({"spec": {}})).await.ok();
    let token = made["status"]["token"].as_str().unwrap().to_owned();
    assert_eq!((open.get(MAPS).await.unwrap(), other.get(MAPS).await.unwrap()), (200, 200));
    with(&bench, &token).await.refused(403, "Forbidden");
    // The operator takes the authority away, and a new one comes: what the first one signed stays nobody's.
    let place = format!("/clusters/system/api/v1/namespaces/hypernetes-identity/secrets/authority-{ACME}");
    bench.delete(&operator(), &place).await.ok();
    assert_eq!(open.get(MAPS).await.unwrap(), 401);
    assert_eq!(tls.code(&acme, ADMIN, &[ACME], MAPS).await, 0);
    with(&bench, &token).await.refused(401, "Unauthorized");
    let again = tenants(&bench, ACME).await;
    assert_eq!(open.get(MAPS).await.unwrap(), 401);
    assert_eq!(tls.code(&acme, ADMIN, &[ACME], MAPS).await, 0);
    with(&bench, &token).await.refused(401, "Unauthorized");
    let mut open = tls.connect(&again, ADMIN, &[ACME]).await.unwrap();
    assert_eq!(open.get(MAPS).await.unwrap(), 200);
    // The project goes: at once, whatever is still to be cleared away.
    let made = bench.post(&admin(ACME), TOKEN, json!({"spec": {}})).await.ok();
    bench.delete(&operator(), &format!("/apis/identity.hypernetes.io/v1alpha1/projects/{ACME}")).await.ok();
    assert_eq!(open.get(MAPS).await.unwrap(), 401);
    assert_eq!(tls.code(&again, ADMIN, &[ACME], MAPS).await, 401);
    with(&bench, made["status"]["token"].as_str().unwrap()).await.refused(401, "Unauthorized");
    // None is made for a tenant that there is not.
    bench.delete(&operator(), &place).await.ok();
    let path = format!("/clusters/{ACME}{TOKEN}");
    bench.post(&infrastructure(), &path, json!({"spec": {}})).await.refused(404, "NotFound");
    bench.get(&operator(), &place).await.refused(404, "NotFound");
    assert_eq!(other.get(MAPS).await.unwrap(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_is_renewed_and_what_it_signed_goes_on_until_its_end() {
    let bench = furnished().await;
    let tls = Tls::start(&bench.server).await;
    let place = format!("/clusters/system/api/v1/namespaces/hypernetes-identity/secrets/authority-{ACME}");
    // None is good for longer than one may be, whoever has the authority's key.
    let (first, year) = (tenants(&bench, ACME).await, Duration::from_secs(366 * 86_400));
    for (lifetime, wanted) in [(year, 200), (year + year, 0)] {
        let code = match tls.connect_for(lifetime, &first, ADMIN, &[ACME]).await {
            Ok(mut client) => client.get(MAPS).await.unwrap_or(0),
            Err(_) => 0,
        };
        assert_eq!(code, wanted, "{lifetime:?}");
    }
    // One of when they lasted for ten years.
    let ten_years = long_authority(&format!("hypernetes:tenant:{ACME}"));
    let data = |name: &str, text: &str| json!({"data": {name: STANDARD.encode(text)}});
    bench.merge(&operator(), &place, data("ca.crt", &ten_years.1)).await.ok();
    bench.merge(&operator(), &place, data("ca.key", &ten_years.0.key().serialize_pem())).await.ok();
    let mut open = tls.connect(&ten_years.0, ADMIN, &[ACME]).await.unwrap();
    assert_eq!(open.get(MAPS).await.unwrap(), 200);
    let token = bench.post(&admin(ACME), TOKEN, json!({"spec": {}})).await.ok()["status"]["token"].clone();
    let renewed = bench.get(&operator(), &place).await.ok();
    assert_ne!(renewed["data"]["ca.crt"], STANDARD.encode(&ten_years.1));
    assert_eq!(renewed["data"]["earlier-ca.crt"], STANDARD.encode(&ten_years.1));
    let again = tenants(&bench, ACME).await;
    assert_eq!(bench.get(&operator(), &place).await.ok()["data"], renewed["data"], "once");
    assert_eq!(tls.code(&again, ADMIN, &[ACME], MAPS).await, 200);
    assert_eq!(tls.code(&ten_years.0, ADMIN, &[ACME], MAPS).await, 200);
    assert_eq!(open.get(MAPS).await.unwrap(), 200);
    with(&bench, token.as_str().unwrap()).await.refused(403, "Forbidden");
    // Its time is over when all has ended that it signed.
    let over = jiff::Timestamp::now().to_string();
    bench.merge(&operator(), &place, data("earlier-ca-until", &over)).await.ok();
    assert_eq!(tls.code(&ten_years.0, ADMIN, &[ACME], MAPS).await, 0);
    assert_eq!(open.get(MAPS).await.unwrap(), 401);
    assert_eq!(tls.code(&again, ADMIN, &[ACME], MAPS).await, 200);
}

/// A connection may last longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_ends_on_a_connection_that_goes_on() {
    let bench = furnished().await;
    let tls = Tls::start(&bench.server).await;
    let acme = tenants(&bench, ACME).await;
    // On a busy machine the first may be over before it is shown.
    for seconds in [2, 10, 60] {
        let Ok(mut client) = tls.connect_for(Duration::from_secs(seconds), &acme, ADMIN, &[ACME]).await else {
            continue;
        };
        let Ok(200) = client.get(MAPS).await else { continue };
        let (mut code, shown) = (200, std::time::Instant::now());
        while code == 200 {
            assert!(shown.elapsed() < Duration::from_secs(seconds + 30), "it goes on for ever");
            tokio::time::sleep(Duration::from_millis(20)).await;
            code = client.get(MAPS).await.unwrap();
        }
        assert_eq!(code, 401);
        return;
    }
    panic!("none is good for a minute");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_given_another_certificate_goes_on() {
    let bench = furnished().await;
    let tls = Tls::start(&bench.server).await;
    let acme = tenants(&bench, ACME).await;
    let mut open = tls.connect(&acme, ADMIN, &[ACME]).await.unwrap();
    assert_eq!(open.get(MAPS).await.unwrap(), 200);
    tls.renew();
    assert_eq!(open.get(MAPS).await.unwrap(), 200);
    let mut new = tls.connect(&acme, ADMIN, &[ACME]).await.unwrap();
    assert_eq!(new.get(MAPS).await.unwrap(), 200);
    assert_ne!(new.shown(), open.shown());
}

/// What the server's timer does, at another time.
#[tokio::test]
async fn authorities_are_renewed_though_nobody_needs_them() {
    let bench = furnished().await;
    let authorities = bench.server.authorities();
    let after = |days: i64| jiff::Timestamp::now() + jiff::SignedDuration::from_hours(days * 24);
    let certificates = async || {
        let (acme, globex) = (secret(&bench, ACME, "ca.crt").await, secret(&bench, GLOBEX, "ca.crt").await);
        [acme, globex].map(|text| (hypernetes_certificates::issue::validity(text.as_bytes()).unwrap().1, text))
    };
    let first = certificates().await;
    authorities.renew_due(after(371)).await.unwrap();
    assert_eq!(certificates().await, first);
    let token = secret(&bench, ACME, "token.key").await;
    for _ in 0..2 {
        authorities.renew_due(after(374)).await.unwrap();
        for (tenant, before) in [(ACME, &first[0].1), (GLOBEX, &first[1].1)] {
            let place = format!("/clusters/system/api/v1/namespaces/hypernetes-identity/secrets/authority-{tenant}");
            let stored = bench.get(&operator(), &place).await.ok()["data"].clone();
            let text = String::from_utf8(STANDARD.decode(stored["ca.crt"].as_str().unwrap()).unwrap()).unwrap();
            let until = hypernetes_certificates::issue::validity(text.as_bytes()).unwrap().1;
            assert!(until > after(374 + 738) && until < after(374 + 740), "{until}");
            assert_eq!(stored["earlier-ca.crt"], STANDARD.encode(before), "once");
        }
    }
    assert_eq!(secret(&bench, ACME, "token.key").await, token);
}

async fn with(bench: &InProcess, token: &str) -> Answer {
    at(bench, token, MAPS).await
}

async fn at(bench: &InProcess, token: &str, path: &str) -> Answer {
    let request = Request::builder().uri(path).header("authorization", format!("Bearer {token}"));
    bench.answer(request.body(Body::empty()).unwrap()).await
}

fn payload(token: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

fn signed(key: &EncodingKey, kid: Option<&str>, claims: &Value) -> String {
    let header = Header { kid: kid.map(str::to_owned), ..Header::new(Algorithm::ES256) };
    jsonwebtoken::encode(&header, claims, key).unwrap()
}

#[tokio::test]
async fn a_token_is_good_for_its_issuers_own_tenant() {
    let bench = furnished().await;
    let token = async |tenant: &str| {
        let made = bench.post(&admin(tenant), TOKEN, json!({"spec": {}})).await.ok();
        made["status"]["token"].as_str().unwrap().to_owned()
    };
    let (acme, globex) = (token(ACME).await, token(GLOBEX).await);
    for (tenant, token) in [(ACME, &acme), (GLOBEX, &globex)] {
        assert_eq!(payload(token)["iss"], format!("{AUDIENCE}/clusters/{tenant}"));
        // The default account may do nothing, but it is known.
        with(&bench, token).await.refused(403, "Forbidden");
    }
    at(&bench, &acme, &format!("/clusters/{GLOBEX}{MAPS}")).await.refused(403, "Forbidden");
    let kid = |token: &str| jsonwebtoken::decode_header(token).unwrap().kid.unwrap();
    let (of_acme, of_globex) = (kid(&acme), kid(&globex));
    assert_ne!(of_acme, of_globex);
    // As whoever had acme's key could sign.
    let key = EncodingKey::from_ec_pem(secret(&bench, ACME, "token.key").await.as_bytes()).unwrap();
    let changed = |token: &str, changes: &[(&str, Value)]| {
        let mut claims = payload(token);
        for (name, value) in changes {
            claims[*name] = value.clone();
        }
        claims
    };
    let iss = |tenant: &str| ("iss", json!(format!("{AUDIENCE}/clusters/{tenant}")));
    let tenant = |tenant: &str| ("hypernetes.io/tenant", json!(tenant));
    let before = ("exp", json!(jiff::Timestamp::now().as_second() - 60));
    let tried = [
        ("as it is", &acme, vec![], 403),
        ("another tenant's issuer", &acme, vec![iss(GLOBEX)], 401),
        ("another tenant", &acme, vec![tenant(GLOBEX)], 401),
        ("another tenant and its issuer", &acme, vec![tenant(GLOBEX), iss(GLOBEX)], 401),
        ("the system", &acme, vec![tenant("system"), iss("system")], 401),
        ("what another's token says", &globex, vec![], 401),
        ("the issuer of before", &acme, vec![("iss", json!(AUDIENCE))], 401),
        ("another audience", &acme, vec![("aud", json!(["vault"]))], 401),
        ("expired", &acme, vec![before], 401),
    ];
    for (what, token, changes, code) in tried {
        let claims = changed(token, &changes);
        let answer = with(&bench, &signed(&key, Some(&of_acme), &claims)).await;
        assert_eq!(answer.status.as_u16(), code, "{what}: {}", answer.body);
        for kid in [Some(of_globex.as_str()), None, Some(""), Some("../token.key")] {
            let answer = with(&bench, &signed(&key, kid, &claims)).await;
            assert_eq!(answer.status.as_u16(), 401, "{what} {kid:?}: {}", answer.body);
        }
    }
    let text = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    for alg in ["none", "None", "HS256", "RS256"] {
        let parts = [text(json!({"alg": alg, "kid": of_acme})), text(payload(&acme))];
        for signature in ["", acme.split('.').nth(2).unwrap()] {
            let answer = with(&bench, &format!("{}.{}.{signature}", parts[0], parts[1])).await;
            answer.refused(401, "Unauthorized");
        }
    }
    // A review says the same, and of another tenant's token that it is none.
    let review = async |tenant: &str, token: &str| {
        let body = json!({"spec": {"token": token}});
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        bench.post(&admin(tenant), path, body).await.ok()["status"]["authenticated"].clone()
    };
    assert_eq!((review(ACME, &acme).await, review(GLOBEX, &acme).await), (json!(true), json!(false)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_given_out_before_ends_by_itself() {
    let bench = furnished().await;
    let tls = Tls::start(&bench.server).await;
    let made = bench.post(&admin(ACME), TOKEN, json!({"spec": {}})).await.ok();
    let now = payload(made["status"]["token"].as_str().unwrap());
    let key = KeyPair::generate().unwrap();
    let encoding = EncodingKey::from_ec_pem(key.serialize_pem().as_bytes()).unwrap();
    let old = |iat: i64, exp: i64| {
        let mut claims = now.clone();
        (claims["iss"], claims["iat"], claims["exp"]) = (AUDIENCE.into(), iat.into(), exp.into());
        signed(&encoding, None, &claims)
    };
    let issued = now["iat"].as_i64().unwrap();
    with(&bench, &old(issued, issued + 3600)).await.refused(401, "Unauthorized");
    bench.server.authorities().begin(Some(&key.public_key_pem())).await.unwrap();
    // A second time nothing is recorded, neither the moment nor another key.
    let other = KeyPair::generate().unwrap();
    bench.server.authorities().begin(Some(&other.public_key_pem())).await.unwrap();
    with(&bench, &old(issued, issued + 3600)).await.refused(403, "Forbidden");
    with(&bench, &old(issued + 3600, issued + 7200)).await.refused(401, "Unauthorized");
    with(&bench, &old(issued, issued + 30 * 86_400)).await.refused(401, "Unauthorized");
    let encoding = EncodingKey::from_ec_pem(other.serialize_pem().as_bytes()).unwrap();
    let mut claims = now.clone();
    claims["iss"] = AUDIENCE.into();
    with(&bench, &signed(&encoding, None, &claims)).await.refused(401, "Unauthorized");
    // Certificates of tenants, of the system's authority: theirs alone, as before.
    assert_eq!(tls.code(&tls.authority, ADMIN, &[ACME], MAPS).await, 200);
    let elsewhere = format!("/clusters/{GLOBEX}{MAPS}");
    for group in [ADMIN, names::GROUP_MASTERS, names::GROUP_INFRASTRUCTURE] {
        assert_eq!(tls.code(&tls.authority, group, &[ACME], &elsewhere).await, 403, "{group}");
    }
    // Past the time that they had at most.
    let place = "/clusters/system/api/v1/namespaces/hypernetes-identity/secrets/authority-system";
    let until = jiff::Timestamp::now().checked_sub(jiff::SignedDuration::from_hours(31 * 24)).unwrap().to_string();
    let until = STANDARD.encode(until);
    bench.merge(&operator(), place, json!({"data": {"earlier-until": until}})).await.ok();
    assert_eq!(tls.code(&tls.authority, ADMIN, &[ACME], MAPS).await, 401);
    with(&bench, &old(issued, issued + 3600)).await.refused(401, "Unauthorized");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_authority_is_made_however_many_ask_and_is_the_operators_to_read() {
    let bench = furnished().await;
    let admin = admin(ACME);
    let ask = || async { bench.post(&admin, TOKEN, json!({"spec": {}})).await.ok()["status"]["token"].clone() };
    let tokens = futures::future::join_all((0..32).map(|_| ask())).await;
    let kids: std::collections::BTreeSet<_> =
        tokens.iter().map(|token| jsonwebtoken::decode_header(token.as_str().unwrap()).unwrap().kid).collect();
    assert_eq!(kids.len(), 1);
    let all = "/clusters/system/api/v1/namespaces/hypernetes-identity/secrets";
    let place = format!("{all}/authority-{ACME}");
    bench.get(&operator(), &place).await.ok();
    // Whatever roles there are in the operator's cluster.
    let rules = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
    bench
        .post(&operator(), &format!("{RBAC}/clusterroles"), json!({"metadata": {"name": "a"}, "rules": rules}))
        .await
        .ok();
    let binding = json!({"metadata": {"name": "a"}, "roleRef": {"kind": "ClusterRole", "name": "a"},
        "subjects": [{"kind": "User", "name": "eve"}]});
    bench.post(&operator(), &format!("{RBAC}/clusterrolebindings"), binding).await.ok();
    let reader = user("reader", &[names::GROUP_KEYSTONE_READER], "system");
    for who in [admin.clone(), member(ACME), node("one"), user("eve", &[], "system"), reader] {
        for path in [place.as_str(), all, "/clusters/system/api/v1/secrets", "/clusters/*/api/v1/secrets"] {
            bench.get(&who, path).await.forbidden();
        }
        bench.delete(&who, &place).await.forbidden();
    }
}

#[tokio::test]
async fn others_can_check_a_tenants_tokens() {
    let bench = furnished().await;
    let made = bench.post(&admin(ACME), TOKEN, json!({"spec": {"audiences": ["vault", AUDIENCE]}})).await.ok();
    let token = made["status"]["token"].as_str().unwrap();
    // Service accounts may, as upstream binds it; others of the tenant if they are given the role.
    let found = at(&bench, token, openid::CONFIGURATION).await.ok();
    let issuer = found["issuer"].as_str().unwrap();
    assert_eq!(found["jwks_uri"], format!("{issuer}{}", openid::KEYS));
    let keys = at(&bench, token, openid::KEYS).await.ok();
    let key = &keys["keys"][0];
    assert_eq!(key["kid"], jsonwebtoken::decode_header(token).unwrap().kid.unwrap());
    let mut validation = Validation::new(Algorithm::ES256);
    validation.set_issuer(&[issuer]);
    validation.set_audience(&["vault"]);
    let key = DecodingKey::from_ec_components(key["x"].as_str().unwrap(), key["y"].as_str().unwrap()).unwrap();
    jsonwebtoken::decode::<Value>(token, &key, &validation).unwrap();
    for path in [openid::CONFIGURATION, openid::KEYS] {
        bench.get(&admin(ACME), path).await.ok();
        bench.get(&member(ACME), path).await.forbidden();
        bench.get(&admin(GLOBEX), &format!("/clusters/{ACME}{path}")).await.forbidden();
        at(&bench, token, &format!("/clusters/{GLOBEX}{path}")).await.refused(403, "Forbidden");
        let nobody = bench.answer(Request::builder().uri(path).body(Body::empty()).unwrap()).await;
        nobody.refused(403, "Forbidden");
    }
}
