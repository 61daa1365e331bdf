//! Control groups of VMs, version 2 or 1: what a VM takes of the host, its VMM included, has an end.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// All groups are below this one.
const PARENT: &str = "hypernetes";
const PERIOD_MICROS: u64 = 100_000;
/// Threads of a VMM beside its processors: one that serves, and those that wait for disks.
const VMM_THREADS: u64 = 128;
/// Of a processor, for the VMM's own work.
const VMM_PERCENT: u64 = 50;

/// What one VM may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
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
    pub fn make(&self, id: &str, limits: Limits) -> io::Result<Group> {
        match self {
            Self::V2(root) => {
                let parent = root.join(PARENT);
                for directory in [root, &parent] {
                    fs::create_dir_all(directory)?;
                    write(&directory.join("cgroup.subtree_control"), "+memory +cpu +pids")?;
                }
                let group = parent.join(id);
                make(&group)?;
                for (file, value) in limits.v2() {
                    write(&group.join(file), &value)?;
                }
                Ok(Group { join: Vec::new(), directory: Some(group) })
            }
            Self::V1(controllers) => {
                let mut join = Vec::new();
                for (controller, root) in controllers {
                    let group = root.join(PARENT).join(id);
                    fs::create_dir_all(root.join(PARENT))?;
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

    /// Names of the groups that there are.
    pub fn ids(&self) -> Vec<String> {
        let roots = match self {
            Self::V2(root) => vec![root],
            Self::V1(controllers) => controllers.iter().map(|(_, root)| root).collect(),
        };
        let entries = roots.into_iter().filter_map(|root| fs::read_dir(root.join(PARENT)).ok()).flatten().flatten();
        let groups = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        groups.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Removes a VM's group, whose processes have ended. That there is none is fine.
    pub fn remove(&self, id: &str) {
        let roots: Vec<&PathBuf> = match self {
            Self::V2(root) => vec![root],
            Self::V1(controllers) => controllers.iter().map(|(_, root)| root).collect(),
        };
        for root in roots {
            let group = root.join(PARENT).join(id);
            match fs::remove_dir(&group) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(group = %group.display(), %error, "a VM's control group was left behind");
                }
                _ => {}
            }
        }
    }
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
    fn quota_micros(self) -> u64 {
        (u64::from(self.cpus) * 100 + VMM_PERCENT) * PERIOD_MICROS / 100
    }

    fn threads(self) -> u64 {
        u64::from(self.cpus) + VMM_THREADS
    }

    fn v2(self) -> [(&'static str, String); 4] {
        [
            ("memory.max", self.memory_bytes.to_string()),
            // Half a VM helps nobody.
            ("memory.oom.group", "1".into()),
            ("cpu.max", format!("{} {PERIOD_MICROS}", self.quota_micros())),
            ("pids.max", self.threads().to_string()),
        ]
    }

    fn v1(self) -> [(&'static str, &'static str, String); 4] {
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
    fn groups_of_either_version_are_made_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().to_owned();
        let limits = Limits { memory_bytes: 300 << 20, cpus: 2 };
        let read = |file: &str| fs::read_to_string(root.join(file)).unwrap();
        let v2 = Cgroups::V2(root.clone()).make("a", limits).unwrap();
        assert_eq!(v2.directory, Some(root.join("hypernetes/a")));
        assert_eq!(read("hypernetes/a/memory.max"), "314572800");
        assert_eq!(read("hypernetes/a/cpu.max"), "250000 100000");
        let cgroups = Cgroups::V1(vec![("cpu", root.join("cpu")), ("memory", root.join("memory"))]);
        let v1 = cgroups.make("b", limits).unwrap();
        assert_eq!(v1.join, [root.join("cpu/hypernetes/b/tasks"), root.join("memory/hypernetes/b/tasks")]);
        assert_eq!(read("cpu/hypernetes/b/cpu.cfs_quota_us"), "250000");
        assert_eq!(read("memory/hypernetes/b/memory.limit_in_bytes"), "314572800");
        assert!(!root.join("memory/hypernetes/b/cpu.cfs_quota_us").exists());
    }
}
