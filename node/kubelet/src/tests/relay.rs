//! The relay's route, over TLS: who is let in, what is refused, and what passes.

use std::sync::Mutex;

use futures::future::BoxFuture;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use hypernetes_api::names::{self, RELAY_PROTOCOL};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsConnector;

use super::*;
use crate::{
    config::Serving,
    node::server,
    relay::{Destination, Relay, RelayError, Stream},
};

const GOOD: &str = "/clusters/acme/relay/default/10.244.0.2/8443";

/// Keeps the other ends of what it has given out.
#[derive(Default)]
struct Double(Mutex<Vec<(Destination, DuplexStream)>>);

impl Relay for Arc<Double> {
    fn connect(&self, to: Destination) -> BoxFuture<'_, Result<Box<dyn Stream>, RelayError>> {
        Box::pin(async move {
            match to.port.get() {
                1 => Err(RelayError::NoPort("nobody has it".into())),
                2 => Err(RelayError::Unreachable("no answer".into())),
                _ => {
                    let (own, others) = tokio::io::duplex(64);
                    self.0.lock().unwrap().push((to, others));
                    Ok(Box::new(own) as Box<dyn Stream>)
                }
            }
        })
    }
}

struct Node {
    _directory: tempfile::TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
    address: std::net::SocketAddr,
    relay: Arc<Double>,
}

impl Node {
    async fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let (key, serving) = (KeyPair::generate().unwrap(), Serving::default());
        let certificate = CertificateParams::new(["n1".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
        serving.set(&certificate.pem(), &key.serialize_pem()).unwrap();
        let (directory, relay) = (tempfile::tempdir().unwrap(), Arc::new(Double::default()));
        let config = KubeletConfig {
            node_name: "n1".into(),
            root: directory.path().into(),
            clients: HostileApi::new(&[]).clients(),
            all: AllTenants::grant(),
            cri_socket: directory.path().join("nobody.sock"),
            csi_drivers: [].into(),
            bind: ([127, 0, 0, 1], 0).into(),
            tls: ServerTls { serving, client_authority: authority.pem() },
            relay: Arc::new(relay.clone()),
        };
        let acceptor = server::acceptor(&config.tls).unwrap();
        let listener = TcpListener::bind(config.bind).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(server::serve(listener, acceptor, Arc::new(Shared::new(config).unwrap())));
        Self { _directory: directory, authority, address, relay }
    }

    /// A connection with a certificate of this group.
    async fn connect(&self, group: &str) -> TokioIo<tokio_rustls::client::TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.subject_alt_names = vec![SanType::URI("hypernetes:tenant:system".try_into().unwrap())];
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ClientConfig::builder().with_root_certificates(roots);
        let config = config.with_client_auth_cert(vec![certificate.der().clone()], key).unwrap();
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("n1").unwrap();
        TokioIo::new(TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap())
    }

    async fn ask(&self, group: &str, path: &str, headers: &[(&str, &str)]) -> http::Response<hyper::body::Incoming> {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(self.connect(group).await).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::get(path).header("host", "n1");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        sender.send_request(request.body(Empty::<bytes::Bytes>::new()).unwrap()).await.unwrap()
    }

    async fn relayed(&self, path: &str) -> http::Response<hyper::body::Incoming> {
        self.ask(names::GROUP_INFRASTRUCTURE, path, &UPGRADE).await
    }

    fn given(&self) -> usize {
        self.relay.0.lock().unwrap().len()
    }
}

const UPGRADE: [(&str, &str); 2] = [("connection", "Upgrade"), ("upgrade", RELAY_PROTOCOL)];

#[tokio::test]
async fn a_stream_goes_where_it_is_said_to() {
    let node = Node::new().await;
    let response = node.relayed(GOOD).await;
    assert_eq!(
        (response.status(), &response.headers()["upgrade"]),
        (StatusCode::SWITCHING_PROTOCOLS, &RELAY_PROTOCOL.parse().unwrap())
    );
    let (to, mut far) = node.relay.0.lock().unwrap().pop().unwrap();
    assert_eq!(Some(to), Destination::parse("acme", "default", "10.244.0.2", "8443"));
    let mut near = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    // More than fits into what is between.
    let sent = vec![7; 1 << 20];
    let (_, received) = tokio::join!(
        async {
            near.write_all(&sent).await.unwrap();
            near.shutdown().await.unwrap()
        },
        async {
            let mut received = Vec::new();
            far.read_to_end(&mut received).await.unwrap();
            received
        }
    );
    assert!(received == sent);
    far.write_all(b"bye").await.unwrap();
    drop(far);
    let mut said = String::new();
    near.read_to_string(&mut said).await.unwrap();
    assert_eq!(said, "bye");
}

#[tokio::test]
async fn only_infrastructure_is_let_in() {
    let node = Node::new().await;
    for group in [names::GROUP_NODES, names::GROUP_MASTERS, "tenant", ""] {
        assert_eq!(node.ask(group, GOOD, &UPGRADE).await.status(), StatusCode::FORBIDDEN, "{group}");
    }
    // Without a certificate the connection itself is refused, at the latest when it is used.
    let mut roots = RootCertStore::empty();
    roots.add(node.authority.der().clone()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let (stream, name) = (TcpStream::connect(node.address).await.unwrap(), ServerName::try_from("n1").unwrap());
    let exchange = async {
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        stream
            .write_all(
                format!("GET {GOOD} HTTP/1.1\r\nhost: n1\r\nconnection: upgrade\r\nupgrade: {RELAY_PROTOCOL}\r\n\r\n")
                    .as_bytes(),
            )
            .await?;
        stream.read_to_end(&mut Vec::new()).await
    };
    assert!(exchange.await.is_err());
    assert_eq!(node.given(), 0);
}

#[tokio::test]
async fn what_is_no_destination_is_refused() {
    let node = Node::new().await;
    let base = "/clusters/acme/relay/default";
    for (path, code) in [
        (format!("{base}/10.244.0.2/1"), 404),
        (format!("{base}/10.244.0.2/2"), 502),
        (format!("{base}/10.244.0.2/0"), 400),
        (format!("{base}/10.244.0.2/08443"), 400),
        (format!("{base}/localhost/8443"), 400),
        (format!("{base}/10.244.0.2%3a80/8443"), 400),
        // What it says is good, if it is read twice.
        (format!("{base}/10%2e244.0.2/8443"), 400),
        ("/clusters/acme/relay/%64efault/10.244.0.2/8443".into(), 400),
        ("/clusters/*/relay/default/10.244.0.2/8443".into(), 400),
        ("/clusters/acme/relay/..%2f..%2fglobex/10.244.0.2/8443".into(), 400),
        ("/clusters/acme/relay/../globex/relay/default/10.244.0.2/8443".into(), 404),
        (format!("{base}/10.244.0.2"), 404),
        (format!("{base}/10.244.0.2/8443/more"), 404),
        (format!("{base}//10.244.0.2/8443"), 404),
    ] {
        let response = node.relayed(&path).await;
        let code_given = response.status().as_u16();
        let said = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(code_given, code, "{path}: {said:?}");
    }
    for headers in [
        &[][..],
        &[("connection", "upgrade")],
        &[("upgrade", RELAY_PROTOCOL)],
        &[("connection", "upgrade"), ("upgrade", "websocket")],
        &[("connection", "upgrade"), ("upgrade", RELAY_PROTOCOL), ("upgrade", "websocket")],
    ] {
        let response = node.ask(names::GROUP_INFRASTRUCTURE, GOOD, headers).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{headers:?}");
    }
    assert_eq!(node.given(), 0);
}

#[tokio::test]
async fn a_tenant_has_so_many_and_takes_nobody_elses() {
    let node = Node::new().await;
    let mut held = Vec::new();
    let refused = loop {
        let response = node.relayed(GOOD).await;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            break response;
        }
        held.push(hyper::upgrade::on(response).await.unwrap());
    };
    assert_eq!((refused.status(), held.len(), node.given()), (StatusCode::TOO_MANY_REQUESTS, 64, 64));
    let other = node.relayed(&GOOD.replace("acme", "globex")).await;
    assert_eq!(other.status(), StatusCode::SWITCHING_PROTOCOLS);
    // Whoever ends one makes room for one.
    node.relay.0.lock().unwrap().clear();
    drop(held);
    loop {
        if node.relayed(GOOD).await.status() == StatusCode::SWITCHING_PROTOCOLS {
            break;
        }
        tokio::task::yield_now().await;
    }
}
