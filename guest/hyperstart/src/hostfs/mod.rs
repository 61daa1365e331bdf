//! Paths of the host: FUSE file systems whose requests hyperd answers.
//!
//! ```text
//! processes ──▶ kernel ──▶ filesystem (FUSE to paths) ──▶ relay (what is not answered yet) ──▶ hyperd
//! ```

mod attributes;
mod filesystem;
mod listing;
mod nodes;
mod open_files;
mod relay;

use std::{
    collections::HashMap,
    fs::{self, OpenOptions},
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use fuser::{Config, Session, SessionACL};
use hypernetes_guest_protocol::v1;
use nix::mount::{MntFlags, MsFlags, mount, umount, umount2};

use self::filesystem::HostPath;
pub use self::relay::{Relay, Requests};
use crate::init::RUN;

/// How much the kernel may read ahead, KiB: a request to the host takes long, but may be large.
const READ_AHEAD_KIB: &str = "1024";
/// Mounts of a container that has ended go with its last process, which may take a moment.
const UNMOUNT_ATTEMPTS: u32 = 40;

/// Where a host path is mounted.
pub fn mount_point(name: &str) -> Option<PathBuf> {
    let plain = !name.is_empty() && name.len() <= 200 && !name.starts_with('.') && !name.contains('/');
    plain.then(|| Path::new(RUN).join("host").join(name))
}

/// The host paths that are mounted, by name.
#[derive(Default)]
pub struct HostPaths(Mutex<HashMap<String, Arc<Relay>>>);

impl HostPaths {
    /// Mounts a host path, if it is not, and begins to send its requests to a new conversation.
    pub fn serve(&self, wanted: &v1::HostPathMount) -> io::Result<(Arc<Relay>, Requests)> {
        let invalid = || io::Error::new(io::ErrorKind::InvalidInput, format!("the host path {:?}", wanted.name));
        let place = mount_point(&wanted.name).ok_or_else(invalid)?;
        let mut mounted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let relay = match mounted.get(&wanted.name) {
            Some(relay) => relay.clone(),
            None => {
                let relay = Arc::new(Relay::default());
                start(&place, wanted.directory, relay.clone())?;
                mounted.insert(wanted.name.clone(), relay.clone());
                relay
            }
        };
        let requests = relay.attach();
        Ok((relay, requests))
    }

    /// Unmounts a host path. What was written through memory is sent before, so its requests have to be answered still.
    pub fn unmount(&self, name: &str) {
        let Some(place) = mount_point(name) else { return };
        for _ in 0..UNMOUNT_ATTEMPTS {
            match umount(&place) {
                Err(nix::Error::EBUSY) => std::thread::sleep(Duration::from_millis(5)),
                _ => break,
            }
        }
        let relay = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        abort(&place);
        let _ = fs::remove_dir(&place).or_else(|_| fs::remove_file(&place));
        if let Some(relay) = relay {
            relay.detach();
        }
    }

    /// Ends all of them at once, whatever waits for an answer.
    pub fn abort(&self) {
        for (name, _) in self.0.lock().unwrap_or_else(PoisonError::into_inner).drain() {
            mount_point(&name).iter().for_each(|place| abort(place));
        }
    }
}

fn abort(place: &Path) {
    // That it is gone already is fine.
    let _ = umount2(place, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH);
}

fn start(place: &Path, directory: bool, relay: Arc<Relay>) -> io::Result<()> {
    let device = OwnedFd::from(OpenOptions::new().read(true).write(true).open("/dev/fuse")?);
    fs::create_dir_all(place.parent().ok_or(io::ErrorKind::InvalidInput)?)?;
    let kind = if directory {
        fs::create_dir_all(place)?;
        nix::libc::S_IFDIR
    } else {
        OpenOptions::new().create(true).truncate(false).write(true).open(place)?;
        nix::libc::S_IFREG
    };
    let data = format!(
        "fd={},rootmode={kind:o},user_id=0,group_id=0,default_permissions,allow_other,max_read={}",
        device.as_raw_fd(),
        hypernetes_guest_protocol::MAX_HOST_PATH_DATA
    );
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("hostpath"), place, Some("fuse.hostpath"), flags, Some(data.as_str()))?;
    let file_system = HostPath::new(relay);
    let thread_place = place.to_owned();
    let started = std::thread::Builder::new().name("hostfs".into()).spawn(move || {
        let served = Session::from_fd(file_system, device, SessionACL::All, Config::default()).and_then(Session::run);
        if let Err(error) = served {
            eprintln!("hyperstart: serving {}: {error}", thread_place.display());
            abort(&thread_place);
        }
    });
    if let Err(error) = started {
        abort(place);
        return Err(error);
    }
    Ok(())
}

/// Lets the kernel read far ahead. Waits for an answer of the host.
pub fn read_ahead(place: &Path) {
    use std::os::unix::fs::MetadataExt;
    let Ok(metadata) = fs::metadata(place) else { return };
    let device = metadata.dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let _ = fs::write(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"), READ_AHEAD_KIB);
}
