//! From a command line to a VM that runs, or that was loaded and waits.
//!
//! Firecracker opens what it needs by name, so its root has more in it than QEMU's while it starts. It is taken away, and its
//! directory becomes one that can only be read, before anything of the guest's can have harmed the VMM for long.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Shared,
    api::{Api, ApiError},
    console, disks,
    requests::{
        Action, BootSource, LoadSnapshot, MachineConfig, MemoryBackend, NetworkInterface, NetworkOverride, Vsock,
    },
};
use crate::{
    VmSpec, boot,
    cgroup::Limits,
    jail::{self, Bind, View},
    launch::{self, Failure, Launch, uid_of},
    process::Process,
    tap,
};

const POLL: Duration = Duration::from_millis(1);
/// What Firecracker itself may take.
const VMM_BYTES: u64 = 64 << 20;
/// For one that reads memory from the disk.
const SLOWEST_MIB_PER_SECOND: u32 = 20;

/// In its root. The first is also what the process is called.
const PROGRAM: &str = "/hypernetes-vm";
const KERNEL: &str = "/kernel";
const INITRD: &str = "/initrd";
const RUN: &str = "/run";
pub const MEMORY: &str = "/memory";
pub const STATE: &str = "/state";
const TUN: &str = "/dev/net/tun";
/// In [`RUN`], which is [`run_directory`] for the host.
const API: &str = "api";
const AGENT: &str = "agent";

const CONSOLE_FD: i32 = 3;
const NETWORK: &str = "net";
/// The host is 2, and every VM is alone with it.
const GUEST_CID: u32 = 3;

/// Where a VM comes from.
pub enum Origin {
    /// It boots.
    Kernel,
    /// It goes on where it was saved, once it is told to: memory, state and disks, with their places.
    Saved(Vec<(OwnedFd, PathBuf)>),
}

fn run_directory(directory: &Path) -> PathBuf {
    directory.join("run")
}

/// That of the VM in the directory.
pub fn api(shared: &Shared, directory: &Path) -> Api {
    Api { socket: run_directory(directory).join(API), patience: shared.patience }
}

pub fn agent_socket(directory: &Path) -> PathBuf {
    run_directory(directory).join(AGENT)
}

/// How long the memory of a VM may take to be read or written.
pub fn patience(shared: &Shared, memory_mib: u32) -> Duration {
    shared.patience + Duration::from_secs((memory_mib / SLOWEST_MIB_PER_SECOND).into())
}

/// Whether that is the command line of the VM's process, its words ended by NULs.
pub fn is_named(line: &[u8], id: &str) -> bool {
    let words = format!("\0--id\0{id}\0");
    line.windows(words.len()).any(|part| part == words.as_bytes())
}

/// # Errors
/// With Firecracker's words. It has ended then.
pub async fn start(shared: &Shared, spec: &VmSpec, directory: &Path, origin: Origin) -> Result<Process, Failure> {
    let uid = uid_of(&spec.id);
    let prepare = || {
        let run = run_directory(directory);
        fs::DirBuilder::new().mode(0o700).create(&run)?;
        std::os::unix::fs::chown(&run, Some(uid), Some(uid))?;
        console::make(directory, uid)
    };
    let console = prepare().map_err(|e| Failure::of(format_args!("preparing {}", directory.display()), &e))?;
    if let Some(nic) = &spec.nic {
        tap::lend(nic, uid).await.map_err(|e| Failure::of(format_args!("lending the tap {}", nic.tap), &e))?;
    }
    let view = view(shared, spec, directory);
    let mut taken: Vec<PathBuf> = view.devices.iter().filter(|device| !device.ends_with("null")).cloned().collect();
    taken.extend(view.binds.iter().filter(|bind| !bind.writable).map(|bind| bind.target.clone()));
    let launch = Launch {
        directory,
        id: &spec.id,
        program: Path::new(PROGRAM),
        jail: Some(&shared.jail),
        remains: &shared.remains,
        gid: launch::gid_for(&shared.kvm, &spec.id),
        view,
        descriptors: vec![(console, CONSOLE_FD)],
        original: None,
    };
    let socket = format!("{RUN}/{API}");
    let line = ["--api-sock", &socket, "--id", &spec.id, "--level", "Error"].map(Into::into).to_vec();
    let limits = Limits {
        // A tenant that is none in its form shares with those of none.
        tenant: spec.tenant.parse().ok(),
        memory_bytes: (u64::from(spec.memory_mib) << 20) + VMM_BYTES,
        cpus: spec.cpus,
    };
    let process = launch.start(line, limits).await?;
    let make = async {
        let api = answering(shared, directory).await?;
        match origin {
            Origin::Kernel => boot(&api, spec).await.map_err(|e| e.to_string())?,
            Origin::Saved(files) => load(&api, &process, spec, files, patience(shared, spec.memory_mib)).await?,
        }
        let emptied = jail::strip_root(&process, taken, vec![RUN.into()]).await;
        emptied.map_err(|e| format!("emptying the VMM's root: {e}"))
    };
    let made = tokio::select! {
        made = make => made,
        () = process.ended() => Err("Firecracker ended".into()),
    };
    if let Err(error) = made {
        process.kill().await;
        let mut words = crate::words::last(directory);
        console::read(directory, &mut words);
        let last = words.trim().lines().last().unwrap_or_default();
        return Err(if last.is_empty() { error } else { format!("{error}: {last}") }.into());
    }
    Ok(process)
}

fn view(shared: &Shared, spec: &VmSpec, directory: &Path) -> View {
    let bind = |source: &Path, target: &str, writable| Bind { source: source.into(), target: target.into(), writable };
    let mut devices = vec![shared.kvm.clone(), disks::EMPTY.into()];
    devices.extend(spec.nic.iter().map(|_| PathBuf::from(TUN)));
    // That of the caller, where none is named.
    let netns = spec.nic.as_ref().map(|nic| nic.netns.clone().unwrap_or_else(|| "/proc/self/ns/net".into()));
    let places = (0..spec.disk_slots).map(disks::place).chain([MEMORY.into(), STATE.into()]).collect();
    View {
        devices,
        binds: vec![
            bind(&shared.program, PROGRAM, false),
            bind(&shared.boot.kernel, KERNEL, false),
            bind(&shared.boot.initrd, INITRD, false),
            bind(&run_directory(directory), RUN, true),
        ],
        groups: vec![disks::READERS],
        places,
        netns,
        output: Some(CONSOLE_FD),
    }
}

/// The API, once it is there.
async fn answering(shared: &Shared, directory: &Path) -> Result<Api, String> {
    let api = api(shared, directory);
    let connected = async {
        while tokio::net::UnixStream::connect(&api.socket).await.is_err() {
            tokio::time::sleep(POLL).await;
        }
    };
    let connected = tokio::time::timeout(api.patience, connected).await;
    connected.map_err(|_| format!("Firecracker's API was not there within {} s", api.patience.as_secs()))?;
    Ok(api)
}

async fn boot(api: &Api, spec: &VmSpec) -> Result<(), ApiError> {
    api.put("/machine-config", &MachineConfig { vcpu_count: spec.cpus, mem_size_mib: spec.memory_mib }).await?;
    // What it has no port for, it resets: that ends the VMM. Devices it adds to the line itself.
    let boot_args = format!("{} reboot=k i8042.noaux i8042.nomux i8042.dumbkbd", boot::ARGUMENTS);
    let source = BootSource { kernel_image_path: KERNEL, initrd_path: INITRD, boot_args: &boot_args };
    api.put("/boot-source", &source).await?;
    // The guest knows them by their order.
    for slot in 0..spec.disk_slots {
        let (path, drive) = disks::drive(slot, spec.disk_slots);
        api.put(&path, &drive).await?;
    }
    if let Some(nic) = &spec.nic {
        let interface = NetworkInterface { iface_id: NETWORK, host_dev_name: &nic.tap, guest_mac: &nic.mac };
        api.put(&format!("/network-interfaces/{NETWORK}"), &interface).await?;
    }
    api.put("/vsock", &Vsock { guest_cid: GUEST_CID, uds_path: &format!("{RUN}/{AGENT}") }).await?;
    api.put("/actions", &Action { action_type: "InstanceStart" }).await
}

async fn load(
    api: &Api,
    vmm: &Process,
    spec: &VmSpec,
    files: Vec<(OwnedFd, PathBuf)>,
    patience: Duration,
) -> Result<(), String> {
    let lent = |error: io::Error| format!("among the VMM's mounts: {error}");
    let places = files.iter().map(|(_, place)| place.clone()).collect();
    jail::lend(vmm, files).await.map_err(lent)?;
    let snapshot = LoadSnapshot {
        snapshot_path: STATE,
        mem_backend: MemoryBackend { backend_type: "File", backend_path: MEMORY },
        resume_vm: false,
        network_overrides: spec
            .nic
            .iter()
            .map(|nic| NetworkOverride { iface_id: NETWORK, host_dev_name: &nic.tap })
            .collect(),
    };
    let loaded = api.put_within("/snapshot/load", &snapshot, patience).await;
    jail::take(vmm, places).await.map_err(lent)?;
    loaded.map_err(|e| e.to_string())
}
