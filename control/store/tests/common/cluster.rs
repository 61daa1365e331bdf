//! An etcd of three members that can be killed, paused and cut off from each other, and ways to it that can be cut.

use std::{net::SocketAddrV4, path::Path};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::{
    Process, address, listens,
    proxy::{Caller, Network},
    text,
};

pub const MEMBERS: usize = 3;

pub struct Cluster {
    directory: TempDir,
    pub network: Network,
    members: [Member; MEMBERS],
    processes: [Option<Process>; MEMBERS],
}

#[derive(Clone, Copy)]
struct Member {
    client: SocketAddrV4,
    peer: SocketAddrV4,
    /// Where the others reach it.
    way: SocketAddrV4,
}

impl Member {
    fn peer_url(&self) -> String {
        format!("http://{}", self.way)
    }
}

impl Cluster {
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let network = Network::default();
        let members = [(); MEMBERS].map(|()| Member { client: address(), peer: address(), way: address() });
        for member in &members {
            network.way(Caller::Member, &member.peer_url(), member.way, member.peer).await;
        }
        let mut cluster = Self { directory, network, members, processes: Default::default() };
        for index in 0..MEMBERS {
            cluster.spawn(index);
        }
        cluster
    }

    /// Addresses of ways to the members for a client of this name.
    pub async fn urls_for(&self, name: &str) -> Vec<String> {
        let mut urls = Vec::new();
        for member in &self.members {
            let at = address();
            self.network.way(Caller::Named(name.to_owned()), "", at, member.client).await;
            urls.push(format!("http://{at}"));
        }
        urls
    }

    fn spawn(&mut self, index: usize) {
        let all: Vec<String> =
            self.members.iter().enumerate().map(|(index, member)| format!("m{index}={}", member.peer_url())).collect();
        let member = &self.members[index];
        let arguments = text(&[
            &format!("--name=m{index}"),
            &format!("--data-dir={}", self.directory.path().join(format!("m{index}")).display()),
            &format!("--listen-client-urls=http://{}", member.client),
            &format!("--advertise-client-urls=http://{}", member.client),
            &format!("--listen-peer-urls=http://{}", member.peer),
            &format!("--initial-advertise-peer-urls={}", member.peer_url()),
            &format!("--initial-cluster={}", all.join(",")),
            // Time to notice what is cut.
            "--heartbeat-interval=50",
            "--election-timeout=500",
        ]);
        self.processes[index] = Some(Process::start(&arguments, &self.log(index), Path::new("")));
    }

    fn log(&self, index: usize) -> std::path::PathBuf {
        self.directory.path().join(format!("m{index}.log"))
    }

    /// As by `kill -9`.
    pub fn kill(&mut self, index: usize) {
        self.processes[index] = None;
    }

    pub fn restart(&mut self, index: usize) {
        self.spawn(index);
        listens(self.members[index].client, &self.log(index));
    }

    pub fn pause(&self, index: usize) {
        self.processes[index].as_ref().unwrap().signal(Signal::SIGSTOP);
    }

    pub fn resume(&self, index: usize) {
        self.processes[index].as_ref().unwrap().signal(Signal::SIGCONT);
    }

    /// From the other members; clients still reach it.
    pub fn isolate(&self, index: usize) {
        self.network.cut(&self.members[index].peer_url());
    }

    pub fn rejoin(&self, index: usize) {
        self.network.mend(&self.members[index].peer_url());
    }
}
