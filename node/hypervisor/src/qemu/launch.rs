//! Starting a QEMU process, locked in where this process may do that.

use std::{
    ffi::OsString,
    fs, io,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    process::Stdio,
};

use command_fds::{CommandFdExt, FdMapping};
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

use super::{Shared, words};
use crate::{Accelerator, cgroup::Limits, jail::Jail, process::Process};

/// First of the users that VMs run as: one for each VM, far from users that people have.
const FIRST_UID: u32 = 0x6000_0000;
const UIDS: u32 = 0x0fff_ffff;
const KVM: &str = "/dev/kvm";

/// The user that the VM of that id runs as.
pub fn uid_of(id: &str) -> u32 {
    let digest = Sha256::digest(id.as_bytes());
    FIRST_UID + u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]]) % UIDS
}

/// What one QEMU process is started with, beside its command line.
pub struct Launch<'a> {
    /// The VM's; its log and its pid are put there.
    pub directory: &'a Path,
    pub id: &'a str,
    pub accelerator: Accelerator,
    /// Descriptors, with the numbers that QEMU knows them by.
    pub descriptors: Vec<(OwnedFd, i32)>,
    /// VMs are forked from it: by this library.
    pub original: Option<&'a Path>,
}

impl Launch<'_> {
    pub async fn start(self, shared: &Shared, line: Vec<OsString>, limits: Limits) -> Result<Process, String> {
        let directory = self.directory;
        let text = |error: io::Error| error.to_string();
        let log = words::create(directory).map_err(text)?;
        let jail = match &shared.jail {
            Some(program) => Some((program, self.jail(shared, limits).map_err(text)?)),
            None => None,
        };
        let mut command = tokio::process::Command::new(jail.as_ref().map_or(&shared.program, |(program, _)| program));
        if let Some((_, jail)) = &jail {
            command.args(jail.arguments()).arg(&shared.program);
        }
        command.args(line).current_dir("/").env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        // Signals to this process's group are not for its VMs.
        command.process_group(0);
        let mappings = self.descriptors.into_iter();
        let mappings = mappings.map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd }).collect();
        CommandFdExt::fd_mappings(command.as_std_mut(), mappings).map_err(|e| e.to_string())?;
        if jail.is_none() && nix::unistd::geteuid().is_root() {
            let uid = uid_of(self.id);
            command.uid(uid).gid(gid_of(self.accelerator, uid));
        }
        let program = if jail.is_some() { "the VMM's jailer" } else { "QEMU" };
        let mut child = command.spawn().map_err(|e| format!("running {program}: {e}"))?;
        // The descriptors of the child that are open here as well.
        drop(command);
        let record = directory.join("pid");
        if jail.is_none() {
            let pid = child.id().ok_or("QEMU ended at once")?;
            let process = Process::remember(pid, record);
            // Reaped when it ends, whoever else waits for it.
            tokio::spawn(async move { child.wait().await });
            return process.map_err(|e| format!("QEMU ended at once ({e}): {}", words::last(directory)));
        }
        let mut pid = String::new();
        if let Some(mut stdout) = child.stdout.take() {
            // As long as the jailer lives: the VMM has it, too.
            let line = async {
                while !pid.ends_with('\n') && pid.len() < 16 {
                    match stdout.read_u8().await {
                        Ok(byte) => pid.push(byte.into()),
                        Err(_) => break,
                    }
                }
            };
            line.await;
        }
        let status = child.wait().await.map_err(text)?;
        let pid = pid.trim().parse().ok().filter(|_| status.success());
        let pid: u32 = pid.ok_or_else(|| format!("the VMM was not locked in: {}", words::last(directory)))?;
        // The jailer has made it this process's child.
        let process = Process::remember(pid, record).map(Process::reaped_here);
        process.map_err(|e| format!("QEMU ended at once ({e}): {}", words::last(directory)))
    }

    fn jail(&self, shared: &Shared, limits: Limits) -> io::Result<Jail> {
        let root = self.directory.join("root");
        fs::create_dir(&root)?;
        let group = shared.remains.group(self.id, limits)?;
        let uid = uid_of(self.id);
        Ok(Jail {
            root,
            uid,
            gid: gid_of(self.accelerator, uid),
            join: group.join,
            group: group.directory,
            devices: match self.accelerator {
                Accelerator::Kvm => vec![PathBuf::from(KVM)],
                Accelerator::Tcg => Vec::new(),
            },
            original: self.original.map(Path::to_owned),
        })
    }
}

/// `/dev/kvm` is for a group; everything else the VM is handed open.
fn gid_of(accelerator: Accelerator, uid: u32) -> u32 {
    match accelerator {
        // Never root's: whoever may use it is in a group of its own, or it is for everybody.
        Accelerator::Kvm => fs::metadata(KVM).map(|kvm| kvm.gid()).ok().filter(|gid| *gid != 0).unwrap_or(uid),
        Accelerator::Tcg => uid,
    }
}
