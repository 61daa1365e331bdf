//! What the host's agent does: connects sandboxes as the Port objects say, and cuts off what they no longer allow.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::Ipv4Addr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use hypernetes_api::{AllTenants, TenantId, types::network::Port};
use hypernetes_client::Clients;
use hypernetes_names::ObjectName;
use kube::ResourceExt;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::Instant};

use crate::{
    Error, NetagentConfig,
    cni::protocol::{Failure, OfferedTap, Reply, Request, code},
    domain::{Domain, Leading},
    mirror::{Change, Mirror},
    records::{Address, Attachment, Records},
    status::{self, Report},
};

/// How long a sandbox waits for its port.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// What VXLAN leaves of 1500 bytes.
const DEFAULT_MTU: u32 = 1450;
/// IPv4's smallest, and what an Ethernet device takes at most.
const MTU_RANGE: std::ops::RangeInclusive<u32> = 68..=65_535;

pub(crate) struct Agent {
    node_name: String,
    namespaces: PathBuf,
    clients: Clients,
    records: Records,
    mirror: Mirror,
    changes: tokio::sync::Mutex<mpsc::UnboundedReceiver<Change>>,
    /// By uid of the network. Networks do not wait for each other.
    domains: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Domain>>>>,
    places: Mutex<Places>,
    reports: mpsc::UnboundedSender<Report>,
    reports_to_write: tokio::sync::Mutex<mpsc::UnboundedReceiver<Report>>,
    linger: Duration,
    unused: mpsc::UnboundedSender<Unused>,
    unused_to_leave: tokio::sync::Mutex<mpsc::UnboundedReceiver<Unused>>,
}

/// A network that nothing is connected to any more.
#[derive(Debug)]
struct Unused {
    network: String,
    since: Instant,
}

/// Where attachments are: uids of network and port.
#[derive(Default)]
struct Places {
    by_container: HashMap<String, (String, String)>,
    by_port: HashMap<String, String>,
}

impl Agent {
    /// Takes over what is recorded.
    pub async fn open(config: &NetagentConfig) -> Result<Self, Error> {
        let records = Records::open(&config.root)?;
        let (mirror, changes) = Mirror::new(&config.node_name);
        let (reports, reports_to_write) = mpsc::unbounded_channel();
        let (unused, unused_to_leave) = mpsc::unbounded_channel();
        let agent = Self {
            node_name: config.node_name.clone(),
            namespaces: config.namespaces.clone(),
            clients: config.clients.clone(),
            records,
            mirror,
            changes: changes.into(),
            domains: Mutex::default(),
            places: Mutex::default(),
            reports,
            reports_to_write: reports_to_write.into(),
            linger: config.linger,
            unused,
            unused_to_leave: unused_to_leave.into(),
        };
        let mut recorded: BTreeMap<String, Vec<Attachment>> = BTreeMap::new();
        for attachment in agent.records.load()? {
            recorded.entry(attachment.network_uid.clone()).or_default().push(attachment);
        }
        for (network, attachments) in recorded {
            let domain = agent.domain(&network)?;
            let mut domain = domain.lock().await;
            // One network's trouble is not another's.
            match domain.adopt(attachments).await {
                Ok(gone) => gone.iter().for_each(|attachment| agent.report_on(attachment, false)),
                Err(error) => tracing::error!(network, %error, "taking over"),
            }
            for attached in domain.attachments() {
                agent.remember(&attached.attachment);
            }
        }
        for network in agent.records.unused()? {
            let domain = agent.domain(&network)?;
            let mut domain = domain.lock().await;
            if let Err(error) = domain.adopt_unused().await {
                tracing::error!(network, %error, "taking over");
            }
            agent.note_use(&mut domain);
        }
        Ok(agent)
    }

    /// Removes what has been unused for a while, until the future is dropped. What waits for the next pod of a network, in its
    /// namespace already, has so much time.
    pub async fn leave_unused(&self) {
        let mut unused = self.unused_to_leave.lock().await;
        // They come in the order in which their time is over.
        while let Some(unused) = unused.recv().await {
            tokio::time::sleep_until(unused.since + self.linger).await;
            self.leave_if_still(&unused).await;
        }
    }

    /// Removes what is unused now.
    pub async fn leave_all_unused(&self) {
        let domains: Vec<_> = self.domains.lock().values().cloned().collect();
        for domain in domains {
            self.leave(&mut *domain.lock().await).await;
        }
    }

    async fn leave_if_still(&self, unused: &Unused) {
        let Ok(shared) = self.domain(&unused.network) else { return };
        let mut domain = shared.lock().await;
        // It may have been used meanwhile, and be unused again.
        if domain.unused_since == Some(unused.since) {
            self.leave(&mut domain).await;
        }
        drop(domain);
        drop(shared);
        self.forget_empty(&unused.network);
    }

    async fn leave(&self, domain: &mut Domain) {
        if let Err(error) = domain.leave().await {
            tracing::error!(network = domain.network_uid(), %error, "removing an unused network");
        }
        self.note_use(domain);
    }

    /// After each change of what is connected.
    fn note_use(&self, domain: &mut Domain) {
        if !domain.is_unused() {
            domain.unused_since = None;
        } else if domain.unused_since.is_none() {
            let since = *domain.unused_since.insert(Instant::now());
            let _ = self.unused.send(Unused { network: domain.network_uid().to_owned(), since });
        }
    }

    /// Follows the API and keeps to what it says, until the future is dropped.
    pub async fn follow(&self, all: &AllTenants) {
        let mut changes = self.changes.lock().await;
        let mut taken_over = false;
        let keep = async {
            while let Some(change) = changes.recv().await {
                if !self.mirror.synced() {
                    continue;
                }
                match change {
                    Change::Port(port) if taken_over => self.enforce(&port).await,
                    _ => {
                        self.enforce_all(!taken_over).await;
                        taken_over = true;
                    }
                }
            }
        };
        tokio::join!(self.mirror.follow(&self.clients, all), keep);
    }

    /// Writes reports, until the future is dropped.
    pub async fn report(&self) {
        let mut reports = self.reports_to_write.lock().await;
        while let Some(report) = reports.recv().await {
            status::write(&self.clients, &self.node_name, &report).await;
        }
    }

    pub async fn answer(&self, request: Request) -> Reply {
        match request {
            Request::Add { container_id, tenant, pod_uid, tap } => self.add(container_id, &tenant, &pod_uid, tap).await,
            Request::Del { container_id } => self.del(&container_id).await,
            Request::Check { container_id } => self.check(&container_id).await,
            Request::Gc { valid } => self.collect(&valid).await,
            Request::Status if self.mirror.synced() => Ok(Value::Null),
            Request::Status => Err(Failure::new(code::UNAVAILABLE, "the ports have not been read yet")),
        }
    }

    async fn add(&self, container_id: String, tenant: &str, pod_uid: &str, tap: Option<OfferedTap>) -> Reply {
        let tenant: TenantId = tenant
            .parse()
            .map_err(|error| Failure::new(code::INVALID_ENVIRONMENT, format!("HYPERNETES_TENANT: {error}")))?;
        let asked = Instant::now();
        let mut generation = self.mirror.generation.subscribe();
        let deadline = asked + PATIENCE;
        let attachment = loop {
            generation.borrow_and_update();
            match self.plan_for_pod(&tenant, pod_uid) {
                Ok(attachment) => break Attachment { container_id, ..attachment },
                Err(why) => {
                    if !matches!(tokio::time::timeout_at(deadline, generation.changed()).await, Ok(Ok(()))) {
                        return Err(Failure::new(code::TRY_AGAIN_LATER, format!("the pod has no port: {why}")));
                    }
                }
            }
        };
        let planned = Instant::now();
        let domain = self.domain(&attachment.network_uid)?;
        let mut domain = domain.lock().await;
        // From here on a DEL finds it, however far this gets.
        self.remember(&attachment);
        let attached = domain.attach(attachment.clone(), tap).await;
        self.note_use(&mut domain);
        attached?;
        self.report_on(&attachment, true);
        tracing::info!(
            %tenant,
            port = attachment.port,
            sandbox = attachment.container_id,
            waited_ms = (planned - asked).as_millis(),
            elapsed_ms = planned.elapsed().as_millis(),
            "connected"
        );
        // What has changed in the API since the plan was made.
        drop(domain);
        self.enforce(&attachment.port_uid).await;
        Ok(result(&attachment, &self.namespaces.join(attachment.namespace()?))?)
    }

    async fn del(&self, container_id: &str) -> Reply {
        let place = self.places.lock().by_container.get(container_id).cloned();
        let Some((network, port)) = place else { return Ok(Value::Null) };
        let domain = self.domain(&network)?;
        self.detach(&mut *domain.lock().await, &port, Some(container_id)).await?;
        drop(domain);
        self.forget_empty(&network);
        Ok(Value::Null)
    }

    async fn check(&self, container_id: &str) -> Reply {
        let unknown = || Failure::new(code::UNKNOWN_CONTAINER, "the sandbox is not connected");
        let (network, port) = self.places.lock().by_container.get(container_id).cloned().ok_or_else(unknown)?;
        let there = self.domain(&network)?.lock().await.check(&port).await?;
        if there { Ok(Value::Null) } else { Err(Failure::new(code::DATAPLANE, "the sandbox's tap is gone")) }
    }

    /// What leads to that address alone, if a connected port of the tenant's network has it on this host.
    pub async fn socket_to(
        &self,
        tenant: &TenantId,
        network: &ObjectName,
        ip: Ipv4Addr,
    ) -> Result<Option<Leading>, Error> {
        let Some(uid) = self.mirror.network(tenant, network).and_then(|network| network.uid()) else { return Ok(None) };
        let Some(domain) = self.domains.lock().get(&uid).cloned() else { return Ok(None) };
        let found = domain.lock().await.socket_to(tenant, ip).await;
        drop(domain);
        self.forget_empty(&uid);
        found
    }

    async fn collect(&self, valid: &[String]) -> Reply {
        let valid: HashSet<&String> = valid.iter().collect();
        let known: Vec<String> = self.places.lock().by_container.keys().cloned().collect();
        for container_id in known.iter().filter(|id| !valid.contains(id)) {
            self.del(container_id).await?;
        }
        Ok(Value::Null)
    }

    /// Disconnects a port, unless another sandbox has it by now.
    async fn detach(&self, domain: &mut Domain, port: &str, container_id: Option<&str>) -> Result<(), Error> {
        let attachment = domain.get(port).map(|attached| attached.attachment.clone());
        if let Some(attachment) = attachment
            && container_id.is_none_or(|id| attachment.container_id == id)
        {
            domain.detach(port).await?;
            self.note_use(domain);
            self.report_on(&attachment, false);
            tracing::info!(tenant = %attachment.tenant, port = attachment.port, sandbox = attachment.container_id, "disconnected");
            self.forget(&attachment);
        }
        if let Some(id) = container_id {
            self.places.lock().by_container.remove(id);
        }
        Ok(())
    }

    /// Keeps one port to what the API says.
    async fn enforce(&self, port: &str) {
        let network = self.places.lock().by_port.get(port).cloned();
        let Some(domain) = network.and_then(|network| self.domain(&network).ok()) else { return };
        if let Err(error) = self.enforce_one(&mut *domain.lock().await, port).await {
            tracing::error!(port, %error, "keeping a port to what the API says");
        }
    }

    async fn enforce_one(&self, domain: &mut Domain, port: &str) -> Result<(), Error> {
        let Some(attachment) = domain.get(port).map(|attached| attached.attachment.clone()) else { return Ok(()) };
        domain.connect(port, self.allows(&attachment)).await?;
        // A VM that still runs keeps its tap, though nothing passes: its sandbox's end will remove it.
        if self.port(&attachment).is_none() && !domain.in_use(port).await? {
            self.detach(domain, port, None).await?;
        }
        Ok(())
    }

    /// Keeps all ports to what the API says; `renew`: whatever rules there were.
    async fn enforce_all(&self, renew: bool) {
        let domains: Vec<_> = self.domains.lock().values().cloned().collect();
        for domain in domains {
            let mut domain = domain.lock().await;
            if renew && let Err(error) = domain.renew_rules(|attachment| self.allows(attachment)).await {
                tracing::error!(network = domain.network_uid(), %error, "renewing the packet filter's rules");
            }
            let ports: Vec<String> = domain.attachments().map(|a| a.attachment.port_uid.clone()).collect();
            for port in ports {
                if let Err(error) = self.enforce_one(&mut domain, &port).await {
                    tracing::error!(port, %error, "keeping a port to what the API says");
                }
            }
        }
        let networks: Vec<String> = self.domains.lock().keys().cloned().collect();
        networks.iter().for_each(|network| self.forget_empty(network));
    }

    /// The attachment's own Port.
    fn port(&self, attachment: &Attachment) -> Option<Arc<Port>> {
        let port = self.mirror.port(&attachment.tenant, &attachment.port)?;
        (port.uid().as_deref() == Some(&attachment.port_uid)).then_some(port)
    }

    /// Whether the API still wants the attachment to send and receive.
    fn allows(&self, attachment: &Attachment) -> bool {
        let Some(port) = self.port(attachment) else { return false };
        let up = !port.spec.admin_state_down
            && self
                .mirror
                .network(&attachment.tenant, &port.spec.network)
                .is_some_and(|network| !network.spec.admin_state_down);
        up && self.plan(&attachment.tenant, &port).is_ok_and(|wanted| wanted.agrees_with(attachment))
    }

    fn plan_for_pod(&self, tenant: &TenantId, pod_uid: &str) -> Result<Attachment, Unready> {
        if !self.mirror.synced() {
            return Err(Unready::NotRead);
        }
        let port = self.mirror.port_of_pod(tenant, pod_uid).ok_or(Unready::NoPort)?;
        self.plan(tenant, &port)
    }

    /// What a port looks like on this host, when all that it needs is known.
    fn plan(&self, tenant: &TenantId, port: &Port) -> Result<Attachment, Unready> {
        // Until the network service has seen it, its addresses may be another's.
        let phase = port.status.as_ref().map_or("", |status| status.phase.as_str());
        if !matches!(phase, "Down" | "Active") {
            return Err(Unready::Phase(phase.chars().take(32).collect()));
        }
        let network = self
            .mirror
            .network(tenant, &port.spec.network)
            .ok_or_else(|| Unready::missing("network", &port.spec.network))?;
        let mut addresses = Vec::new();
        let mut nameservers: Vec<String> = Vec::new();
        for fixed in &port.spec.fixed_ips {
            let subnet = self
                .mirror
                .subnet(tenant, &port.spec.network, &fixed.subnet)
                .ok_or_else(|| Unready::missing("subnet", &fixed.subnet))?;
            let (base, prefix_length) = parse_cidr(&subnet.spec.cidr).ok_or(Unready::Invalid("the subnet's range"))?;
            let gateway = match subnet.spec.gateway.as_str() {
                "none" => None,
                "" => Some(Ipv4Addr::from_bits(base.to_bits().wrapping_add(1))),
                gateway => Some(gateway.parse().map_err(|_| Unready::Invalid("the subnet's gateway"))?),
            };
            let ip = fixed.ip_address.parse().map_err(|_| Unready::Invalid("its address"))?;
            addresses.push(Address { ip, prefix_length, gateway });
            for server in &subnet.spec.dns_nameservers {
                if !nameservers.contains(server) {
                    nameservers.push(server.clone());
                }
            }
        }
        if addresses.is_empty() {
            return Err(Unready::Invalid("its address"));
        }
        let mtu = if network.spec.mtu == 0 { DEFAULT_MTU } else { network.spec.mtu };
        Ok(Attachment {
            container_id: String::new(),
            tenant: tenant.clone(),
            network_uid: network.uid().ok_or(Unready::Invalid("the network's uid"))?,
            port_uid: port.uid().ok_or(Unready::Invalid("its uid"))?,
            port: port.name_any(),
            mac: port.spec.mac_address.parse().map_err(|_| Unready::Invalid("its hardware address"))?,
            mtu: mtu.clamp(*MTU_RANGE.start(), *MTU_RANGE.end()),
            addresses,
            nameservers,
        })
    }

    fn domain(&self, network: &str) -> Result<Arc<tokio::sync::Mutex<Domain>>, Error> {
        let mut domains = self.domains.lock();
        if let Some(domain) = domains.get(network) {
            return Ok(Arc::clone(domain));
        }
        // Two networks never share a namespace, however alike their identifiers.
        let name = crate::names::namespace(network)?;
        if domains.keys().any(|other| crate::names::namespace(other).is_ok_and(|other| other == name)) {
            return Err(Error::NameTaken(name));
        }
        let domain = Domain::new(network, &self.namespaces, self.records.clone())?;
        let domain = Arc::new(tokio::sync::Mutex::new(domain));
        domains.insert(network.to_owned(), Arc::clone(&domain));
        Ok(domain)
    }

    fn forget_empty(&self, network: &str) {
        let mut domains = self.domains.lock();
        // Whoever has a second reference is about to use it.
        if domains.get_mut(network).and_then(Arc::get_mut).is_some_and(|domain| domain.get_mut().is_empty()) {
            domains.remove(network);
        }
    }

    fn remember(&self, attachment: &Attachment) {
        let mut places = self.places.lock();
        // A new sandbox of the same port takes it over.
        places.by_container.retain(|_, (_, port)| *port != attachment.port_uid);
        let place = (attachment.network_uid.clone(), attachment.port_uid.clone());
        places.by_container.insert(attachment.container_id.clone(), place);
        places.by_port.insert(attachment.port_uid.clone(), attachment.network_uid.clone());
    }

    fn forget(&self, attachment: &Attachment) {
        let mut places = self.places.lock();
        places.by_container.remove(&attachment.container_id);
        places.by_port.remove(&attachment.port_uid);
    }

    fn report_on(&self, attachment: &Attachment, active: bool) {
        let _ = self.reports.send(Report {
            tenant: attachment.tenant.clone(),
            port: attachment.port.clone(),
            uid: attachment.port_uid.clone(),
            active,
        });
    }
}

/// Why a port cannot be connected yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Unready {
    #[error("the API server has not been reached yet")]
    NotRead,
    #[error("none was made for it; its events say why")]
    NoPort,
    #[error("the network service has not accepted it (phase {0:?})")]
    Phase(String),
    #[error("{kind} {name:?} is not there")]
    Missing { kind: &'static str, name: String },
    #[error("{0} cannot be used")]
    Invalid(&'static str),
}

impl Unready {
    fn missing(kind: &'static str, name: &str) -> Self {
        Self::Missing { kind, name: name.chars().take(64).collect() }
    }
}

/// First address and prefix length.
fn parse_cidr(text: &str) -> Option<(Ipv4Addr, u8)> {
    let (ip, length) = text.split_once('/')?;
    let (ip, length): (Ipv4Addr, u8) = (ip.parse().ok()?, length.parse().ok()?);
    let host_bits = 32u32.checked_sub(length.into())?;
    let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
    Some((Ipv4Addr::from_bits(ip.to_bits() & mask), length))
}

/// The CNI result of ADD, without its version.
fn result(attachment: &Attachment, namespace: &std::path::Path) -> Result<Value, Error> {
    let ips: Vec<Value> = attachment
        .addresses
        .iter()
        .map(|own| {
            let mut ip = json!({"address": format!("{}/{}", own.ip, own.prefix_length), "interface": 0});
            if let Some(gateway) = own.gateway {
                ip["gateway"] = json!(gateway);
            }
            ip
        })
        .collect();
    let gateway = attachment.addresses.iter().find_map(|own| own.gateway);
    let routes: Vec<Value> = gateway.iter().map(|gateway| json!({"dst": "0.0.0.0/0", "gw": gateway})).collect();
    Ok(json!({
        "interfaces": [{
            "name": attachment.tap()?, "mac": attachment.mac, "mtu": attachment.mtu, "sandbox": namespace,
        }],
        "ips": ips,
        "routes": routes,
        "dns": {"nameservers": attachment.nameservers},
    }))
}
