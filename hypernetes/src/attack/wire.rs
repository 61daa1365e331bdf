//! Connections as a hostile client makes them: from an address of its choice, and with requests that are not whole.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use rustls::{
    ClientConfig, ConfigBuilder, RootCertStore,
    client::WantsClientCert,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// How long it waits for a connection, or for an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// The most of an answer's head that it reads.
const MAX_HEAD: usize = 64 << 10;

/// The way to the server.
#[derive(Clone)]
pub struct Wire {
    address: SocketAddr,
    connector: TlsConnector,
}

impl Wire {
    /// # Errors
    /// When the server's address is a name, or its authority's certificate none.
    pub fn new(address: &str, authority: &str) -> Result<Self> {
        Self::of(address, roots(authority)?.with_no_client_auth())
    }

    /// As a client that shows a certificate; `key` is PEM.
    ///
    /// # Errors
    /// As [`Wire::new`], and when the key is none.
    pub fn with_certificate(
        address: &str,
        authority: &str,
        certificate: CertificateDer<'static>,
        key: &str,
    ) -> Result<Self> {
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
        Self::of(address, roots(authority)?.with_client_auth_cert(vec![certificate], key)?)
    }

    fn of(address: &str, config: ClientConfig) -> Result<Self> {
        let address = address.parse().with_context(|| format!("{address} is no address"))?;
        Ok(Self { address, connector: TlsConnector::from(Arc::new(config)) })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A connection from 127.0.0.`source`, where the server is on loopback.
    pub async fn tcp(&self, source: u8) -> io::Result<TcpStream> {
        let socket = if self.address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if self.address.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST) {
            socket.bind((Ipv4Addr::new(127, 0, 0, source), 0).into())?;
        }
        patiently(socket.connect(self.address)).await
    }

    pub async fn tls(&self, source: u8) -> io::Result<TlsStream<TcpStream>> {
        let stream = self.tcp(source).await?;
        patiently(self.connector.connect(ServerName::IpAddress(self.address.ip().into()), stream)).await
    }
}

fn roots(authority: &str) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        roots.add(certificate?)?;
    }
    Ok(ClientConfig::builder().with_root_certificates(roots))
}

async fn patiently<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// The text of a request over HTTP/1.1; `claimed` is how long it says that its body is.
pub fn request(method: &str, path: &str, authorization: Option<&str>, body: &str, claimed: usize) -> String {
    let authorization = authorization.map(|text| format!("authorization: {text}\r\n")).unwrap_or_default();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: attack\r\n{authorization}content-type: application/json\r\n\
         content-length: {claimed}\r\n\r\n{body}"
    )
}

/// Sends a whole request and reads the answer, whose status it gives. The connection can be used again.
///
/// # Errors
/// When the connection ends, when no answer comes, or one that does not say where it ends.
pub async fn exchange(stream: &mut TlsStream<TcpStream>, request: &str) -> io::Result<u16> {
    patiently(async {
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        let mut read = Vec::new();
        let head = loop {
            if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            let mut buffer = [0; 4096];
            let length = stream.read(&mut buffer).await?;
            if length == 0 || read.len() > MAX_HEAD {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            read.extend_from_slice(&buffer[..length]);
        };
        let text = String::from_utf8_lossy(&read[..head]).to_ascii_lowercase();
        let status = text.split(' ').nth(1).and_then(|code| code.parse().ok());
        let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<u64>().ok());
        let status = status.ok_or(io::ErrorKind::InvalidData)?;
        let Some(length) = length else {
            if !text.contains("transfer-encoding: chunked") {
                return Err(io::ErrorKind::InvalidData.into());
            }
            // What ends an answer in pieces; that one of its texts ends so harms nobody here.
            let mut last = read.split_off(head);
            while !last.ends_with(b"0\r\n\r\n") {
                last.drain(..last.len().saturating_sub(8));
                let mut buffer = [0; 16 << 10];
                match stream.read(&mut buffer).await? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    length => last.extend_from_slice(&buffer[..length]),
                }
            }
            return Ok(status);
        };
        let left = length.saturating_sub((read.len() - head) as u64);
        tokio::io::copy(&mut stream.take(left), &mut tokio::io::sink()).await?;
        Ok(status)
    })
    .await
}
