//! C7: credentials of one's own making, and of one's own tenant with another's name in them; as far as one could get who had
//! stolen the keys of a tenant's authority, which this command has from the operator.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hypernetes_api::{TenantId, names};
use hypernetes_apiserver::authentication::authorities::{claims::AUDIENCE, material};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType,
};
use serde_json::{Value, json};

use super::{
    findings::Findings,
    requests,
    stage::{Stage, Team},
    wire::{self, Wire},
};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const TOKENS: &str = "/api/v1/namespaces/default/serviceaccounts/default/token";
/// The source of these connections.
const SOURCE: u8 = 7;

type Authority = Issuer<'static, KeyPair>;

pub async fn run(stage: &Stage, findings: &mut Findings) -> Result<()> {
    certificates(stage, findings).await?;
    tokens(stage, findings).await?;
    requests::run(stage, findings).await?;
    ended(stage, findings).await
}

/// An authority that anybody can make.
fn self_made(name: &str) -> Result<Authority> {
    let (key, mut params) = (KeyPair::generate()?, CertificateParams::default());
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(Issuer::new(params, key))
}

const DAY: Duration = Duration::from_secs(86_400);

/// A client that shows a certificate of the authority, for a group, which names these tenants and is good for a day.
fn client(stage: &Stage, by: &Authority, group: &str, tenants: &[&str]) -> Result<Wire> {
    lasting(stage, by, group, tenants, DAY)
}

fn lasting(stage: &Stage, by: &Authority, group: &str, tenants: &[&str], time: Duration) -> Result<Wire> {
    let (key, mut params) = (KeyPair::generate()?, CertificateParams::default());
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "attack");
    params.distinguished_name.push(DnType::OrganizationName, group);
    for tenant in tenants {
        let uri = format!("{}{tenant}", names::CERTIFICATE_TENANT_URI);
        params.subject_alt_names.push(SanType::URI(uri.as_str().try_into()?));
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let now = SystemTime::now();
    (params.not_before, params.not_after) = ((now - DAY).into(), (now + time).into());
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, by)?;
    Wire::with_certificate(&stage.address, &stage.authority, certificate.der().clone(), &key.serialize_pem())
}

/// The answer to a request over a new connection; 0 when there is none.
async fn code(wire: &Wire, path: &str) -> u16 {
    let ask = async {
        let mut stream = wire.tls(SOURCE).await?;
        wire::exchange(&mut stream, &wire::request("GET", path, None, "", 0)).await
    };
    ask.await.unwrap_or(0)
}

async fn certificates(stage: &Stage, findings: &mut Findings) -> Result<()> {
    let (red, blue) = (stage.red.id.as_str(), stage.blue.id.as_str());
    let own = stage.authority_of(&stage.red).await?.issuer;
    let mine = code(&client(stage, &own, names::GROUP_KEYSTONE_ADMIN, &[red])?, SECRETS).await;
    anyhow::ensure!(mine == 200, "a tenant's own certificate is answered with {mine}");
    let long = lasting(stage, &own, names::GROUP_KEYSTONE_ADMIN, &[red], DAY * 3650)?;
    let long = code(&long, SECRETS).await;
    findings.judge("one's own certificate, for ten years", matches!(long, 0 | 401), answered(long));

    let names = [
        ("a self-made authority with another tenant's name", format!("{}{blue}", names::CERTIFICATE_TENANT_URI)),
        ("a self-made authority with the system's name", "hypernetes".to_owned()),
        ("a self-made authority with a name of its own", "attack".to_owned()),
    ];
    let mut authorities = Vec::new();
    for (what, name) in names {
        authorities.push((what, self_made(&name)?));
    }
    authorities.push(("one's own authority, were its key stolen", own));
    for (what, by) in &authorities {
        for claimed in [&[blue][..], &["system"], &[red, blue], &[]] {
            for group in [names::GROUP_KEYSTONE_ADMIN, names::GROUP_MASTERS, names::GROUP_INFRASTRUCTURE] {
                let code = code(&client(stage, by, group, claimed)?, SECRETS).await;
                let what = format!("{what}: a certificate of {group} for {}", claimed.join(" and "));
                findings.judge(&what, matches!(code, 0 | 401), answered(code));
            }
        }
    }
    let Some((_, own)) = authorities.last() else { return Ok(()) };
    for group in [names::GROUP_MASTERS, names::GROUP_INFRASTRUCTURE, names::GROUP_NODES] {
        for cluster in [blue, "system", "*"] {
            let code = code(&client(stage, own, group, &[red])?, &format!("/clusters/{cluster}{SECRETS}")).await;
            let what = format!("one's own tenant's certificate of {group} on {cluster}");
            findings.judge(&what, matches!(code, 401 | 403), answered(code));
        }
    }
    Ok(())
}

fn answered(code: u16) -> String {
    if code == 0 { "not connected".to_owned() } else { code.to_string() }
}

/// A token for the default service account, by the team's admin.
async fn token(team: &Team) -> Result<String> {
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let made = team.admin.post(TOKENS, &request).await.needed("asking for a token")?;
    Ok(made["status"]["token"].as_str().context("no token was issued")?.to_owned())
}

fn part(token: &str, index: usize) -> Result<Value> {
    let part = token.split('.').nth(index).context("the token is none")?;
    Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part)?)?)
}

async fn tokens(stage: &Stage, findings: &mut Findings) -> Result<()> {
    let (red, blue) = (token(&stage.red).await?, token(&stage.blue).await?);
    let key = stage.authority_entry(&stage.red, material::TOKEN_KEY).await?;
    let key = EncodingKey::from_ec_pem(key.as_bytes())?;
    let (own, others) = (part(&red, 1)?, part(&blue, 1)?);
    let kid = |token: &str| part(token, 0).map(|header| header["kid"].as_str().unwrap_or_default().to_owned());
    let (own_kid, others_kid) = (kid(&red)?, kid(&blue)?);
    let changed = |changes: &[(&str, &Value)]| {
        let mut claims = own.clone();
        for (name, value) in changes {
            claims[*name] = (*value).clone();
        }
        claims
    };
    let (issuer, tenant) = (("iss", &others["iss"]), ("hypernetes.io/tenant", &others["hypernetes.io/tenant"]));
    let (system, earlier) = (json!(TenantId::SYSTEM), json!(AUDIENCE));
    let past = json!(jiff::Timestamp::now().as_second() - 600);
    let said = [
        ("another tenant's issuer", changed(&[issuer])),
        ("another tenant", changed(&[tenant])),
        ("another tenant and its issuer", changed(&[tenant, issuer])),
        ("the system", changed(&[("hypernetes.io/tenant", &system)])),
        ("the issuer of before tenants had their own", changed(&[("iss", &earlier)])),
        ("what another tenant's token says", others.clone()),
        ("that it has expired", changed(&[("exp", &past)])),
    ];
    for (what, claims) in &said {
        for (which, kid) in [("its own", Some(&own_kid)), ("another tenant's", Some(&others_kid)), ("no", None)] {
            let header = Header { kid: kid.cloned(), ..Header::new(Algorithm::ES256) };
            let forged = jsonwebtoken::encode(&header, claims, &key)?;
            let answer = stage.anonymous.with_token(&forged).get("/api").await;
            findings.refused(&format!("a token that says {what}, with {which} key named"), &answer, &[401]);
        }
    }
    let header = Header { kid: Some(others_kid), ..Header::new(Algorithm::ES256) };
    let forged = jsonwebtoken::encode(&header, &own, &key)?;
    findings.refused(
        "a token that names another tenant's key",
        &stage.anonymous.with_token(&forged).get("/api").await,
        &[401],
    );
    for alg in ["none", "None", "HS256"] {
        let text = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let unsigned = format!("{}.{}.", text(&json!({"alg": alg, "kid": own_kid})), text(&own));
        let answer = stage.anonymous.with_token(&unsigned).get("/api").await;
        findings.refused(&format!("a token with alg {alg} and no signature"), &answer, &[401]);
    }
    for path in [SECRETS, "/.well-known/openid-configuration", "/openid/v1/jwks"] {
        let path = format!("/clusters/{}{path}", stage.blue.id);
        let answer = stage.anonymous.with_token(&red).get(&path).await;
        findings.refused(&format!("one's own token on {path}"), &answer, &[403]);
    }
    Ok(())
}

/// What was given out for a tenant that is deleted ends at that moment, on connections that are open, too.
async fn ended(stage: &Stage, findings: &mut Findings) -> Result<()> {
    let gone = stage.another("gone").await?;
    let authority = stage.authority_of(&gone).await?.issuer;
    let wire = client(stage, &authority, names::GROUP_KEYSTONE_ADMIN, &[&gone.id])?;
    let mut open = wire.tls(SOURCE).await?;
    let request = wire::request("GET", SECRETS, None, "", 0);
    let before = wire::exchange(&mut open, &request).await?;
    anyhow::ensure!(before == 200, "a tenant's own certificate is answered with {before}");
    let bearer = stage.anonymous.with_token(&token(&gone).await?);
    bearer.get("/api").await.needed("asking with a token")?;
    stage.remove(&gone).await?;
    let code = wire::exchange(&mut open, &request).await.unwrap_or(0);
    findings.judge("a deleted tenant's certificate, on an open connection", matches!(code, 0 | 401), answered(code));
    let code = self::code(&wire, SECRETS).await;
    findings.judge("a deleted tenant's certificate, on a new one", matches!(code, 0 | 401), answered(code));
    findings.refused("a deleted tenant's service account", &bearer.get("/api").await, &[401]);
    findings.refused("a deleted tenant's user", &gone.admin.get("/api").await, &[401]);
    Ok(())
}
