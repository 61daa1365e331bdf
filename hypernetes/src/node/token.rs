//! `hypernetes node token`: what lets other hosts join.

use anyhow::{Context, Result};
use clap::Subcommand;
use hypernetes_certificates::bootstrap_token;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::PostParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use rand::Rng;
use serde_json::json;

use crate::{Root, pki::Authority};

/// Let other hosts join
#[derive(Subcommand)]
pub enum Token {
    /// Make a bootstrap token, and print the command that joins a host by it
    ///
    /// Whoever has the token can join hosts until it expires. It is kept as the Secret bootstrap-token-ID in kube-system: to end it
    /// before its time, delete that.
    Create {
        #[command(flatten)]
        root: Root,
        /// How long it is good, in hours.
        #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u16).range(1..=8760))]
        hours: u16,
    },
}

/// Letters and digits of tokens.
const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";

fn word(length: usize) -> String {
    let mut rng = rand::rng();
    (0..length).map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())])).collect()
}

impl Token {
    pub async fn run(self) -> Result<()> {
        let Self::Create { root, hours } = self;
        let server_root = root.server();
        let kubeconfig = Kubeconfig::read_from(server_root.join("operator.kubeconfig"))
            .with_context(|| format!("there is no server in {}: run `hypernetes up` first", server_root.display()))?;
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let url = config.cluster_url.to_string();
        let secrets: Api<Secret> = Api::namespaced(kube::Client::try_from(config)?, bootstrap_token::NAMESPACE);
        let (id, secret) = (word(bootstrap_token::ID_BYTES), word(bootstrap_token::SECRET_BYTES));
        let until = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(hours.into());
        let until = jiff::Timestamp::from_second(until.as_second())?;
        let object = serde_json::from_value(json!({
            "metadata": {"name": format!("{}{id}", bootstrap_token::PREFIX)}, "type": bootstrap_token::TYPE,
            "stringData": {
                "token-id": id, "token-secret": secret, "expiration": until.to_string(),
                "usage-bootstrap-authentication": "true", "usage-bootstrap-signing": "true",
                "description": "made by `hypernetes node token create`",
            },
        }))?;
        secrets.create(&PostParams::default(), &object).await.context("storing the token")?;
        let hash = Authority::open(&server_root.join("pki"))?.hash();
        let url = url.trim_end_matches('/');
        println!("hypernetes node join --server {url} --token {id}.{secret} --ca-hash {hash} --root DIR");
        Ok(())
    }
}
