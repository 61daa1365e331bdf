//! Persistent tap devices, in the network namespace of the calling thread.

use std::{
    fs::OpenOptions,
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::libc;

nix::ioctl_write_ptr_bad!(set_interface, libc::TUNSETIFF, libc::ifreq);
nix::ioctl_write_int_bad!(set_persistent, libc::TUNSETPERSIST);

/// Makes the tap if there is none, and lets it stay when nobody has it open. Gives its interface index.
///
/// # Errors
/// `ResourceBusy` when a VM has it open.
pub(crate) fn create(name: &str) -> io::Result<u32> {
    let tap = open(name)?;
    #[allow(unsafe_code)]
    // SAFETY: the descriptor is open; the argument is a number.
    unsafe {
        set_persistent(tap.as_raw_fd(), 1)?;
    }
    Ok(nix::net::if_::if_nametoindex(name)?)
}

/// The index of the tap, if it is there.
pub(crate) fn index(name: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(name).ok()
}

/// Opens a tap as a VM does, and makes it if there is none.
pub(crate) fn open(name: &str) -> io::Result<OwnedFd> {
    let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains('\0') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is not an interface's name")));
    }
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_flags: (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short,
        },
    };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    #[allow(unsafe_code)]
    // SAFETY: the descriptor is open, and the kernel reads and writes one `ifreq`, which lives until the call returns.
    unsafe {
        set_interface(tun.as_raw_fd(), &request)?;
    }
    Ok(tun.into())
}
