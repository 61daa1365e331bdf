//! Named network namespaces.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MntFlags, MsFlags},
    sched::CloneFlags,
    sys::statfs,
};

use crate::Error;

/// An open network namespace, with a netlink socket in it. Dropping it closes the socket alone.
pub(crate) struct Namespace {
    name: String,
    path: PathBuf,
    pub netlink: rtnetlink::Handle,
    connection: tokio::task::JoinHandle<()>,
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Settings of a new namespace. IPv6 is off: tenants' networks have none yet, and link-local addresses are not to be met.
const SETTINGS: [(&str, &str); 5] = [
    ("ipv4/ip_forward", "1"),
    ("ipv4/conf/all/accept_redirects", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv6/conf/all/disable_ipv6", "1"),
    ("ipv6/conf/default/disable_ipv6", "1"),
];

impl Namespace {
    /// Opens the namespace; `None` when there is none of that name.
    pub async fn open(directory: &Path, name: &str) -> Result<Option<Self>, Error> {
        let path = directory.join(name);
        if !is_namespace(&path) {
            return Ok(None);
        }
        let runtime = tokio::runtime::Handle::current();
        let (connection, netlink) = on_thread(name, "opening it", {
            let path = path.clone();
            move || {
                enter(&path)?;
                // The socket belongs to this namespace for as long as it lives, whoever uses it.
                let _runtime = runtime.enter();
                let (connection, netlink, _) = rtnetlink::new_connection()?;
                Ok((connection, netlink))
            }
        })
        .await?;
        Ok(Some(Self { name: name.to_owned(), path, netlink, connection: tokio::spawn(connection) }))
    }

    /// Opens the namespace, or makes it.
    pub async fn ensure(directory: &Path, name: &str) -> Result<Self, Error> {
        if let Some(namespace) = Self::open(directory, name).await? {
            return Ok(namespace);
        }
        let path = directory.join(name);
        on_thread(name, "making it", move || make(&path)).await?;
        let namespace = Self::open(directory, name).await?.ok_or_else(|| Error::Namespace {
            name: name.to_owned(),
            operation: "making it",
            source: io::ErrorKind::NotFound.into(),
        })?;
        Ok(namespace)
    }

    /// Runs something in the namespace, on a thread of its own.
    pub async fn run<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let path = self.path.clone();
        on_thread(&self.name, operation, move || {
            enter(&path)?;
            work()
        })
        .await
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Applies a script of the packet filter.
    pub async fn filter(&self, script: String) -> Result<(), Error> {
        self.run("filtering", move || Ok(crate::nft::apply(&script))).await?
    }

    /// Removes the name; the kernel removes the namespace with its last user.
    pub async fn remove(self) -> Result<(), Error> {
        let path = self.path.clone();
        on_thread(&self.name, "removing it", move || {
            nix::mount::umount2(&path, MntFlags::MNT_DETACH)?;
            std::fs::remove_file(&path)
        })
        .await
    }
}

/// A netlink socket in another namespace.
pub(crate) struct Netlink {
    pub handle: rtnetlink::Handle,
    connection: tokio::task::JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// A socket in the namespace at a path, and the index of an interface there.
pub(crate) async fn netlink_at(path: &Path, interface: &str) -> Result<(Netlink, u32), Error> {
    let runtime = tokio::runtime::Handle::current();
    let (path, interface) = (path.to_owned(), interface.to_owned());
    let name = path.display().to_string();
    let (connection, handle, index) = on_thread(&name, "looking for a tap in it", move || {
        enter(&path)?;
        let _runtime = runtime.enter();
        let index = nix::net::if_::if_nametoindex(interface.as_str())?;
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok((connection, handle, index))
    })
    .await?;
    Ok((Netlink { handle, connection: tokio::spawn(connection) }, index))
}

fn is_namespace(path: &Path) -> bool {
    statfs::statfs(path).is_ok_and(|file_system| file_system.filesystem_type() == statfs::NSFS_MAGIC)
}

fn enter(path: &Path) -> io::Result<()> {
    Ok(nix::sched::setns(File::open(path)?, CloneFlags::CLONE_NEWNET)?)
}

/// Makes a namespace, enters it with the calling thread, and mounts it when it is complete.
fn make(path: &Path) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    nix::sched::unshare(CloneFlags::CLONE_NEWNET)?;
    for (setting, value) in SETTINGS {
        let path = Path::new("/proc/sys/net").join(setting);
        match std::fs::write(&path, value) {
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound && setting.starts_with("ipv6") => {}
            other => other?,
        }
    }
    crate::nft::apply(&crate::nft::rules(std::iter::empty()).map_err(io::Error::other)?).map_err(io::Error::other)?;
    File::create(path)?;
    nix::mount::mount(Some("/proc/thread-self/ns/net"), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .inspect_err(|_| {
            let _ = std::fs::remove_file(path);
        })?;
    Ok(())
}

/// Runs something on a thread that ends with it, since a thread that has changed its namespace is of no other use.
async fn on_thread<T: Send + 'static>(
    name: &str,
    operation: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    let failed = |source| Error::Namespace { name: name.to_owned(), operation, source };
    let (send, receive) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("namespace".into())
        .spawn(move || {
            let _ = send.send(work());
        })
        .map_err(failed)?;
    receive.await.map_err(|e| failed(io::Error::other(e)))?.map_err(failed)
}
