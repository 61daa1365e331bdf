//! The relay, over the whole agent: it reaches a port of the network that is named, and nothing else.

use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    api::{Setup, tenant},
    machine::Machine,
};
use crate::{Netagent, Relay, RelayError, records::Attachment};

impl Setup {
    /// Starts the agent again, with a relay.
    async fn relay(&mut self) -> Relay {
        let agent = Netagent::open(self.stop().await).await.unwrap();
        let relay = agent.relay();
        self.agent = tokio::spawn(agent.run());
        self.synced().await;
        relay
    }

    async fn machine(&self, of: &str, pod: &str) -> Machine {
        self.add(of, pod).await.unwrap();
        let is_it = |a: &&Attachment| a.tenant == tenant(of) && a.port == format!("pod-{pod}");
        Machine::boot(&self.host.namespaces(), self.records().iter().find(is_it).unwrap()).await
    }
}

async fn connect(
    relay: &Relay,
    of: &str,
    network: &str,
    address: &str,
    port: u16,
) -> Result<tokio::net::TcpStream, RelayError> {
    let address: IpAddr = address.parse().unwrap();
    relay.connect(&tenant(of), &network.parse().unwrap(), address, port.try_into().unwrap()).await
}

#[tokio::test]
async fn the_relay_reaches_the_port_of_the_network_that_is_named() {
    let mut setup = Setup::new();
    let relay = setup.relay().await;
    let mut machines = Vec::new();
    for name in ["acme", "globex"] {
        setup.network(name).await;
        setup.port(name, "p2", 2).await;
        let machine = setup.machine(name, "p2").await;
        let comes = machine.serve(8080, name).await;
        machines.push((name, machine, comes));
    }
    setup.port("acme", "p3", 3).await;
    let neighbour = setup.machine("acme", "p3").await;
    assert!(neighbour.is_answered("10.244.0.2:8080".parse().unwrap()).await, "a guest reaches its neighbour");
    assert_eq!(machines[0].2.recv().await.unwrap().ip().to_string(), "10.244.0.3");
    for (name, machine, comes) in &mut machines {
        let mut stream = connect(&relay, name, "default", "10.244.0.2", 8080).await.unwrap();
        let mut said = vec![0; name.len()];
        stream.read_exact(&mut said).await.unwrap();
        assert_eq!(said, name.as_bytes());
        // More than fits into any buffer on the way.
        let sent = vec![7; 3 << 20];
        let (mut read, mut write) = stream.split();
        let (_, received) = tokio::join!(async { write.write_all(&sent).await.unwrap() }, async {
            let mut received = vec![0; sent.len()];
            read.read_exact(&mut received).await.unwrap();
            received
        });
        assert!(received == sent);
        let from = comes.recv().await.unwrap();
        assert_eq!(from.ip().to_string(), "10.244.0.1", "it comes from the gateway");
        // Nothing is served there, and what is there for others hears nobody else.
        for port in [from.port(), 22] {
            assert!(!machine.is_answered(SocketAddr::new(from.ip(), port)).await, "{port}");
        }
        let closed = connect(&relay, name, "default", "10.244.0.2", 8081).await;
        assert!(
            matches!(&closed, Err(RelayError::Connect { source, .. }) if source.kind() == std::io::ErrorKind::ConnectionRefused),
            "{closed:?}"
        );
    }
}

#[tokio::test]
async fn the_relay_reaches_nothing_else() {
    let mut setup = Setup::new();
    let relay = setup.relay().await;
    for name in ["acme", "globex"] {
        setup.network(name).await;
    }
    setup.port("acme", "p2", 2).await;
    setup.port("globex", "p4", 4).await;
    setup.port_on("node-2", "acme", "p5", 5).await;
    // Says that it has the gateway's.
    setup.port("acme", "p1", 1).await;
    for (of, pod) in [("acme", "p2"), ("acme", "p1"), ("globex", "p4")] {
        setup.add(of, pod).await.unwrap();
    }
    // It would answer whoever came out.
    let host = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = host.local_addr().unwrap().port();
    let refused = async |of: &str, network: &str, address: &str| {
        let outcome = connect(&relay, of, network, address, port).await;
        assert!(matches!(outcome, Err(RelayError::NoPort { .. })), "{of} {network} {address}: {outcome:?}");
    };
    for address in [
        "10.244.0.1",
        "10.244.0.0",
        "10.244.0.3",
        "10.244.0.4",
        "10.244.0.5",
        "10.244.255.255",
        "127.0.0.1",
        "127.0.0.53",
        "0.0.0.0",
        "255.255.255.255",
        "169.254.169.254",
        "224.0.0.1",
        "::",
        "::1",
        "::ffff:10.244.0.2",
        "fe80::1",
        "ff02::1",
    ] {
        refused("acme", "default", address).await;
    }
    let interfaces = nix::ifaddrs::getifaddrs().unwrap();
    for own in interfaces.filter_map(|interface| Some(interface.address?.as_sockaddr_in()?.ip())) {
        refused("acme", "default", &own.to_string()).await;
    }
    for (of, network) in [("globex", "default"), ("initech", "default"), ("acme", "other"), ("acme", "hn-default")] {
        refused(of, network, "10.244.0.2").await;
    }
    // A port that is there, whose guest says nothing.
    tokio::time::pause();
    let silent = connect(&relay, "acme", "default", "10.244.0.2", port).await;
    assert!(matches!(silent, Err(RelayError::Silent(_))), "{silent:?}");
    tokio::time::resume();
    assert!(tokio::time::timeout(std::time::Duration::ZERO, host.accept()).await.is_err());
    setup.ask(&crate::cni::protocol::Request::Del { container_id: "acme-p2".into() }).await.unwrap();
    refused("acme", "default", "10.244.0.2").await;
}
