//! A network in which somebody can be cut off: everyone reaches everyone through it. What is cut is silent, as when every
//! packet is lost; what was open before ends when it is mended.

use std::{collections::BTreeSet, net::SocketAddrV4};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

#[derive(Clone, Default)]
pub struct Network(watch::Sender<BTreeSet<String>>);

/// Who connects.
#[derive(Clone)]
pub enum Caller {
    Named(String),
    /// A member of etcd, which says its address for others in the head of its first request.
    Member,
}

impl Network {
    /// Nobody reaches it any more, and it reaches nobody.
    pub fn cut(&self, who: &str) {
        self.0.send_if_modified(|cut| cut.insert(who.to_owned()));
    }

    pub fn mend(&self, who: &str) {
        self.0.send_if_modified(|cut| cut.remove(who));
    }

    /// A way from `caller` to `called`, which listens at `target`.
    pub async fn way(&self, caller: Caller, called: &str, at: SocketAddrV4, target: SocketAddrV4) {
        let listener = TcpListener::bind(at).await.unwrap();
        let (network, called) = (self.clone(), called.to_owned());
        tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                tokio::spawn(connection(from, target, caller.clone(), called.clone(), network.0.subscribe()));
            }
        });
    }
}

async fn connection(
    mut from: TcpStream,
    target: SocketAddrV4,
    caller: Caller,
    called: String,
    mut cut: watch::Receiver<BTreeSet<String>>,
) {
    let mut head = Vec::new();
    let caller = match caller {
        Caller::Named(name) => name,
        Caller::Member => {
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                match from.read_buf(&mut head).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
            }
            let head = String::from_utf8_lossy(&head);
            let urls = head.lines().find_map(|line| line.strip_prefix("X-Peerurls: "));
            urls.unwrap_or_default().to_owned()
        }
    };
    let is_cut = |cut: &BTreeSet<String>| cut.contains(&caller) || cut.contains(&called);
    // As when the first packet is lost: whoever connects waits.
    let _ = cut.wait_for(|cut| !is_cut(cut)).await;
    let Ok(mut to) = TcpStream::connect(target).await else { return };
    if to.write_all(&head).await.is_err() {
        return;
    }
    let was_cut = tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut from, &mut to) => false,
        _ = cut.wait_for(is_cut) => true,
    };
    if was_cut {
        let _ = cut.wait_for(|cut| !is_cut(cut)).await;
    }
}
