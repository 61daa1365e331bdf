//! Real namespaces, taps and filters, with stand-ins for VMs; and the whole agent over an API server in memory.

mod api;
mod guest;
mod machine;
mod relay;

use std::path::Path;

use crate::{
    Error,
    cni::protocol::OfferedTap,
    domain::Domain,
    namespace::Namespace,
    records::{Address, Attachment, Mac, Records},
    tap,
};
use guest::Guest;

pub(crate) fn attachment(network: u32, port: u32) -> Attachment {
    Attachment {
        container_id: format!("sandbox-{network}-{port}"),
        tenant: "acme".parse().unwrap(),
        network_uid: uid(network),
        port_uid: uid(port),
        port: format!("pod-{port}"),
        mac: format!("0a:58:0a:f4:00:{port:02x}").parse().unwrap(),
        mtu: 1450,
        addresses: vec![Address {
            ip: format!("10.244.0.{port}").parse().unwrap(),
            prefix_length: 16,
            gateway: Some("10.244.0.1".parse().unwrap()),
        }],
        nameservers: vec![],
    }
}

pub(crate) fn uid(number: u32) -> String {
    format!("{number:08x}-0000-4000-8000-000000000000")
}

/// Namespaces and records in a directory of its own. Removes its namespaces when it goes.
pub(crate) struct Host {
    pub directory: tempfile::TempDir,
}

impl Host {
    pub fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "network namespaces need root");
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub fn namespaces(&self) -> std::path::PathBuf {
        self.directory.path().join("netns")
    }

    fn records(&self) -> Records {
        Records::open(self.directory.path()).unwrap()
    }

    fn domain(&self, network: u32) -> Domain {
        Domain::new(&uid(network), &self.namespaces(), self.records()).unwrap()
    }

    pub fn namespace_names(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.namespaces()) else { return Vec::new() };
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for name in self.namespace_names() {
            let path = self.namespaces().join(name);
            let _ = nix::mount::umount2(&path, nix::mount::MntFlags::MNT_DETACH);
            let _ = std::fs::remove_file(path);
        }
    }
}

async fn links(directory: &Path, name: &str) -> Vec<String> {
    let namespace = Namespace::open(directory, name).await.unwrap().unwrap();
    let names = || Ok(nix::net::if_::if_nameindex()?.iter().map(|i| i.name().to_string_lossy().into_owned()).collect());
    namespace.run("listing interfaces", names).await.unwrap()
}

#[tokio::test]
async fn a_pod_reaches_its_own_network_and_nothing_else() {
    let host = Host::new();
    let (mut red, mut blue) = (host.domain(1), host.domain(2));
    let (two, three) = (attachment(1, 2), attachment(1, 3));
    red.attach(two.clone(), None).await.unwrap();
    red.attach(three.clone(), None).await.unwrap();
    // The same addresses, and one more.
    let (other_two, four) = (attachment(2, 2), attachment(2, 4));
    blue.attach(other_two.clone(), None).await.unwrap();
    blue.attach(four.clone(), None).await.unwrap();
    let directory = host.namespaces();
    let a = Guest::boot(&directory, &two).await;
    let b = Guest::boot(&directory, &three).await;
    let c = Guest::boot(&directory, &other_two).await;
    let d = Guest::boot(&directory, &four).await;

    let router = a.ask(b.ip);
    assert_eq!(
        a.ask("10.244.0.1".parse().unwrap()),
        router,
        "the namespace answers for a neighbour as for the gateway"
    );
    a.ping(b.ip, router);
    assert_eq!(b.pinged(), (a.ip, 8));
    let back = b.ask(a.ip);
    b.ping(a.ip, back);
    assert_eq!(a.pinged(), (b.ip, 8));
    a.ping("10.244.0.1".parse().unwrap(), router);
    assert_eq!(a.pinged(), ("10.244.0.1".parse().unwrap(), 0), "the gateway answers pings");

    // Nobody has it here, though someone has it elsewhere.
    assert!(!a.reaches(d.ip));
    a.ping(d.ip, router);
    assert!(d.is_left_alone());
    assert_eq!(a.pinged(), ("10.244.0.1".parse().unwrap(), 3), "unreachable, says the gateway");
    // The other network's bearer of the same address hears none of it.
    d.ping(c.ip, d.ask(c.ip));
    assert_eq!(c.pinged(), (d.ip, 8));
    assert!(a.is_left_alone());
    // Nothing but its own taps: no way out of the namespace.
    let names = links(&directory, &two.namespace().unwrap()).await;
    assert_eq!(names.iter().filter(|n| n.starts_with("tap")).count(), 2);
    assert!(!names.iter().any(|n| n.starts_with("eth") || n.starts_with("veth")), "{names:?}");
    // The host's own addresses are nobody's there.
    assert!(!a.reaches("127.0.0.1".parse().unwrap()));
}

#[tokio::test]
async fn a_tap_that_a_vm_has_already_moves_into_the_network() {
    let host = Host::new();
    let directory = host.namespaces();
    let nursery = Namespace::ensure(&directory, "hn-nursery").await.unwrap();
    let mut red = host.domain(1);
    let (two, three) = (attachment(1, 2), attachment(1, 3));
    // An earlier sandbox's of the same port gives way.
    let earlier = Attachment { container_id: "earlier".into(), ..two.clone() };
    red.attach(earlier, None).await.unwrap();
    let tap = nursery.run("opening a tap", || tap::open("vm1")).await.unwrap();
    let offered = OfferedTap { name: "vm1".into(), netns: nursery.path().into() };
    red.attach(two.clone(), Some(offered.clone())).await.unwrap();
    red.attach(two.clone(), Some(offered.clone())).await.unwrap();
    red.attach(three.clone(), None).await.unwrap();
    assert!(!links(&directory, "hn-nursery").await.contains(&"vm1".to_owned()));
    let a = Guest::attached(&two, tap);
    let b = Guest::boot(&directory, &three).await;
    a.ping(b.ip, a.ask(b.ip));
    assert_eq!(b.pinged(), (a.ip, 8));
    // One that waits in the network itself is given its name.
    let own = Namespace::open(&directory, &two.namespace().unwrap()).await.unwrap().unwrap();
    let tap = own.run("opening a tap", || tap::open("vm4")).await.unwrap();
    let four = attachment(1, 4);
    let waiting = OfferedTap { name: "vm4".into(), netns: own.path().into() };
    red.attach(four.clone(), Some(waiting.clone())).await.unwrap();
    let d = Guest::attached(&four, tap);
    a.ping(d.ip, a.ask(d.ip));
    assert_eq!(d.pinged(), (a.ip, 8));
    // And one that is gone is made anew.
    let five = attachment(1, 5);
    red.attach(five.clone(), Some(waiting)).await.unwrap();
    let e = Guest::boot(&directory, &five).await;
    a.ping(e.ip, a.ask(e.ip));
    assert_eq!(e.pinged(), (a.ip, 8));
    let gone = red.attach(Attachment { container_id: "later".into(), ..three }, Some(offered)).await;
    assert!(matches!(gone, Err(Error::Namespace { .. })), "{gone:?}");
}

#[tokio::test]
async fn a_foreign_source_is_dropped() {
    let host = Host::new();
    let mut red = host.domain(1);
    let (two, three) = (attachment(1, 2), attachment(1, 3));
    red.attach(two.clone(), None).await.unwrap();
    red.attach(three.clone(), None).await.unwrap();
    let a = Guest::boot(&host.namespaces(), &two).await;
    let b = Guest::boot(&host.namespaces(), &three).await;
    let router = a.ask(b.ip);
    let stranger: Mac = "0a:58:0a:f4:00:99".parse().unwrap();
    a.ping_as(a.mac, "10.244.0.9".parse().unwrap(), b.ip, router);
    assert!(b.is_left_alone(), "another's address");
    a.ping_as(stranger, a.ip, b.ip, router);
    assert!(b.is_left_alone(), "another's hardware address");
    assert!(!a.reaches_as(a.mac, "10.244.0.9".parse().unwrap(), b.ip), "another's address in ARP");
    assert!(!a.reaches_as(stranger, a.ip, b.ip), "another's hardware address in ARP");
    // An ARP lie moves nobody's traffic.
    a.reaches_as(a.mac, b.ip, a.ip);
    b.ping(a.ip, b.ask(a.ip));
    assert_eq!(a.pinged(), (b.ip, 8));
    a.ping(b.ip, router);
    assert_eq!(b.pinged(), (a.ip, 8), "the true one still passes");
}

#[tokio::test]
async fn the_last_port_takes_the_namespace_with_it() {
    let host = Host::new();
    let mut red = host.domain(1);
    let (two, three) = (attachment(1, 2), attachment(1, 3));
    red.attach(two.clone(), None).await.unwrap();
    red.attach(two.clone(), None).await.unwrap();
    red.attach(three.clone(), None).await.unwrap();
    assert!(!red.in_use(&two.port_uid).await.unwrap());
    let guest = Guest::boot(&host.namespaces(), &two).await;
    assert!(red.in_use(&two.port_uid).await.unwrap());
    assert!(red.check(&two.port_uid).await.unwrap());
    red.detach(&two.port_uid).await.unwrap();
    red.detach(&two.port_uid).await.unwrap();
    drop(guest);
    assert!(!red.check(&two.port_uid).await.unwrap());
    assert_eq!(host.namespace_names(), [three.namespace().unwrap()]);
    assert!(!links(&host.namespaces(), &three.namespace().unwrap()).await.contains(&two.tap().unwrap()));
    red.leave().await.unwrap();
    red.detach(&three.port_uid).await.unwrap();
    assert_eq!(host.records().load().unwrap(), []);
    // A VM may wait in it for the network's next pod; nobody forgets it.
    assert_eq!(host.namespace_names(), [three.namespace().unwrap()]);
    assert_eq!(host.records().unused().unwrap(), [uid(1)]);
    red.leave().await.unwrap();
    assert!(host.namespace_names().is_empty() && host.records().unused().unwrap().is_empty());
}

#[tokio::test]
async fn a_restart_disturbs_nothing() {
    let host = Host::new();
    let mut red = host.domain(1);
    let (two, three, four) = (attachment(1, 2), attachment(1, 3), attachment(1, 4));
    for attachment in [&two, &three, &four] {
        red.attach(attachment.clone(), None).await.unwrap();
    }
    let a = Guest::boot(&host.namespaces(), &two).await;
    let b = Guest::boot(&host.namespaces(), &three).await;
    let router = a.ask(b.ip);
    drop(red);
    a.ping(b.ip, router);
    assert_eq!(b.pinged(), (a.ip, 8), "without an agent");

    let mut red = host.domain(1);
    assert_eq!(red.adopt(host.records().load().unwrap()).await.unwrap(), []);
    a.ping(b.ip, router);
    assert_eq!(b.pinged(), (a.ip, 8), "taken over");
    red.renew_rules(|attachment| *attachment != three).await.unwrap();
    a.ping(b.ip, router);
    assert_eq!(b.pinged(), (a.ip, 8), "to one that may not answer");
    b.ping(a.ip, a.ask(b.ip));
    assert!(a.is_left_alone(), "cut off");
    red.connect(&three.port_uid, true).await.unwrap();
    b.ping(a.ip, b.ask(a.ip));
    assert_eq!(a.pinged(), (b.ip, 8), "and let in again");

    // One whose tap went meanwhile is forgotten; so is a whole namespace, as after a restart of the machine.
    drop(red);
    let namespace = Namespace::open(&host.namespaces(), &two.namespace().unwrap()).await.unwrap().unwrap();
    let name = four.tap().unwrap();
    let index = namespace.run("looking", move || Ok(crate::tap::index(&name))).await.unwrap().unwrap();
    namespace.netlink.link().del(index).execute().await.unwrap();
    let mut red = host.domain(1);
    assert_eq!(red.adopt(host.records().load().unwrap()).await.unwrap(), [four]);
    drop((red, a, b));
    namespace.remove().await.unwrap();
    let mut red = host.domain(1);
    assert_eq!(red.adopt(host.records().load().unwrap()).await.unwrap().len(), 2);
    assert!(red.is_empty());
    assert_eq!(host.records().load().unwrap(), []);
}

#[tokio::test]
async fn an_address_goes_to_its_new_owner() {
    let host = Host::new();
    let mut red = host.domain(1);
    let (two, old) = (attachment(1, 2), attachment(1, 3));
    let new = Attachment { port_uid: uid(9), container_id: "s9".into(), mac: attachment(1, 9).mac, ..old.clone() };
    red.attach(two.clone(), None).await.unwrap();
    red.attach(old.clone(), None).await.unwrap();
    let (a, b) = (Guest::boot(&host.namespaces(), &two).await, Guest::boot(&host.namespaces(), &old).await);
    red.attach(new.clone(), None).await.unwrap();
    let c = Guest::boot(&host.namespaces(), &new).await;
    a.ping(c.ip, a.ask(c.ip));
    assert_eq!(c.pinged(), (a.ip, 8));
    assert!(b.is_left_alone());
    assert_eq!(red.get(&old.port_uid).unwrap().connected, Some(false));
    red.detach(&old.port_uid).await.unwrap();
    a.ping(c.ip, a.ask(c.ip));
    assert_eq!(c.pinged(), (a.ip, 8), "the old one's end takes nothing from the new one");
}

#[tokio::test]
async fn names_that_are_alike_are_told_apart() {
    let host = Host::new();
    let mut red = host.domain(1);
    let two = attachment(1, 2);
    red.attach(two.clone(), None).await.unwrap();
    let alike = Attachment { port_uid: format!("{}f", &two.port_uid[..35]), ..attachment(1, 3) };
    assert!(matches!(red.attach(alike, None).await, Err(crate::Error::NameTaken(_))));
}
