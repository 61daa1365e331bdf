//! What the containers of the pod share: clock, entropy, host name, network.

use std::{
    fs, io,
    os::fd::AsRawFd,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use futures::TryStreamExt;
use hypernetes_guest_protocol::v1;
use nix::sys::{stat::Mode, time::TimeSpec};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder, packet_route::address::AddressHeaderFlags};
use tonic::Status;

use crate::{init::RUN, mounts};

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
pub async fn configure(request: v1::ConfigureSandboxRequest, seeded: &AtomicBool) -> Result<(), Status> {
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
    network(&request).await.map_err(|error| Status::internal(format!("configuring the network: {error}")))
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

#[derive(Debug, thiserror::Error)]
enum NetworkError {
    #[error("netlink: {0}")]
    Netlink(#[from] rtnetlink::Error),
    #[error("opening netlink: {0}")]
    Open(#[from] io::Error),
    #[error("there is no interface with the address {0}")]
    NoInterface(String),
    #[error("{0:?} is not an address in CIDR notation")]
    Address(String),
}

async fn network(request: &v1::ConfigureSandboxRequest) -> Result<(), NetworkError> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let connection = tokio::spawn(connection);
    let result = apply_network(&handle, request).await;
    connection.abort();
    result
}

async fn apply_network(handle: &Handle, request: &v1::ConfigureSandboxRequest) -> Result<(), NetworkError> {
    if let Some(loopback) = index_of(|link| link.0 == "lo")? {
        handle.link().set(LinkUnspec::new_with_index(loopback).up().build()).execute().await?;
    }
    for interface in &request.interfaces {
        let mac = interface.mac.to_ascii_lowercase();
        let index = match index_of(|link| link.1 == mac)? {
            Some(index) => index,
            None => readdress_only_device(handle, &interface.mac).await?,
        };
        let named = index_of(|link| link.0 == interface.name)? == Some(index);
        if !named && !interface.name.is_empty() {
            let down = LinkUnspec::new_with_index(index).down().name(interface.name.clone()).build();
            handle.link().set(down).execute().await?;
        }
        let mut up = LinkUnspec::new_with_index(index).up();
        if interface.mtu > 0 {
            up = up.mtu(interface.mtu);
        }
        handle.link().set(up.build()).execute().await?;
        let mut wanted = Vec::new();
        for address in &interface.addresses {
            wanted.push(parse_cidr(address)?);
        }
        remove_addresses(handle, index, &wanted).await?;
        for (ip, prefix) in wanted {
            let mut add = handle.address().add(index, ip, prefix);
            if ip.is_ipv6() {
                // The network's side knows that it is nobody else's; asking around would take a second in which it is of no use.
                add.message_mut().header.flags |= AddressHeaderFlags::Nodad;
            }
            present(add.execute().await)?;
        }
    }
    for route in &request.routes {
        let (destination, prefix) = parse_cidr(&route.destination)?;
        let index = index_of(|link| link.0 == route.interface)?;
        let index = index.ok_or_else(|| NetworkError::NoInterface(route.interface.clone()))?;
        let gateway = match route.gateway.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| NetworkError::Address(text.into()))?),
        };
        let mut builder = RouteMessageBuilder::<std::net::IpAddr>::new()
            .destination_prefix(destination, prefix)
            .map_err(|_| NetworkError::Address(route.destination.clone()))?
            .output_interface(index);
        builder = match gateway {
            Some(gateway) => builder.gateway(gateway).map_err(|_| NetworkError::Address(route.gateway.clone()))?,
            // Else the kernel finds no gateway behind it.
            None => builder.scope(rtnetlink::packet_route::route::RouteScope::Link),
        };
        present(handle.route().add(builder.build()).execute().await)?;
    }
    Ok(())
}

/// Takes from a device what an earlier configuration gave it and this one does not; its routes go with its addresses.
async fn remove_addresses(handle: &Handle, index: u32, wanted: &[(std::net::IpAddr, u8)]) -> Result<(), NetworkError> {
    use rtnetlink::packet_route::address::{AddressAttribute, AddressScope};
    let mut found = handle.address().get().set_link_index_filter(index).execute();
    let mut surplus = Vec::new();
    while let Some(address) = found.try_next().await? {
        let has = |attribute: &AddressAttribute| match attribute {
            AddressAttribute::Address(ip) => wanted.contains(&(*ip, address.header.prefix_len)),
            _ => false,
        };
        if address.header.scope == AddressScope::Universe && !address.attributes.iter().any(has) {
            surplus.push(address);
        }
    }
    for address in surplus {
        handle.address().del(address).execute().await?;
    }
    Ok(())
}

/// Gives the only network device this address: a copied VM starts with the address of what it was copied from.
async fn readdress_only_device(handle: &Handle, mac: &str) -> Result<u32, NetworkError> {
    let missing = || NetworkError::NoInterface(mac.into());
    let address = parse_mac(mac).ok_or_else(missing)?;
    // Only what stands for hardware has a `device`: loopback and tunnels have none.
    let mut devices = fs::read_dir("/sys/class/net")?.flatten().filter(|entry| entry.path().join("device").exists());
    let (Some(device), None) = (devices.next(), devices.next()) else { return Err(missing()) };
    let name = device.file_name();
    let index = index_of(|link| *link.0 == *name)?.ok_or_else(missing)?;
    // An interface that is up keeps the link-local address (RFC 4291) that it has of its old one; it comes up later.
    handle.link().set(LinkUnspec::new_with_index(index).down().address(address).build()).execute().await?;
    Ok(index)
}

fn parse_mac(text: &str) -> Option<Vec<u8>> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes.filter(|bytes| bytes.len() == 6)
}

/// That it is there already is what was wanted.
fn present(result: Result<(), rtnetlink::Error>) -> Result<(), rtnetlink::Error> {
    match result {
        Err(rtnetlink::Error::NetlinkError(message)) if message.raw_code() == -nix::libc::EEXIST => Ok(()),
        other => other,
    }
}

fn parse_cidr(text: &str) -> Result<(std::net::IpAddr, u8), NetworkError> {
    let wrong = || NetworkError::Address(text.into());
    let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
    Ok((address.parse().map_err(|_| wrong())?, prefix.parse().map_err(|_| wrong())?))
}

/// Index of the first link whose (name, MAC) fit.
fn index_of(fits: impl Fn(&(String, String)) -> bool) -> Result<Option<u32>, io::Error> {
    for entry in fs::read_dir("/sys/class/net")?.flatten() {
        let read = |file: &str| fs::read_to_string(entry.path().join(file)).map(|text| text.trim().to_owned());
        let name = entry.file_name().to_string_lossy().into_owned();
        if let (Ok(mac), Ok(index)) = (read("address"), read("ifindex"))
            && fits(&(name, mac))
        {
            return Ok(index.parse().ok());
        }
    }
    Ok(None)
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
