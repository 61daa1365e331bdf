//! Network namespaces of pods: files below hyperd's own root that the namespaces are mounted on.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags},
    sched::CloneFlags,
    sys::statfs,
};

/// Settings of interfaces that will be made there. The guest is the one that speaks IPv6 on the pod's interface: the
/// namespace asks no router, and believes none.
const SETTINGS: [(&str, &str); 2] =
    [("ipv6/conf/default/accept_ra", "0"), ("ipv6/conf/default/router_solicitations", "0")];

/// Makes the namespace. One that an earlier attempt left is replaced.
pub(crate) async fn make(path: &Path) -> io::Result<()> {
    remove(path).await?;
    let path = path.to_owned();
    on_thread(move || {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        nix::sched::unshare(CloneFlags::CLONE_NEWNET)?;
        for (setting, value) in SETTINGS {
            match std::fs::write(Path::new("/proc/sys/net").join(setting), value) {
                // A kernel without IPv6.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        File::create(&path)?;
        nix::mount::mount(Some("/proc/thread-self/ns/net"), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(())
    })
    .await
}

/// Whether it is there; after the host's restart only the file is.
pub(crate) fn exists(path: &Path) -> bool {
    statfs::statfs(path).is_ok_and(|file_system| file_system.filesystem_type() == statfs::NSFS_MAGIC)
}

/// Removes the namespace, or the file that is left of it. That neither is there is fine.
pub(crate) async fn remove(path: &Path) -> io::Result<()> {
    let path = path.to_owned();
    on_thread(move || {
        match nix::mount::umount2(&path, MntFlags::MNT_DETACH) {
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    })
    .await
}

/// Runs something in the namespace, on a thread of its own.
pub(crate) async fn inside<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let path = path.to_owned();
    on_thread(move || {
        nix::sched::setns(File::open(&path)?, CloneFlags::CLONE_NEWNET)?;
        work()
    })
    .await
}

/// Names of what is in a directory, which need not exist.
pub(crate) fn names(directory: &Path) -> io::Result<Vec<String>> {
    match std::fs::read_dir(directory) {
        Ok(entries) => Ok(entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The namespaces below the directory.
pub(crate) fn all(directory: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(names(directory)?.into_iter().map(|name| directory.join(name)).collect())
}

/// Runs something on a thread that ends with it: one that has changed its namespace is of no other use.
async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let (send, receive) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("netns".into()).spawn(move || {
        let _ = send.send(work());
    })?;
    receive.await.map_err(io::Error::other)?
}
