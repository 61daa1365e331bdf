//! Kubeconfig files, as kubectl reads them.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

use crate::pki::Identity;

/// One cluster, one user with a client certificate, one context, all named alike. YAML is a superset of JSON, so JSON it is.
pub fn render(name: &str, server: &str, authority: &str, identity: &Identity) -> String {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {
            "server": server,
            "certificate-authority-data": STANDARD.encode(authority),
        }}],
        "users": [{"name": name, "user": {
            "client-certificate-data": STANDARD.encode(&identity.certificate),
            "client-key-data": STANDARD.encode(&identity.key),
        }}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    });
    format!("{config:#}\n")
}
