//! C4: the way into tenants' networks that the API server has through a node's kubelet, taken by somebody else.
//!
//! Whether it is reached is told by the node's own credential, which the kubelet knows and refuses: where even that is not
//! answered, an attempt that comes to nothing proves nothing.

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::Method;
use hypernetes_api::names::{GROUP_INFRASTRUCTURE, RELAY_PROTOCOL};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{findings::Findings, stage::Stage, wire::Wire};
use crate::pki::Client;

/// The source of these connections.
const SOURCE: u8 = 14;
/// The kubelet's word for whoever is not the API server.
const KEPT_OUT: u16 = 403;

pub async fn run(stage: &Stage, findings: &mut Findings) -> Result<()> {
    let nodes = stage.operator.get("/api/v1/nodes").await.needed("listing nodes")?;
    let Some((name, address)) = nodes["items"].as_array().and_then(|nodes| nodes.iter().find_map(kubelet)) else {
        findings.could_not("a node's relay", "there is no node here: `hypernetes up` makes one");
        return Ok(());
    };
    let (red, blue) = (&stage.red, &stage.blue.id);
    let nobody = Wire::new(&address, &stage.authority)?;
    // Its own authority signs what it likes, here as whoever has stolen its key.
    let own = Client { user: "hypernetes:apiserver", group: GROUP_INFRASTRUCTURE };
    let (own, _) = stage.authority_of(red).await?.issue(&own, 1)?;
    let tenant = with_certificate(stage, &address, &own.certificate, &own.key)?;
    let node = match node_credential(stage) {
        Some((certificate, key)) => Some(with_certificate(stage, &address, &certificate, &key)?),
        None => None,
    };
    let token = red.admin.authorization.as_deref();
    for path in paths(blue).iter().chain(&paths(&red.id)) {
        for (who, wire, token) in [
            ("nobody", Some(&nobody), None),
            ("a tenant's token", Some(&nobody), token),
            ("a tenant's own infrastructure", Some(&tenant), None),
            ("a node", node.as_ref(), None),
            ("a node with a tenant's token", node.as_ref(), token),
        ] {
            let Some(wire) = wire else { continue };
            let (what, code) = (format!("{who} takes the relay {path}"), upgrade(wire, path, token).await);
            match code {
                Some(KEPT_OUT) => findings.held(&what, KEPT_OUT),
                None if !who.starts_with("a node") => findings.held(&what, "no answer"),
                None => findings.could_not(&what, "the kubelet does not answer"),
                Some(code) => findings.succeeded_at(&what, code),
            }
        }
    }
    if node.is_none() {
        findings.could_not("a node's credential at the relay", "it is not on this machine");
    }
    // Through the server, by which nobody reaches a kubelet but for logs and sessions.
    let upgrade = [("connection", "Upgrade"), ("upgrade", RELAY_PROTOCOL)];
    for relay in [format!("/clusters/{blue}/relay/default/127.0.0.1/22"), "/relay/default/127.0.0.1/22".into()] {
        for path in [
            relay.clone(),
            format!("/api/v1/nodes/{name}/proxy{relay}"),
            format!("/clusters/system/api/v1/nodes/{name}/proxy{relay}"),
            format!("/clusters/{blue}/api/v1/namespaces/default/pods/..%2f..%2frelay/exec"),
        ] {
            for (who, caller) in [("a tenant's admin", Some(&red.admin)), ("a node", stage.node.as_ref())] {
                let Some(caller) = caller else { continue };
                let answer = caller.send_with(Method::GET, &path, None, &upgrade).await;
                findings.refused(&format!("{who} asks the server for {path}"), &answer, &[400, 403, 404]);
            }
        }
    }
    Ok(())
}

/// Paths of the relay into a tenant's network, some of which are written oddly.
fn paths(tenant: &str) -> Vec<String> {
    let of = |rest: &str| format!("/clusters/{tenant}/relay/{rest}");
    vec![
        of("default/10.244.0.2/80"),
        of("default/127.0.0.1/22"),
        of("default/169.254.169.254/80"),
        of("default/0.0.0.0/22"),
        of("default/%3a%3a1/22"),
        of("..%2f..%2fhealthz/10.244.0.2/80"),
        of("default/10%2e244.0.2/80"),
        format!("//clusters/{tenant}/relay/default/10.244.0.2/80"),
        format!("/healthz/../clusters/{tenant}/relay/default/10.244.0.2/80"),
        format!("/CLUSTERS/{tenant}/relay/default/10.244.0.2/80"),
    ]
}

/// Name and address of a node that serves.
fn kubelet(node: &Value) -> Option<(String, String)> {
    let addresses = node["status"]["addresses"].as_array()?;
    let address = addresses.iter().find(|address| address["type"] == "InternalIP")?["address"].as_str()?;
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64()?;
    let address = std::net::SocketAddr::new(address.parse().ok()?, port.try_into().ok()?);
    Some((node["metadata"]["name"].as_str()?.to_owned(), address.to_string()))
}

fn with_certificate(stage: &Stage, address: &str, certificate: &str, key: &str) -> Result<Wire> {
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).context("a certificate")?;
    Wire::with_certificate(address, &stage.authority, certificate, key)
}

/// Certificate and key of this machine's node, PEM.
fn node_credential(stage: &Stage) -> Option<(String, String)> {
    let kubeconfig: Value =
        serde_json::from_slice(&std::fs::read(stage.root.join("node/node.kubeconfig")).ok()?).ok()?;
    let user = &kubeconfig["users"][0]["user"];
    let decoded = |name: &str| String::from_utf8(STANDARD.decode(user[name].as_str()?).ok()?).ok();
    Some((decoded("client-certificate-data")?, decoded("client-key-data")?))
}

/// The status of the answer to an upgrade; `None`: there is none.
async fn upgrade(wire: &Wire, path: &str, token: Option<&str>) -> Option<u16> {
    let token = token.map(|token| format!("authorization: {token}\r\n")).unwrap_or_default();
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: attack\r\n{token}connection: Upgrade\r\nupgrade: {RELAY_PROTOCOL}\r\n\r\n"
    );
    let exchange = async {
        let mut stream = wire.tls(SOURCE).await.ok()?;
        stream.write_all(request.as_bytes()).await.ok()?;
        // `HTTP/1.1 403`
        let mut start = [0; 12];
        stream.read_exact(&mut start).await.ok()?;
        std::str::from_utf8(&start).ok()?.split(' ').nth(1)?.parse().ok()
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), exchange).await.ok().flatten()
}
