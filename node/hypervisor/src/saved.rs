//! Where hibernated VMs lie: a directory for each.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

pub struct Saved {
    root: PathBuf,
}

impl Saved {
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn directory(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }

    /// Removes a VM's, or what there is of it. A VM that was resumed from it goes on with the files, which have no names then.
    pub fn remove(&self, id: &str) {
        let directory = self.directory(id);
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(directory = %directory.display(), %error, "a VM's snapshot was left behind");
            }
            _ => {}
        }
    }

    /// Removes all but the wanted.
    pub fn sweep(&self, wanted: impl Fn(&str) -> bool) {
        for entry in fs::read_dir(&self.root).into_iter().flatten().flatten() {
            let id = entry.file_name().to_string_lossy().into_owned();
            if !wanted(&id) {
                self.remove(&id);
            }
        }
    }
}
