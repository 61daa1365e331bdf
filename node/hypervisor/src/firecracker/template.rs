//! What a template is made of with Firecracker (see [`crate::template`]): two files, which no VMM can write to.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt, PermissionsExt, chown},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{Shared, disks::READERS, snapshot, vm::FirecrackerVm};
pub use crate::template::Key;
use crate::{
    HypervisorError, Vm, VmSpec,
    greet::{GreetError, greet},
    tap::Nowhere,
    template, temporary,
};

pub type Template = template::Template<Files>;
pub type Templates = template::Templates<Files>;

const BOOT_PATIENCE: Duration = Duration::from_secs(60);
const TRIAL_PATIENCE: Duration = Duration::from_secs(10);
/// After the greeting, until the agent has seen that nobody is there any more and has nothing to do.
const SETTLE: Duration = Duration::from_millis(50);

/// A directory with a VM's memory and state; gone with this. Copies have mapped what they need.
pub struct Files(PathBuf);

impl Files {
    /// With the places where Firecracker expects them.
    pub fn open(&self) -> io::Result<Vec<(OwnedFd, PathBuf)>> {
        snapshot::open_in(&self.0)
    }

    /// Takes the files from the VMM that wrote them: from now on all may read them that are lent them, and none may write.
    fn close(&self) -> io::Result<u64> {
        let mut bytes = 0;
        for entry in fs::read_dir(&self.0)? {
            let path = entry?.path();
            chown(&path, Some(0), Some(READERS))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o440))?;
            bytes += fs::metadata(&path)?.blocks() * 512;
        }
        Ok(bytes)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Removes what an earlier process had.
pub fn clear(originals: &Path) {
    for entry in fs::read_dir(originals).into_iter().flatten().flatten() {
        let _ = fs::remove_dir_all(entry.path());
    }
}

/// None when VMs like this are not copied.
pub fn key(shared: &Shared, spec: &VmSpec) -> Option<Key> {
    let machine = format!("{} {}", shared.version, shared.boot.key);
    Key::new(shared.templates.limits(), &shared.program, machine, spec)
}

/// Has a template made in the background, unless one is there or under way.
pub fn want(shared: &Arc<Shared>, key: Key) {
    let build_of = shared.clone();
    template::want(&shared.templates, key, |key| async move { build(&build_of, key).await });
}

#[derive(Debug, thiserror::Error)]
enum BuildError {
    #[error("its files: {0}")]
    Files(#[from] io::Error),
    #[error(transparent)]
    Vm(#[from] HypervisorError),
    #[error("it did not boot: {0}")]
    Boot(GreetError),
    #[error("a copy of it did not work: {0}")]
    Trial(GreetError),
}

/// One that ends with this.
struct Temporary(FirecrackerVm);

impl Drop for Temporary {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

async fn build(shared: &Arc<Shared>, key: Key) -> Result<Arc<Template>, BuildError> {
    let nowhere = Nowhere::new().await?;
    let spec = || {
        let mut spec = key.spec(temporary::id());
        spec.nic = spec.nic.map(|nic| nowhere.nic(&nic.mac));
        spec
    };
    let original = Temporary(FirecrackerVm::boot(shared, spec()).await?);
    original.0.set_background(true);
    greet(original.0.agent(), BOOT_PATIENCE).await.map_err(BuildError::Boot)?;
    tokio::time::sleep(SETTLE).await;
    let record = original.0.record();
    let files = Files(shared.originals.join(&record.spec.id));
    snapshot::write(shared, &record, &files.0).await?;
    original.0.kill().await?;
    let bytes = files.close()?;
    // A template that does not work would take every pod after this one with it.
    let copy = Temporary(FirecrackerVm::copy(shared, spec(), &files).await?);
    greet(copy.0.agent(), TRIAL_PATIENCE).await.map_err(BuildError::Trial)?;
    copy.0.kill().await?;
    Ok(Template::new(key, files, bytes))
}
