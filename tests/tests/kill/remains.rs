//! What there really is on the host of one hyperd, whatever that says.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use super::node::{Node, tool};

pub struct RunningVm {
    pub id: String,
    pub pid: i32,
}

/// The VMMs whose log is in the node's directory, removed or not.
pub fn vms(node: &Node) -> Vec<RunningVm> {
    let machines = node.path("root/vmm/machines");
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let ours = processes.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let log = fs::read_link(entry.path().join("fd/2")).ok()?;
        let id = log.strip_prefix(&machines).ok()?.iter().next()?.to_str()?.to_owned();
        Some(RunningVm { id, pid })
    });
    ours.collect()
}

pub fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Directories of VMs.
pub fn machines(node: &Node) -> BTreeSet<String> {
    names(&node.path("root/vmm/machines"))
}

/// Control groups of a VM, in all hierarchies.
pub fn groups(id: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = names(root).into_iter().map(|name| root.join(name).join("hypernetes"));
    // A VM's is in its tenant's.
    let tenants = std::iter::once(root.join("hypernetes")).chain(hierarchies).flat_map(|above| {
        let below: Vec<PathBuf> = names(&above).into_iter().map(|name| above.join(name)).collect();
        std::iter::once(above).chain(below)
    });
    tenants.map(|tenant| tenant.join(id)).filter(|place| place.exists()).collect()
}

/// What is left that belongs to none of the VMs `known`; `seen` are ids that there have been.
pub fn strays(node: &Node, known: &BTreeSet<String>, seen: &BTreeSet<String>) -> Vec<String> {
    let mut strays = Vec::new();
    let mut stray = |what: &str, id: &str| strays.push(format!("{what} {id}"));
    let unknown = |id: &&String| !known.contains(*id);
    for vm in vms(node).iter().filter(|vm| unknown(&&vm.id)) {
        stray("the VM", &vm.id);
    }
    for id in machines(node).iter().filter(unknown) {
        stray("the VM's directory", id);
    }
    for id in names(&node.path("root/netns")).iter().filter(unknown) {
        stray("the network namespace", id);
    }
    for id in seen.iter().filter(unknown) {
        groups(id).iter().for_each(|group| stray("the control group", &group.display().to_string()));
    }
    // Of hyperds that have looked whether they may make groups.
    for pid in &node.pids[..node.pids.len() - 1] {
        groups(&format!("probe-{pid}")).iter().for_each(|g| stray("the control group", &g.display().to_string()));
    }
    strays
}

/// What must not be there when there is no sandbox any more. VMs that wait in the pool have networks.
pub fn leftovers(node: &Node) -> Vec<String> {
    let waiting: BTreeSet<String> = vms(node).into_iter().map(|vm| vm.id).collect();
    let mut left = Vec::new();
    for directory in ["sandboxes", "containers", "networks", "taps", "formatting"] {
        let names = names(&node.path("root").join(directory));
        let names = names.into_iter().filter(|name| {
            directory != "networks" || !name.strip_suffix(".json").is_some_and(|id| waiting.contains(id))
        });
        left.extend(names.map(|name| format!("{directory}/{name}")));
    }
    // host-local's lock and its last address stay.
    let addresses = names(&node.path("ipam/kill")).into_iter().filter(|name| name.starts_with("10."));
    let addresses = addresses.filter(|address| {
        let owner = fs::read_to_string(node.path("ipam/kill").join(address)).unwrap_or_default();
        !owner.lines().next().is_some_and(|id| waiting.contains(id.trim()))
    });
    left.extend(addresses.map(|address| format!("the address {address}")));
    let links = tool("ip", &["-o", "link"]);
    left.extend(links.lines().filter(|line| line.contains("veth")).skip(waiting.len()).map(str::to_owned));
    left
}
