//! Layers to make images of, and images as the kernel sees them.
#![allow(dead_code)]

pub mod registry;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use hypernetes_image::Digest;
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};
use tempfile::{NamedTempFile, TempDir};

/// Builds a layer's tar.
pub struct Layer(Builder<Vec<u8>>);

impl Layer {
    pub fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    pub fn entry(mut self, path: &str, kind: EntryType, mode: u32, target: Option<&str>, data: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(1000);
        header.set_gid(100_000);
        header.set_mtime(1_700_000_000);
        header.set_size(data.len() as u64);
        if kind.is_character_special() || kind.is_block_special() {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        // The crate refuses `..` in its setters; a hostile archive's author does not use them.
        let name = path.as_bytes();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        if let Some(target) = target {
            header.set_link_name_literal(target).unwrap();
        }
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    pub fn file(self, path: &str, data: impl AsRef<[u8]>) -> Self {
        self.entry(path, EntryType::Regular, 0o644, None, data.as_ref())
    }

    pub fn directory(self, path: &str) -> Self {
        self.entry(path, EntryType::Directory, 0o755, None, &[])
    }

    pub fn xattr_file(mut self, path: &str, name: &str, value: &str) -> Self {
        self.0.append_pax_extensions([(format!("SCHILY.xattr.{name}").as_str(), value.as_bytes())]).unwrap();
        self.file(path, "x")
    }

    pub fn tar(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

pub fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// A configuration document.
pub fn config(diff_ids: &[Digest]) -> Vec<u8> {
    json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Env": ["A=b"], "Entrypoint": ["/bin/sh"], "Cmd": null, "WorkingDir": "/srv"},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string()
    .into_bytes()
}

pub fn descriptor(bytes: &[u8], media_type: &str) -> Value {
    json!({"digest": Digest::of(bytes), "size": bytes.len(), "mediaType": media_type})
}

/// An OCI layout directory of layers, given as (uncompressed, as stored). `index`: behind an index with another platform.
pub fn layout(root: &Path, layers: &[(Vec<u8>, Vec<u8>)], index: bool) {
    let _ = fs::remove_dir_all(root);
    fs::create_dir_all(root.join("blobs/sha256")).unwrap();
    fs::write(root.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
    let put = |bytes: &[u8], media_type: &str| {
        fs::write(root.join("blobs/sha256").join(Digest::of(bytes).hex()), bytes).unwrap();
        descriptor(bytes, &format!("application/vnd.oci.image.{media_type}"))
    };
    let diff_ids: Vec<Digest> = layers.iter().map(|(plain, _)| Digest::of(plain)).collect();
    let config = put(&config(&diff_ids), "config.v1+json");
    let layer_type = |stored: &[u8]| match stored {
        [0x1f, 0x8b, ..] => "layer.v1.tar+gzip",
        [0x28, 0xb5, ..] => "layer.v1.tar+zstd",
        _ => "layer.v1.tar",
    };
    let layers: Vec<_> = layers.iter().map(|(_, stored)| put(stored, layer_type(stored))).collect();
    let manifest = |layers: &[Value]| {
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers}).to_string()
    };
    let mut top = put(manifest(&layers).as_bytes(), "manifest.v1+json");
    if index {
        let mut other = put(manifest(&layers[..1]).as_bytes(), "manifest.v1+json");
        other["platform"] = json!({"os": "linux", "architecture": "s390x"});
        top["platform"] = json!({"os": "linux", "architecture": "amd64"});
        let media_type = "application/vnd.oci.image.index.v1+json";
        let list = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": [other, top]});
        top = put(list.to_string().as_bytes(), "index.v1+json");
    }
    fs::write(root.join("index.json"), json!({"schemaVersion": 2, "manifests": [top]}).to_string()).unwrap();
}

/// Bytes that do not compress.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    use rand::{RngCore, SeedableRng};
    let mut bytes = vec![0; length];
    rand::rngs::StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// The disk as one file, as a VMM shows it to its guest.
pub fn flatten(image: &Path) -> NamedTempFile {
    let flat = NamedTempFile::new().unwrap();
    let format = if image.extension().is_some_and(|extension| extension == "vmdk") { "vmdk" } else { "raw" };
    let status =
        Command::new("qemu-img").args(["convert", "-f", format, "-O", "raw"]).arg(image).arg(flat.path()).status();
    assert!(status.unwrap().success());
    assert_eq!(flat.as_file().metadata().unwrap().len(), hypernetes_image::DISK_BYTES);
    flat
}

/// The image as the host's kernel mounts it, unmounted when dropped.
pub struct Mounted(TempDir);

impl Mounted {
    pub fn new(image: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let flat = flatten(image);
        let image = flat.path();
        let status =
            Command::new("mount").args(["-t", "erofs", "-o", "loop,ro"]).arg(image).arg(directory.path()).status();
        assert!(status.unwrap().success(), "this test mounts images: run it as root");
        Self(directory)
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}
