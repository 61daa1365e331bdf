//! A node's credentials in its directory: `node.kubeconfig` by which it is known, `ca.crt`, and `serving.crt` with
//! `serving.key`, by which the API server knows it. All are 0600.

use std::path::Path;

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use hypernetes_api::names;
use hypernetes_client::Clients;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;

use crate::{
    kubeconfig,
    pki::{self, Authority, Client, Identity},
};

pub(super) const KUBECONFIG: &str = "node.kubeconfig";
pub(super) const AUTHORITY: &str = "ca.crt";

/// The API as the node in this directory is known to it. The server need not answer yet.
pub async fn clients(root: &Path) -> Result<Clients> {
    Ok(Clients::remote(config(root).await?)?)
}

pub(super) async fn config(root: &Path) -> Result<kube::Config> {
    let kubeconfig = Kubeconfig::read_from(root.join(KUBECONFIG)).context("reading the node's credentials")?;
    Ok(kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?)
}

/// What a node is known by, as its kubeconfig has it.
pub(super) struct Known {
    pub server: String,
    /// PEM.
    pub authority: String,
    /// Of the client, PEM.
    pub certificate: String,
}

impl Known {
    /// `None` where there is no kubeconfig with a certificate.
    pub fn read(root: &Path) -> Option<Self> {
        let kubeconfig: Value = serde_json::from_slice(&std::fs::read(root.join(KUBECONFIG)).ok()?).ok()?;
        let (cluster, user) = (&kubeconfig["clusters"][0]["cluster"], &kubeconfig["users"][0]["user"]);
        let decoded = |value: &Value| String::from_utf8(STANDARD.decode(value.as_str()?).ok()?).ok();
        Some(Self {
            server: cluster["server"].as_str()?.to_owned(),
            authority: decoded(&cluster["certificate-authority-data"])?,
            certificate: decoded(&user["client-certificate-data"])?,
        })
    }

    /// The name of the node that the certificate is of.
    pub fn node(&self) -> Option<String> {
        pki::common_name(&self.certificate)?.strip_prefix(names::USER_NODE_PREFIX).map(str::to_owned)
    }
}

/// Writes what a node is known by.
pub(super) fn write_client(directory: &Path, server: &str, authority: &str, client: &Identity) -> Result<()> {
    let config = kubeconfig::render("system", server, authority, &kubeconfig::User::Certificate(client));
    pki::write_private(&directory.join(KUBECONFIG), config.as_bytes())
}

/// Writes what a node serves with: the key last, and read together, so that a pair that does not fit is told from one that does.
pub(super) fn write_serving(directory: &Path, serving: &Identity) -> Result<()> {
    pki::write_private(&directory.join("serving.crt"), serving.certificate.as_bytes())?;
    pki::write_private(&directory.join("serving.key"), serving.key.as_bytes())
}

/// What a node on the authority's own machine needs to be known, written into its directory. What is there already and good, as the
/// node has renewed it, stays.
pub fn write_credentials(authority: &Authority, directory: &Path, node: &str, server: &str) -> Result<()> {
    std::fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    let user = format!("{}{node}", names::USER_NODE_PREFIX);
    let client = Client { user: &user, group: names::GROUP_NODES };
    let good = Known::read(directory).is_some_and(|known| {
        known.server == server
            && known.authority == authority.certificate()
            && authority.is_clients(&known.certificate, &client)
    });
    if !good {
        let client = authority.client(&format!("node-{node}"), &client)?;
        write_client(directory, server, authority.certificate(), &client)?;
    }
    let serving = std::fs::read_to_string(directory.join("serving.crt")).unwrap_or_default();
    if !authority.is_servers(&serving, node) || !directory.join("serving.key").exists() {
        let local = std::net::Ipv4Addr::LOCALHOST.into();
        let serving = authority.server(&format!("kubelet-{node}"), &[local], &[node, "localhost"])?;
        write_serving(directory, &serving)?;
    }
    pki::write_private(&directory.join(AUTHORITY), authority.certificate().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_has_renewed_stays_and_what_is_not_good_does_not() {
        let (pki, node) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let authority = Authority::open(pki.path()).unwrap();
        let write = |authority: &Authority, name: &str, server: &str| {
            write_credentials(authority, node.path(), name, server).unwrap();
            let read = |file: &str| std::fs::read_to_string(node.path().join(file)).unwrap();
            (read(KUBECONFIG), read("serving.crt"))
        };
        let first = write(&authority, "n1", "https://a:1");
        assert_eq!(Known::read(node.path()).unwrap().node().as_deref(), Some("n1"));
        // As if it had been asked for: not what is kept beside the authority.
        for file in ["node-n1.crt", "kubelet-n1.crt"] {
            std::fs::remove_file(pki.path().join(file)).unwrap();
        }
        assert_eq!(write(&authority, "n1", "https://a:1"), first);
        let moved = write(&authority, "n1", "https://a:2");
        assert!(moved.0 != first.0 && moved.1 == first.1);
        let renamed = write(&authority, "n2", "https://a:2");
        assert!(renamed.0 != moved.0 && renamed.1 != moved.1);
        let other = tempfile::tempdir().unwrap();
        let others = write(&Authority::open(other.path()).unwrap(), "n2", "https://a:2");
        assert!(others.0 != renamed.0 && others.1 != renamed.1);
    }
}
