//! The VM's initial memory: the agent as `/init`, and the modules that it needs before it has disks.

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
};

/// What a VM needs of its kernel, beside what its VMM has it need. Names that the kernel has built in are not found, and need
/// not be.
const MODULES: [&str; 6] = ["virtio_blk", "virtio_net", "erofs", "overlay", "virtio_rng", "fuse"];

/// A cpio archive in the format that the kernel unpacks (Linux `Documentation/driver-api/early-userspace/buffer-format.rst`).
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), data: &[u8]) {
        self.inode += 1;
        let fields =
            [self.inode, mode, 0, 0, 1, 0, data.len() as u32, 0, 0, device.0, device.1, name.len() as u32 + 1, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(data);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }
}

/// `channel` is the module of the device that the agent is reached by.
///
/// # Errors
/// When the agent or a module cannot be read.
pub fn build(hyperstart: &Path, modules: &Path, channel: &str) -> io::Result<Vec<u8>> {
    let mut archive = Archive::default();
    for directory in ["dev", "proc", "sys", "run", "modules"] {
        archive.entry(directory, 0o040_755, (0, 0), &[]);
    }
    // The kernel opens it for the agent's standard streams before /dev is mounted.
    archive.entry("dev/console", 0o020_600, (5, 1), &[]);
    archive.entry("init", 0o100_755, (0, 0), &fs::read(hyperstart)?);
    let files = find_modules(modules)?;
    let mut order = Vec::new();
    for name in ["virtio_mmio", channel].into_iter().chain(MODULES) {
        add_module(name, &files, &mut order, &mut HashSet::new())?;
    }
    for name in &order {
        archive.entry(&format!("modules/{name}.ko"), 0o100_644, (0, 0), &fs::read(&files[name])?);
    }
    let list: String = order.iter().map(|name| format!("{name}.ko\n")).collect();
    archive.entry("modules/order", 0o100_644, (0, 0), list.as_bytes());
    Ok(archive.finish())
}

/// Every `*.ko` below a directory, by its name with underscores.
fn find_modules(directory: &Path) -> io::Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|e| e == "ko")
                && let Some(name) = path.file_stem().and_then(|s| s.to_str())
            {
                found.insert(name.replace('-', "_"), path);
            }
        }
    }
    Ok(found)
}

/// A module behind what it depends on.
fn add_module(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    order: &mut Vec<String>,
    under_way: &mut HashSet<String>,
) -> io::Result<()> {
    let name = name.replace('-', "_");
    let Some(path) = files.get(&name) else { return Ok(()) };
    if order.contains(&name) || !under_way.insert(name.clone()) {
        return Ok(());
    }
    for dependency in dependencies(&fs::read(path)?) {
        add_module(&dependency, files, order, under_way)?;
    }
    order.push(name);
    Ok(())
}

/// The module's own word, in its `.modinfo` section: `depends=a,b`, after a NUL and before one.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = module.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let rest = &module[start + KEY.len()..];
    let text = rest.split(|b| *b == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_behind_what_they_need() {
        let directory = tempfile::tempdir().unwrap();
        let module = |name: &str, depends: &str| {
            let content = format!("\x7fELF..license=GPL\0depends={depends}\0name={name}\0");
            fs::write(directory.path().join(format!("{name}.ko")), content).unwrap();
        };
        module("virtio_blk", "virtio_ring,virtio");
        module("virtio_ring", "virtio");
        module("virtio", "");
        module("unused", "");
        let agent = directory.path().join("agent");
        fs::write(&agent, "#!").unwrap();
        let archive = String::from_utf8_lossy(&build(&agent, directory.path(), "virtio_console").unwrap()).into_owned();
        assert!(archive.contains("virtio.ko\nvirtio_ring.ko\nvirtio_blk.ko\n"), "{archive}");
        assert!(!archive.contains("unused"));
        assert!(archive.len().is_multiple_of(4));
    }
}
