//! What the first process of a system has to do before anything else can.

use std::{fs, io, path::Path};

use nix::{
    mount::{MsFlags, mount},
    sys::reboot::{RebootMode, reboot},
};

/// Everything that lasts for the VM's life.
pub const RUN: &str = "/run/hypernetes";
pub const CGROUPS: &str = "/sys/fs/cgroup";

#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error("mounting {target}: {source}")]
    Mount { target: &'static str, source: nix::Error },
    #[error("loading the module {name}: {source}")]
    Module { name: String, source: io::Error },
    #[error("{path}: {source}")]
    File { path: &'static str, source: io::Error },
}

const MOUNTS: [(&str, &str, &str, MsFlags); 6] = [
    ("proc", "/proc", "", MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC)),
    ("sysfs", "/sys", "", MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC)),
    ("devtmpfs", "/dev", "mode=0755", MsFlags::MS_NOSUID),
    ("devpts", "/dev/pts", "newinstance,ptmxmode=0666,mode=0620", MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC)),
    ("tmpfs", "/run", "mode=0755", MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV)),
    ("cgroup2", CGROUPS, "", MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC)),
];

/// Mounts, modules, control groups.
pub fn prepare() -> Result<(), InitError> {
    load_modules()?;
    leave_initial_memory().map_err(|source| InitError::Mount { target: "/", source })?;
    for (kind, target, data, flags) in MOUNTS {
        // Already there: the initial memory's own /dev, or a directory made by the kernel.
        let _ = fs::create_dir_all(target);
        mount(Some(kind), target, Some(kind), flags, Some(data))
            .map_err(|source| InitError::Mount { target, source })?;
    }
    // Delegation needs the controllers enabled at the root, where PID 1 may stay.
    let enable = "/sys/fs/cgroup/cgroup.subtree_control";
    for controller in ["+cpu", "+cpuset", "+memory", "+pids", "+io"] {
        // A kernel without one of them runs containers without that limit.
        if let Err(error) = fs::write(enable, controller) {
            eprintln!("hyperstart: no cgroup controller {controller}: {error}");
        }
    }
    let made = fs::create_dir_all(Path::new(RUN).join("containers"));
    made.map_err(|source| InitError::File { path: RUN, source })?;
    // Containers may use any port and as many processes as their limits say.
    let _ = fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
    let _ = fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647");
    Ok(())
}

/// Makes a tmpfs the root: containers get roots of their own by pivot_root(2), which the kernel refuses to those whose
/// root is the initial memory itself.
fn leave_initial_memory() -> nix::Result<()> {
    let root = "/root";
    let _ = fs::create_dir_all(root);
    mount(Some("tmpfs"), root, Some("tmpfs"), MsFlags::MS_NOSUID, Some("mode=0755"))?;
    nix::unistd::chdir(root)?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
    nix::unistd::chroot(".")?;
    nix::unistd::chdir("/")
}

/// `/modules/order` names the modules in the initial memory, dependencies first.
fn load_modules() -> Result<(), InitError> {
    let order = match fs::read_to_string("/modules/order") {
        Ok(order) => order,
        // A kernel that has everything built in.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(InitError::File { path: "/modules/order", source }),
    };
    for name in order.lines() {
        let load = || -> io::Result<()> {
            let file = fs::File::open(Path::new("/modules").join(name))?;
            match nix::kmod::finit_module(&file, c"", nix::kmod::ModuleInitFlags::empty()) {
                Ok(()) | Err(nix::Error::EEXIST) => Ok(()),
                Err(error) => Err(error.into()),
            }
        };
        load().map_err(|source| InitError::Module { name: name.into(), source })?;
    }
    // They are in the kernel now; their files only take memory.
    let _ = fs::remove_dir_all("/modules");
    Ok(())
}

/// Ends the VM.
pub fn power_off() -> ! {
    nix::unistd::sync();
    // A machine that cannot be switched off, which is told so by what it is to be reset by, would halt for ever.
    let line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    if !line.split_whitespace().any(|word| word == "reboot=k") {
        let _ = reboot(RebootMode::RB_POWER_OFF);
    }
    let _ = reboot(RebootMode::RB_AUTOBOOT);
    // Neither: the kernel panics when PID 1 ends, and its command line says to reboot then, which ends the VMM.
    std::process::exit(1)
}
