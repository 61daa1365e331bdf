//! The chain tells of every change; and nothing waits for the disk.

use std::{fs, path::PathBuf};

use hypernetes_api::TenantId;

use super::{
    chain::{Hash, Line},
    files::{Chain, list},
    *,
};

const KEEP: Keep = Keep { file_bytes: 1000, files: 3 };

struct Directory(tempfile::TempDir);

impl Directory {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("chain")
    }

    fn write(&self, from: u32, to: u32) {
        let mut chain = Chain::open(&self.path(), KEEP).unwrap();
        for n in from..to {
            chain.append(&[format!("{{\"n\":{n}}}")]).unwrap();
        }
    }

    fn newest(&self) -> PathBuf {
        list(&self.path()).unwrap().pop().unwrap().1
    }

    /// Changes the newest file's lines, and says what is told then.
    fn told(&self, change: impl FnOnce(&mut Vec<String>)) -> (u64, What) {
        let text = fs::read_to_string(self.newest()).unwrap();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        change(&mut lines);
        fs::write(self.newest(), lines.join("\n") + "\n").unwrap();
        let told = verify(&self.path()).unwrap_err();
        fs::write(self.newest(), text).unwrap();
        verify(&self.path()).unwrap();
        match told {
            VerifyError::Broken(Broken { line, what, file }) => {
                assert_eq!(file, self.newest());
                (line, what)
            }
            VerifyError::Io { .. } => panic!("{told}"),
        }
    }
}

#[test]
fn a_chain_goes_on_over_files_and_processes() {
    let directory = Directory::new();
    assert_eq!(Chain::open(&directory.path(), KEEP).unwrap().head(), Head::START);
    assert_eq!(verify(&directory.path()).unwrap().lines, 0);
    directory.write(0, 3);
    directory.write(3, 4);
    let whole = verify(&directory.path()).unwrap();
    // The first line says what the chain follows.
    assert_eq!((whole.first, whole.lines, whole.head.next), (0, 5, 5));
    // A process that was killed while it wrote.
    let mut text = fs::read(directory.newest()).unwrap();
    text.extend_from_slice(b"{\"n\":4,\"seq");
    fs::write(directory.newest(), text).unwrap();
    verify(&directory.path()).unwrap();
    directory.write(4, 100);
    let whole = verify(&directory.path()).unwrap();
    let files = list(&directory.path()).unwrap();
    assert_eq!((files.len(), whole.first), (3, files[0].0));
    assert!(whole.first > 0 && whole.first + whole.lines == whole.head.next);
    let mut last = String::new();
    each_line(&directory.path(), |line| {
        line.clone_into(&mut last);
        Ok(())
    })
    .unwrap();
    assert!(last.starts_with("{\"n\":99,"), "{last}");
}

#[test]
fn the_first_line_that_was_changed_removed_or_inserted_is_named() {
    let directory = Directory::new();
    directory.write(0, 6);
    let sequence = |line: &str| Line::parse(line).unwrap().sequence;
    assert_eq!(directory.told(|lines| lines[3] = lines[3].replace("\"n\":2", "\"n\":3")), (4, What::Changed));
    assert_eq!(directory.told(|lines| drop(lines.remove(3))), (4, What::Removed { from: 3, to: 3 }));
    assert_eq!(directory.told(|lines| drop(lines.drain(2..5))), (3, What::Removed { from: 2, to: 4 }));
    assert_eq!(directory.told(|lines| lines.insert(4, lines[2].clone())), (5, What::Inserted(2)));
    assert_eq!(directory.told(|lines| lines.swap(2, 3)), (3, What::Removed { from: 2, to: 2 }));
    assert_eq!(directory.told(|lines| lines[5] = "{}".into()), (6, What::NoLine));
    assert_eq!(directory.told(|lines| drop(lines.remove(0))), (1, What::NoLine));
    // Also one that was sealed anew: what follows it does not any more.
    let resealed = directory.told(|lines| {
        let mut head = Line::parse(&lines[2]).unwrap().head();
        lines[3].clear();
        head.seal(&mut lines[3], "{\"n\":7}");
        lines[3].pop();
        assert_eq!(sequence(&lines[3]), 3);
    });
    assert_eq!(resealed, (5, What::Changed));
    // A line that takes another's place.
    let taken = directory.told(|lines| lines[2] = lines[2].replace("\"sequence\":2", "\"sequence\":1"));
    assert_eq!(taken, (3, What::Inserted(1)));
}

#[test]
fn files_that_are_gone_are_missed() {
    let directory = Directory::new();
    directory.write(0, 30);
    let files = list(&directory.path()).unwrap();
    assert_eq!(files.len(), 3);
    for (gone, missed) in [(0, files[0].0..=files[1].0 - 1), (1, files[1].0..=files[2].0 - 1)] {
        let text = fs::read(&files[gone].1).unwrap();
        fs::remove_file(&files[gone].1).unwrap();
        let VerifyError::Broken(broken) = verify(&directory.path()).unwrap_err() else { panic!() };
        assert_eq!(broken.what, What::Removed { from: *missed.start(), to: *missed.end() }, "{gone}");
        fs::write(&files[gone].1, text).unwrap();
        verify(&directory.path()).unwrap();
    }
}

fn audit(root: &Path) -> Audit {
    Audit::start(root, Policy::default(), Options::default()).unwrap()
}

fn lines(root: &Path, chain: &str) -> Vec<serde_json::Value> {
    let mut lines = Vec::new();
    each_line(&root.join(chain), |line| {
        lines.push(serde_json::from_str(line)?);
        Ok(())
    })
    .unwrap();
    lines
}

#[test]
fn what_there_is_no_room_for_is_counted_and_told_of() {
    let root = tempfile::tempdir().unwrap();
    let audit = audit(root.path());
    let (acme, globex): (TenantId, TenantId) = ("acme".parse().unwrap(), "globex".parse().unwrap());
    let account = Arc::new(Account::default());
    account.set_limit(Budget::AuditBytes, 10);
    for _ in 0..3 {
        audit.write(Some(&acme), Some(&account), "{\"kind\":\"Event\"}".into());
    }
    // Another's room is its own.
    audit.write(Some(&globex), Some(&Arc::default()), "{\"kind\":\"Event\"}".into());
    audit.flush();
    audit.flush();
    assert_eq!(audit.counts(), (1, 3));
    let told = lines(root.path(), "acme");
    let kinds: Vec<_> = told.iter().map(|line| line["kind"].as_str().unwrap()).collect();
    assert!(kinds.len() > 1 && kinds[1..].iter().all(|kind| *kind == "Gap"), "{kinds:?}");
    assert_eq!(told[1..].iter().map(|gap| gap["lost"].as_u64().unwrap()).sum::<u64>(), 3);
    assert_eq!(lines(root.path(), "globex")[1]["kind"], "Event");
    verify(&root.path().join("acme")).unwrap();
}

#[test]
fn a_disk_that_takes_nothing_loses_events_and_no_more() {
    let root = tempfile::tempdir().unwrap();
    // Where the chain's directory would be there is a file.
    fs::write(root.path().join("system"), "").unwrap();
    let audit = audit(root.path());
    audit.write(None, None, "{\"n\":0}".into());
    for n in 1..3 {
        audit.write(Some(&TenantId::system()), None, format!("{{\"n\":{n}}}"));
        audit.flush();
    }
    assert_eq!(audit.counts(), (1, 2), "what is nobody's is elsewhere");
    fs::remove_file(root.path().join("system")).unwrap();
    audit.write(Some(&TenantId::system()), None, "{\"n\":3}".into());
    audit.flush();
    let lines = lines(root.path(), "system");
    assert_eq!((&lines[1]["lost"], &lines[2]["n"]), (&2.into(), &3.into()), "{lines:?}");
    assert_eq!(audit.counts(), (2, 2));
    verify(&root.path().join("system")).unwrap();
}

#[test]
fn lines_that_cannot_be_written_are_none_of_the_chain() {
    let directory = Directory::new();
    directory.write(0, 2);
    let mut chain = Chain::open(&directory.path(), Keep { file_bytes: 1 << 30, files: 3 }).unwrap();
    let before = chain.head();
    let text = fs::read(directory.newest()).unwrap();
    // The directory is taken away beneath it.
    fs::rename(directory.path(), directory.path().with_extension("away")).unwrap();
    chain.append(&["{\"n\":2}"]).unwrap_err();
    assert_eq!(chain.head(), before);
    fs::rename(directory.path().with_extension("away"), directory.path()).unwrap();
    assert_eq!(fs::read(directory.newest()).unwrap(), text);
    chain.append(&["{\"n\":2}"]).unwrap();
    assert_eq!(verify(&directory.path()).unwrap().head, chain.head());
    assert_ne!(chain.head().hash, Hash::NONE);
}
