//! The whole agent: Port objects in an API server in memory, the plugin's requests over the socket.

use std::{path::PathBuf, time::Duration};

use hypernetes_api::{
    AllTenants, TenantId,
    types::network::{FixedIp, Network, Port, PortSpec, PortStatus, Subnet, SubnetSpec},
};
use hypernetes_client::{Api, Clients};
use hypernetes_testing::{fake_api::FakeApi, wait::eventually};
use kube::{
    ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Guest, Host};
use crate::{
    NetagentConfig,
    cni::protocol::{Reply, Request, code},
    records::{Attachment, Records},
};

pub(super) struct Setup {
    pub host: Host,
    fake: FakeApi,
    clients: Clients,
    socket: PathBuf,
    linger: Duration,
    pub agent: tokio::task::JoinHandle<()>,
}

impl Drop for Setup {
    fn drop(&mut self) {
        self.agent.abort();
    }
}

pub(super) fn tenant(name: &str) -> TenantId {
    name.parse().unwrap()
}

impl Setup {
    pub fn new() -> Self {
        Self::with_linger(Duration::ZERO)
    }

    fn with_linger(linger: Duration) -> Self {
        let host = Host::new();
        let fake = FakeApi::new();
        let clients = fake.clients();
        let socket = host.directory.path().join("netagent.sock");
        let agent = start(config(&host, &clients, linger));
        Self { host, fake, clients, socket, linger, agent }
    }

    pub async fn stop(&mut self) -> NetagentConfig {
        self.agent.abort();
        let _ = (&mut self.agent).await;
        config(&self.host, &self.clients, self.linger)
    }

    async fn restart(&mut self) {
        self.agent = start(self.stop().await);
        self.synced().await;
    }

    /// What it has on this host goes when nothing is connected any more.
    async fn left(&self) {
        eventually(|| async { self.host.namespace_names().is_empty().then_some(()) }).await;
    }

    pub async fn synced(&self) {
        eventually(|| async { self.ask(&Request::Status).await.ok() }).await;
    }

    fn api<K: kube::Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>>(
        &self,
        tenant_name: &str,
    ) -> Api<K> {
        Api::all(self.clients.tenant(&tenant(tenant_name)))
    }

    pub async fn network(&self, tenant: &str) {
        let post = PostParams::default();
        self.api(tenant).create(&post, &Network::new("default", Default::default())).await.unwrap();
        let spec = SubnetSpec {
            network: "default".into(),
            cidr: "10.244.0.0/16".into(),
            dns_nameservers: vec!["10.96.0.10".into()],
            ..SubnetSpec::default()
        };
        self.api(tenant).create(&post, &Subnet::new("default", spec)).await.unwrap();
    }

    pub async fn port(&self, tenant: &str, pod: &str, last: u8) -> Port {
        self.port_on("node-1", tenant, pod, last).await
    }

    pub async fn port_on(&self, host: &str, tenant: &str, pod: &str, last: u8) -> Port {
        let spec = PortSpec {
            network: "default".into(),
            fixed_ips: vec![FixedIp { subnet: "default".into(), ip_address: format!("10.244.0.{last}") }],
            mac_address: format!("0a:58:0a:f4:00:{last:02x}"),
            device_id: pod.into(),
            ..PortSpec::default()
        };
        let api: Api<Port> = self.api(tenant);
        let port = api.create(&PostParams::default(), &Port::new(&format!("pod-{pod}"), spec)).await.unwrap();
        let status = json!({"status": PortStatus { phase: "Down".into(), host: host.into() }});
        api.patch_status(&port.name_any(), &PatchParams::default(), &Patch::Merge(status)).await.unwrap()
    }

    /// An agent that ends may take a connection and hang up: that is no answer, as if there were no agent.
    pub async fn ask(&self, request: &Request) -> Reply {
        let exchange = async {
            let mut stream = tokio::net::UnixStream::connect(&self.socket).await?;
            stream.write_all(&serde_json::to_vec(request).unwrap()).await?;
            stream.shutdown().await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let failure = |error: String| crate::cni::protocol::Failure::new(code::IO, error);
        let answer = exchange.await.map_err(|error| failure(error.to_string()))?;
        if answer.is_empty() {
            return Err(failure("the agent hung up".into()));
        }
        serde_json::from_slice::<Reply>(&answer).unwrap()
    }

    pub async fn add(&self, tenant: &str, pod: &str) -> Reply {
        self.ask(&add(tenant, pod)).await
    }

    pub fn records(&self) -> Vec<Attachment> {
        Records::open(&self.host.directory.path().join("state")).unwrap().load().unwrap()
    }

    async fn guest(&self, tenant_name: &str, pod: &str) -> Guest {
        let records = self.records();
        let of_pod = |a: &&Attachment| a.tenant == tenant(tenant_name) && a.port == format!("pod-{pod}");
        Guest::boot(&self.host.namespaces(), records.iter().find(of_pod).unwrap()).await
    }
}

fn config(host: &Host, clients: &Clients, linger: Duration) -> NetagentConfig {
    let root = host.directory.path();
    let mut config = NetagentConfig::new(
        "node-1",
        root.join("state"),
        root.join("netagent.sock"),
        clients.clone(),
        AllTenants::grant(),
    );
    config.namespaces = host.namespaces();
    config.linger = linger;
    config
}

fn start(config: NetagentConfig) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move { crate::Netagent::open(config).await.unwrap().run().await })
}

fn add(tenant: &str, pod: &str) -> Request {
    Request::Add { container_id: format!("{tenant}-{pod}"), tenant: tenant.into(), pod_uid: pod.into(), tap: None }
}

fn del(tenant: &str, pod: &str) -> Request {
    Request::Del { container_id: format!("{tenant}-{pod}") }
}

#[tokio::test]
async fn pods_are_connected_as_their_ports_say() {
    let setup = Setup::new();
    for tenant in ["acme", "globex"] {
        setup.network(tenant).await;
        setup.port(tenant, "p2", 2).await;
    }
    let port = setup.port("acme", "p3", 3).await;
    eventually(|| async { setup.socket.exists().then_some(()) }).await;
    let result = setup.add("acme", "p2").await.unwrap();
    setup.add("acme", "p3").await.unwrap();
    let other = setup.add("globex", "p2").await.unwrap();
    assert_eq!(result["ips"], json!([{"address": "10.244.0.2/16", "gateway": "10.244.0.1", "interface": 0}]));
    assert_eq!(result["routes"], json!([{"dst": "0.0.0.0/0", "gw": "10.244.0.1"}]));
    assert_eq!(result["dns"], json!({"nameservers": ["10.96.0.10"]}));
    assert_eq!(
        (&result["interfaces"][0]["mac"], &result["interfaces"][0]["mtu"]),
        (&json!("0a:58:0a:f4:00:02"), &json!(1450))
    );
    assert_eq!(result["ips"], other["ips"]);
    assert_ne!(result["interfaces"][0]["sandbox"], other["interfaces"][0]["sandbox"]);
    assert_eq!(setup.add("acme", "p2").await.unwrap(), result, "repeated");

    let (a, b) = (setup.guest("acme", "p2").await, setup.guest("acme", "p3").await);
    let c = setup.guest("globex", "p2").await;
    a.ping(b.ip, a.ask(b.ip));
    assert_eq!(b.pinged(), (a.ip, 8));
    assert!(!c.reaches(b.ip));

    let ports: Api<Port> = setup.api("acme");
    eventually(|| async {
        let status = ports.get(&port.name_any()).await.unwrap().status.unwrap();
        (status.phase == "Active" && status.host == "node-1").then_some(())
    })
    .await;
    setup.ask(&Request::Check { container_id: "acme-p3".into() }).await.unwrap();
    drop(b);
    for _ in 0..2 {
        setup.ask(&del("acme", "p3")).await.unwrap();
    }
    let unknown = setup.ask(&Request::Check { container_id: "acme-p3".into() }).await.unwrap_err();
    assert_eq!(unknown.code, code::UNKNOWN_CONTAINER);
    eventually(|| async { (ports.get(&port.name_any()).await.unwrap().status?.phase == "Down").then_some(()) }).await;
    setup.ask(&del("globex", "p2")).await.unwrap();
    eventually(|| async { (setup.host.namespace_names().len() == 1).then_some(()) }).await;
    setup.ask(&Request::Gc { valid: vec![] }).await.unwrap();
    setup.left().await;
    assert_eq!(setup.records(), []);
}

#[tokio::test]
async fn an_unused_network_stays_for_what_waits_in_it() {
    let mut setup = Setup::with_linger(Duration::from_secs(3600));
    setup.network("acme").await;
    setup.port("acme", "p2", 2).await;
    setup.synced().await;
    for _ in 0..2 {
        setup.add("acme", "p2").await.unwrap();
        setup.ask(&del("acme", "p2")).await.unwrap();
        setup.restart().await;
        assert_eq!(setup.host.namespace_names().len(), 1);
    }
    // A used one is not left.
    setup.add("acme", "p2").await.unwrap();
    let config = setup.stop().await;
    crate::leave_unused(&config).await.unwrap();
    assert_eq!(setup.host.namespace_names().len(), 1);
    setup.agent = start(config);
    setup.synced().await;
    setup.ask(&del("acme", "p2")).await.unwrap();
    let config = setup.stop().await;
    assert_eq!(setup.host.namespace_names().len(), 1);
    crate::leave_unused(&config).await.unwrap();
    assert!(setup.host.namespace_names().is_empty());
}

#[tokio::test]
async fn a_pod_waits_for_its_port() {
    let setup = Setup::new();
    setup.network("acme").await;
    setup.synced().await;
    let waiting = add("acme", "p2");
    let (answer, ()) = tokio::join!(setup.ask(&waiting), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        setup.port("acme", "p2", 2).await;
    });
    answer.unwrap();
    let bad = Request::Add { container_id: "c".into(), tenant: "../x".into(), pod_uid: "p2".into(), tap: None };
    assert_eq!(setup.ask(&bad).await.unwrap_err().code, code::INVALID_ENVIRONMENT);
    // Another tenant's pod of that uid has no port.
    tokio::time::pause();
    let none = tokio::join!(setup.add("globex", "p2"), tokio::time::advance(super::super::agent::PATIENCE)).0;
    assert_eq!(none.unwrap_err().code, code::TRY_AGAIN_LATER);
}

#[tokio::test]
async fn only_what_is_on_this_host_is_followed() {
    let setup = Setup::new();
    for tenant in ["acme", "globex"] {
        setup.network(tenant).await;
    }
    setup.port("acme", "p2", 2).await;
    // Of another host's.
    let ports: Api<Port> = setup.api("globex");
    setup.port_on("node-2", "globex", "p2", 2).await;
    setup.synced().await;
    setup.add("acme", "p2").await.unwrap();
    let asked = setup.fake.asked();
    let of_globex = |path: &&String| path.contains("/clusters/globex/") && !path.contains("/ports");
    assert_eq!(asked.iter().find(of_globex), None);
    for path in asked.iter().filter(|path| path.contains("/clusters/*/")) {
        assert!(path.contains("fieldSelector=status.host%3Dnode-1"), "{path}");
    }
    // What comes here is followed then, with its network.
    let waiting = add("globex", "p2");
    let (parameters, here) = (PatchParams::default(), Patch::Merge(json!({"status": {"host": "node-1"}})));
    let (answer, moved) = tokio::join!(setup.ask(&waiting), ports.patch_status("pod-p2", &parameters, &here));
    moved.unwrap();
    answer.unwrap();
    assert!(setup.fake.asked().iter().any(|path| of_globex(&path)));
}

#[tokio::test]
async fn what_the_api_takes_back_is_cut_off() {
    let mut setup = Setup::new();
    setup.network("acme").await;
    for last in [2, 3, 4] {
        setup.port("acme", &format!("p{last}"), last).await;
    }
    setup.synced().await;
    for pod in ["p2", "p3", "p4"] {
        setup.add("acme", pod).await.unwrap();
    }
    let (a, b) = (setup.guest("acme", "p2").await, setup.guest("acme", "p3").await);
    let ports: Api<Port> = setup.api("acme");
    let set = |name: &'static str, spec: Value| {
        let ports = ports.clone();
        async move { ports.patch(name, &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await.unwrap() }
    };
    let reaches = || b.reaches(a.ip);
    b.ask(a.ip);
    set("pod-p3", json!({"adminStateDown": true})).await;
    eventually(|| async { (!reaches()).then_some(()) }).await;
    set("pod-p3", json!({"adminStateDown": false})).await;
    eventually(|| async { reaches().then_some(()) }).await;

    // A VM keeps its tap without a port, but nothing passes; a tap without a VM goes.
    ports.delete("pod-p3", &DeleteParams::default()).await.unwrap();
    ports.delete("pod-p4", &DeleteParams::default()).await.unwrap();
    eventually(|| async { (!reaches()).then_some(()) }).await;
    eventually(|| async { (setup.records().len() == 2).then_some(()) }).await;

    // What went while no agent ran is noticed by the next one, and the rest goes on.
    setup.restart().await;
    a.ask("10.244.0.1".parse().unwrap());
    drop(b);
    setup.restart().await;
    eventually(|| async { (setup.records().len() == 1).then_some(()) }).await;
    a.ask("10.244.0.1".parse().unwrap());
    setup.ask(&del("acme", "p2")).await.unwrap();
    setup.left().await;
}

#[tokio::test]
async fn a_new_sandbox_takes_its_pods_port_over() {
    let setup = Setup::new();
    setup.network("acme").await;
    setup.port("acme", "p2", 2).await;
    setup.synced().await;
    let first = setup.add("acme", "p2").await.unwrap();
    let again = Request::Add { container_id: "second".into(), tenant: "acme".into(), pod_uid: "p2".into(), tap: None };
    assert_eq!(setup.ask(&again).await.unwrap(), first);
    setup.ask(&del("acme", "p2")).await.unwrap();
    setup.ask(&Request::Check { container_id: "second".into() }).await.unwrap();
    setup.ask(&Request::Del { container_id: "second".into() }).await.unwrap();
    setup.left().await;
}

#[tokio::test]
async fn the_plugin_is_installed_and_the_socket_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let setup = Setup::new();
    setup.synced().await;
    assert_eq!(setup.socket.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let cni = setup.host.directory.path().join("cni");
    for program in ["/opt/earlier", "/opt/it's here", "/opt/it's here"] {
        crate::cni::install(&cni, std::path::Path::new(program), &setup.socket).unwrap();
    }
    let list: Value =
        serde_json::from_slice(&std::fs::read(cni.join("net.d/10-hypernetes.conflist")).unwrap()).unwrap();
    assert_eq!(list["plugins"][0]["socket"], json!(setup.socket));
    assert_eq!(std::fs::read_link(cni.join("bin/hypernetes")).unwrap(), std::path::Path::new("/opt/it's here"));
}
