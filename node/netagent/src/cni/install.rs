use std::{io, os::unix::fs::PermissionsExt, path::Path};

use serde_json::json;

use super::NAME;

/// Makes the plugin and its configuration known to a runtime: `net.d/10-hypernetes.conflist` and `bin/hypernetes` below
/// the runtime's CNI directory. `program` is the plugin's; `socket` is the agent's.
///
/// # Errors
/// When the files cannot be written, or a path is not text.
pub fn install(cni: &Path, program: &Path, socket: &Path) -> io::Result<()> {
    let text = |path: &Path| {
        let invalid = || io::Error::new(io::ErrorKind::InvalidInput, format!("{} is not text", path.display()));
        path.to_str().map(str::to_owned).ok_or_else(invalid)
    };
    let (bin, net) = (cni.join("bin"), cni.join("net.d"));
    std::fs::create_dir_all(&bin)?;
    std::fs::create_dir_all(&net)?;
    link(&bin.join(NAME), program)?;
    let list = json!({
        // The newest: it has STATUS, which makes the node ready, and GC.
        "cniVersion": super::VERSIONS.last(),
        "name": NAME,
        // hyperd makes no network namespace for the pod then: it offers a tap, or opens the one that the result names.
        "plugins": [{"type": NAME, "socket": text(socket)?, "capabilities": {super::TAP: true}}],
    });
    // Last: a runtime that sees the configuration finds the plugin.
    replace(&net.join("10-hypernetes.conflist"), &format!("{list:#}\n"))
}

/// Makes a symbolic link in one step: a reader sees what was there or the link.
fn link(path: &Path, target: &Path) -> io::Result<()> {
    if std::fs::read_link(path).is_ok_and(|old| old == target) {
        return Ok(());
    }
    let new = path.with_extension("new");
    let _ = std::fs::remove_file(&new);
    std::os::unix::fs::symlink(target, &new)?;
    std::fs::rename(&new, path)
}

/// Writes a file in one step, likewise.
fn replace(path: &Path, content: &str) -> io::Result<()> {
    if std::fs::read(path).is_ok_and(|old| old == content.as_bytes()) {
        return Ok(());
    }
    let new = path.with_extension("new");
    std::fs::write(&new, content)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o644))?;
    std::fs::rename(&new, path)
}
