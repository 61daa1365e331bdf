//! What the fuzz target feeds: the requests of a guest about a path of the host, upon a directory of its own. None may panic,
//! reach what is beside the directory, or be answered with more than the contract allows.

use std::{fs, io, path::Path};

use hypernetes_guest_protocol::{
    MAX_HOST_PATH_DATA,
    v1::{self, host_path_request::Operation},
};

use crate::{server::Server, tree::Tree};

const SECRET: &[u8] = b"nobody's business";
/// Files become no larger here; the caller's limit (RLIMIT_FSIZE) sees to what is written.
const MOST: u64 = 1 << 20;

/// Answers the requests in `directory`, which is empty and becomes so again.
///
/// # Errors
/// When the directory cannot be prepared or emptied.
///
/// # Panics
/// When a request reached what it must not.
pub fn requests(directory: &Path, requests: impl IntoIterator<Item = v1::HostPathRequest>) -> io::Result<()> {
    let (root, outside) = (directory.join("root"), directory.join("outside"));
    fs::create_dir_all(root.join("d/e"))?;
    fs::create_dir_all(&outside)?;
    fs::write(root.join("f"), "some text")?;
    std::os::unix::fs::symlink("../outside/secret", root.join("l"))?;
    std::os::unix::fs::symlink("../outside", root.join("d/out"))?;
    fs::write(outside.join("secret"), SECRET)?;
    let server = Server::new(Tree::of(fs::File::open(&root)?.into(), false)?)?;
    for mut request in requests {
        let reasonable = match &mut request.operation {
            Some(Operation::Allocate(allocate)) => {
                allocate.offset.checked_add(allocate.length).is_some_and(|end| end < MOST)
            }
            _ => true,
        };
        if !reasonable {
            continue;
        }
        if let Some(reply) = server.answer(&request) {
            assert_eq!(reply.id, request.id);
            assert!(reply.data.len() <= MAX_HOST_PATH_DATA, "an answer of {} bytes", reply.data.len());
            assert!(!reply.data.windows(SECRET.len()).any(|part| part == SECRET), "what is outside was read");
        }
    }
    assert_eq!(fs::read(outside.join("secret"))?, SECRET);
    assert_eq!(fs::read_dir(&outside)?.count(), 1, "something was made outside");
    assert_eq!(fs::read_dir(directory)?.count(), 2, "something was made outside");
    fs::remove_dir_all(&root)?;
    fs::remove_dir_all(&outside)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn request() -> impl Strategy<Value = v1::HostPathRequest> {
        let paths = ["", "f", "d", "d/e", "l", "d/out/secret", "../outside/secret", "/f", "d/../f", "l/x"];
        let paths = move || prop::sample::select(paths.map(|path| path.as_bytes().to_vec()).to_vec());
        let handle = (0..4u64, any::<bool>(), any::<u64>()).prop_map(|(number, write, inode)| v1::HostPathHandle {
            number,
            write,
            inode,
        });
        let operation = (0..10, handle, paths(), any::<u32>()).prop_map(|(kind, handle, to, mode)| match kind {
            0 => Operation::Stat(v1::HostPathStat { handle: Some(handle) }),
            1 => Operation::Open(v1::HostPathOpen { handle: Some(handle) }),
            2 => Operation::Read(v1::HostPathRead { handle: Some(handle), offset: 0, size: mode }),
            3 => Operation::ReadLink(v1::HostPathReadLink {}),
            4 => Operation::Make(v1::HostPathMake { mode, target: to, open: Some(handle), ..Default::default() }),
            5 => Operation::Move(v1::HostPathMove { to, keep: mode & 1 == 1, exchange: mode & 2 == 2 }),
            6 => Operation::Link(v1::HostPathLink { to }),
            7 => Operation::Remove(v1::HostPathRemove { directory: mode & 1 == 1 }),
            8 => Operation::List(v1::HostPathList { cookie: mode.into() }),
            _ => Operation::Change(v1::HostPathChange { size: Some(u64::from(mode) % MOST), ..Default::default() }),
        });
        (any::<u64>(), any::<bool>(), paths(), operation).prop_map(|(id, again, path, operation)| v1::HostPathRequest {
            id,
            again,
            path,
            operation: Some(operation),
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn nothing_beside_the_directory_is_reached(all in vec(request(), 0..20)) {
            let directory = tempfile::tempdir().unwrap();
            requests(directory.path(), all).unwrap();
        }
    }
}
