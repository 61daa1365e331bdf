//! A way to somebody that can be cut and mended.

use std::net::SocketAddrV4;

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Hands connections on, unless it is cut. What is cut does not end: it is silent, as a network that loses everything.
#[derive(Clone)]
pub struct Proxy {
    pub address: SocketAddrV4,
    cut: watch::Sender<bool>,
}

impl Proxy {
    pub async fn to(target: SocketAddrV4) -> Self {
        let address = super::address();
        let listener = TcpListener::bind(address).await.unwrap();
        let cut = watch::Sender::new(false);
        let state = cut.clone();
        tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                tokio::spawn(connection(from, target, state.subscribe()));
            }
        });
        Self { address, cut }
    }

    /// Nothing comes through any more.
    pub fn cut(&self) {
        self.cut.send_replace(true);
    }

    /// What comes from now on gets through. Connections that were silent end.
    pub fn mend(&self) {
        self.cut.send_replace(false);
    }
}

async fn connection(mut from: TcpStream, target: SocketAddrV4, mut cut: watch::Receiver<bool>) {
    // As when the first packet is lost: whoever connects waits.
    let _ = cut.wait_for(|cut| !cut).await;
    let Ok(mut to) = TcpStream::connect(target).await else { return };
    let was_cut = tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut from, &mut to) => false,
        _ = cut.wait_for(|cut| *cut) => true,
    };
    if was_cut {
        let _ = cut.wait_for(|cut| !cut).await;
    }
}
