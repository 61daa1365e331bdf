//! A host that has nothing joins a server, by the command that the operator gives it.

mod common;

use std::{
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use common::{BINARY, PATIENCE, Server, client, good, refused};
use k8s_openapi::api::{certificates::v1::CertificateSigningRequest as Request, core::v1::Node};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

/// The words of the command that joins a host, for a directory and a name.
fn command(server: &Server, directory: &Path, name: &str) -> Vec<String> {
    let made = Command::new(BINARY).args(["node", "token", "create", "--root"]).arg(server.path("server")).output();
    let made = good(made.unwrap());
    let words: Vec<String> = made.split_whitespace().map(str::to_owned).collect();
    assert_eq!(words[..3], ["hypernetes", "node", "join"], "{made}");
    let directory = directory.to_str().unwrap();
    let words = words.into_iter().skip(1).map(|word| if word == "DIR" { directory.to_owned() } else { word });
    words.chain(["--name".to_owned(), name.to_owned()]).collect()
}

fn with(words: &[String], option: &str, value: &str) -> Vec<String> {
    let mut words = words.to_vec();
    let at = words.iter().position(|word| word == option).unwrap();
    words[at + 1] = value.to_owned();
    words
}

#[tokio::test]
async fn a_host_joins_by_what_the_operator_gives_it() {
    let server = Server::start();
    let directory = server.path("node");
    let words = command(&server, &directory, "host-1");
    // Another authority is not asked for anything, and a wrong token gets nothing.
    let other = format!("sha256:{}", "0".repeat(64));
    let why = refused(&with(&words, "--ca-hash", &other));
    assert!(why.contains("is not the server of that --ca-hash"), "{why}");
    let why = refused(&with(&words, "--token", "abcdef.0123456789abcdef"));
    assert!(why.contains("Unauthorized"), "{why}");
    assert!(!directory.join("node.kubeconfig").exists());

    let said = good(Command::new(BINARY).args(&words).output().unwrap());
    assert!(said.contains("joined"), "{said}");
    for file in ["node.kubeconfig", "ca.crt"] {
        assert_eq!(std::fs::metadata(directory.join(file)).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
    }
    let kubeconfig = std::fs::read_to_string(directory.join("node.kubeconfig")).unwrap();
    assert!(!kubeconfig.contains("token"), "what it joined by is not kept");
    let nodes: Api<Node> = Api::all(client(&directory.join("node.kubeconfig")).await);
    assert!(nodes.get_opt("host-1").await.unwrap().is_none());
    assert!(matches!(nodes.get_opt("host-2").await, Err(kube::Error::Api(status)) if status.code == 403));
    let node = serde_json::from_value(json!({"metadata": {"name": "host-1"}})).unwrap();
    nodes.create(&PostParams::default(), &node).await.unwrap();
    let why = refused(&words);
    assert!(why.contains("is there already"), "{why}");

    // Who has nothing but the token finds the authority by it; another's signature is none.
    let found = server.path("found");
    let mut words = command(&server, &found, "host-3");
    let at = words.iter().position(|word| word == "--ca-hash").unwrap();
    words.splice(at..=at + 1, ["--discover".to_owned()]);
    let token = words[words.iter().position(|word| word == "--token").unwrap() + 1].clone();
    let why = refused(&with(&words, "--token", &format!("{}.0123456789abcdef", &token[..6])));
    assert!(why.contains("is not signed by this token"), "{why}");
    // A moment after the token was made it has signed.
    let began = Instant::now();
    let said = loop {
        let output = Command::new(BINARY).args(&words).output().unwrap();
        if output.status.success() || began.elapsed() > PATIENCE {
            break good(output);
        }
    };
    assert!(said.contains("joined"), "{said}");
    let authority = |directory: &Path| std::fs::read_to_string(directory.join("ca.crt")).unwrap();
    assert_eq!(authority(&found), authority(&directory));

    // The name of a node that there is, the operator gives.
    let again = server.path("again");
    let mut joining =
        Command::new(BINARY).args(command(&server, &again, "host-1")).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(joining.stdout.take().unwrap()).lines();
    let asked = lines.next().unwrap().unwrap();
    let name = asked.rsplit(' ').next().unwrap();
    let requests: Api<Request> = Api::all(client(&server.path("server/operator.kubeconfig")).await);
    let approved = json!({"status": {"conditions": [
        {"type": "Approved", "status": "True", "reason": "Tested", "message": "m"}]}});
    let approved = Patch::Merge(approved);
    let approved = requests.patch_subresource("approval", name, &PatchParams::default(), &approved).await.unwrap();
    let conditions = approved.status.unwrap().conditions.unwrap();
    assert_eq!(conditions.len(), 1, "nobody else had approved of it: {conditions:?}");
    let status = tokio::task::spawn_blocking(move || joining.wait()).await.unwrap().unwrap();
    assert!(status.success() && again.join("node.kubeconfig").exists());
}
