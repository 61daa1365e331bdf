//! Kubeconfig files, as kubectl reads them.

use std::path::Path;

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use kube::{
    Client,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

use crate::pki::Identity;

/// How the user of a kubeconfig proves who they are.
pub enum User<'a> {
    Certificate(&'a Identity),
    /// A bearer token.
    Token(&'a str),
    /// Through `hypernetes login`, with what the `openrc` file says (client-go's credential plugins).
    Login {
        program: &'a Path,
        openrc: &'a Path,
    },
}

impl User<'_> {
    fn to_json(&self) -> Value {
        match self {
            Self::Certificate(identity) => json!({
                "client-certificate-data": STANDARD.encode(&identity.certificate),
                "client-key-data": STANDARD.encode(&identity.key),
            }),
            Self::Token(token) => json!({"token": token}),
            Self::Login { program, openrc } => json!({"exec": {
                "apiVersion": "client.authentication.k8s.io/v1",
                "command": program,
                "args": ["login", "--exec-credential", "--openrc", openrc],
                "interactiveMode": "Never",
                "installHint": "`hypernetes` logs in with Keystone; build it with `make build`",
            }}),
        }
    }
}

/// One cluster, one user, one context, all named alike. YAML is a superset of JSON, so JSON it is.
pub fn render(name: &str, server: &str, authority: &str, user: &User<'_>) -> String {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {
            "server": server,
            "certificate-authority-data": STANDARD.encode(authority),
        }}],
        "users": [{"name": name, "user": user.to_json()}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    });
    format!("{config:#}\n")
}

/// The operator's client of the server in a directory.
pub async fn operator(server: &Path) -> Result<Client> {
    let kubeconfig = server.join("operator.kubeconfig");
    let missing = || format!("reading {}: is the server running, and --root right?", kubeconfig.display());
    let config = Kubeconfig::read_from(&kubeconfig).with_context(missing)?;
    let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}
