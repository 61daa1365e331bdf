//! Opening a tap device that is in another network namespace.

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{libc, sched::CloneFlags};

use crate::Nic;

nix::ioctl_write_ptr_bad!(set_interface, libc::TUNSETIFF, libc::ifreq);

/// The tap, open: QEMU needs no access to the namespace that it is in.
pub async fn open(nic: &Nic) -> io::Result<OwnedFd> {
    let nic = nic.clone();
    let (send, receive) = tokio::sync::oneshot::channel();
    // A thread of its own: it stays in that namespace until it ends, and nothing else may run there.
    std::thread::Builder::new().name("open-tap".into()).spawn(move || {
        let _ = send.send(open_here(&nic));
    })?;
    receive.await.map_err(io::Error::other)?
}

fn open_here(nic: &Nic) -> io::Result<OwnedFd> {
    if let Some(path) = &nic.netns {
        nix::sched::setns(File::open(path)?, CloneFlags::CLONE_NEWNET)?;
    }
    let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    let name = nic.tap.as_bytes();
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains(&0) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{:?} is not an interface's name", nic.tap)));
    }
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_flags: (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short,
        },
    };
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = *from as libc::c_char;
    }
    #[allow(unsafe_code)]
    // SAFETY: the descriptor is open, and the kernel reads and writes one `ifreq`, which lives until the call returns.
    unsafe {
        set_interface(tun.as_raw_fd(), &request)?;
    }
    Ok(tun.into())
}
