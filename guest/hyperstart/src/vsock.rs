//! The vsock device of VMMs without virtio serial ports: the host connects to one port of it, once for each conversation.

use std::{fs, io};

use hypernetes_guest_protocol::VSOCK_PORT;
use tokio_vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockAddr, VsockListener};

use crate::{conversation::converse, service::Service};

/// Of a vsock device (virtio 1.2, section 5).
const VIRTIO_ID: &str = "0x0013";

pub fn is_there() -> bool {
    let devices = fs::read_dir("/sys/bus/virtio/devices").into_iter().flatten().flatten();
    devices
        .filter_map(|device| fs::read_to_string(device.path().join("device")).ok())
        .any(|kind| kind.trim() == VIRTIO_ID)
}

/// Serves for ever; returns why it cannot.
pub async fn serve(service: Service) -> io::Error {
    let listener = match VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, VSOCK_PORT)) {
        Ok(listener) => listener,
        Err(error) => return error,
    };
    let mut current: Option<tokio::task::JoinHandle<()>> = None;
    loop {
        let mut stream = match listener.accept().await {
            // A container can open a socket, too.
            Ok((_, peer)) if !is_host(&peer) => continue,
            Ok((stream, _)) => stream,
            // One that is gone before it is accepted is no end.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => return error,
        };
        // Who comes has taken over: the one before may be gone without a word.
        if let Some(current) = current.take() {
            current.abort();
        }
        let service = service.clone();
        current = Some(tokio::spawn(async move {
            // That it ended before it began is of no interest.
            let _ = converse(&mut stream, service).await;
        }));
    }
}

fn is_host(peer: &VsockAddr) -> bool {
    peer.cid() == VMADDR_CID_HOST
}

#[cfg(test)]
mod tests {
    use tokio_vsock::VMADDR_CID_LOCAL;

    use super::*;

    #[test]
    fn only_the_host_is_listened_to() {
        assert!(is_host(&VsockAddr::new(VMADDR_CID_HOST, 1024)));
        for cid in [VMADDR_CID_LOCAL, 0, 3, u32::MAX] {
            assert!(!is_host(&VsockAddr::new(cid, 1024)), "{cid}");
        }
    }
}
