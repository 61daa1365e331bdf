//! What VMs leave on the host, whatever VMM they ran in.

use std::{fs, io::ErrorKind, path::Path, sync::Arc};

use crate::cgroup::{Cgroups, Group, Limits};

/// What a VM leaves on the host: its control group, if VMs have any, and its directory.
#[derive(Clone)]
pub struct Remains {
    pub cgroups: Option<Arc<Cgroups>>,
}

impl Remains {
    /// Makes a VM's control group, where VMs have any.
    pub fn group(&self, id: &str, limits: Limits) -> std::io::Result<Group> {
        match &self.cgroups {
            Some(cgroups) => cgroups.make(id, &limits),
            None => Ok(Group { join: Vec::new(), directory: None }),
        }
    }

    /// Removes it all, of a VM that has ended. That it is gone is fine.
    pub fn remove(&self, directory: &Path) {
        if let (Some(cgroups), Some(id)) = (&self.cgroups, directory.file_name().and_then(|id| id.to_str())) {
            cgroups.remove(id);
        }
        let mut removed = fs::remove_dir_all(directory);
        // Whoever saw the process end removes its record at the same time; what is missing then is not the directory.
        while matches!(&removed, Err(error) if error.kind() == ErrorKind::NotFound) && directory.exists() {
            removed = fs::remove_dir_all(directory);
        }
        if let Err(error) = removed
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!(directory = %directory.display(), %error, "a VM's directory was left behind");
        }
    }
}

/// What a group's name begins with that only tries whether there can be any; the pid of who tries it follows.
const PROBE: &str = "probe-";

/// The control groups, if this process may make any: in a container it often may not.
pub fn usable_cgroups() -> Option<Cgroups> {
    let cgroups = Cgroups::find()?;
    for id in cgroups.ids() {
        // Of a process that was killed while it looked.
        let pid = id.strip_prefix(PROBE).and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            cgroups.remove(&id);
        }
    }
    let id = format!("{PROBE}{}", std::process::id());
    match cgroups.make(&id, &Limits { tenant: None, memory_bytes: 1 << 30, cpus: 1 }) {
        Ok(_) => {
            cgroups.remove(&id);
            Some(cgroups)
        }
        Err(error) => {
            tracing::warn!(%error, "VMs have no control groups: nothing limits what their VMMs take of this host");
            None
        }
    }
}
