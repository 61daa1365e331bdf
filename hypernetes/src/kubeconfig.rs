//! Kubeconfig files, as kubectl reads them.

use std::path::Path;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::pki::Identity;

/// How the user of a kubeconfig proves who they are.
pub enum User<'a> {
    Certificate(&'a Identity),
    /// `hypernetes login` as client-go's credential plugin, told by the environment where and as whom to log in.
    Login {
        program: &'a Path,
        environment: Vec<(&'a str, String)>,
    },
}

/// One cluster, one user, one context, all named alike. YAML is a superset of JSON, so JSON it is.
pub fn render(name: &str, server: &str, authority: &str, user: &User<'_>) -> String {
    let user = match user {
        User::Certificate(identity) => json!({
            "client-certificate-data": STANDARD.encode(&identity.certificate),
            "client-key-data": STANDARD.encode(&identity.key),
        }),
        User::Login { program, environment } => {
            let environment: Vec<Value> =
                environment.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
            json!({"exec": {
                "apiVersion": "client.authentication.k8s.io/v1",
                "command": program,
                "args": ["login", "--exec-credential"],
                "env": environment,
                "interactiveMode": "Never",
            }})
        }
    };
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {
            "server": server,
            "certificate-authority-data": STANDARD.encode(authority),
        }}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    });
    format!("{config:#}\n")
}
