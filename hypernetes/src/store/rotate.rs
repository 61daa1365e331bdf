//! `hypernetes store rotate-keys`: a running server takes other keys.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use hypernetes_store::Encryption;
use kube::Client;
use serde::Deserialize;

use crate::kubeconfig;

/// Between questions how far it is.
const PAUSE: Duration = Duration::from_millis(100);

/// What the server says of it (`/encryption-keys`).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", tag = "state")]
enum State {
    None,
    Going,
    Done { key: u32 },
    Failed { why: String },
}

/// Returns when nothing that the server keeps is sealed with another key than the file's first.
pub async fn run(server: &Path, file: &Path) -> Result<()> {
    // Here, where it can be said which file it is.
    Encryption::read(file)?;
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let client = kubeconfig::operator(server).await?;
    let mut state = ask(&client, http::Method::POST, text.into_bytes()).await?;
    loop {
        match state {
            State::Going => tokio::time::sleep(PAUSE).await,
            State::Done { key } => {
                println!(
                    "nothing that the server keeps is sealed with another key than {key}: the others are needed for older snapshots alone"
                );
                return Ok(());
            }
            State::Failed { why } => bail!("the server: {why}"),
            State::None => bail!("the server has been started anew meanwhile: try again"),
        }
        state = ask(&client, http::Method::GET, Vec::new()).await?;
    }
}

async fn ask(client: &Client, method: http::Method, body: Vec<u8>) -> Result<State> {
    let request = http::Request::builder().method(method).uri("/encryption-keys").body(body)?;
    client.request(request).await.context("asking the server")
}
