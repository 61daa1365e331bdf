//! One shared path: finding what a request is about, and handing it to what does it.

use std::{
    ffi::OsStr,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use hypernetes_beneath::Links;
use hypernetes_guest_protocol::v1::{self, host_path_request::Operation};
use parking_lot::Mutex;
use rustix::{
    fs::{Mode, OFlags, Stat, fstat},
    io::Errno,
};

use crate::{attributes, handles::Handles, path::Relative, tree::Tree};

#[derive(Debug)]
pub(crate) struct Server {
    tree: Tree,
    root_device: u64,
    pub(crate) handles: Mutex<Handles>,
}

/// A place in the tree; `O_PATH`.
pub(crate) enum Place<'a> {
    Root(&'a OwnedFd),
    Beneath(OwnedFd),
}

impl AsFd for Place<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Place::Root(fd) => fd.as_fd(),
            Place::Beneath(fd) => fd.as_fd(),
        }
    }
}

/// Whether an operation may change something. Opening for writing counts.
fn changes(operation: &Operation) -> bool {
    match operation {
        Operation::Open(open) => open.handle.is_some_and(|handle| handle.write),
        Operation::Read(read) => read.handle.is_some_and(|handle| handle.write),
        Operation::Sync(sync) => sync.handle.is_some_and(|handle| handle.write),
        Operation::Stat(_)
        | Operation::ReadLink(_)
        | Operation::List(_)
        | Operation::Space(_)
        | Operation::Close(_) => false,
        Operation::Change(_)
        | Operation::Make(_)
        | Operation::Remove(_)
        | Operation::Move(_)
        | Operation::Link(_)
        | Operation::Write(_)
        | Operation::Allocate(_) => true,
    }
}

impl Server {
    pub(crate) fn new(tree: Tree) -> Result<Self, Errno> {
        let root_device = fstat(&tree.root)?.st_dev;
        Ok(Self { tree, root_device, handles: Mutex::default() })
    }

    /// Does what is asked; none: it is not answered.
    pub(crate) fn answer(&self, request: &v1::HostPathRequest) -> Option<v1::HostPathReply> {
        let done = match &request.operation {
            Some(Operation::Close(close)) => {
                self.handles.lock().remove(close.number);
                return None;
            }
            None => Err(Errno::NOSYS),
            Some(operation) => {
                Relative::new(&request.path).and_then(|path| self.perform(path, operation, request.again))
            }
        };
        let mut reply = done.unwrap_or_else(|error| v1::HostPathReply {
            // What is there is not what the guest knows; it looks again.
            errno: match error {
                Errno::LOOP | Errno::XDEV
                    if !matches!(request.operation, Some(Operation::Move(_) | Operation::Link(_))) =>
                {
                    Errno::STALE
                }
                other => other,
            }
            .raw_os_error()
            .unsigned_abs(),
            ..Default::default()
        });
        reply.id = request.id;
        Some(reply)
    }

    fn perform(&self, path: Relative<'_>, operation: &Operation, again: bool) -> Result<v1::HostPathReply, Errno> {
        if self.tree.read_only && changes(operation) {
            return Err(Errno::ROFS);
        }
        let attributes =
            |stat: Stat| v1::HostPathReply { attributes: Some(self.attributes(&stat)), ..Default::default() };
        match operation {
            Operation::Stat(stat) => self.stat(path, stat.handle.as_ref()).map(attributes),
            Operation::Change(change) => self.change(path, change).map(attributes),
            Operation::ReadLink(_) => self.read_link(path),
            Operation::Make(make) => self.make(path, make, again).map(attributes),
            Operation::Remove(remove) => self.remove(path, remove.directory, again),
            Operation::Move(wanted) => self.rename(path, wanted, again),
            Operation::Link(link) => self.link(path, Relative::new(&link.to)?, again).map(attributes),
            Operation::Open(open) => self.open(path, open.handle.as_ref()).map(attributes),
            Operation::Read(read) => self.read(path, read),
            Operation::Write(write) => self.write(path, write, again),
            Operation::Sync(sync) => self.sync(path, sync),
            Operation::Allocate(allocate) => self.allocate(path, allocate),
            Operation::List(list) => self.list(path, list.cookie),
            Operation::Space(_) => self.space(path),
            Operation::Close(_) => Err(Errno::NOSYS),
        }
    }

    pub(crate) fn attributes(&self, stat: &Stat) -> v1::HostPathAttributes {
        attributes::of(stat, self.root_device)
    }

    pub(crate) fn inode(&self, stat: &Stat) -> u64 {
        attributes::inode(stat.st_dev, stat.st_ino, self.root_device)
    }

    pub(crate) fn inode_in(&self, directory: &Stat, number: u64) -> u64 {
        attributes::inode(directory.st_dev, number, self.root_device)
    }

    /// Opens a path beneath the root. No link is followed and the tree is not left, whatever changes meanwhile.
    pub(crate) fn open_beneath(&self, path: Relative<'_>, flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = Path::new(OsStr::from_bytes(path.bytes()));
        hypernetes_beneath::open(&self.tree.root, path, flags | OFlags::NOFOLLOW, Mode::empty(), Links::None)
    }

    /// Finds whatever is at a path, a link itself included.
    pub(crate) fn find(&self, path: Relative<'_>) -> Result<Place<'_>, Errno> {
        if path.is_root() {
            return Ok(Place::Root(&self.tree.root));
        }
        self.open_beneath(path, OFlags::PATH).map(Place::Beneath)
    }

    /// The directory that a path's last name is in, and that name.
    pub(crate) fn parent<'p>(&self, path: Relative<'p>) -> Result<(Place<'_>, &'p [u8]), Errno> {
        let (parent, name) = path.split()?;
        Ok((self.find(parent)?, name))
    }
}
