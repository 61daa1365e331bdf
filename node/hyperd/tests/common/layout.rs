//! An image for tests.

use std::path::Path;

use hypernetes_image::Digest;

/// An OCI layout with a static busybox, and files besides.
pub fn busybox_layout(directory: &Path, files: &[(&str, &str)]) {
    let blobs = directory.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        std::fs::write(blobs.join(digest.hex()), bytes).unwrap();
        digest
    };
    let mut layer = tar::Builder::new(Vec::new());
    let mut header = |path: &str, kind: tar::EntryType, mode: u32, link: Option<&str>, data: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(data.len() as u64);
        match link {
            Some(target) => layer.append_link(&mut header, path, target).unwrap(),
            None => layer.append_data(&mut header, path, data).unwrap(),
        }
    };
    for (path, mode) in [("bin/", 0o755), ("etc/", 0o755), ("tmp/", 0o1777), ("data/", 0o755)] {
        header(path, tar::EntryType::Directory, mode, None, b"");
    }
    header("bin/busybox", tar::EntryType::Regular, 0o755, None, &std::fs::read("/usr/bin/busybox").unwrap());
    for applet in [
        "sh", "cat", "echo", "sleep", "id", "mount", "df", "ls", "hostname", "sync", "touch", "head", "nc", "mkdir",
        "true", "tty",
    ] {
        header(&format!("bin/{applet}"), tar::EntryType::Symlink, 0o777, Some("busybox"), b"");
    }
    header("etc/passwd", tar::EntryType::Regular, 0o644, None, b"root:x:0:0::/:/bin/sh\nweb:x:1000:1000::/:/bin/sh\n");
    header("etc/group", tar::EntryType::Regular, 0o644, None, b"root:x:0:\nweb:x:1000:\n");
    for (path, text) in files {
        header(path, tar::EntryType::Regular, 0o644, None, text.as_bytes());
    }
    let layer = layer.into_inner().unwrap();
    let layer_digest = put(&layer);
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Entrypoint": ["/bin/sh", "-c"], "Env": ["FROM_IMAGE=yes"]},
        "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
    })
    .to_string();
    let config_digest = put(config.as_bytes());
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": config.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer_digest, "size": layer.len()}],
    })
    .to_string();
    let manifest_digest = put(manifest.as_bytes());
    let index = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": manifest_digest, "size": manifest.len()}],
    });
    std::fs::write(directory.join("index.json"), index.to_string()).unwrap();
    std::fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}
