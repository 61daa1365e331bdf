//! Control groups of VMs, version 2 or 1: what a VM takes of the host, its VMM included, has an end.
//!
//! ```text
//! hypernetes          all VMs: the host's memory but for a reserve
//!   tenant.<id>       a tenant's: as much of the processors as any other tenant's, where they are scarce
//!     <VM>            its own limits
//! hypernetes-roles
//!   <role>            one of the programs that run the host: so much memory
//! ```

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use hypernetes_names::{DnsLabel, DnsSubdomain};

/// All groups are below this one.
const PARENT: &str = "hypernetes";
/// Those of programs that are no VMs are below this one.
const ROLES: &str = "hypernetes-roles";
/// What the name of a tenant's group begins with; no VM's id has a dot.
const TENANT: &str = "tenant.";
/// Of the host's memory, for what is no VM: a sixteenth, and not less than this.
const RESERVE_PART: u64 = 16;
const LEAST_RESERVE: u64 = 256 << 20;
/// How often a tenant's group is made again that the end of its last VM has just removed.
const ATTEMPTS: usize = 8;
const PERIOD_MICROS: u64 = 100_000;
/// Threads of a VMM beside its processors: one that serves, and those that wait for disks.
const VMM_THREADS: u64 = 128;
/// Of a processor, for the VMM's own work.
const VMM_PERCENT: u64 = 50;

/// What one VM may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// With whose VMs it shares what a tenant may take; none: those of no tenant.
    pub tenant: Option<DnsLabel>,
    /// The guest's memory and the VMM's.
    pub memory_bytes: u64,
    /// Virtual processors.
    pub cpus: u32,
}

/// Where groups are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cgroups {
    /// The hierarchy's root.
    V2(PathBuf),
    /// Roots of the controllers memory, cpu and pids, those that there are.
    V1(Vec<(&'static str, PathBuf)>),
}

/// One VM's group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Files that a process joins by writing to (version 1).
    pub join: Vec<PathBuf>,
    /// The directory (version 2).
    pub directory: Option<PathBuf>,
}

impl Cgroups {
    /// Those of this host; none when there are none that limit anything.
    pub fn find() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/self/mountinfo").ok()?)
    }

    /// proc_pid_mountinfo(5): `… root mount-point options … - type source super-options`.
    fn parse(mounts: &str) -> Option<Self> {
        let mut v1 = Vec::new();
        let mut v2 = None;
        for line in mounts.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let Some(point) = left.split(' ').nth(4) else { continue };
            let mut right = right.split(' ');
            match (right.next(), right.nth(1)) {
                (Some("cgroup"), Some(options)) => {
                    for controller in ["memory", "cpu", "pids"] {
                        let there = options.split(',').any(|option| option == controller);
                        if there && !v1.iter().any(|(known, _)| *known == controller) {
                            v1.push((controller, PathBuf::from(point)));
                        }
                    }
                }
                (Some("cgroup2"), _) => v2 = v2.or_else(|| Some(PathBuf::from(point))),
                _ => {}
            }
        }
        // A host that has both has its controllers in version 1.
        if v1.is_empty() { v2.map(Self::V2) } else { Some(Self::V1(v1)) }
    }

    /// Makes a VM's group with its limits.
    pub fn make(&self, id: &str, limits: &Limits) -> io::Result<Group> {
        let mut attempt = 1;
        loop {
            match self.try_to_make(id, limits) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && attempt < ATTEMPTS => attempt += 1,
                other => return other,
            }
        }
    }

    fn try_to_make(&self, id: &str, limits: &Limits) -> io::Result<Group> {
        let tenant = limits.tenant.as_deref().unwrap_or_default();
        let below = PathBuf::from(PARENT).join(format!("{TENANT}{tenant}"));
        match self {
            Self::V2(root) => {
                let tenants = root.join(&below);
                for directory in [root, &root.join(PARENT), &tenants] {
                    fs::create_dir_all(directory)?;
                    write(&directory.join("cgroup.subtree_control"), "+memory +cpu +pids")?;
                }
                if let Some(bytes) = memory_of_all_vms() {
                    write(&root.join(PARENT).join("memory.max"), &bytes.to_string())?;
                }
                write(&tenants.join("cpu.weight"), "100")?;
                let group = tenants.join(id);
                make(&group)?;
                for (file, value) in limits.v2() {
                    write(&group.join(file), &value)?;
                }
                Ok(Group { join: Vec::new(), directory: Some(group) })
            }
            Self::V1(controllers) => {
                let mut join = Vec::new();
                for (controller, root) in controllers {
                    let parent = root.join(PARENT);
                    fs::create_dir_all(&parent)?;
                    if let ("memory", Some(bytes)) = (*controller, memory_of_all_vms()) {
                        // Newer kernels know no other way.
                        let _ = fs::write(parent.join("memory.use_hierarchy"), "1");
                        write(&parent.join("memory.limit_in_bytes"), &bytes.to_string())?;
                    }
                    let tenants = root.join(&below);
                    fs::create_dir_all(&tenants)?;
                    if *controller == "cpu" {
                        write(&tenants.join("cpu.shares"), "1024")?;
                    }
                    let group = tenants.join(id);
                    make(&group)?;
                    for (_, file, value) in limits.v1().into_iter().filter(|(name, ..)| name == controller) {
                        write(&group.join(file), &value)?;
                    }
                    let file = group.join("tasks");
                    // Several controllers may be one hierarchy.
                    if !join.contains(&file) {
                        join.push(file);
                    }
                }
                Ok(Group { join, directory: None })
            }
        }
    }

    /// Puts a process, with all that it will start and that is not put elsewhere, into the group of its role, which may take so
    /// much memory. The group is made if there is none.
    ///
    /// # Errors
    /// When this host does not let it.
    pub fn put_role(&self, role: &DnsSubdomain, memory_bytes: u64, pid: u32) -> io::Result<()> {
        let (groups, file) = match self {
            Self::V2(root) => {
                let roles = root.join(ROLES);
                fs::create_dir_all(&roles)?;
                for directory in [root, &roles] {
                    write(&directory.join("cgroup.subtree_control"), "+memory")?;
                }
                (vec![roles.join(&**role)], "memory.max")
            }
            Self::V1(controllers) => {
                let memory = controllers.iter().filter(|(controller, _)| *controller == "memory");
                let groups = memory.map(|(_, root)| root.join(ROLES).join(&**role));
                (groups.collect(), "memory.limit_in_bytes")
            }
        };
        for group in groups {
            fs::create_dir_all(&group)?;
            write(&group.join(file), &memory_bytes.to_string())?;
            write(&group.join("cgroup.procs"), &pid.to_string())?;
        }
        Ok(())
    }

    /// Removes the group of a role that has ended. That there is none is fine.
    pub fn remove_role(&self, role: &DnsSubdomain) {
        for root in self.roots() {
            let _ = fs::remove_dir(root.join(ROLES).join(&**role));
        }
    }

    fn roots(&self) -> Vec<&PathBuf> {
        match self {
            Self::V2(root) => vec![root],
            Self::V1(controllers) => controllers.iter().map(|(_, root)| root).collect(),
        }
    }

    /// Directories that have VMs' groups in them: the tenants', and the one above, where earlier versions made them.
    fn above_vms(root: &Path) -> Vec<PathBuf> {
        let parent = root.join(PARENT);
        let tenants = directories(&parent).into_iter().filter(|name| name.starts_with(TENANT));
        tenants.map(|name| parent.join(name)).chain([parent.clone()]).collect()
    }

    /// Names of the VMs' groups that there are.
    pub fn ids(&self) -> Vec<String> {
        let above = self.roots().into_iter().flat_map(|root| Self::above_vms(root));
        above.flat_map(|above| directories(&above)).filter(|name| !name.starts_with(TENANT)).collect()
    }

    /// Removes a VM's group, whose processes have ended, and its tenant's with the last. That there is none is fine.
    pub fn remove(&self, id: &str) {
        for above in self.roots().into_iter().flat_map(|root| Self::above_vms(root)) {
            let group = above.join(id);
            match fs::remove_dir(&group) {
                Ok(()) if !above.ends_with(PARENT) => {
                    // Others of the tenant's may be in it.
                    let _ = fs::remove_dir(&above);
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(group = %group.display(), %error, "a VM's control group was left behind");
                }
                _ => {}
            }
        }
    }
}

/// Names of the directories in one.
fn directories(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let found = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    found.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// What all VMs together may take of the host's memory, in bytes; none when the host does not say what it has.
pub fn memory_of_all_vms() -> Option<u64> {
    let host = crate::host_memory();
    (host > 0).then(|| host - (host / RESERVE_PART).max(LEAST_RESERVE).min(host / 2))
}

/// One that is there already is an earlier attempt's.
fn make(group: &Path) -> io::Result<()> {
    match fs::create_dir(group) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn write(file: &Path, value: &str) -> io::Result<()> {
    fs::write(file, value).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", file.display())))
}

impl Limits {
    fn quota_micros(&self) -> u64 {
        (u64::from(self.cpus) * 100 + VMM_PERCENT) * PERIOD_MICROS / 100
    }

    fn threads(&self) -> u64 {
        u64::from(self.cpus) + VMM_THREADS
    }

    fn v2(&self) -> [(&'static str, String); 4] {
        [
            ("memory.max", self.memory_bytes.to_string()),
            // Half a VM helps nobody.
            ("memory.oom.group", "1".into()),
            ("cpu.max", format!("{} {PERIOD_MICROS}", self.quota_micros())),
            ("pids.max", self.threads().to_string()),
        ]
    }

    fn v1(&self) -> [(&'static str, &'static str, String); 4] {
        [
            ("memory", "memory.limit_in_bytes", self.memory_bytes.to_string()),
            ("cpu", "cpu.cfs_period_us", PERIOD_MICROS.to_string()),
            ("cpu", "cpu.cfs_quota_us", self.quota_micros().to_string()),
            ("pids", "pids.max", self.threads().to_string()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 25 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";
    const UNIFIED: &str = "30 25 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate";

    #[test]
    fn hierarchies_are_found() {
        let v1 = vec![("cpu", "/sys/fs/cgroup/cpu,cpuacct".into()), ("memory", "/sys/fs/cgroup/memory".into())];
        assert_eq!(Cgroups::parse(HYBRID), Some(Cgroups::V1(v1)));
        assert_eq!(Cgroups::parse(UNIFIED), Some(Cgroups::V2("/sys/fs/cgroup".into())));
        assert_eq!(Cgroups::parse("30 25 0:26 / / rw - ext4 /dev/vda rw"), None);
        assert_eq!(Cgroups::parse(""), None);
    }

    #[test]
    fn roles_have_groups_of_their_own() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().to_owned();
        let role = DnsSubdomain::new("a1b2.server").unwrap();
        let v2 = Cgroups::V2(root.clone());
        let v1 = Cgroups::V1(vec![("cpu", root.join("cpu")), ("memory", root.join("memory"))]);
        for (cgroups, group, limit) in [
            (v2, root.join("hypernetes-roles/a1b2.server"), "memory.max"),
            (v1, root.join("memory/hypernetes-roles/a1b2.server"), "memory.limit_in_bytes"),
        ] {
            // A second time for whoever comes after it.
            for pid in [4711, 4712] {
                cgroups.put_role(&role, 1 << 30, pid).unwrap();
                assert_eq!(fs::read_to_string(group.join(limit)).unwrap(), "1073741824");
                assert_eq!(fs::read_to_string(group.join("cgroup.procs")).unwrap(), pid.to_string());
            }
            // It is none of a VM's.
            assert!(cgroups.ids().is_empty());
            // The kernel's files are none that keep a directory.
            fs::read_dir(&group).unwrap().flatten().for_each(|file| fs::remove_file(file.path()).unwrap());
            cgroups.remove_role(&role);
            assert!(!group.exists());
        }
        assert!(!root.join("cpu").exists());
    }

    #[test]
    fn groups_of_either_version_are_made_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().to_owned();
        let acme = Some(DnsLabel::new("acme").unwrap());
        let limits = Limits { tenant: acme, memory_bytes: 300 << 20, cpus: 2 };
        let read = |file: &str| fs::read_to_string(root.join(file)).unwrap();
        let version2 = Cgroups::V2(root.clone());
        let v2 = version2.make("a", &limits).unwrap();
        assert_eq!(v2.directory, Some(root.join("hypernetes/tenant.acme/a")));
        assert_eq!(read("hypernetes/tenant.acme/a/memory.max"), "314572800");
        assert_eq!(read("hypernetes/tenant.acme/a/cpu.max"), "250000 100000");
        assert_eq!(read("hypernetes/tenant.acme/cpu.weight"), "100");
        let (all, host) = (read("hypernetes/memory.max").parse::<u64>().unwrap(), crate::host_memory());
        assert!(all < host && all >= host / 2, "{all} of {host}");
        let cgroups = Cgroups::V1(vec![("cpu", root.join("cpu")), ("memory", root.join("memory"))]);
        let v1 = cgroups.make("b", &limits).unwrap();
        let tasks = |controller: &str| root.join(controller).join("hypernetes/tenant.acme/b/tasks");
        assert_eq!(v1.join, [tasks("cpu"), tasks("memory")]);
        assert_eq!(read("cpu/hypernetes/tenant.acme/b/cpu.cfs_quota_us"), "250000");
        assert_eq!(read("memory/hypernetes/tenant.acme/b/memory.limit_in_bytes"), "314572800");
        assert_eq!(read("memory/hypernetes/memory.limit_in_bytes"), all.to_string());
        assert!(!root.join("memory/hypernetes/tenant.acme/b/cpu.cfs_quota_us").exists());
        // Those of no tenant have a place of their own, and an earlier version's are known, too.
        version2.make("n", &Limits { tenant: None, ..limits }).unwrap();
        fs::create_dir(root.join("hypernetes/old")).unwrap();
        let mut ids = version2.ids();
        ids.sort();
        assert_eq!(ids, ["a", "n", "old"]);
        // The kernel's files are none that keep a directory.
        for group in ["tenant.acme/a", "tenant.acme", "tenant./n", "tenant."] {
            for file in fs::read_dir(root.join("hypernetes").join(group)).unwrap().flatten() {
                if file.path().is_file() {
                    fs::remove_file(file.path()).unwrap();
                }
            }
        }
        ids.iter().for_each(|id| version2.remove(id));
        assert!(version2.ids().is_empty());
        assert!(!root.join("hypernetes/tenant.acme").exists() && !root.join("hypernetes/old").exists());
    }
}
