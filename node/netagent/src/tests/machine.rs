//! A stand-in for a VM that has a kernel's own network stack: a namespace whose only device is joined to the port's tap.

use std::{
    fs::File,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    time::Duration,
};

use rtnetlink::LinkUnspec;

use crate::{namespace::Namespace, records::Attachment, tap};

pub struct Machine {
    namespace: Namespace,
    attachment: Attachment,
}

impl Machine {
    pub async fn boot(directory: &Path, attachment: &Attachment) -> Self {
        let network = Namespace::open(directory, &attachment.namespace().unwrap()).await.unwrap().unwrap();
        let name = attachment.tap().unwrap();
        let outer = network.run("opening a tap", move || tap::open(&name)).await.unwrap();
        let namespace = Namespace::ensure(directory, &format!("vm-{}", attachment.container_id)).await.unwrap();
        // It is no network's.
        namespace.filter("flush ruleset".into()).await.unwrap();
        let inner = namespace.run("opening a tap", || tap::open("eth0")).await.unwrap();
        let index = namespace.run("looking", || Ok(tap::index("eth0"))).await.unwrap().unwrap();
        let link =
            LinkUnspec::new_with_index(index).address(attachment.mac.0.to_vec()).mtu(attachment.mtu).up().build();
        namespace.netlink.link().set(link).execute().await.unwrap();
        let own = &attachment.addresses[0];
        namespace.netlink.address().add(index, own.ip.into(), own.prefix_length).execute().await.unwrap();
        let (outer, inner) = (File::from(outer), File::from(inner));
        join(outer.try_clone().unwrap(), inner.try_clone().unwrap());
        join(inner, outer);
        Self { namespace, attachment: attachment.clone() }
    }

    /// Greets whoever connects to a port, and then says it again as it hears it. Gives where from connections come.
    pub async fn serve(&self, port: u16, greeting: &'static str) -> tokio::sync::mpsc::UnboundedReceiver<SocketAddr> {
        let address = (self.attachment.addresses[0].ip, port);
        let listener = self.namespace.run("listening", move || TcpListener::bind(address)).await.unwrap();
        let (came, comes) = tokio::sync::mpsc::unbounded_channel();
        std::thread::spawn(move || {
            while let Ok((mut stream, from)) = listener.accept() {
                let _ = came.send(from);
                let _ = stream.write_all(greeting.as_bytes());
                let _ = stream.try_clone().map(|mut read| io::copy(&mut read, &mut stream));
            }
        });
        comes
    }

    /// Whether it gets a connection, or at least an answer that there is none, soon.
    pub async fn is_answered(&self, by: SocketAddr) -> bool {
        let connect = move || Ok(TcpStream::connect_timeout(&by, Duration::from_millis(500)));
        let outcome = self.namespace.run("connecting", connect).await.unwrap();
        !matches!(outcome, Err(error) if error.kind() == io::ErrorKind::TimedOut)
    }
}

/// Hands on frames, for as long as the test runs.
fn join(mut from: File, mut to: File) {
    std::thread::spawn(move || {
        let mut frame = vec![0; 70_000];
        while let Ok(length) = from.read(&mut frame) {
            // A link that is down loses them.
            let _ = to.write_all(&frame[..length]);
        }
    });
}
