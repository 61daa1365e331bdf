//! The server against guests that mean well, and guests that do not.

use std::{
    collections::BTreeMap,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use hypernetes_guest_protocol::{
    MAX_HOST_PATH_DATA,
    v1::{self, host_path_request::Operation},
};
use proptest::prelude::*;
use rustix::io::Errno;

use crate::{server::Server, share::Share, tree::Tree};

/// A directory that is shared, `root`, with something beside it that is not, `outside`.
struct Place {
    directory: tempfile::TempDir,
    server: Server,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("root")).unwrap();
        std::fs::create_dir(directory.path().join("outside")).unwrap();
        std::fs::write(directory.path().join("outside/secret"), "secret").unwrap();
        let server = Self::serve(&directory.path().join("root"));
        Self { directory, server }
    }

    fn serve(path: &Path) -> Server {
        // Without the mounts' attributes: what is tested is what the server itself holds.
        Server::new(Tree::of(std::fs::File::open(path).unwrap().into(), false).unwrap()).unwrap()
    }

    fn restart(&mut self) {
        self.server = Self::serve(&self.root());
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    fn ask_again(&self, path: &str, operation: Operation, again: bool) -> Result<v1::HostPathReply, Errno> {
        answer(&self.server, v1::HostPathRequest { id: 7, again, path: path.into(), operation: Some(operation) })
    }

    fn ask(&self, path: &str, operation: Operation) -> Result<v1::HostPathReply, Errno> {
        self.ask_again(path, operation, false)
    }

    fn inode(&self, path: &str) -> u64 {
        self.ask(path, stat()).unwrap().attributes.unwrap().inode
    }

    /// Everything that is not shared, by path and content.
    fn outside(&self) -> BTreeMap<PathBuf, (Vec<u8>, u32)> {
        let read = |entry: std::fs::DirEntry| {
            let mode = entry.metadata().unwrap().mode();
            (entry.path(), (std::fs::read(entry.path()).unwrap_or_default(), mode))
        };
        std::fs::read_dir(self.directory.path().join("outside")).unwrap().map(|entry| read(entry.unwrap())).collect()
    }
}

fn answer(server: &Server, request: v1::HostPathRequest) -> Result<v1::HostPathReply, Errno> {
    let reply = server.answer(&request).expect("an answer");
    assert_eq!(reply.id, request.id);
    if reply.errno == 0 { Ok(reply) } else { Err(Errno::from_raw_os_error(reply.errno as i32)) }
}

fn stat() -> Operation {
    Operation::Stat(v1::HostPathStat::default())
}

fn handle(number: u64, write: bool, inode: u64) -> Option<v1::HostPathHandle> {
    Some(v1::HostPathHandle { number, write, inode })
}

fn make(mode: u32) -> v1::HostPathMake {
    v1::HostPathMake {
        mode,
        uid: nix::unistd::getuid().into(),
        gid: nix::unistd::getgid().into(),
        ..Default::default()
    }
}

fn write(number: u64, inode: u64, offset: u64, data: &[u8], append: bool) -> Operation {
    let (handle, data) = (handle(number, true, inode), data.to_vec().into());
    Operation::Write(v1::HostPathWrite { handle, offset, data, append })
}

fn read(number: u64, inode: u64, offset: u64, size: u32) -> Operation {
    Operation::Read(v1::HostPathRead { handle: handle(number, false, inode), offset, size })
}

fn rename(to: &str) -> v1::HostPathMove {
    v1::HostPathMove { to: to.into(), ..Default::default() }
}

#[test]
fn a_file_survives_the_server() {
    let mut place = Place::new();
    let file = v1::HostPathMake { open: handle(1, true, 0), exclusive: true, ..make(libc::S_IFREG | 0o640) };
    let made = place.ask("f", Operation::Make(file)).unwrap().attributes.unwrap();
    assert_eq!(place.ask("f", write(1, made.inode, 0, b"hello", false)).unwrap().written, 5);
    place.restart();
    // The descriptor is gone; the file is found again.
    assert_eq!(place.ask("f", write(1, made.inode, 5, b" world", false)).unwrap().written, 6);
    assert_eq!(&place.ask("f", read(1, made.inode, 0, 100)).unwrap().data[..], b"hello world");
    // By its name, or by its descriptor when the name is gone; but never another file of that name.
    place.ask("f", Operation::Remove(v1::HostPathRemove::default())).unwrap();
    assert_eq!(&place.ask("f", read(1, made.inode, 6, 100)).unwrap().data[..], b"world");
    // The old file still has its inode number.
    let held = place.server.handles.lock().get(1);
    place.restart();
    assert_eq!(place.ask("f", read(1, made.inode, 0, 100)).unwrap_err(), Errno::STALE);
    std::fs::write(place.root().join("f"), "another").unwrap();
    assert_eq!(place.ask("f", read(1, made.inode, 0, 100)).unwrap_err(), Errno::STALE);
    drop(held);
    assert!(
        place
            .server
            .answer(&v1::HostPathRequest {
                operation: Some(Operation::Close(v1::HostPathClose { number: 1 })),
                ..Default::default()
            })
            .is_none()
    );
}

#[test]
fn what_was_done_and_not_answered_is_not_done_twice() {
    let place = Place::new();
    let done_twice = |path: &str, operation: Operation| {
        place.ask(path, operation.clone()).unwrap();
        place.ask_again(path, operation.clone(), true).unwrap();
        place.ask_again(path, operation, false)
    };
    let exclusive = v1::HostPathMake { exclusive: true, ..make(libc::S_IFREG | 0o600) };
    assert_eq!(done_twice("f", Operation::Make(exclusive)).unwrap_err(), Errno::EXIST);
    assert_eq!(done_twice("d", Operation::Make(make(libc::S_IFDIR | 0o700))).unwrap_err(), Errno::EXIST);
    let link = v1::HostPathMake { target: b"f".into(), ..make(libc::S_IFLNK | 0o777) };
    assert_eq!(done_twice("s", Operation::Make(link.clone())).unwrap_err(), Errno::EXIST);
    let other = v1::HostPathMake { target: b"g".into(), ..link };
    assert_eq!(place.ask_again("s", Operation::Make(other), true).unwrap_err(), Errno::EXIST);
    assert_eq!(done_twice("f", Operation::Link(v1::HostPathLink { to: b"h".into() })).unwrap_err(), Errno::EXIST);
    assert_eq!(done_twice("d", Operation::Move(rename("e"))).unwrap_err(), Errno::NOENT);
    assert_eq!(done_twice("e", Operation::Remove(v1::HostPathRemove { directory: true })).unwrap_err(), Errno::NOENT);
    // An append knows by what is there.
    let inode = place.inode("f");
    place.ask("f", write(1, inode, 0, b"line\n", true)).unwrap();
    place.ask_again("f", write(1, inode, 0, b"line\n", true), true).unwrap();
    place.ask_again("f", write(1, inode, 5, b"line\n", true), true).unwrap();
    assert_eq!(std::fs::read(place.root().join("f")).unwrap(), b"line\nline\n");
}

#[test]
fn files_are_what_the_guest_makes_them_within_reason() {
    let place = Place::new();
    let root = place.root();
    place.ask("f", Operation::Make(make(libc::S_IFREG | 0o6755))).unwrap();
    assert_eq!(root.join("f").metadata().unwrap().mode() & 0o7777 & !0o022, 0o755);
    let change = |change: v1::HostPathChange| place.ask("f", Operation::Change(change)).unwrap().attributes.unwrap();
    let attributes = change(v1::HostPathChange { mode: Some(0o104_644), size: Some(9), ..Default::default() });
    assert_eq!((attributes.mode, attributes.size), (libc::S_IFREG | 0o644, 9));
    let at = v1::HostPathTime { now: false, seconds: -5, nanos: 7 };
    let attributes = change(v1::HostPathChange { modified: Some(at), ..Default::default() });
    assert_eq!(attributes.modified, Some(at));
    // Devices are the host's own; pipes and sockets are only names.
    for device in [libc::S_IFCHR, libc::S_IFBLK, 0] {
        assert_eq!(place.ask("n", Operation::Make(make(device | 0o666))).unwrap_err(), Errno::PERM);
    }
    place.ask("pipe", Operation::Make(make(libc::S_IFIFO | 0o666))).unwrap();
    assert!(root.join("pipe").metadata().unwrap().file_type().is_fifo());
    // Opening a pipe would wait, or wake who waits.
    for write in [false, true] {
        let open = Operation::Open(v1::HostPathOpen { handle: handle(3, write, 0) });
        assert_eq!(place.ask("pipe", open).unwrap_err(), Errno::NXIO);
    }
    let existing = v1::HostPathMake { open: handle(3, true, 0), ..make(libc::S_IFREG | 0o666) };
    assert_eq!(place.ask("pipe", Operation::Make(existing)).unwrap_err(), Errno::NXIO);
    // A link is text.
    symlink("/etc/passwd", root.join("link")).unwrap();
    let target = place.ask("link", Operation::ReadLink(v1::HostPathReadLink {})).unwrap().data;
    assert_eq!(&target[..], b"/etc/passwd");
    let attributes = place.ask("link", stat()).unwrap().attributes.unwrap();
    assert_eq!(attributes.mode & libc::S_IFMT, libc::S_IFLNK);
    let open = Operation::Open(v1::HostPathOpen { handle: handle(3, false, 0) });
    assert_eq!(place.ask("link", open).unwrap_err(), Errno::STALE);
    assert_eq!(place.ask("link/x", stat()).unwrap_err(), Errno::STALE);
    assert!(place.ask("", Operation::Space(v1::HostPathSpace {})).unwrap().space_reply.unwrap().blocks > 0);
    assert_eq!(place.ask("", Operation::Remove(v1::HostPathRemove::default())).unwrap_err(), Errno::BUSY);
}

#[test]
fn directories_come_in_parts() {
    let place = Place::new();
    let expected: Vec<String> = (0..2000).map(|i| format!("{i:0200}")).collect();
    expected.iter().for_each(|name| drop(std::fs::File::create(place.root().join(name)).unwrap()));
    let (mut cookie, mut parts, mut names) = (0, 0, Vec::new());
    loop {
        let entries = place.ask("", Operation::List(v1::HostPathList { cookie })).unwrap().entries;
        let Some(last) = entries.last() else { break };
        cookie = last.cookie;
        parts += 1;
        names.extend(entries.into_iter().map(|e| String::from_utf8(e.name).unwrap()).filter(|n| !n.starts_with('.')));
    }
    names.sort();
    assert!(parts > 3 && names == expected, "{parts} parts with {} names", names.len());
}

/// A thread makes a path lead out and back, while a guest does everything it can to it.
#[test]
fn links_that_come_and_go_lead_nowhere() {
    let place = Place::new();
    let (root, outside) = (place.root(), place.directory.path().join("outside"));
    std::fs::create_dir(root.join("real")).unwrap();
    std::fs::write(root.join("real/secret"), "inside").unwrap();
    symlink(&outside, root.join("lead")).unwrap();
    let before = place.outside();
    let stop = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        scope.spawn(|| {
            // `d` is the directory in one moment, and the link out in the next.
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            std::fs::rename(root.join("real"), root.join("d")).unwrap();
            while !stop.load(Ordering::Relaxed) {
                let (one, other) = (root.join("d"), root.join("lead"));
                renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).unwrap();
            }
        });
        let until = std::time::Instant::now() + Duration::from_millis(700);
        let mut inside = 0;
        let mut round = 0;
        while std::time::Instant::now() < until {
            round += 1;
            let number = 1000 + round;
            let open = Operation::Open(v1::HostPathOpen { handle: handle(number, round % 2 == 0, 0) });
            if let Ok(opened) = place.ask("d/secret", open) {
                let inode = opened.attributes.unwrap().inode;
                let data = place.ask("d/secret", read(number, inode, 0, 100)).unwrap().data;
                assert_ne!(&data[..], b"secret");
                inside += 1;
            }
            let _ = place.ask("d/new", Operation::Make(make(libc::S_IFREG | 0o666)));
            let _ = place.ask("d/new", Operation::Make(make(libc::S_IFDIR | 0o777)));
            let change = v1::HostPathChange { mode: Some(0o777), size: Some(3), ..Default::default() };
            let _ = place.ask("d/secret", Operation::Change(change));
            let _ = place.ask("d", Operation::Change(v1::HostPathChange { mode: Some(0o700), ..Default::default() }));
            let _ = place.ask("d/secret", Operation::Move(rename("d/moved")));
            let _ = place.ask("d/moved", Operation::Move(rename("d/secret")));
            let _ = place.ask("d/secret", Operation::Link(v1::HostPathLink { to: b"stolen".into() }));
            let _ = place.ask("stolen", Operation::Remove(v1::HostPathRemove::default()));
            if let Ok(list) = place.ask("d", Operation::List(v1::HostPathList { cookie: 0 })) {
                assert!(list.entries.iter().all(|e| e.name != b"untouched"));
            }
            std::fs::write(outside.join("untouched"), "x").ok();
        }
        stop.store(true, Ordering::Relaxed);
        inside
    });
    assert!(seen > 10, "the race was not run");
    let mut after = place.outside();
    after.remove(&outside.join("untouched"));
    assert_eq!(after, before);
}

fn operations() -> impl Strategy<Value = Operation> {
    let path =
        || prop_oneof![paths(), Just(b"../outside/secret".to_vec()), proptest::collection::vec(any::<u8>(), 0..8)];
    let handles = || (0..4u64, any::<bool>(), any::<u64>()).prop_map(|(n, w, inode)| handle(n, w, inode));
    let number = || prop_oneof![Just(0), Just(u64::MAX), 0..10_000_u64, any::<u64>()];
    let time = || {
        proptest::option::of((any::<bool>(), any::<i64>(), any::<u32>()))
            .prop_map(|t| t.map(|(now, seconds, nanos)| v1::HostPathTime { now, seconds, nanos }))
    };
    prop_oneof![
        handles().prop_map(|handle| Operation::Stat(v1::HostPathStat { handle })),
        (handles(), proptest::option::of(any::<u32>()), proptest::option::of(0..100_000_u64), time(), time()).prop_map(
            |(handle, mode, size, accessed, modified)| Operation::Change(v1::HostPathChange {
                handle: handle.filter(|h| h.inode % 2 == 0),
                mode,
                size,
                accessed,
                modified,
                ..Default::default()
            })
        ),
        Just(Operation::ReadLink(v1::HostPathReadLink {})),
        (any::<u32>(), path(), any::<bool>(), any::<bool>(), handles()).prop_map(
            |(mode, target, exclusive, truncate, open)| {
                let kinds = [libc::S_IFREG, libc::S_IFDIR, libc::S_IFLNK, libc::S_IFIFO, libc::S_IFCHR, mode];
                let mode = mode & 0o7777 | kinds[mode as usize % kinds.len()];
                Operation::Make(v1::HostPathMake { target, exclusive, truncate, open, ..make(mode) })
            }
        ),
        any::<bool>().prop_map(|directory| Operation::Remove(v1::HostPathRemove { directory })),
        (path(), any::<bool>(), any::<bool>()).prop_map(|(to, keep, exchange)| Operation::Move(v1::HostPathMove {
            to,
            keep,
            exchange
        })),
        path().prop_map(|to| Operation::Link(v1::HostPathLink { to })),
        handles().prop_map(|handle| Operation::Open(v1::HostPathOpen { handle })),
        (handles(), number(), any::<u32>()).prop_map(|(handle, offset, size)| Operation::Read(v1::HostPathRead {
            handle,
            offset,
            size
        })),
        // Offsets that a file system of the host would rather not have are left to the host: sparse files cost nothing.
        (handles(), 0..100_000_u64, 0..2000_usize, any::<bool>()).prop_map(|(handle, offset, length, append)| {
            Operation::Write(v1::HostPathWrite { handle, offset, data: vec![1; length].into(), append })
        }),
        (handles(), any::<bool>()).prop_map(|(handle, data_only)| {
            Operation::Sync(v1::HostPathSync { handle: handle.filter(|_| data_only), data_only })
        }),
        (handles(), number(), 0..100_000_u64, any::<u32>()).prop_map(|(handle, offset, length, mode)| {
            Operation::Allocate(v1::HostPathAllocate { handle, offset: offset % 100_000, length, mode })
        }),
        number().prop_map(|cookie| Operation::List(v1::HostPathList { cookie })),
        Just(Operation::Space(v1::HostPathSpace {})),
        (0..4u64).prop_map(|number| Operation::Close(v1::HostPathClose { number })),
    ]
}

/// Few names, so that they meet.
fn paths() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(prop_oneof![Just("a"), Just("b"), Just("c"), Just("out"), Just("..")], 0..4)
        .prop_map(|names| names.join("/").into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn whatever_is_asked_nothing_outside_is_touched(
        requests in proptest::collection::vec((paths(), operations(), any::<bool>()), 1..60)
    ) {
        let place = Place::new();
        symlink("../outside", place.root().join("out")).unwrap();
        let before = place.outside();
        for (path, operation, again) in requests {
            let answered = !matches!(operation, Operation::Close(_));
            let request = v1::HostPathRequest { id: 3, again, path, operation: Some(operation) };
            let reply = place.server.answer(&request);
            prop_assert_eq!(reply.is_some(), answered);
            if let Some(reply) = reply {
                prop_assert!(reply.data.len() <= MAX_HOST_PATH_DATA);
                prop_assert!(!reply.data.windows(6).any(|w| w == b"secret") || reply.data.starts_with(b"../"));
            }
        }
        prop_assert_eq!(place.outside(), before);
        for entry in std::fs::read_dir(place.root()).unwrap() {
            let metadata = entry.unwrap().metadata().unwrap();
            prop_assert!(!metadata.file_type().is_char_device() && !metadata.file_type().is_block_device());
            prop_assert!(!metadata.is_file() || metadata.mode() & 0o6000 == 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_answers_and_ends() {
    let place = Place::new();
    let share = Share::start(Tree::of(std::fs::File::open(place.root()).unwrap().into(), false).unwrap()).unwrap();
    let (sender, mut answers) = tokio::sync::mpsc::channel(1);
    for id in 1..=20 {
        let operation = if id % 2 == 0 { Some(stat()) } else { None };
        // Nobody takes the answers yet: it waits, and is not dropped.
        let request = v1::HostPathRequest { id, operation, ..Default::default() };
        let submit = share.submit(request, &sender);
        let answer = async { if id > 4 { answers.recv().await.map(|a| a.errno) } else { None } };
        let (_, errno) = tokio::join!(submit, answer);
        assert!(errno.is_none_or(|e| e == 0 || e == Errno::NOSYS.raw_os_error() as u32));
    }
    for _ in 0..4 {
        answers.recv().await.unwrap();
    }
    drop((share, sender));
    // The threads were the last to be able to answer.
    assert!(answers.recv().await.is_none());
}

/// What only the mounts hold. Needs root, as hyperd does.
#[test]
fn a_tree_is_read_only_and_has_its_own_mounts() {
    use crate::{Propagation, ReadOnly};
    use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount};
    let directory = tempfile::tempdir().unwrap();
    let (root, below, later) =
        (directory.path().join("r"), directory.path().join("r/below"), directory.path().join("r/later"));
    for path in [&below, &later] {
        std::fs::create_dir_all(path).unwrap();
    }
    std::fs::write(root.join("f"), "x").unwrap();
    // A mount of its own, whose propagation is known.
    mount_bind(&root, &root).unwrap();
    mount_change(&root, MountPropagationFlags::SHARED).unwrap();
    mount("hostfs-test", &below, "tmpfs", MountFlags::empty(), None).unwrap();
    let server = |read_only, propagation| Server::new(Tree::open(&root, read_only, propagation).unwrap()).unwrap();
    let touch = |server: &Server, path: &str| {
        let operation = Some(Operation::Make(make(libc::S_IFREG | 0o600)));
        answer(server, v1::HostPathRequest { path: path.into(), operation, ..Default::default() }).map(drop)
    };
    let outcome = std::panic::catch_unwind(|| {
        let top = server(ReadOnly::Top, Propagation::Private);
        assert_eq!((touch(&top, "new"), touch(&top, "below/new")), (Err(Errno::ROFS), Ok(())));
        let all = server(ReadOnly::Recursive, Propagation::Private);
        assert_eq!((touch(&all, "new"), touch(&all, "below/new2")), (Err(Errno::ROFS), Err(Errno::ROFS)));
        let open = Operation::Open(v1::HostPathOpen { handle: handle(1, true, 0) });
        let request = v1::HostPathRequest { path: b"f".into(), operation: Some(open), ..Default::default() };
        assert_eq!(answer(&all, request).unwrap_err(), Errno::ROFS);
        for read_only in [ReadOnly::Top, ReadOnly::Recursive] {
            let following = server(read_only, Propagation::FromHost);
            assert_eq!(
                (touch(&following, "new"), touch(&following, "below/new3")),
                (Err(Errno::ROFS), Err(Errno::ROFS))
            );
        }
        let private = server(ReadOnly::No, Propagation::Private);
        let following = server(ReadOnly::No, Propagation::FromHost);
        mount("hostfs-test", &later, "tmpfs", MountFlags::empty(), None).unwrap();
        std::fs::write(later.join("f"), "later").unwrap();
        let request = || v1::HostPathRequest { path: b"later/f".into(), operation: Some(stat()), ..Default::default() };
        assert_eq!(answer(&private, request()).unwrap_err(), Errno::NOENT);
        let seen = answer(&following, request()).unwrap().attributes.unwrap();
        assert_eq!(seen.size, 5);
        assert_ne!(seen.inode, later.join("f").metadata().unwrap().ino());
        unmount(&later, UnmountFlags::empty()).unwrap();
        assert_eq!(answer(&following, request()).unwrap_err(), Errno::NOENT);
    });
    for path in [&later, &below, &root] {
        let _ = unmount(path, UnmountFlags::DETACH);
    }
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
    // A file alone; and what is neither file nor directory, or has a link in its path.
    let single = Tree::open(&root.join("f"), ReadOnly::No, Propagation::Private).unwrap();
    assert!(!single.is_directory());
    let single = Server::new(single).unwrap();
    assert_eq!(touch(&single, "new"), Err(Errno::NOTDIR));
    let opened = Operation::Open(v1::HostPathOpen { handle: handle(1, true, 0) });
    let request = v1::HostPathRequest { operation: Some(opened), ..Default::default() };
    assert_eq!(answer(&single, request).unwrap().attributes.unwrap().size, 1);
    assert!(Tree::open(Path::new("/dev/null"), ReadOnly::No, Propagation::Private).is_err());
    symlink(&root, directory.path().join("link")).unwrap();
    let through = Tree::open(&directory.path().join("link/f"), ReadOnly::No, Propagation::Private);
    assert_eq!(through.unwrap_err().raw_os_error(), Some(Errno::LOOP.raw_os_error()));
}

#[test]
fn missing_directories_are_made_but_not_through_links() {
    let place = Place::new();
    let made = place.root().join("a/b/c");
    crate::make_directory(&made).unwrap();
    crate::make_directory(&made).unwrap();
    assert!(made.is_dir() && made.metadata().unwrap().permissions().mode() & 0o777 != 0o777);
    symlink(place.directory.path().join("outside"), place.root().join("out")).unwrap();
    assert!(crate::make_directory(&place.root().join("out/new")).is_err());
    assert!(!place.directory.path().join("outside/new").exists());
    assert!(!crate::is_mounted(&made, &place.root()) && crate::is_mounted(Path::new("/proc"), Path::new("/")));
    assert!(made.as_os_str().as_bytes().len() < 4096);
}
