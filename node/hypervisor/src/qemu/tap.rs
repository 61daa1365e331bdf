//! Opening a tap device that is in another network namespace.

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{libc, sched::CloneFlags};

use crate::Nic;

nix::ioctl_write_ptr_bad!(set_interface, libc::TUNSETIFF, libc::ifreq);
nix::ioctl_write_int_bad!(set_persistent, libc::TUNSETPERSIST);

nix::ioctl_write_ptr_bad!(set_header_length, libc::TUNSETVNETHDRSZ, libc::c_int);
nix::ioctl_write_int_bad!(set_offload, libc::TUNSETOFFLOAD);

/// Of the header in front of each packet: virtio's, version 1.
const HEADER_BYTES: libc::c_int = 12;

/// Sets what QEMU sets when a guest's driver has begun, for a guest that has begun with another tap: Linux's driver takes
/// checksums that are not made yet, and packets larger than the network's.
pub fn as_guests_have_it(tap: &OwnedFd) -> io::Result<()> {
    let large = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    #[allow(unsafe_code)]
    // SAFETY: the descriptor is open; the kernel reads one number, the other argument is one.
    unsafe {
        set_header_length(tap.as_raw_fd(), &HEADER_BYTES)?;
        // Not every kernel has the last.
        if set_offload(tap.as_raw_fd(), (large | libc::TUN_F_UFO) as libc::c_int).is_err() {
            set_offload(tap.as_raw_fd(), large as libc::c_int)?;
        }
    }
    // QEMU reads until there is nothing.
    nix::fcntl::fcntl(tap, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Makes a tap, as VMs open it, in the network namespace of the calling thread. It stays when nobody has it open.
pub fn create(name: &str) -> io::Result<()> {
    let tap = open_named(name)?;
    #[allow(unsafe_code)]
    // SAFETY: the descriptor is open; the argument is a number.
    unsafe {
        set_persistent(tap.as_raw_fd(), 1)?;
    }
    Ok(())
}

/// Removes a tap of the network namespace of the calling thread. That there is none is fine.
///
/// # Errors
/// When a VM has it open.
pub fn remove(name: &str) -> io::Result<()> {
    // One that was not there goes again when it is closed, too.
    let tap = open_named(name)?;
    #[allow(unsafe_code)]
    // SAFETY: the descriptor is open; the argument is a number.
    unsafe {
        set_persistent(tap.as_raw_fd(), 0)?;
    }
    Ok(())
}

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

/// A tap that leads nowhere, in a network namespace that is gone when it is closed.
pub async fn idle() -> io::Result<OwnedFd> {
    let (send, receive) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("open-tap".into()).spawn(move || {
        let made = nix::sched::unshare(CloneFlags::CLONE_NEWNET).map_err(io::Error::from);
        let _ = send.send(made.and_then(|()| open_named("idle")));
    })?;
    receive.await.map_err(io::Error::other)?
}

fn open_here(nic: &Nic) -> io::Result<OwnedFd> {
    if let Some(path) = &nic.netns {
        nix::sched::setns(File::open(path)?, CloneFlags::CLONE_NEWNET)?;
    }
    open_named(&nic.tap)
}

fn open_named(name: &str) -> io::Result<OwnedFd> {
    let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.len() >= libc::IFNAMSIZ || bytes.contains(&0) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is not an interface's name")));
    }
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_flags: (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short,
        },
    };
    for (to, from) in request.ifr_name.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    #[allow(unsafe_code)]
    // SAFETY: the descriptor is open, and the kernel reads and writes one `ifreq`, which lives until the call returns.
    unsafe {
        set_interface(tun.as_raw_fd(), &request)?;
    }
    Ok(tun.into())
}
