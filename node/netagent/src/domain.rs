//! One network on this host: its namespace and the taps in it.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use futures::TryStreamExt;
use hypernetes_api::TenantId;
use rtnetlink::{LinkUnspec, RouteMessageBuilder, packet_route::link::LinkAttribute};
use tokio::{net::TcpSocket, time::Instant};

use crate::{
    Error,
    cni::protocol::OfferedTap,
    namespace::{self, Namespace},
    nft,
    records::{Attachment, Records},
    tap,
};

/// A network's routing domain. Its namespace is there as long as it has an attachment, and until [`Domain::leave`].
pub(crate) struct Domain {
    network_uid: String,
    name: String,
    directory: PathBuf,
    records: Records,
    namespace: Option<Namespace>,
    /// By uid of the Port.
    attachments: BTreeMap<String, Attached>,
    /// When the agent noticed that nothing is connected any more.
    pub unused_since: Option<Instant>,
}

#[derive(Debug, Clone)]
pub(crate) struct Attached {
    pub attachment: Attachment,
    /// Whether its packets are let in; unknown after a restart.
    pub connected: Option<bool>,
}

/// What leads to a port.
pub(crate) enum Leading {
    Socket(TcpSocket),
    /// There is a port, but no address to come from.
    NoGateway,
}

impl Domain {
    /// `directory` is where namespaces are mounted.
    pub fn new(network_uid: &str, directory: &Path, records: Records) -> Result<Self, Error> {
        Ok(Self {
            name: crate::names::namespace(network_uid)?,
            network_uid: network_uid.to_owned(),
            directory: directory.to_owned(),
            records,
            namespace: None,
            attachments: BTreeMap::new(),
            unused_since: None,
        })
    }

    pub fn network_uid(&self) -> &str {
        &self.network_uid
    }

    /// Whether nothing of it is on this host.
    pub fn is_empty(&self) -> bool {
        self.attachments.is_empty() && self.namespace.is_none()
    }

    /// Whether its namespace is there and nothing is connected.
    pub fn is_unused(&self) -> bool {
        self.attachments.is_empty() && self.namespace.is_some()
    }

    pub fn attachments(&self) -> impl Iterator<Item = &Attached> {
        self.attachments.values()
    }

    pub fn get(&self, port_uid: &str) -> Option<&Attached> {
        self.attachments.get(port_uid)
    }

    /// Takes over recorded attachments after a restart, without touching what works. Those whose tap is gone (the machine
    /// was restarted) are forgotten; their container ids are given back.
    pub async fn adopt(&mut self, recorded: Vec<Attachment>) -> Result<Vec<Attachment>, Error> {
        let Some(namespace) = Namespace::open(&self.directory, &self.name).await? else {
            for attachment in &recorded {
                self.records.remove(&attachment.port_uid)?;
            }
            return Ok(recorded);
        };
        let mut gone = Vec::new();
        for attachment in recorded {
            match find_tap(&namespace, &attachment.tap()?).await? {
                Some(_) => {
                    let attached = Attached { connected: None, attachment };
                    self.attachments.insert(attached.attachment.port_uid.clone(), attached);
                }
                None => {
                    namespace.filter(nft::disconnect(&attachment)?).await?;
                    self.records.remove(&attachment.port_uid)?;
                    gone.push(attachment);
                }
            }
        }
        self.namespace = Some(namespace);
        if self.is_unused() {
            self.records.save_unused(&self.network_uid)?;
        }
        Ok(gone)
    }

    /// Takes over a namespace that nothing was connected to, if it is still there.
    pub async fn adopt_unused(&mut self) -> Result<(), Error> {
        self.namespace = Namespace::open(&self.directory, &self.name).await?;
        if self.namespace.is_none() || !self.attachments.is_empty() {
            self.records.remove_unused(&self.network_uid)?;
        }
        Ok(())
    }

    /// Removes the namespace if nothing is connected.
    pub async fn leave(&mut self) -> Result<(), Error> {
        if self.attachments.is_empty() {
            if let Some(namespace) = self.namespace.take() {
                namespace.remove().await?;
            }
            self.records.remove_unused(&self.network_uid)?;
        }
        Ok(())
    }

    /// Connects a sandbox. Repeating it is no error; a new sandbox of the same port takes over the tap, or brings its own,
    /// `offered`, that its VM is attached to already.
    pub async fn attach(&mut self, attachment: Attachment, offered: Option<OfferedTap>) -> Result<(), Error> {
        let name = attachment.tap()?;
        let other =
            |a: &Attached| a.attachment.port_uid != attachment.port_uid && a.attachment.tap().is_ok_and(|t| t == name);
        if self.attachments().any(other) {
            return Err(Error::NameTaken(name));
        }
        // Whoever had one of its addresses before has it no more.
        let same = |other: &Attachment| {
            other.port_uid != attachment.port_uid
                && other.addresses.iter().any(|a| attachment.addresses.iter().any(|b| a.ip == b.ip))
        };
        let former: Vec<String> =
            self.attachments().filter(|a| same(&a.attachment)).map(|a| a.attachment.port_uid.clone()).collect();
        for port_uid in former {
            self.connect(&port_uid, false).await?;
        }
        if let Some(earlier) = self.attachments.get(&attachment.port_uid).map(|a| a.attachment.clone()) {
            if earlier == attachment && self.attachments[&attachment.port_uid].connected == Some(true) {
                return Ok(());
            }
            if !earlier.agrees_with(&attachment) {
                self.detach(&attachment.port_uid).await?;
            }
        }
        self.records.save(&attachment)?;
        self.records.remove_unused(&self.network_uid)?;
        let port_uid = attachment.port_uid.clone();
        self.attachments.insert(port_uid.clone(), Attached { attachment: attachment.clone(), connected: None });
        let namespace = match self.namespace.take() {
            Some(namespace) => namespace,
            None => Namespace::ensure(&self.directory, &self.name).await?,
        };
        let namespace = self.namespace.insert(namespace);
        let tap = async {
            match offered {
                Some(offered) => take_tap(namespace, &name, &offered).await,
                None => make_tap(namespace, &name).await,
            }
        };
        // The filter goes by the tap's name, which need not be there yet: both take the kernel some milliseconds.
        let (index, ()) = tokio::try_join!(tap, namespace.filter(nft::connect(&attachment)?))?;
        address(namespace, &attachment, index).await?;
        if let Some(attached) = self.attachments.get_mut(&port_uid) {
            attached.connected = Some(true);
        }
        Ok(())
    }

    /// Lets a port's packets in, or none of them any more.
    pub async fn connect(&mut self, port_uid: &str, connected: bool) -> Result<(), Error> {
        let (Some(attached), Some(namespace)) = (self.attachments.get_mut(port_uid), &self.namespace) else {
            return Ok(());
        };
        if attached.connected != Some(connected) {
            let change = if connected { nft::connect } else { nft::disconnect };
            namespace.filter(change(&attached.attachment)?).await?;
            attached.connected = Some(connected);
        }
        Ok(())
    }

    /// A socket in the namespace that comes from the port's gateway and reaches the port alone. `None`: none of the tenant's that is
    /// connected has the address.
    pub async fn socket_to<'a>(&'a self, tenant: &TenantId, ip: Ipv4Addr) -> Result<Option<Leading>, Error> {
        let Some(namespace) = &self.namespace else { return Ok(None) };
        let addresses = |of: &'a Attached| of.attachment.addresses.iter().map(move |address| (of, address));
        // The namespace itself has the gateways', whatever a port says.
        if self.attachments().flat_map(addresses).any(|(_, address)| address.gateway == Some(ip)) {
            return Ok(None);
        }
        let own = self.attachments().filter(|of| of.connected == Some(true) && of.attachment.tenant == *tenant);
        let found = own.flat_map(addresses).find(|(_, address)| address.ip == ip);
        let Some((attached, address)) = found else { return Ok(None) };
        let Some(gateway) = address.gateway else { return Ok(Some(Leading::NoGateway)) };
        let tap = attached.attachment.tap()?;
        let make = move || {
            let socket = TcpSocket::new_v4()?;
            socket.bind_device(Some(tap.as_bytes()))?;
            socket.bind((gateway, 0).into())?;
            Ok(socket)
        };
        Ok(Some(Leading::Socket(namespace.run("making a socket", make).await?)))
    }

    /// Whether a VM has the port's tap open.
    pub async fn in_use(&self, port_uid: &str) -> Result<bool, Error> {
        let (Some(attached), Some(namespace)) = (self.attachments.get(port_uid), &self.namespace) else {
            return Ok(false);
        };
        let name = attached.attachment.tap()?;
        let mut links = namespace.netlink.link().get().match_name(name.clone()).execute();
        match links.try_next().await {
            Ok(link) => Ok(link.is_some_and(|link| link.attributes.contains(&LinkAttribute::Carrier(1)))),
            Err(error) if is_no_device(&error) => Ok(false),
            Err(source) => Err(Error::Interface { interface: name, operation: "looking at it", source }),
        }
    }

    /// Whether all is as [`Domain::attach`] has left it.
    pub async fn check(&self, port_uid: &str) -> Result<bool, Error> {
        let (Some(attached), Some(namespace)) = (self.attachments.get(port_uid), &self.namespace) else {
            return Ok(false);
        };
        Ok(find_tap(namespace, &attached.attachment.tap()?).await?.is_some())
    }

    /// Removes a port's tap and everything about it. Repeating it is no error.
    pub async fn detach(&mut self, port_uid: &str) -> Result<(), Error> {
        let Some(attached) = self.attachments.get(port_uid).cloned() else { return Ok(()) };
        if let Some(namespace) = &self.namespace {
            namespace.filter(nft::disconnect(&attached.attachment)?).await?;
            let name = attached.attachment.tap()?;
            // Its route, neighbour and address go with it.
            if let Some(index) = find_tap(namespace, &name).await? {
                match namespace.netlink.link().del(index).execute().await {
                    Err(error) if !is_no_device(&error) => {
                        return Err(Error::Interface { interface: name, operation: "removing it", source: error });
                    }
                    _ => {}
                }
            }
        }
        self.attachments.remove(port_uid);
        if self.is_unused() {
            self.records.save_unused(&self.network_uid)?;
        }
        self.records.remove(port_uid)
    }

    /// Replaces the packet filter's rules by this version's, with those of the attachments let in that are connected.
    pub async fn renew_rules(&mut self, connected: impl Fn(&Attachment) -> bool) -> Result<(), Error> {
        let Some(namespace) = &self.namespace else { return Ok(()) };
        let let_in = self.attachments.values().map(|a| &a.attachment).filter(|a| connected(a));
        namespace.filter(nft::rules(let_in)?).await?;
        for attached in self.attachments.values_mut() {
            attached.connected = Some(connected(&attached.attachment));
        }
        Ok(())
    }
}

/// The interface index of the tap of that name, if there is one.
async fn find_tap(namespace: &Namespace, name: &str) -> Result<Option<u32>, Error> {
    let name = name.to_owned();
    namespace.run("looking for a tap", move || Ok(tap::index(&name))).await
}

/// A tap of that name, made if there is none. Gives its interface index.
async fn make_tap(namespace: &Namespace, name: &str) -> Result<u32, Error> {
    let name = name.to_owned();
    let make = move || {
        // One that a VM has open cannot be opened again, and need not be.
        match tap::index(&name) {
            Some(index) => Ok(index),
            None => tap::create(&name),
        }
    };
    namespace.run("making a tap", make).await
}

/// Gives a tap that a VM has open the name that it is to have in the network, and moves it there if it is not there yet, which
/// takes the kernel 10 ms and more. One that is gone (its VM waited in a namespace that was removed meanwhile) is replaced by
/// a new one. Gives its interface index.
async fn take_tap(namespace: &Namespace, name: &str, offered: &OfferedTap) -> Result<u32, Error> {
    let failed = |operation| {
        let interface = name.to_owned();
        move |source| Error::Interface { interface, operation, source }
    };
    if let Some(earlier) = find_tap(namespace, name).await? {
        // An earlier sandbox's of the same port.
        namespace.netlink.link().del(earlier).execute().await.map_err(failed("removing an earlier one"))?;
    }
    if offered.netns == namespace.path() {
        let Some(index) = find_tap(namespace, &offered.name).await? else {
            return make_tap(namespace, name).await;
        };
        let named = LinkUnspec::new_with_index(index).name(name.to_owned()).build();
        namespace.netlink.link().set(named).execute().await.map_err(failed("naming it"))?;
        return Ok(index);
    }
    let (netlink, index) = namespace::netlink_at(&offered.netns, &offered.name).await?;
    let into = std::fs::File::open(namespace.path()).map_err(|source| Error::Namespace {
        name: name.to_owned(),
        operation: "opening it",
        source,
    })?;
    let moved = LinkUnspec::new_with_index(index).setns_by_fd(into.as_raw_fd()).name(name.to_owned()).build();
    netlink.handle.link().set(moved).execute().await.map_err(failed("taking it over"))?;
    find_tap(namespace, name).await?.ok_or_else(|| Error::Namespace {
        name: name.to_owned(),
        operation: "looking for the tap",
        source: std::io::ErrorKind::NotFound.into(),
    })
}

/// Gives the tap all it needs: settings, gateway address, route and neighbour. Repeating it is no error.
async fn address(namespace: &Namespace, attachment: &Attachment, index: u32) -> Result<(), Error> {
    let name = attachment.tap()?;
    let failed = |operation| {
        let interface = name.clone();
        move |source| Error::Interface { interface, operation, source }
    };
    let settings = [
        // Answers for every address that has a route through another tap: the guest sees one subnet.
        (format!("/proc/sys/net/ipv4/conf/{name}/proxy_arp"), "1"),
        // At once, not within the usual random 0.8 s.
        (format!("/proc/sys/net/ipv4/neigh/{name}/proxy_delay"), "0"),
    ];
    namespace
        .run("setting up a tap", move || settings.iter().try_for_each(|(path, value)| std::fs::write(path, value)))
        .await?;
    let netlink = &namespace.netlink;
    let link = LinkUnspec::new_with_index(index).mtu(attachment.mtu).up().build();
    netlink.link().set(link).execute().await.map_err(failed("setting it up"))?;
    for own in &attachment.addresses {
        if let Some(gateway) = own.gateway {
            let add = netlink.address().add(index, gateway.into(), 32).replace();
            add.execute().await.map_err(failed("giving it the gateway's address"))?;
        }
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(own.ip, 32)
            .output_interface(index)
            .scope(rtnetlink::packet_route::route::RouteScope::Link)
            .build();
        netlink.route().add(route).replace().execute().await.map_err(failed("routing to it"))?;
        // The namespace never asks who has an address: it knows.
        let neighbour = netlink.neighbours().add(index, own.ip.into()).link_layer_address(&attachment.mac.0).replace();
        neighbour.execute().await.map_err(failed("setting its neighbour"))?;
    }
    Ok(())
}

fn is_no_device(error: &rtnetlink::Error) -> bool {
    let rtnetlink::Error::NetlinkError(message) = error else { return false };
    message.to_io().raw_os_error() == Some(nix::libc::ENODEV)
}
