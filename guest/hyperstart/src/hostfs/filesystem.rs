//! The kernel's requests, which name files by number, as requests to the host, which name them by path.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    io,
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use fuser::{
    BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use hypernetes_guest_protocol::{
    MAX_HOST_PATH_DATA,
    v1::{self, host_path_request::Operation},
};
use nix::libc;

use super::{
    attributes::{attributes, wanted_time},
    listing::{Listing, fill},
    nodes::{Nodes, ROOT, number},
    open_files::OpenFiles,
    relay::Relay,
};

/// How long the kernel may believe what it was told of a file: long enough for the steps of one system call, and no longer
/// than a change on the host may take to be seen.
const FRESH: Duration = Duration::from_millis(20);
/// The host's inode is the file's identity.
const GENERATION: Generation = Generation(0);

pub struct HostPath {
    relay: Arc<Relay>,
    known: Arc<Mutex<Known>>,
    next_handle: AtomicU64,
}

#[derive(Default)]
struct Known {
    nodes: Nodes,
    files: OpenFiles,
    directories: HashMap<u64, Listing>,
}

impl HostPath {
    pub fn new(relay: Arc<Relay>) -> Self {
        Self { relay, known: Arc::default(), next_handle: AtomicU64::new(1) }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        lock(&self.known)
    }

    fn path(&self, number: INodeNo) -> Result<Vec<u8>, Errno> {
        self.known().nodes.path(number.0).ok_or(Errno::ESTALE)
    }

    /// The path for what is done through a handle: the file may have no name any more.
    fn path_or_none(&self, number: INodeNo) -> Vec<u8> {
        self.known().nodes.path(number.0).unwrap_or_else(|| b".gone".to_vec())
    }

    fn child(&self, parent: INodeNo, name: &OsStr) -> Result<Vec<u8>, Errno> {
        self.known().nodes.child(parent.0, name).ok_or(Errno::ESTALE)
    }

    fn handle(&self, handle: FileHandle) -> Option<v1::HostPathHandle> {
        self.known().files.get(handle.0)
    }

    /// By what a file is found for its attributes: what it is open as, if it is, and its path, if it has one.
    fn find(&self, node: INodeNo, handle: Option<FileHandle>) -> Result<(Vec<u8>, Option<v1::HostPathHandle>), Errno> {
        let open = match handle.and_then(|handle| self.handle(handle)) {
            Some(open) => Some(open),
            None => self.known().files.of(node.0),
        };
        match (self.path(node), open) {
            (Ok(path), open) => Ok((path, open)),
            (Err(_), Some(open)) => Ok((self.path_or_none(node), Some(open))),
            (Err(error), None) => Err(error),
        }
    }

    fn new_handle(&self) -> u64 {
        self.next_handle.fetch_add(1, Ordering::Relaxed)
    }

    /// Asks for something that makes or finds the file of a name.
    fn ask_entry(
        &self,
        parent: INodeNo,
        name: &OsStr,
        path: Result<Vec<u8>, Errno>,
        operation: Operation,
        reply: ReplyEntry,
    ) {
        let path = match path {
            Ok(path) => path,
            Err(error) => return reply.error(error),
        };
        let (known, name) = (self.known.clone(), name.to_owned());
        self.relay.ask(path, operation, move |answer| match answer.and_then(found) {
            Ok(from) => {
                let number = number(from.inode);
                lock(&known).nodes.found(parent.0, &name, number);
                reply.entry(&FRESH, &attributes(number, &from), GENERATION);
            }
            Err(error) => reply.error(error),
        });
    }

    fn ask_attributes(&self, node: INodeNo, path: Vec<u8>, operation: Operation, reply: ReplyAttr) {
        self.relay.ask(path, operation, move |answer| match answer.and_then(found) {
            // The name is another file's by now.
            Ok(from) if node.0 != ROOT && number(from.inode) != node.0 => reply.error(Errno::ESTALE),
            Ok(from) => reply.attr(&FRESH, &attributes(node.0, &from)),
            Err(error) => reply.error(error),
        });
    }

    /// Asks for something that is only done; `done` follows before the kernel hears of it.
    fn ask_empty(
        &self,
        path: Vec<u8>,
        operation: Operation,
        reply: ReplyEmpty,
        done: impl FnOnce(&mut Known) + Send + 'static,
    ) {
        let known = self.known.clone();
        self.relay.ask(path, operation, move |answer| match answer {
            Ok(_) => {
                done(&mut lock(&known));
                reply.ok();
            }
            Err(error) => reply.error(error),
        });
    }

    fn make(&self, request: &Request, mode: u32) -> v1::HostPathMake {
        v1::HostPathMake { mode, uid: request.uid(), gid: request.gid(), ..Default::default() }
    }

    fn remove(&self, parent: INodeNo, name: &OsStr, directory: bool, reply: ReplyEmpty) {
        let path = match self.child(parent, name) {
            Ok(path) => path,
            Err(error) => return reply.error(error),
        };
        let (operation, name) = (Operation::Remove(v1::HostPathRemove { directory }), name.to_owned());
        self.ask_empty(path, operation, reply, move |known| known.nodes.removed(parent.0, &name));
    }
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    // Nothing panics while it is held.
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

fn found(reply: v1::HostPathReply) -> Result<v1::HostPathAttributes, Errno> {
    reply.attributes.ok_or(Errno::EIO)
}

/// Whether open(2)'s flags allow to write.
fn writes(flags: i32) -> bool {
    flags & libc::O_ACCMODE != libc::O_RDONLY
}

impl Filesystem for HostPath {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let _ = config.set_max_write(MAX_HOST_PATH_DATA as u32);
        // What is cached of a file's content goes when the host's file has changed.
        let _ = config.add_capabilities(InitFlags::FUSE_AUTO_INVAL_DATA);
        let _ = config.add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let stat = Operation::Stat(v1::HostPathStat::default());
        self.ask_entry(parent, name, self.child(parent, name), stat, reply);
    }

    fn forget(&self, _: &Request, number: INodeNo, lookups: u64) {
        self.known().nodes.forget(number.0, lookups);
    }

    fn getattr(&self, _: &Request, number: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        let (path, handle) = match self.find(number, handle) {
            Ok(found) => found,
            Err(error) => return reply.error(error),
        };
        self.ask_attributes(number, path, Operation::Stat(v1::HostPathStat { handle }), reply);
    }

    fn setattr(
        &self,
        _: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _: Option<SystemTime>,
        handle: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (path, handle) = match self.find(number, handle) {
            Ok(found) => found,
            Err(error) => return reply.error(error),
        };
        let change = v1::HostPathChange {
            handle,
            mode,
            uid,
            gid,
            size,
            accessed: accessed.map(wanted_time),
            modified: modified.map(wanted_time),
        };
        self.ask_attributes(number, path, Operation::Change(change), reply);
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        let path = match self.path(number) {
            Ok(path) => path,
            Err(error) => return reply.error(error),
        };
        self.relay.ask(path, Operation::ReadLink(v1::HostPathReadLink {}), move |answer| match answer {
            Ok(answer) => reply.data(&answer.data),
            Err(error) => reply.error(error),
        });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _device: u32,
        reply: ReplyEntry,
    ) {
        let make = v1::HostPathMake { exclusive: true, ..self.make(request, mode) };
        self.ask_entry(parent, name, self.child(parent, name), Operation::Make(make), reply);
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        let make = self.make(request, libc::S_IFDIR | mode & 0o7777);
        self.ask_entry(parent, name, self.child(parent, name), Operation::Make(make), reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent, name, false, reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent, name, true, reply);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let target = target.as_os_str().as_bytes().to_vec();
        let make = v1::HostPathMake { target, ..self.make(request, libc::S_IFLNK | 0o777) };
        self.ask_entry(parent, name, self.child(parent, name), Operation::Make(make), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let paths = self.child(parent, name).and_then(|from| Ok((from, self.child(new_parent, new_name)?)));
        let (from, to) = match paths {
            Ok(paths) => paths,
            Err(error) => return reply.error(error),
        };
        let (keep, exchange) =
            (flags.contains(RenameFlags::RENAME_NOREPLACE), flags.contains(RenameFlags::RENAME_EXCHANGE));
        if !(RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_EXCHANGE).contains(flags) {
            return reply.error(Errno::EINVAL);
        }
        let operation = Operation::Move(v1::HostPathMove { to, keep, exchange });
        let (name, new_name): (OsString, OsString) = (name.into(), new_name.into());
        self.ask_empty(from, operation, reply, move |known| {
            known.nodes.moved((parent.0, &name), (new_parent.0, &new_name), exchange);
        });
    }

    fn link(&self, _: &Request, number: INodeNo, new_parent: INodeNo, new_name: &OsStr, reply: ReplyEntry) {
        match self.child(new_parent, new_name) {
            Ok(to) => {
                let link = Operation::Link(v1::HostPathLink { to });
                self.ask_entry(new_parent, new_name, self.path(number), link, reply);
            }
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, _: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let path = match self.path(node) {
            Ok(path) => path,
            Err(error) => return reply.error(error),
        };
        let handle = v1::HostPathHandle { number: self.new_handle(), write: writes(flags.0), inode: 0 };
        let known = self.known.clone();
        let operation = Operation::Open(v1::HostPathOpen { handle: Some(handle) });
        self.relay.ask(path, operation, move |answer| match answer.and_then(found) {
            // The name is another file's by now.
            Ok(from) if node.0 != ROOT && number(from.inode) != node.0 => reply.error(Errno::ESTALE),
            Ok(from) => {
                let inode = from.inode;
                lock(&known).files.insert(node.0, v1::HostPathHandle { inode, ..handle });
                reply.opened(FileHandle(handle.number), FopenFlags::empty());
            }
            Err(error) => reply.error(error),
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let path = match self.child(parent, name) {
            Ok(path) => path,
            Err(error) => return reply.error(error),
        };
        let handle = v1::HostPathHandle { number: self.new_handle(), write: writes(flags), inode: 0 };
        let make = v1::HostPathMake {
            exclusive: flags & libc::O_EXCL != 0,
            truncate: flags & libc::O_TRUNC != 0,
            open: Some(handle),
            ..self.make(request, libc::S_IFREG | mode & 0o7777)
        };
        let (known, name) = (self.known.clone(), name.to_owned());
        self.relay.ask(path, Operation::Make(make), move |answer| match answer.and_then(found) {
            Ok(from) => {
                let number = number(from.inode);
                let mut known = lock(&known);
                known.nodes.found(parent.0, &name, number);
                known.files.insert(number, v1::HostPathHandle { inode: from.inode, ..handle });
                drop(known);
                let (attributes, handle) = (attributes(number, &from), FileHandle(handle.number));
                reply.created(&FRESH, &attributes, GENERATION, handle, FopenFlags::empty());
            }
            Err(error) => reply.error(error),
        });
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(handle) = self.handle(handle) else { return reply.error(Errno::EBADF) };
        let operation = Operation::Read(v1::HostPathRead { handle: Some(handle), offset, size });
        self.relay.ask(self.path_or_none(number), operation, move |answer| match answer {
            Ok(answer) => reply.data(&answer.data[..answer.data.len().min(size as usize)]),
            Err(error) => reply.error(error),
        });
    }

    fn write(
        &self,
        _: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let Some(handle) = self.handle(handle) else { return reply.error(Errno::EBADF) };
        // What was written through memory has its place.
        let append = flags.0 & libc::O_APPEND != 0 && !write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let (length, data) = (data.len(), Bytes::copy_from_slice(data));
        let operation = Operation::Write(v1::HostPathWrite { handle: Some(handle), offset, data, append });
        self.relay.ask(self.path_or_none(number), operation, move |answer| match answer {
            Ok(answer) => reply.written(answer.written.min(length as u32)),
            Err(error) => reply.error(error),
        });
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.known().files.remove(handle.0);
        self.relay.tell(Operation::Close(v1::HostPathClose { number: handle.0 }));
        reply.ok();
    }

    fn fsync(&self, _: &Request, number: INodeNo, handle: FileHandle, data_only: bool, reply: ReplyEmpty) {
        let Some(handle) = self.handle(handle) else { return reply.error(Errno::EBADF) };
        let operation = Operation::Sync(v1::HostPathSync { handle: Some(handle), data_only });
        self.ask_empty(self.path_or_none(number), operation, reply, |_| {});
    }

    fn fallocate(
        &self,
        _: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let Some(handle) = self.handle(handle) else { return reply.error(Errno::EBADF) };
        let mode = mode.unsigned_abs();
        let operation = Operation::Allocate(v1::HostPathAllocate { handle: Some(handle), offset, length, mode });
        self.ask_empty(self.path_or_none(number), operation, reply, |_| {});
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(self.new_handle()), FopenFlags::empty());
    }

    fn readdir(&self, _: &Request, number: INodeNo, handle: FileHandle, offset: u64, reply: ReplyDirectory) {
        let path = {
            let known = self.known();
            if let Some(rest) = known.directories.get(&handle.0).and_then(|listing| listing.after(offset)) {
                return fill(reply, rest);
            }
            known.nodes.path(number.0)
        };
        let Some(path) = path else { return reply.error(Errno::ESTALE) };
        let known = self.known.clone();
        self.relay.ask(path, Operation::List(v1::HostPathList { cookie: offset }), move |answer| match answer {
            Ok(answer) => {
                let listing = Listing::new(answer.entries);
                fill(reply, listing.all());
                lock(&known).directories.insert(handle.0, listing);
            }
            Err(error) => reply.error(error),
        });
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.known().directories.remove(&handle.0);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, number: INodeNo, _: FileHandle, data_only: bool, reply: ReplyEmpty) {
        match self.path(number) {
            Ok(path) => {
                let operation = Operation::Sync(v1::HostPathSync { handle: None, data_only });
                self.ask_empty(path, operation, reply, |_| {});
            }
            Err(error) => reply.error(error),
        }
    }

    fn statfs(&self, _: &Request, number: INodeNo, reply: ReplyStatfs) {
        let path = self.path(number).unwrap_or_default();
        self.relay.ask(path, Operation::Space(v1::HostPathSpace {}), move |answer| {
            match answer.and_then(|answer| answer.space_reply.ok_or(Errno::EIO)) {
                Ok(space) => reply.statfs(
                    space.blocks,
                    space.blocks_free,
                    space.blocks_available,
                    space.files,
                    space.files_free,
                    space.block_size,
                    space.name_length,
                    space.block_size,
                ),
                Err(error) => reply.error(error),
            }
        });
    }
}
