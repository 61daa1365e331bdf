//! Starting a VMM, locked in where this process may do that.

use std::{
    ffi::OsString,
    fs, io,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::Path,
    process::Stdio,
};

use command_fds::{CommandFdExt, FdMapping};
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

use crate::{
    HypervisorError,
    cgroup::Limits,
    jail::{Jail, View},
    process::Process,
    remains::Remains,
    words,
};

/// First of the users that VMs run as: one for each VM, far from users that people have.
const FIRST_UID: u32 = 0x6000_0000;
const UIDS: u32 = 0x0fff_ffff;
pub const KVM: &str = "/dev/kvm";

/// The user that the VM of that id runs as.
pub fn uid_of(id: &str) -> u32 {
    let digest = Sha256::digest(id.as_bytes());
    FIRST_UID + u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]]) % UIDS
}

/// What one VMM is started with, beside its command line.
pub struct Launch<'a> {
    /// The VM's; its log and its pid are put there.
    pub directory: &'a Path,
    pub id: &'a str,
    /// As the VMM sees it; whoever is not locked in sees all of the host.
    pub program: &'a Path,
    /// `hypernetes-vmm`; none: the VMM is not locked in.
    pub jail: Option<&'a Path>,
    pub remains: &'a Remains,
    /// The group that it runs as; its user is its own.
    pub gid: u32,
    /// What it sees, locked in.
    pub view: View,
    /// Descriptors, with the numbers that the VMM knows them by.
    pub descriptors: Vec<(OwnedFd, i32)>,
    /// VMs are forked from it: by this library.
    pub original: Option<&'a Path>,
}

/// Why a VM does not start.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct Failure {
    reason: String,
    disk_full: bool,
}

impl Failure {
    /// `what` was being done.
    pub fn of(what: impl std::fmt::Display, error: &io::Error) -> Self {
        Self { disk_full: is_full(error.kind()), reason: format!("{what}: {error}") }
    }

    pub fn of_vm(self, id: &str) -> HypervisorError {
        let (id, reason) = (id.to_owned(), self.reason);
        if self.disk_full { HypervisorError::DiskFull { id, reason } } else { HypervisorError::Start { id, reason } }
    }
}

fn is_full(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self { disk_full: is_full(error.kind()), reason: error.to_string() }
    }
}

impl From<String> for Failure {
    fn from(reason: String) -> Self {
        Self { reason, disk_full: false }
    }
}

impl From<&str> for Failure {
    fn from(reason: &str) -> Self {
        reason.to_owned().into()
    }
}

impl Launch<'_> {
    pub async fn start(self, line: Vec<OsString>, limits: Limits) -> Result<Process, Failure> {
        let directory = self.directory;
        let log = words::create(directory)?;
        let jail = match self.jail {
            Some(program) => Some((program, self.locked_in(limits)?)),
            None => None,
        };
        let mut command = tokio::process::Command::new(jail.as_ref().map_or(self.program, |(program, _)| program));
        if let Some((_, jail)) = &jail {
            command.args(jail.arguments()).arg(self.program);
        }
        command.args(line).current_dir("/").env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        // Signals to this process's group are not for its VMs.
        command.process_group(0);
        let mappings = self.descriptors.into_iter();
        let mappings = mappings.map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd }).collect();
        CommandFdExt::fd_mappings(command.as_std_mut(), mappings).map_err(|e| e.to_string())?;
        if jail.is_none() && nix::unistd::geteuid().is_root() {
            let uid = uid_of(self.id);
            command.uid(uid).gid(self.gid);
        }
        let program = if jail.is_some() { "the VMM's jailer" } else { "the VMM" };
        let mut child = command.spawn().map_err(|e| format!("running {program}: {e}"))?;
        // The descriptors of the child that are open here as well.
        drop(command);
        let record = directory.join("pid");
        if jail.is_none() {
            let pid = child.id().ok_or("the VMM ended at once")?;
            let process = Process::keep(pid, record).await;
            // Reaped when it ends, whoever else waits for it.
            tokio::spawn(async move { child.wait().await });
            return process.map_err(|error| not_kept(&error, directory));
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
        let status = child.wait().await?;
        let pid = pid.trim().parse().ok().filter(|_| status.success());
        let pid: u32 = pid.ok_or_else(|| format!("the VMM was not locked in: {}", words::last(directory)))?;
        // The jailer has made it this process's child.
        let process = Process::keep(pid, record).await.map(Process::reaped_here);
        process.map_err(|error| not_kept(&error, directory))
    }

    fn locked_in(&self, limits: Limits) -> io::Result<Jail> {
        let root = self.directory.join("root");
        fs::create_dir(&root)?;
        let group = self.remains.group(self.id, limits)?;
        Ok(Jail {
            root,
            uid: uid_of(self.id),
            gid: self.gid,
            join: group.join,
            group: group.directory,
            view: self.view.clone(),
            original: self.original.map(Path::to_owned),
        })
    }
}

/// Why a VMM that was started is not there.
pub fn not_kept(error: &io::Error, directory: &Path) -> Failure {
    match Failure::of("putting its pid down", error) {
        full if full.disk_full => full,
        _ => format!("the VMM ended at once ({error}): {}", words::last(directory)).into(),
    }
}

/// The group of the VMM of that id where it uses a device by name, which is for a group.
pub fn gid_for(device: &Path, id: &str) -> u32 {
    // Never root's: whoever may use it is in a group of its own, or it is for everybody.
    fs::metadata(device).map(|kvm| kvm.gid()).ok().filter(|gid| *gid != 0).unwrap_or_else(|| uid_of(id))
}
