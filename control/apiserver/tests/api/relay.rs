//! Into a tenant's network: which pod a Service means, by which node it is reached, and what is said when it cannot be.

use std::{collections::BTreeSet, sync::Arc};

use hypernetes_api::{ApiError, Reason};
use hypernetes_apiserver::{KubeletClient, Reach, ServicePort, Shown, Stream, TlsConfig};
use hypernetes_testing::{
    requests::{Refused, admin, infrastructure},
    server::{ACME, GLOBEX, InProcess, id},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

const PODS: &str = "/api/v1/namespaces/default/pods";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const PORTS: &str = "/apis/network.hypernetes.io/v1alpha1/ports";

type Authority = CertifiedIssuer<'static, KeyPair>;

fn certificate(authority: &Authority, name: &str) -> (rcgen::Certificate, KeyPair) {
    let key = KeyPair::generate().unwrap();
    (CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, authority).unwrap(), key)
}

/// A node's kubelet: answers who has a certificate, and says in the stream what it was asked for. Behind port 9 nobody is; port 10 is
/// one too many.
async fn kubelet(authority: &Authority, name: &str) -> u16 {
    let (certificate, key) = certificate(authority, name);
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder().with_client_cert_verifier(verifier);
    let acceptor = TlsAcceptor::from(Arc::new(config.with_single_cert(vec![certificate.der().clone()], key).unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await?;
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await?);
                }
                let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
                assert!(
                    head.contains("\r\nupgrade: hypernetes-relay\r\n") && head.contains("\r\nconnection: upgrade\r\n")
                );
                let path = head.split(' ').nth(1).unwrap();
                let refused = |code: &str| format!("HTTP/1.1 {code}\r\ncontent-length: 6\r\n\r\nnobody");
                let answer = match path.rsplit('/').next().unwrap() {
                    "9" => refused("404 Not Found"),
                    "10" => refused("429 Too Many Requests"),
                    _ => format!(
                        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: hypernetes-relay\r\n\r\n{path}\n"
                    ),
                };
                stream.write_all(answer.as_bytes()).await?;
                let (mut read, mut write) = tokio::io::split(stream);
                tokio::io::copy(&mut read, &mut write).await?;
                write.shutdown().await
            });
        }
    });
    port
}

struct Bench {
    api: InProcess,
    authority: Authority,
}

impl Bench {
    /// Two tenants, and a node `n1` whose kubelet the server can reach.
    async fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let api = InProcess::with_tenants().await;
        for tenant in [ACME, GLOBEX] {
            api.account(tenant).await;
        }
        let (certificate, key) = certificate(&authority, "server");
        let shown = Shown::new(&certificate.pem(), &key.serialize_pem()).unwrap();
        let identity = TlsConfig { shown, authority: authority.pem() };
        api.server.set_kubelet_client(KubeletClient::new(&identity).unwrap());
        let bench = Self { api, authority };
        let port = kubelet(&bench.authority, "n1").await;
        bench.node("n1", port).await;
        bench
    }

    async fn node(&self, name: &str, port: u16) {
        let infra = infrastructure();
        self.api.post(&infra, "/api/v1/nodes", json!({"metadata": {"name": name}})).await.ok();
        let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
        self.api.merge(&infra, &format!("/api/v1/nodes/{name}/status"), status).await.ok();
    }

    async fn service(&self, tenant: &str, name: &str, spec: Value) {
        self.api.post(&admin(tenant), SERVICES, json!({"metadata": {"name": name}, "spec": spec})).await.ok();
    }

    /// A pod `app=web` that runs on the node and is ready, with its port.
    async fn pod(&self, tenant: &str, name: &str, node: &str, address: &str) {
        let (infra, base) = (infrastructure(), format!("/clusters/{tenant}"));
        let pod = json!({"metadata": {"name": name, "labels": {"app": "web"}}, "spec": {"nodeName": node,
            "containers": [{"name": "a", "image": "b", "ports": [{"name": "https", "containerPort": 8443}]}]}});
        let pod = self.api.post(&infra, &format!("{base}{PODS}"), pod).await.ok();
        self.status(tenant, name, "Running", "True").await;
        let uid = pod["metadata"]["uid"].as_str().unwrap();
        let port = json!({"metadata": {"name": format!("pod-{uid}")}, "spec": {"network": "default",
            "fixedIps": [{"subnet": "default", "ipAddress": address}], "pod": {"name": name, "uid": uid}}});
        self.api.post(&infra, &format!("{base}{PORTS}"), port).await.ok();
        let status = json!({"status": {"phase": "Active", "host": node}});
        self.api.merge(&infra, &format!("{base}{PORTS}/pod-{uid}/status"), status).await.ok();
    }

    async fn status(&self, tenant: &str, name: &str, phase: &str, ready: &str) {
        let status = json!({"status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]}});
        let path = format!("/clusters/{tenant}{PODS}/{name}/status");
        self.api.merge(&infrastructure(), &path, status).await.ok();
    }

    async fn connect(&self, tenant: &str, name: &str, port: u16) -> Result<Box<dyn Stream>, ApiError> {
        self.api.server.relay().service(&id(tenant), "default", name, port).await
    }

    /// What the node was asked for; the stream goes both ways.
    async fn reached(&self, tenant: &str, name: &str, port: u16) -> String {
        let mut stream = self.connect(tenant, name, port).await.map_err(|error| error.to_string()).unwrap();
        stream.write_all(b"hi").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        said.strip_suffix("\nhi").expect("both ways").to_owned()
    }

    async fn refused(&self, tenant: &str, name: &str, port: u16) -> (Reason, String) {
        let error = self.connect(tenant, name, port).await.err().expect("a refusal");
        (error.reason, error.to_string())
    }
}

#[tokio::test]
async fn a_service_is_reached_by_the_node_of_a_pod_of_it() {
    let bench = Bench::new().await;
    let spec = json!({"selector": {"app": "web"}, "ports": [{"port": 443, "targetPort": "https", "name": "web"}]});
    for tenant in [ACME, GLOBEX] {
        bench.service(tenant, "web", spec.clone()).await;
        bench.pod(tenant, "one", "n1", "10.244.0.2").await;
        let path = format!("/clusters/{tenant}/relay/default/10.244.0.2/8443");
        assert_eq!(bench.reached(tenant, "web", 443).await, path);
    }
    let by_name = bench.api.server.relay().connect_service(&id(ACME), "default", "web", ServicePort::Name("web")).await;
    assert!(by_name.is_ok());
    // Any of those that run and are ready.
    bench.pod(ACME, "two", "n1", "10.244.0.3").await;
    bench.pod(ACME, "three", "n1", "10.244.0.4").await;
    bench.status(ACME, "three", "Running", "False").await;
    bench.pod(ACME, "four", "n1", "10.244.0.5").await;
    bench.status(ACME, "four", "Succeeded", "True").await;
    let mut seen = BTreeSet::new();
    for _ in 0..40 {
        seen.insert(bench.reached(ACME, "web", 443).await);
    }
    let of = |address: &str| format!("/clusters/{ACME}/relay/default/{address}/8443");
    assert_eq!(seen, BTreeSet::from([of("10.244.0.2"), of("10.244.0.3")]));
}

#[tokio::test]
async fn what_cannot_be_reached_is_said_as_upstream_says_it() {
    let bench = Bench::new().await;
    let select = json!({"app": "web"});
    let service = async |name: &str, spec: Value| bench.service(ACME, name, spec).await;
    let ports = json!([{"port": 443, "name": "web"}, {"port": 9, "name": "nine"}, {"port": 10, "name": "ten"}]);
    service("web", json!({"selector": select, "ports": ports})).await;
    service("none", json!({"ports": [{"port": 443}]})).await;
    service("named", json!({"selector": select, "ports": [{"port": 443, "targetPort": "other"}]})).await;
    service("dns", json!({"selector": select, "ports": [{"port": 443, "protocol": "UDP"}]})).await;
    service(
        "away",
        json!({"type": "ExternalName", "externalName": "169.254.169.254.nip.io", "ports": [{"port": 443}]}),
    )
    .await;
    let unavailable = |message: &str| (Reason::ServiceUnavailable, message.to_owned());
    let without = unavailable("no endpoints available for service \"web\"");
    assert_eq!(bench.refused(ACME, "web", 443).await, without);
    bench.pod(ACME, "one", "n1", "10.244.0.2").await;
    bench.reached(ACME, "web", 443).await;

    for name in ["other", "../web", "web/status", "*", ""] {
        let message = format!("service {name:?} not found");
        assert_eq!(bench.refused(ACME, name, 443).await, (Reason::NotFound, message));
    }
    // Another tenant's, of the same name.
    assert_eq!(bench.refused(GLOBEX, "web", 443).await.0, Reason::NotFound);
    assert_eq!(bench.refused(ACME, "web", 8443).await, unavailable("no service port 8443 found for service \"web\""));
    assert_eq!(bench.refused(ACME, "dns", 443).await, unavailable("no service port 443 found for service \"dns\""));
    for name in ["none", "named"] {
        let message = format!("no endpoints available for service {name:?}");
        assert_eq!(bench.refused(ACME, name, 443).await, unavailable(&message));
    }
    assert_eq!(bench.refused(ACME, "away", 443).await, unavailable("unsupported service type \"ExternalName\""));
    // What the node says.
    assert_eq!(bench.refused(ACME, "web", 9).await, unavailable("the pod cannot be reached: nobody"));
    assert_eq!(bench.refused(ACME, "web", 10).await, (Reason::TooManyRequests, "nobody".to_owned()));
    // Where no pod is any more, and where nobody is that can prove to be the node.
    bench.status(ACME, "one", "Running", "False").await;
    assert_eq!(bench.refused(ACME, "web", 443).await, without);
    let imposter = kubelet(&bench.authority, "n1").await;
    bench.node("n2", imposter).await;
    bench.pod(ACME, "two", "n2", "10.244.0.3").await;
    let (reason, message) = bench.refused(ACME, "web", 443).await;
    assert_eq!(reason, Reason::ServiceUnavailable);
    assert!(message.contains("node \"n2\" cannot be reached: invalid peer certificate"), "{message}");
}

#[tokio::test]
async fn where_a_pod_is_no_tenant_says() {
    let bench = Bench::new().await;
    bench.service(ACME, "web", json!({"selector": {"app": "web"}, "ports": [{"port": 443}]})).await;
    let pod = json!({"metadata": {"name": "one", "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "a", "image": "b"}]}});
    let pod = bench.api.post(&infrastructure(), &format!("/clusters/{ACME}{PODS}"), pod).await.ok();
    bench.status(ACME, "one", "Running", "True").await;
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let port = json!({"metadata": {"name": format!("pod-{uid}")}, "status": {"phase": "Active", "host": "n1"},
        "spec": {"network": "default", "fixedIps": [{"ipAddress": "169.254.169.254"}], "pod": {"uid": uid}}});
    let made = bench.api.post(&admin(ACME), PORTS, port.clone()).await.ok();
    assert!(made["status"].is_null() || made["status"] == json!({}), "{made}");
    let path = format!("{PORTS}/pod-{uid}/status");
    bench.api.merge(&admin(ACME), &path, json!({"status": port["status"]})).await.forbidden();
    let (reason, message) = bench.refused(ACME, "web", 443).await;
    assert_eq!((reason, &*message), (Reason::ServiceUnavailable, "no endpoints available for service \"web\""));
}
