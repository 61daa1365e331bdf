//! Debian's plugins (containernetworking-plugins), with a guest at the tap.

use std::net::SocketAddr;

use k8s_cri::v1 as cri;
use serde_json::{Value, json};

use super::{
    guest::{Guest, call},
    *,
};

const PLUGINS: &str = "/usr/lib/cni";

fn ipam(setup: &Setup) -> Value {
    assert!(Path::new(PLUGINS).join("bridge").exists(), "apt-get install containernetworking-plugins iptables");
    json!({"type": "host-local", "dataDir": setup.path("ipam"), "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        "ranges": [[{"subnet": "10.88.0.0/24"}], [{"subnet": "fd88::/64"}]]})
}

async fn reached(server: &str) -> Option<String> {
    let server: SocketAddr = server.parse().unwrap();
    tokio::task::spawn_blocking(move || call(server)).await.unwrap()
}

#[test]
fn a_bridge_with_host_ports_and_limits() {
    on_a_host(async || {
        let setup = Setup::new(Some(PLUGINS));
        setup.configure(&json!({"cniVersion": "1.0.0", "name": "bridged", "plugins": [
            {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "mtu": 1400, "ipam": ipam(&setup),
             "dns": {"nameservers": ["10.88.0.1"], "search": ["pods.test"]}},
            {"type": "portmap", "snat": true, "capabilities": {"portMappings": true}},
            {"type": "bandwidth", "capabilities": {"bandwidth": true}},
        ]}));
        assert_eq!(setup.cni.status().await.unwrap().as_deref(), Some("bridged"));
        let config = cri::PodSandboxConfig {
            port_mappings: vec![cri::PortMapping { host_port: 8080, container_port: 80, ..Default::default() }],
            annotations: [(pod::INGRESS_BANDWIDTH.to_owned(), "100M".to_owned())].into(),
            ..Default::default()
        };
        let network = setup.add(&Pod::new("s1", &config).unwrap(), None).await.unwrap().unwrap();
        let cidrs: Vec<&str> = network.addresses.iter().map(|a| a.cidr.as_str()).collect();
        assert_eq!(cidrs, ["10.88.0.2/24", "fd88::2/64"]);
        assert_eq!((network.mtu, network.dns.search[0].as_str()), (1400, "pods.test"));
        assert!(tool("tc", "qdisc show").contains("tbf"), "the bandwidth is not limited");

        let guest = Guest::boot(setup.path("guest"), &network).await;
        guest.serve(80).await;
        assert!(guest.ip("link show eth0").await.contains(&network.mac));
        // The host reaches the pod, with either IP version, and by the host port; the pod reaches the host.
        assert_eq!(reached("10.88.0.2:80").await.unwrap(), "10.88.0.1");
        assert_eq!(reached("[fd88::2]:80").await.unwrap(), "fd88::1");
        assert!(reached("127.0.0.1:8080").await.is_some());
        assert!(reached("10.88.0.1:8080").await.is_some());
        let listener = std::net::TcpListener::bind("10.88.0.1:0").unwrap();
        let server = listener.local_addr().unwrap().to_string();
        let answering =
            std::thread::spawn(move || std::io::Write::write_all(&mut listener.accept().unwrap().0, b"host"));
        assert_eq!(guest.call(&server).await.as_deref(), Some("host"));
        answering.join().unwrap().unwrap();
        // A second pod reaches the first.
        let other = setup.add(&pod("s2"), None).await.unwrap().unwrap();
        let neighbour = Guest::boot(setup.path("neighbour"), &other).await;
        assert_eq!(neighbour.call("10.88.0.2:80").await.unwrap(), "10.88.0.3");

        std::fs::remove_file(setup.path("net.d/10-test.conflist")).unwrap();
        drop((guest, neighbour));
        for id in ["s1", "s2"] {
            setup.cni.del(id).await.unwrap();
            assert!(!setup.path("netns").join(id).exists());
        }
        let reserved = netns::names(&setup.path("ipam/bridged")).unwrap();
        assert!(!reserved.iter().any(|name| name.starts_with("10.88") || name.starts_with("fd88")), "{reserved:?}");
        assert!(!tool("iptables-save", "").contains("8080"), "the host port is still there");
        assert!(!tool("ip", "link").contains("veth"));
    });
}

#[test]
fn point_to_point_even_within_the_pods_network() {
    on_a_host(async || {
        let setup = Setup::new(Some(PLUGINS));
        setup.configure(&json!({"cniVersion": "0.4.0", "name": "routed", "type": "ptp", "ipam": ipam(&setup)}));
        let mut guests = Vec::new();
        for id in ["s1", "s2"] {
            let network = setup.add(&pod(id), None).await.unwrap().unwrap();
            // The network of the address is behind the gateway, and so an address of its own is all that is on the link.
            let v4 = &network.addresses[0];
            assert_eq!(v4.cidr, format!("{}/32", v4.ip));
            let via: Vec<_> =
                network.routes.iter().filter_map(|r| Some((r.destination.as_str(), r.gateway?))).collect();
            let gateway = v4.gateway.unwrap();
            assert!(via.contains(&("10.88.0.0/24", gateway)) && via.contains(&("0.0.0.0/0", gateway)), "{via:?}");
            guests.push(Guest::boot(setup.path(&format!("guest-{id}")), &network).await);
        }
        guests[0].serve(80).await;
        assert!(reached("10.88.0.2:80").await.is_some());
        assert_eq!(guests[1].call("10.88.0.2:80").await.unwrap(), "10.88.0.3");
        setup.cni.check("s1").await.unwrap();
        netns::inside(&setup.path("netns/s2"), || Ok(tool("ip", "address flush dev eth0"))).await.unwrap();
        assert!(matches!(setup.cni.check("s2").await, Err(CniError::Plugin { .. })));
        drop(guests);
        // The host restarts: mounts and interfaces are gone, reservations of addresses are not.
        nix::mount::umount2(&setup.path("netns/s1"), nix::mount::MntFlags::MNT_DETACH).unwrap();
        setup.cni.collect_garbage(&BTreeSet::new()).await;
        assert_eq!(setup.cni.attachments.list().unwrap(), Vec::<String>::new());
        assert_eq!(netns::names(&setup.path("netns")).unwrap(), Vec::<String>::new());
        let reserved = netns::names(&setup.path("ipam/routed")).unwrap();
        assert!(!reserved.iter().any(|name| name.starts_with("10.88")), "{reserved:?}");
    });
}
