use std::{io, os::unix::fs::PermissionsExt, path::Path};

use serde_json::json;

use super::NAME;

/// Makes the plugin and its configuration known to a runtime: `net.d/10-hypernetes.conflist` and `bin/hypernetes` below
/// the runtime's CNI directory. The plugin runs `executable cni`; `socket` is the agent's.
///
/// # Errors
/// When the files cannot be written, or a path is not text.
pub fn install(cni: &Path, executable: &Path, socket: &Path) -> io::Result<()> {
    let text = |path: &Path| {
        let invalid = || io::Error::new(io::ErrorKind::InvalidInput, format!("{} is not text", path.display()));
        path.to_str().map(str::to_owned).ok_or_else(invalid)
    };
    let (bin, net) = (cni.join("bin"), cni.join("net.d"));
    std::fs::create_dir_all(&bin)?;
    std::fs::create_dir_all(&net)?;
    let script = format!("#!/bin/sh\nexec '{}' cni\n", text(executable)?.replace('\'', r"'\''"));
    replace(&bin.join(NAME), &script, 0o755)?;
    let list = json!({
        // The newest: it has STATUS, which makes the node ready, and GC.
        "cniVersion": super::VERSIONS.last(),
        "name": NAME,
        // hyperd makes no network namespace for the pod then: it offers a tap, or opens the one that the result names.
        "plugins": [{"type": NAME, "socket": text(socket)?, "capabilities": {super::TAP: true}}],
    });
    // Last: a runtime that sees the configuration finds the plugin.
    replace(&net.join("10-hypernetes.conflist"), &format!("{list:#}\n"), 0o644)
}

/// Writes a file in one step: a reader sees the old or the new one.
fn replace(path: &Path, content: &str, mode: u32) -> io::Result<()> {
    if std::fs::read(path).is_ok_and(|old| old == content.as_bytes()) {
        return Ok(());
    }
    let new = path.with_extension("new");
    std::fs::write(&new, content)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(mode))?;
    std::fs::rename(&new, path)
}
