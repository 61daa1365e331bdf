//! C7, through the API: certificates that are asked for, and bootstrap tokens.

use anyhow::Result;
use base64::{Engine, engine::general_purpose::STANDARD};
use hypernetes_api::names;
use hypernetes_certificates::request;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use serde_json::{Value, json};

use super::{
    findings::Findings,
    stage::{FORBIDDEN, INVALID, Stage},
};

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const KUBELET: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const SERVING: &str = "kubernetes.io/kubelet-serving";

pub async fn run(stage: &Stage, findings: &mut Findings) -> Result<()> {
    tenants(stage, findings).await?;
    tokens(stage, findings).await?;
    nodes(stage, findings).await
}

fn object(called: &str, signer: &str, text: &str) -> Value {
    json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": called},
        "spec": {"request": STANDARD.encode(text), "signerName": signer, "usages": ["digital signature", "client auth"]}})
}

/// A request for a name, a group, and perhaps a tenant.
fn asked(name: &str, group: &str, tenant: Option<&str>) -> Result<String> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationName, group);
    if let Some(tenant) = tenant {
        let uri = format!("{}{tenant}", names::CERTIFICATE_TENANT_URI);
        params.subject_alt_names.push(SanType::URI(uri.as_str().try_into()?));
    }
    Ok(params.serialize_request(&KeyPair::generate()?)?.pem()?)
}

async fn tenants(stage: &Stage, findings: &mut Findings) -> Result<()> {
    let (red, blue) = (&stage.red, stage.blue.id.as_str());
    for (what, name, group, tenant) in [
        ("system:masters", "attack", names::GROUP_MASTERS, None),
        ("infrastructure", "attack", names::GROUP_INFRASTRUCTURE, None),
        ("Keystone's admins", "attack", names::GROUP_KEYSTONE_ADMIN, None),
        ("a node", "system:node:any", names::GROUP_NODES, None),
        ("a service account", "system:serviceaccount:default:default", "dev", None),
        ("another tenant", "attack", "dev", Some(blue)),
        ("the system", "attack", "dev", Some("system")),
    ] {
        let answer = red.admin.post(REQUESTS, &object("forged", CLIENT, &asked(name, group, tenant)?)).await;
        findings.refused(&format!("a tenant asks for a certificate of {what}"), &answer, INVALID);
    }
    red.admin
        .post(REQUESTS, &object("own", CLIENT, &asked("attack", "dev", None)?))
        .await
        .needed("asking for a certificate")?;
    let approved = json!({"status": {"conditions": [
        {"type": "Approved", "status": "True", "reason": "Attack", "message": "by whoever may not"}]}});
    let path = format!("{REQUESTS}/own/approval");
    let answer = red.member.patch(&path, "merge", &approved).await;
    findings.refused("a member approves of a certificate", &answer, FORBIDDEN);
    let answer = stage.blue.admin.patch(&format!("/clusters/{}{path}", red.id), "merge", &approved).await;
    findings.refused("another tenant approves of a certificate", &answer, FORBIDDEN);
    // A tenant's approval of a node's certificate comes to nothing: its cluster has no nodes.
    let node = asked("system:node:any", names::GROUP_NODES, None)?;
    red.admin.post(REQUESTS, &object("node", KUBELET, &node)).await.needed("asking for a node's certificate")?;
    red.admin.patch(&format!("{REQUESTS}/node/approval"), "merge", &approved).await.needed("approving of it")?;
    let outcome = settled(stage, &format!("{REQUESTS}/node")).await;
    findings.judge("a tenant approves of a node's certificate", outcome == "Failed", outcome);
    Ok(())
}

/// What became of red's request: `Issued`, `Failed`, or neither in ten seconds.
async fn settled(stage: &Stage, path: &str) -> &'static str {
    for _ in 0..100 {
        let status = stage.red.admin.get(path).await.body["status"].take();
        if status["certificate"].is_string() {
            return "Issued";
        }
        if status["conditions"].as_array().into_iter().flatten().any(|condition| condition["type"] == "Failed") {
            return "Failed";
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    "nothing"
}

fn token(id: &str, secret: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": format!("bootstrap-token-{id}")}, "stringData": {"token-id": id, "token-secret": secret,
            "usage-bootstrap-authentication": "true"}})
}

async fn tokens(stage: &Stage, findings: &mut Findings) -> Result<()> {
    let secrets = "/api/v1/namespaces/kube-system/secrets";
    let (id, secret) =
        (format!("{:06x}", rand::random::<u32>() & 0xff_ffff), format!("{:016x}", rand::random::<u64>()));
    stage.red.admin.post(secrets, &token(&id, &secret)).await.needed("making a secret")?;
    let known = |secret: &str| stage.anonymous.with_token(&format!("{id}.{secret}"));
    findings.refused("a tenant's own bootstrap token", &known(&secret).get("/api").await, &[401]);

    stage.operator.post(secrets, &token(&id, &secret)).await.needed("making a token")?;
    findings.refused("a bootstrap token with another secret", &known("0000000000000000").get("/api").await, &[401]);
    let holder = known(&secret);
    holder.get("/api").await.needed("asking with a bootstrap token")?;
    for path in [
        secrets.to_owned(),
        format!("{secrets}/bootstrap-token-{id}"),
        "/api/v1/nodes".to_owned(),
        "/api/v1/namespaces".to_owned(),
        REQUESTS.to_owned(),
        format!("/clusters/{}{REQUESTS}", stage.blue.id),
        "/clusters/*/api/v1/pods".to_owned(),
    ] {
        findings.refused(&format!("a bootstrap token on {path}"), &holder.get(&path).await, FORBIDDEN);
    }
    for (what, signer, name, group) in [
        ("a user's certificate", CLIENT, "attack", "dev"),
        ("an admin's certificate", CLIENT, "attack", names::GROUP_MASTERS),
        ("a serving certificate", SERVING, "system:node:any", names::GROUP_NODES),
        ("a node's certificate for an admin", KUBELET, "system:node:any", names::GROUP_MASTERS),
    ] {
        let answer = holder.post(REQUESTS, &object("forged", signer, &asked(name, group, None)?)).await;
        findings.refused(&format!("a bootstrap token asks for {what}"), &answer, FORBIDDEN);
    }
    stage.operator.delete(&format!("{secrets}/bootstrap-token-{id}")).await.needed("removing the token")?;
    findings.refused("a bootstrap token that is removed", &holder.get("/api").await, &[401]);
    Ok(())
}

async fn nodes(stage: &Stage, findings: &mut Findings) -> Result<()> {
    let Some(node) = &stage.node else {
        findings.could_not("another node's certificate", "there is no node here: `hypernetes up` makes one");
        return Ok(());
    };
    for (what, signer) in [("client", KUBELET), ("serving", SERVING)] {
        let (_, text) = request::make("system:node:another", names::GROUP_NODES, &["another"], &[])?;
        let answer = node.post(&format!("/clusters/system{REQUESTS}"), &object("forged", signer, &text)).await;
        findings.refused(&format!("a node asks for another's {what} certificate"), &answer, FORBIDDEN);
    }
    let answer = node
        .post(&format!("/clusters/system{REQUESTS}"), &object("forged", CLIENT, &asked("attack", "dev", None)?))
        .await;
    findings.refused("a node asks for a user's certificate", &answer, FORBIDDEN);
    findings.refused("a node lists all requests", &node.get(&format!("/clusters/system{REQUESTS}")).await, FORBIDDEN);
    Ok(())
}
