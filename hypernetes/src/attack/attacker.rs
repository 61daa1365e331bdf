//! `hypernetes attacker`: one flood, as a process of its own; what [`super::measure`] gives half a core to.

use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::{
    floods::{self, FLOODS},
    wire::Wire,
};

/// What it is to do, as JSON on its standard input. Credentials are never arguments.
#[derive(Serialize, Deserialize)]
pub struct Orders {
    pub flood: String,
    /// Address and authority; none: one of its own, which refuses everything.
    pub server: Option<(String, String)>,
    pub authorization: Option<String>,
    pub victim: String,
}

/// Floods until it is killed.
pub async fn run() -> Result<()> {
    let mut text = Vec::new();
    tokio::io::stdin().read_to_end(&mut text).await?;
    let orders: Orders = serde_json::from_slice(&text).context("the attacker's orders")?;
    let flood = FLOODS.iter().find(|flood| flood.what == orders.flood).context("there is no such flood")?;
    floods::raise_file_limit();
    let (address, authority) = match orders.server {
        Some(server) => server,
        None => refusing().await?,
    };
    let wire = Wire::new(&address, &authority)?;
    let mut workers = JoinSet::new();
    flood.start(&mut workers, &wire, orders.authorization.as_ref(), &orders.victim);
    std::future::pending().await
}

/// A server that answers every request with a refusal.
async fn refusing() -> Result<(String, String)> {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec!["127.0.0.1".into()])?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![cert.der().clone()], key)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(refuse(acceptor.clone(), stream));
        }
    });
    Ok((address, cert.pem()))
}

async fn refuse(acceptor: TlsAcceptor, stream: TcpStream) -> std::io::Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    let mut last = [0; 4];
    loop {
        let byte = stream.read_u8().await?;
        last.rotate_left(1);
        last[3] = byte;
        if last == *b"\r\n\r\n" {
            stream.write_all(b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n").await?;
        }
    }
}
