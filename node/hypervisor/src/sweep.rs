//! Ending VMs that nobody remembers.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rustix::process::Signal;

use crate::{process::Process, remains::Remains};

/// Whether a command line, its words ended by NULs, is that of the VM with the id.
pub type IsNamed = fn(&[u8], &str) -> bool;

/// Ends those VMs in the directory whose ids the caller does not want, and removes what they left.
pub async fn sweep(machines: &Path, remains: &Remains, is_named: IsNamed, unwanted: impl Fn(&str) -> bool) {
    for directory in end(machines, is_named, unwanted).await {
        remains.remove(&directory);
    }
}

/// Ends them. Gives their directories.
async fn end(machines: &Path, is_named: IsNamed, unwanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut ended = Vec::new();
    for entry in fs::read_dir(machines).into_iter().flatten().flatten() {
        let id = entry.file_name().to_string_lossy().into_owned();
        if !unwanted(&id) {
            continue;
        }
        let end = async |process: Process| {
            tracing::info!(vm = id, pid = process.pid, "ending a VM that an earlier process left");
            let _ = process.signal(Signal::KILL);
            process.ended().await;
        };
        let record = entry.path().join("pid");
        if record.exists() {
            // By that only: VMs that were forked from it are called as it is.
            if let Some(process) = Process::recall(&record) {
                end(process).await;
            }
        } else {
            // It may be two still: the jailer, and what it has cloned.
            while let Some(process) = find(&id, is_named) {
                end(process).await;
            }
        }
        ended.push(entry.path());
    }
    ended
}

/// A VMM whose pid was not put down in time: by the name that its command line gives it.
fn find(id: &str, is_named: IsNamed) -> Option<Process> {
    let named = |pid: &i32| is_named(&fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default(), id);
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let pid = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(named)?;
    Process::hold(pid)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;

    use super::*;

    fn is_named(line: &[u8], id: &str) -> bool {
        line.windows(id.len() + 2).any(|word| word == format!("\0{id}\0").as_bytes())
    }

    #[tokio::test]
    async fn what_a_killed_process_was_making_is_ended() {
        let directory = tempfile::tempdir().unwrap();
        let machine = |name: &str, called: &str, remembered: bool| {
            let path = directory.path().join(name);
            fs::create_dir(&path).unwrap();
            // The shell goes on: its command line is what the VMM's would be.
            let mut command = std::process::Command::new("sh");
            command.args(["-c", "sleep 600; :", called, "-M"]).process_group(0);
            let child = command.spawn().unwrap();
            // Its command line is there a moment after it is.
            let line = format!("/proc/{}/cmdline", child.id());
            while fs::read(&line).unwrap().is_empty() {
                std::thread::yield_now();
            }
            if remembered {
                Process::remember(child.id(), path.join("pid")).unwrap();
            }
            (path, child)
        };
        // Nobody else's processes are called so.
        let id = std::process::id();
        let (template, other) = (format!("template-{id}-0"), format!("template-{id}-1"));
        let (half_made, mut one) = machine(&template, &template, true);
        // It was forked from that one.
        let (_, mut two) = machine(&format!("{id}abcd"), &template, true);
        let (unremembered, mut three) = machine(&other, &other, false);
        let mut ended = end(directory.path(), is_named, |id| id.starts_with("template-")).await;
        ended.sort();
        assert_eq!(ended, [half_made, unremembered]);
        assert!(!one.wait().unwrap().success() && !three.wait().unwrap().success());
        assert!(two.try_wait().unwrap().is_none());
        for child in [&one, &two, &three] {
            // The shells' children.
            let group = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
        two.wait().unwrap();
    }
}
