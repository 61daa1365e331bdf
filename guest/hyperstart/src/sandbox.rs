//! What the containers of the pod share: clock, entropy, host name, kernel settings, and the network ([`crate::network`]).

use std::{
    fs, io,
    os::fd::AsRawFd,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use hypernetes_guest_protocol::v1;
use nix::sys::{stat::Mode, time::TimeSpec};
use tonic::Status;

use crate::{init::RUN, mounts, network};

const DEFAULT_SHM_BYTES: u64 = 64 << 20;

// linux/random.h: adds to the pool and credits it; reseeds the generator from the pool.
nix::ioctl_write_ptr_bad!(add_entropy, nix::request_code_write!(b'R', 0x03, 8), EntropyPool);
nix::ioctl_none!(reseed, b'R', 0x07);

/// `struct rand_pool_info` with room for 64 bytes.
#[repr(C)]
pub struct EntropyPool {
    entropy_bits: i32,
    bytes: i32,
    data: [u8; 64],
}

/// `seeded` is set once the entropy has reached the kernel's generator: before all else, because what comes after may use
/// it, and another VM may be a copy of the same one.
pub async fn configure(request: &v1::ConfigureSandboxRequest, seeded: &AtomicBool) -> Result<(), Status> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error: io::Error| Status::internal(format!("{what}: {error}"))
    };
    if !request.entropy.is_empty() {
        seed(&request.entropy).map_err(failed("adding entropy"))?;
        seeded.store(true, Ordering::Release);
    }
    if request.unix_time_nanos > 0 {
        let nanos = i64::try_from(request.unix_time_nanos).map_err(|_| Status::invalid_argument("the time"))?;
        let time = TimeSpec::new(nanos / 1_000_000_000, nanos % 1_000_000_000);
        nix::time::clock_settime(nix::time::ClockId::CLOCK_REALTIME, time)
            .map_err(|e| failed("setting the clock")(e.into()))?;
    }
    if !request.hostname.is_empty() {
        nix::unistd::sethostname(&request.hostname).map_err(|e| failed("setting the host name")(e.into()))?;
    }
    for (name, value) in &request.sysctls {
        let relative = crate::rootfs::plain(&sysctl_path(name))
            .ok_or_else(|| Status::invalid_argument(format!("{name:?} is not a sysctl")))?;
        fs::write(Path::new("/proc/sys").join(relative), value)
            .map_err(|e| Status::invalid_argument(format!("the sysctl {name}: {e}")))?;
    }
    let shm = Path::new(RUN).join("shm");
    if !shm.exists() {
        let bytes = if request.shm_bytes == 0 { DEFAULT_SHM_BYTES } else { request.shm_bytes };
        mounts::tmpfs(&shm, 0o1777, bytes).map_err(failed("mounting /dev/shm"))?;
    }
    network::configure(request).await.map_err(|error| Status::internal(format!("configuring the network: {error}")))
}

/// `net.ipv4.ip_forward` is `net/ipv4/ip_forward`. In a name whose first separator is a slash, dots are dots, as
/// sysctl(8) has it.
fn sysctl_path(name: &str) -> String {
    match name.find(['.', '/']).map(|at| name.as_bytes()[at]) {
        Some(b'/') => name.to_owned(),
        _ => name
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect(),
    }
}

fn seed(entropy: &[u8]) -> io::Result<()> {
    let random = nix::fcntl::open("/dev/random", nix::fcntl::OFlag::O_RDWR, Mode::empty())?;
    for chunk in entropy.chunks(64) {
        let mut data = [0; 64];
        data[..chunk.len()].copy_from_slice(chunk);
        let pool = EntropyPool { entropy_bits: chunk.len() as i32 * 8, bytes: chunk.len() as i32, data };
        #[allow(unsafe_code)]
        // SAFETY: the descriptor is open, and the kernel reads `bytes` (at most 64) bytes behind the two integers of a
        // structure that lives until the call returns.
        unsafe {
            add_entropy(random.as_raw_fd(), &pool)?;
        }
    }
    #[allow(unsafe_code)]
    // SAFETY: the descriptor is open; the call has no argument.
    unsafe {
        reseed(random.as_raw_fd())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctls_have_two_spellings() {
        assert_eq!(sysctl_path("kernel.shm_rmid_forced"), "kernel/shm_rmid_forced");
        assert_eq!(sysctl_path("net/ipv4/conf/eth0.1/forwarding"), "net/ipv4/conf/eth0.1/forwarding");
        assert_eq!(sysctl_path("net.ipv4.conf.eth0/1.forwarding"), "net/ipv4/conf/eth0.1/forwarding");
    }
}
