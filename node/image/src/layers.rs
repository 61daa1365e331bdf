//! Layers on this host, each kept once for all images that have it: `<diff_id>.data`, the files' data, block by block;
//! `<diff_id>.entries`, the names; and `<diff_id>.json`, without which the others are nothing.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    Digest, ImageError, Limits, durable,
    erofs::BLOCK,
    error::{invalid, store_error},
    layer::{Entry, Expected, unpack},
};

/// What is known of a stored layer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StoredLayer {
    /// Length of the data, holes included.
    pub blocks: u32,
    /// Sum of the files' sizes.
    pub bytes: u64,
    /// Registries that have served this layer. Only their word is taken that a puller may have it: else whoever knows
    /// a layer's digest could name it in an image of their own registry, and get another tenant's files.
    pub registries: BTreeSet<String>,
}

pub(crate) struct Layers {
    directory: PathBuf,
}

impl Layers {
    /// Opens the directory, and removes what an interrupted unpacking left.
    pub fn open(directory: PathBuf) -> io::Result<Self> {
        crate::private::make(&directory)?;
        for file in fs::read_dir(&directory)? {
            let path = file?.path();
            if !path.with_extension("json").exists() {
                fs::remove_file(path)?;
            }
        }
        Ok(Self { directory })
    }

    fn path(&self, diff_id: &Digest, extension: &str) -> PathBuf {
        self.directory.join(format!("{}.{extension}", diff_id.hex()))
    }

    pub fn data(&self, diff_id: &Digest) -> PathBuf {
        self.path(diff_id, "data")
    }

    pub fn get(&self, diff_id: &Digest) -> Option<StoredLayer> {
        serde_json::from_slice(&fs::read(self.path(diff_id, "json")).ok()?).ok()
    }

    pub fn all(&self) -> io::Result<Vec<Digest>> {
        let mut found = Vec::new();
        for file in fs::read_dir(&self.directory)? {
            let name = file?.file_name();
            let digits = name.to_str().and_then(|name| name.strip_suffix(".json"));
            found.extend(digits.and_then(|digits| format!("sha256:{digits}").parse::<Digest>().ok()));
        }
        Ok(found)
    }

    pub fn entries(&self, diff_id: &Digest) -> Result<Vec<Entry>, ImageError> {
        let path = self.path(diff_id, "entries");
        let bytes = File::open(&path).and_then(zstd::decode_all).map_err(store_error(&path))?;
        postcard::from_bytes(&bytes)
            .map_err(|error| store_error(&path)(io::Error::new(io::ErrorKind::InvalidData, error.to_string())))
    }

    /// Unpacks and verifies a layer and keeps it. `work` is on the same file system.
    pub fn put(
        &self,
        stored: impl Read + Send,
        expected: Expected,
        registry: Option<&str>,
        work: &Path,
        limits: &Limits,
    ) -> Result<(), ImageError> {
        let temporary = |name: &str| work.join(format!("{}.{name}", expected.diff_id.hex()));
        let create = |path: &PathBuf| {
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(path).map_err(store_error(path))
        };
        let (data_path, entries_path) = (temporary("data"), temporary("entries"));
        let mut data = create(&data_path)?;
        let unpacked = unpack(stored, expected, &mut data, limits)?;
        let encode = || -> io::Result<()> {
            // Blocks of zeros at the end are a hole.
            data.set_len(u64::from(unpacked.blocks) * BLOCK as u64)?;
            data.sync_all()?;
            let entries = postcard::to_allocvec(&unpacked.entries).map_err(io::Error::other)?;
            let mut encoder = zstd::Encoder::new(File::create(&entries_path)?, 1)?;
            encoder.write_all(&entries)?;
            encoder.finish()?.sync_all()?;
            fs::rename(&data_path, self.path(&expected.diff_id, "data"))?;
            fs::rename(&entries_path, self.path(&expected.diff_id, "entries"))
        };
        encode().map_err(store_error(&self.directory))?;
        let registries = registry.map(str::to_owned).into_iter().collect();
        self.record(
            &expected.diff_id,
            &StoredLayer { blocks: unpacked.blocks, bytes: unpacked.bytes, registries },
            work,
        )
    }

    /// Reads a layer that is here already once more, from a registry that has not served it before.
    pub fn vouch(
        &self,
        stored: impl Read + Send,
        expected: Expected,
        registry: &str,
        work: &Path,
        limits: &Limits,
    ) -> Result<(), ImageError> {
        unpack(stored, expected, Discard, limits)?;
        let mut layer = self.get(&expected.diff_id).ok_or_else(|| invalid("the layer was removed meanwhile"))?;
        layer.registries.insert(registry.to_owned());
        self.record(&expected.diff_id, &layer, work)
    }

    fn record(&self, diff_id: &Digest, layer: &StoredLayer, work: &Path) -> Result<(), ImageError> {
        let path = self.path(diff_id, "json");
        let write =
            || durable::write(&path, &work.join(format!("{}.json", diff_id.hex())), &serde_json::to_vec(layer)?);
        write().map_err(store_error(&path))
    }

    /// Forgets a layer. VMs that have it open keep what they see.
    pub fn remove(&self, diff_id: &Digest) {
        for extension in ["json", "entries", "data"] {
            let _ = fs::remove_file(self.path(diff_id, extension));
        }
    }

    /// Bytes on disk.
    pub fn disk_bytes(&self, diff_id: &Digest) -> u64 {
        ["json", "entries", "data"]
            .iter()
            .filter_map(|extension| self.path(diff_id, extension).metadata().ok())
            .map(|metadata| metadata.blocks() * 512)
            .sum()
    }
}

/// Takes any data and keeps none.
struct Discard;

impl Write for Discard {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Discard {
    fn seek(&mut self, _: io::SeekFrom) -> io::Result<u64> {
        Ok(0)
    }
}
