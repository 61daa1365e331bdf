//! Making and removing containers: their disks, mounts and control groups.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use hypernetes_guest_protocol::v1;
use tonic::Status;

use crate::{
    init::{CGROUPS, RUN},
    mounts,
    rootfs::Root,
    state::{Container, Containers, slots},
    stats, userns, users,
};

/// In a container's directory: the user namespace that its processes join, if it has one.
pub const USER_NAMESPACE: &str = "userns";

/// Makes a container. Returns who its first process will be.
pub fn create(containers: &Containers, spec: v1::CreateContainerRequest) -> Result<users::Credentials, Status> {
    let id = &spec.container_id;
    if id.is_empty() || id.len() > 128 || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)) {
        return Err(Status::invalid_argument(format!("{id:?} is not a container id")));
    }
    if containers.get(id).is_ok() {
        return Err(Status::already_exists(format!("there is a container {id} already")));
    }
    let directory = Path::new(RUN).join("containers").join(id);
    let prepared = prepare(&spec, &directory).map_err(|error| Status::failed_precondition(error.to_string()));
    let prepared = prepared.and_then(|root| {
        let user = spec.process.as_ref().and_then(|process| process.user.clone()).unwrap_or_default();
        let credentials = users::resolve(&root, &user).map_err(Status::invalid_argument)?;
        Ok((root, credentials))
    });
    match prepared {
        Ok((root, credentials)) => {
            containers.insert(Container::new(spec, directory, root));
            Ok(credentials)
        }
        Err(status) => {
            cleanup(containers, &spec, &directory);
            Err(status)
        }
    }
}

/// Changes the limits of a container.
pub fn update(containers: &Containers, id: &str, resources: Option<&v1::Resources>) -> Result<(), Status> {
    let container = containers.get(id)?;
    limit(&container.spec, resources).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput | io::ErrorKind::NotFound => Status::invalid_argument(error.to_string()),
        _ => Status::failed_precondition(error.to_string()),
    })
}

/// Forgets a container that has ended and frees what it had. Returns the disks that nobody uses any more.
pub fn remove(containers: &Containers, id: &str) -> Result<Vec<u32>, Status> {
    let container = containers.get(id)?;
    if container.running_init().is_some() {
        return Err(Status::failed_precondition(format!("the container {id} is running")));
    }
    kill_all(id);
    containers.remove(id);
    Ok(cleanup(containers, &container.spec, &container.directory))
}

fn disk_directory(slot: u32) -> PathBuf {
    Path::new(RUN).join("disks").join(slot.to_string())
}

/// A disk is mounted once, however many containers use it.
fn mounted_disk(disk: &v1::Disk) -> io::Result<PathBuf> {
    let path = disk_directory(disk.slot);
    if !path.exists()
        && let Err(error) = mounts::disk(disk, &path)
    {
        let _ = fs::remove_dir(&path);
        return Err(error);
    }
    Ok(path)
}

fn prepare(spec: &v1::CreateContainerRequest, directory: &Path) -> io::Result<Root> {
    let missing = || io::Error::new(io::ErrorKind::InvalidInput, "the container has no root disk or no process");
    let disk = spec.root.as_ref().ok_or_else(missing)?;
    let process = spec.process.as_ref().ok_or_else(missing)?;
    fs::create_dir_all(directory)?;
    let mut lower = mounted_disk(disk)?;
    let target = directory.join("root");
    let namespace = directory.join(USER_NAMESPACE);
    if let Some(mapping) = spec.user_namespace {
        userns::make(mapping, &namespace).map_err(|e| io::Error::new(e.kind(), format!("a user namespace: {e}")))?;
        let translated = directory.join("lower");
        fs::create_dir_all(&translated)?;
        userns::translate(&lower, &translated, &namespace)
            .map_err(|e| io::Error::new(e.kind(), format!("translating the image's owners: {e}")))?;
        lower = translated;
    }
    let bytes = if spec.writable_bytes == 0 { stats::memory().0 / 2 } else { spec.writable_bytes };
    mounts::overlay(&lower, &directory.join("writable"), &target, bytes)?;
    let root = Root::open(&target)?;
    let owner = spec.user_namespace.map_or(0, |mapping| mapping.host_id);
    mounts::system(&root, process.privileged, owner)?;
    let namespace = spec.user_namespace.map(|_| namespace.as_path());
    for mount in &spec.mounts {
        mounts::into_container(&root, mount, mounted_disk, namespace)
            .map_err(|error| io::Error::new(error.kind(), format!("mounting at {}: {error}", mount.destination)))?;
    }
    limit(spec, spec.resources.as_ref())?;
    Ok(root)
}

/// Makes the control group and writes the limits (cgroup v2).
fn limit(spec: &v1::CreateContainerRequest, resources: Option<&v1::Resources>) -> io::Result<()> {
    let group = Path::new(CGROUPS).join(&spec.container_id);
    fs::create_dir_all(&group)?;
    let Some(resources) = resources else { return Ok(()) };
    let write = |file: &str, value: String| {
        fs::write(group.join(file), value).map_err(|e| io::Error::new(e.kind(), format!("the limit {file}: {e}")))
    };
    if resources.memory_bytes > 0 {
        write("memory.max", resources.memory_bytes.to_string())?;
        // A group over its limit ends as a whole: half a container helps nobody (cgroup v2 in Kubernetes since 1.28).
        write("memory.oom.group", "1".into())?;
    }
    if resources.cpu_quota_micros > 0 {
        let period = if resources.cpu_period_micros == 0 { 100_000 } else { resources.cpu_period_micros };
        write("cpu.max", format!("{} {period}", resources.cpu_quota_micros))?;
    }
    if resources.cpu_shares > 0 {
        // The conversion that runc and the kubelet use: 2..262144 becomes 1..10000.
        let weight = 1 + (resources.cpu_shares.clamp(2, 262_144) - 2) * 9999 / 262_142;
        write("cpu.weight", weight.to_string())?;
    }
    if resources.pids > 0 {
        write("pids.max", resources.pids.to_string())?;
    }
    if !resources.cpuset_cpus.is_empty() {
        write("cpuset.cpus", resources.cpuset_cpus.clone())?;
    }
    for (file, value) in &resources.unified {
        if !is_limit(file) {
            let text = format!("{file:?} is not a limit of a control group");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        match value.strip_prefix("default ").filter(|_| file == "io.max") {
            // The kernel wants a line for each device.
            Some(limits) => {
                for slot in slots(spec).collect::<BTreeSet<_>>() {
                    write(file, format!("{} {limits}", mounts::device_number(slot)?))?;
                }
            }
            None => write(file, value.clone())?,
        }
    }
    Ok(())
}

/// Whether a file of a control group is one of its controllers': `memory.high`, not `cgroup.procs`.
fn is_limit(file: &str) -> bool {
    let controller = file.split('.').next().unwrap_or_default();
    matches!(controller, "cpu" | "cpuset" | "memory" | "pids" | "io" | "hugetlb")
        && file.bytes().all(|b| b.is_ascii_alphanumeric() || b"._".contains(&b))
}

/// Ends every process of a container.
pub fn kill_all(id: &str) {
    // Linux 5.14 and later.
    let _ = fs::write(Path::new(CGROUPS).join(id).join("cgroup.kill"), "1");
}

/// Whether the kernel has ended a process of the container for want of memory.
pub fn out_of_memory(id: &str) -> bool {
    stats::table(&Path::new(CGROUPS).join(id).join("memory.events")).get("oom_kill").is_some_and(|count| *count > 0)
}

fn cleanup(containers: &Containers, spec: &v1::CreateContainerRequest, directory: &Path) -> Vec<u32> {
    // Everything below goes with the root: its mounts are in no other namespace once its processes are gone.
    mounts::unmount_tree(&directory.join("root"));
    mounts::unmount(&directory.join("writable"));
    if spec.user_namespace.is_some() {
        mounts::unmount(&directory.join("lower"));
        mounts::unmount(&directory.join(USER_NAMESPACE));
    }
    let _ = fs::remove_dir_all(directory);
    // It may still hold a process that is just ending.
    let group = Path::new(CGROUPS).join(&spec.container_id);
    for _ in 0..50 {
        match fs::remove_dir(&group) {
            Err(error) if error.raw_os_error() == Some(nix::libc::EBUSY) => {
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            _ => break,
        }
    }
    let mut freed: Vec<u32> = slots(spec).filter(|slot| !containers.uses_slot(*slot)).collect();
    freed.sort_unstable();
    freed.dedup();
    for slot in &freed {
        let path = disk_directory(*slot);
        // Not lazily: the host gives the disk to another when this returns. Detached mounts of the containers' own
        // end with their last process, which may take a moment.
        for attempt in 0..100 {
            match nix::mount::umount(&path) {
                Err(nix::Error::EBUSY) if attempt < 99 => std::thread::sleep(std::time::Duration::from_millis(5)),
                Err(nix::Error::EBUSY) => mounts::unmount(&path),
                _ => break,
            }
        }
        let _ = fs::remove_dir(&path);
    }
    freed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_limits_can_be_set() {
        assert!(is_limit("memory.high") && is_limit("hugetlb.2MB.max") && is_limit("io.weight"));
        for bad in ["cgroup.procs", "cgroup.kill", "memory/../../x", "", "pids"] {
            assert!(!is_limit(bad) || bad == "pids", "{bad}");
        }
    }
}
