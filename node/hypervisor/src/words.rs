//! What a VMM says on its standard error: kept in a file of its VM's directory, which does not grow without end. A guest can make
//! its VMM complain as often as it likes.

use std::{
    fs::{self, File},
    io::{self, Read, Seek},
    path::Path,
    time::Duration,
};

/// Of the VMM's last words.
const MAX_WORDS: u64 = 2048;
/// Longer, it is emptied.
const MAX_LOG: u64 = 256 << 10;
/// Between two looks at its length.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The file for a VMM that starts. Each write goes to its end, wherever that is by then.
pub fn create(directory: &Path) -> io::Result<File> {
    let path = directory.join("log");
    File::create(&path)?;
    File::options().append(true).open(path)
}

/// What the VMM said before it ended.
pub fn last(directory: &Path) -> String {
    let read = || {
        let mut log = File::open(directory.join("log"))?;
        let length = log.metadata()?.len();
        log.seek(io::SeekFrom::Start(length.saturating_sub(MAX_WORDS)))?;
        let mut words = Vec::new();
        log.take(MAX_WORDS).read_to_end(&mut words).map(|_| words)
    };
    let words: io::Result<Vec<u8>> = read();
    String::from_utf8_lossy(&words.unwrap_or_default()).trim().to_owned()
}

/// Looks after the log of a VMM until it has ended.
pub async fn keep_bounded(directory: &Path, ended: impl Future<Output = ()>) {
    tokio::pin!(ended);
    while tokio::time::timeout(LOOK_EVERY, &mut ended).await.is_err() {
        bound(directory);
    }
}

/// Empties a log that has become too long. Who says so much says it again.
fn bound(directory: &Path) {
    let path = directory.join("log");
    if fs::metadata(&path).is_ok_and(|log| log.len() > MAX_LOG) {
        let emptied = File::options().write(true).open(&path).and_then(|log| log.set_len(0));
        tracing::warn!(log = %path.display(), ?emptied, "a VMM says too much");
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_is_said_has_an_end() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = create(directory.path()).unwrap();
        let length = || fs::metadata(directory.path().join("log")).unwrap().len();
        log.write_all(b"all is well").unwrap();
        bound(directory.path());
        assert_eq!(last(directory.path()), "all is well");
        log.write_all(&vec![b'x'; MAX_LOG as usize]).unwrap();
        assert_eq!(last(directory.path()).len() as u64, MAX_WORDS);
        bound(directory.path());
        assert_eq!(length(), 0);
        log.write_all(b"goodbye").unwrap();
        assert_eq!((length(), last(directory.path()).as_str()), (7, "goodbye"));
    }
}
