//! A node's certificates by signing request: the first one, by a bootstrap token, and each one after that by the one before,
//! while the node runs.

use std::{
    convert::Infallible,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use hypernetes_api::{TenantId, names};
use hypernetes_certificates::{issue, request, signer::Signer};
use hypernetes_client::{Clients, Renewal};
use hypernetes_kubelet::Serving;
use jiff::Timestamp;
use k8s_openapi::api::{certificates::v1::CertificateSigningRequest, core::v1::Node};
use kube::{Api, ResourceExt, api::PostParams, runtime::wait::await_condition};
use serde_json::json;

use super::credentials::{self, Known};
use crate::pki::Identity;

/// How long a request may wait for its certificate before another is made.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// Between attempts that fail: the first, and the longest.
const AGAIN: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(300);
/// How long a clock may have been set and nobody has looked.
const LOOK: Duration = Duration::from_secs(3600);
/// What of its life a certificate has had when it is renewed, in hundredths. Nodes that were made together are not renewed so.
const RENEWED_AT: std::ops::RangeInclusive<i64> = 70..=90;

/// Asks for a node's certificate and waits for it. `said` is told what it is called, before it is there.
pub(super) async fn ask(
    client: &kube::Client,
    node: &str,
    signer: Signer,
    dns: &[&str],
    addresses: &[IpAddr],
    said: impl FnOnce(&str),
) -> Result<Identity> {
    let user = format!("{}{node}", names::USER_NODE_PREFIX);
    let (key, text) = request::make(&user, names::GROUP_NODES, dns, addresses)?;
    let purpose = if signer == Signer::KubeletServing { "server auth" } else { "client auth" };
    let requests: Api<CertificateSigningRequest> = Api::all(client.clone());
    let asked = serde_json::from_value(json!({
        "metadata": {"generateName": "csr-"},
        "spec": {"request": STANDARD.encode(text), "signerName": signer.name(), "usages": ["digital signature", purpose]},
    }))?;
    let asked = requests.create(&PostParams::default(), &asked).await.context("asking for a certificate")?;
    let name = asked.name_any();
    said(&name);
    let answered = |request: Option<&CertificateSigningRequest>| match request {
        None => true,
        Some(request) => certificate(request).is_some() || refusal(request).is_some(),
    };
    let waiting = tokio::time::timeout(PATIENCE, await_condition(requests, &name, answered));
    let answer =
        waiting.await.with_context(|| format!("{name} is not answered: `kubectl certificate approve {name}`"))?;
    let answer = answer.with_context(|| format!("waiting for {name}"))?;
    let answer = answer.with_context(|| format!("{name} was cleared away"))?;
    if let Some(why) = refusal(&answer) {
        bail!("{name} was refused: {why}");
    }
    let certificate = certificate(&answer).with_context(|| format!("{name} has no certificate"))?;
    Ok(Identity { certificate, key })
}

fn certificate(request: &CertificateSigningRequest) -> Option<String> {
    let bytes = request.status.as_ref()?.certificate.as_ref()?;
    String::from_utf8(bytes.0.clone()).ok().filter(|text| !text.is_empty())
}

fn refusal(request: &CertificateSigningRequest) -> Option<String> {
    let conditions = request.status.as_ref()?.conditions.as_ref()?;
    let refused = conditions.iter().find(|condition| matches!(condition.type_.as_str(), "Denied" | "Failed"))?;
    Some(refused.message.clone().unwrap_or_else(|| refused.type_.clone()))
}

/// When a certificate is to be renewed; now if it is none. `part`: hundredths of its life.
fn due(certificate: &str, part: i64) -> Timestamp {
    let Some((from, until)) = issue::validity(certificate.as_bytes()) else { return Timestamp::UNIX_EPOCH };
    let life = until.as_second().saturating_sub(from.as_second());
    Timestamp::from_second(from.as_second().saturating_add(life / 100 * part)).unwrap_or(until)
}

/// What keeps a node's certificates good for as long as it runs.
pub(super) struct Keeper {
    root: PathBuf,
    node: String,
    clients: Clients,
    renewal: Renewal,
    serving: Serving,
}

impl Keeper {
    /// With what is in the node's directory: a client certificate there has to be.
    pub async fn open(root: &Path, node: &str, serving: Serving) -> Result<(Clients, Self)> {
        let (clients, renewal) = Clients::renewable(credentials::config(root).await?)?;
        let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap_or_default();
        if let Err(error) = serving.set(&read("serving.crt"), &read("serving.key")) {
            tracing::info!(%error, "there is no serving certificate yet: it is asked for");
            // One whose key was not written is none.
            let _ = std::fs::remove_file(root.join("serving.crt"));
        }
        let keeper = Self { root: root.to_owned(), node: node.to_owned(), clients: clients.clone(), renewal, serving };
        Ok((clients, keeper))
    }

    /// Never ends, whatever the server says.
    pub async fn keep(self) -> Infallible {
        let (client, serving) = (self.keep_one(Signer::ApiserverClientKubelet), self.keep_one(Signer::KubeletServing));
        match tokio::join!(client, serving) {}
    }

    async fn keep_one(&self, signer: Signer) -> Infallible {
        let (mut wait, mut part) = (AGAIN, rand::random_range(RENEWED_AT));
        loop {
            let at = due(&self.present(signer), part);
            let left = Timestamp::now().duration_until(at);
            if let Some(left) = Duration::try_from(left).ok().filter(|left| !left.is_zero()) {
                // The clock is looked at again now and then: it may be set.
                tokio::time::sleep(left.min(LOOK)).await;
                continue;
            }
            match self.renew(signer).await {
                Ok(()) => {
                    tracing::info!(signer = signer.name(), "has a new certificate");
                    (wait, part) = (AGAIN, rand::random_range(RENEWED_AT));
                }
                Err(error) => {
                    tracing::warn!(signer = signer.name(), error = format!("{error:#}"), "has no new certificate yet");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(LONGEST);
                }
            }
        }
    }

    /// The certificate that there is, PEM; nothing where there is none.
    fn present(&self, signer: Signer) -> String {
        match signer {
            Signer::KubeletServing => std::fs::read_to_string(self.root.join("serving.crt")).unwrap_or_default(),
            _ => Known::read(&self.root).map(|known| known.certificate).unwrap_or_default(),
        }
    }

    async fn renew(&self, signer: Signer) -> Result<()> {
        let client = self.clients.tenant(&TenantId::system());
        if signer == Signer::KubeletServing {
            let (names, addresses) = self.served(&client).await?;
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let serving = ask(&client, &self.node, signer, &names, &addresses, |_| ()).await?;
            self.serving.set(&serving.certificate, &serving.key)?;
            return credentials::write_serving(&self.root, &serving);
        }
        let identity = ask(&client, &self.node, signer, &[], &[], |_| ()).await?;
        let known = Known::read(&self.root).context("the node's kubeconfig is gone")?;
        credentials::write_client(&self.root, &known.server, &known.authority, &identity)?;
        self.renewal.set(credentials::config(&self.root).await?)?;
        Ok(())
    }

    /// Names and addresses of this node, once it has said where it is.
    async fn served(&self, client: &kube::Client) -> Result<(Vec<String>, Vec<IpAddr>)> {
        let nodes: Api<Node> = Api::all(client.clone());
        let listed = |node: &Node| node.status.as_ref().and_then(|status| status.addresses.clone()).unwrap_or_default();
        let there = |node: Option<&Node>| node.is_some_and(|node| !listed(node).is_empty());
        let waiting = tokio::time::timeout(PATIENCE, await_condition(nodes, &self.node, there));
        let node = waiting.await.context("the node says nothing of itself")??.context("the node is gone")?;
        let (mut names, mut addresses) = (vec![self.node.clone()], Vec::new());
        for one in listed(&node) {
            match one.address.parse() {
                Ok(address) => addresses.push(address),
                Err(_) if !names.contains(&one.address) => names.push(one.address),
                Err(_) => {}
            }
        }
        Ok((names, addresses))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_when_most_of_its_life_is_over() {
        let mut params = rcgen::CertificateParams::default();
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(2026, 1, 1), rcgen::date_time_ymd(2026, 4, 11));
        let certificate = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem();
        assert_eq!(due(&certificate, 70).to_string(), "2026-03-12T00:00:00Z");
        assert_eq!(due(&certificate, 90).to_string(), "2026-04-01T00:00:00Z");
        assert_eq!(due("", 70), Timestamp::UNIX_EPOCH, "at once");
    }
}
