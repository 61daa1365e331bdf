//! A stand-in for a VM: a namespace with a network stack of its own, and a thread that moves frames as a VM's network card
//! does, between the tap that the VM would have and the card in there.

use std::{
    fs::File,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use hypernetes_hypervisor::{Nic, tap};
use nix::poll::{PollFd, PollFlags, poll};

use super::{super::netns, PodNetwork, tool};

pub struct Guest {
    namespace: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Guest {
    pub async fn boot(namespace: PathBuf, network: &PodNetwork) -> Self {
        netns::make(&namespace).await.unwrap();
        let nic = Nic { tap: network.tap.clone(), netns: network.netns.clone(), mac: network.mac.clone() };
        let outside = tap::open(&nic).await.unwrap();
        let card = Nic { tap: "eth0".into(), netns: Some(namespace.clone()), mac: String::new() };
        let inside = tap::open(&card).await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || shuttle(&outside.into(), &inside.into(), &stopped));
        let commands = commands(network);
        netns::inside(&namespace, move || {
            commands.iter().for_each(|command| drop(tool("ip", command)));
            Ok(())
        })
        .await
        .unwrap();
        Self { namespace, stop, thread: Some(thread) }
    }

    /// A server in the guest, which says from which address each of its callers comes.
    pub async fn serve(&self, port: u16) {
        let listen = move || TcpListener::bind((std::net::Ipv6Addr::UNSPECIFIED, port));
        let listener = netns::inside(&self.namespace, listen).await.unwrap();
        std::thread::spawn(move || {
            for caller in listener.incoming().map_while(Result::ok) {
                let from = caller.peer_addr().unwrap().ip().to_canonical().to_string();
                let _ = (&caller).write_all(from.as_bytes());
            }
        });
    }

    /// What a server answers to a call from the guest.
    pub async fn call(&self, server: &str) -> Option<String> {
        let server = server.parse().unwrap();
        netns::inside(&self.namespace, move || Ok(call(server))).await.unwrap()
    }

    pub async fn ip(&self, arguments: &'static str) -> String {
        netns::inside(&self.namespace, move || Ok(tool("ip", arguments))).await.unwrap()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

/// What the agent does with the network that it is told.
fn commands(network: &PodNetwork) -> Vec<String> {
    let mut commands = vec![format!("link set eth0 address {} mtu {} up", network.mac, network.mtu)];
    commands.extend(network.addresses.iter().map(|a| format!("address add {} dev eth0 nodad", a.cidr)));
    for route in &network.routes {
        let family = if route.destination.contains(':') { "-6" } else { "-4" };
        let via = route.gateway.map(|g| format!("via {g}")).unwrap_or_default();
        commands.push(format!("{family} route add {} {via} dev eth0", route.destination));
    }
    commands
}

fn shuttle(one: &File, other: &File, stop: &AtomicBool) {
    let mut buffer = vec![0; 70_000];
    while !stop.load(Ordering::Relaxed) {
        let mut polled = [one, other].map(|file| PollFd::new(file.as_fd(), PollFlags::POLLIN));
        poll(&mut polled, 50_u16).unwrap();
        let ready = polled.map(|p| p.any().unwrap_or(false));
        for (ready, mut from, mut to) in [(ready[0], one, other), (ready[1], other, one)] {
            if ready && let Ok(length) = from.read(&mut buffer) {
                // A card that is not up yet takes nothing.
                let _ = to.write(&buffer[..length]);
            }
        }
    }
}

/// What a server says to who calls it; none when it cannot be reached for some seconds.
pub fn call(server: SocketAddr) -> Option<String> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        if let Ok(mut stream) = TcpStream::connect_timeout(&server, Duration::from_secs(2)) {
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let mut answer = String::new();
            if stream.read_to_string(&mut answer).is_ok() && !answer.is_empty() {
                return Some(answer);
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    None
}
