//! OCI and Docker archives (tar) and OCI layout directories: where their blobs are. Nothing is unpacked.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{Digest, ImageError, Limits, tree::invalid};

/// What an image in an archive consists of.
#[derive(Debug)]
pub(crate) struct Contents {
    /// The configuration document's bytes.
    pub config: Vec<u8>,
    /// Where each layer is, lowest first.
    pub layers: Vec<Blob>,
    /// Names that the archive gives the image.
    pub names: Vec<String>,
    pub manifest: Option<Digest>,
}

/// A part of a file.
#[derive(Debug, Clone)]
pub(crate) struct Blob {
    path: PathBuf,
    offset: u64,
    pub length: u64,
    /// What the manifest says of the bytes; Docker archives say nothing.
    digest: Option<Digest>,
}

impl Blob {
    /// A whole file whose content has been verified already.
    pub fn file(path: PathBuf, length: u64) -> Self {
        Self { path, offset: 0, length, digest: None }
    }

    pub fn open(&self) -> io::Result<impl Read + use<>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.offset))?;
        Ok(file.take(self.length))
    }

    fn read(&self, limits: &Limits) -> Result<Vec<u8>, ImageError> {
        if self.length > limits.metadata_bytes {
            return Err(invalid(format!("a document of {} bytes", self.length)));
        }
        let mut bytes = Vec::new();
        let read = self.open().and_then(|mut reader| reader.read_to_end(&mut bytes));
        read.map_err(|error| ImageError::Archive { path: self.path.clone(), reason: error.to_string() })?;
        match self.digest {
            Some(digest) if Digest::of(&bytes) != digest => {
                Err(invalid(format!("the bytes of {digest} have another digest")))
            }
            _ => Ok(bytes),
        }
    }
}

#[derive(Deserialize)]
struct Descriptor {
    digest: Digest,
    #[serde(default)]
    annotations: HashMap<String, String>,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

/// An OCI index or manifest, or Docker's; told apart by what is there.
#[derive(Deserialize)]
struct Document {
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

/// One entry of a Docker archive's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// An archive's or directory's files by name.
struct Files {
    root: PathBuf,
    /// `None`: a directory, whose files are looked up as they are needed.
    members: Option<HashMap<String, (u64, u64)>>,
}

impl Files {
    fn open(path: &Path, limits: &Limits) -> Result<Self, ImageError> {
        let failed = |error: io::Error| ImageError::Archive { path: path.to_owned(), reason: error.to_string() };
        if path.is_dir() {
            return Ok(Self { root: path.to_owned(), members: None });
        }
        let mut archive = tar::Archive::new(File::open(path).map_err(failed)?);
        let mut members = HashMap::new();
        for entry in archive.entries_with_seek().map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if members.len() > limits.layers * 8 + 64 {
                return Err(invalid("the archive has too many members"));
            }
            if entry.header().entry_type().is_file() {
                let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
                members.insert(name, (entry.raw_file_position(), entry.size()));
            }
        }
        Ok(Self { root: path.to_owned(), members: Some(members) })
    }

    fn find(&self, name: &str, digest: Option<Digest>) -> Option<Blob> {
        match &self.members {
            Some(members) => {
                let (offset, length) = *members.get(name)?;
                Some(Blob { path: self.root.clone(), offset, length, digest })
            }
            None => {
                // Only names made here or checked to be plain reach this: `blobs/sha256/<hex>`, `index.json`.
                let path = self.root.join(name);
                let length = path.metadata().ok().filter(std::fs::Metadata::is_file)?.len();
                Some(Blob { path, offset: 0, length, digest })
            }
        }
    }

    fn blob(&self, digest: Digest) -> Result<Blob, ImageError> {
        self.find(&format!("blobs/sha256/{}", digest.hex()), Some(digest))
            .ok_or_else(|| invalid(format!("the archive lacks {digest}")))
    }
}

fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|error| invalid(format!("{what}: {error}")))
}

/// Finds the image for this machine's platform in an archive or directory.
pub(crate) fn read(path: &Path, limits: &Limits) -> Result<Contents, ImageError> {
    let files = Files::open(path, limits)?;
    if let Some(index) = files.find("index.json", None) {
        return read_oci(&files, &index.read(limits)?, limits);
    }
    if files.members.is_some()
        && let Some(manifest) = files.find("manifest.json", None)
    {
        return read_docker(&files, &manifest.read(limits)?, limits);
    }
    Err(ImageError::Archive {
        path: path.to_owned(),
        reason: "it has neither index.json (OCI) nor manifest.json (Docker)".into(),
    })
}

fn read_oci(files: &Files, index: &[u8], limits: &Limits) -> Result<Contents, ImageError> {
    let mut names = Vec::new();
    let mut document: Document = parse(index, "index.json")?;
    let mut manifest = None;
    // An index may hold an index; more levels than that nobody makes.
    for _ in 0..3 {
        let Some(manifests) = document.manifests.take() else { break };
        let chosen = choose(&manifests)?;
        names.extend(
            ["io.containerd.image.name", "org.opencontainers.image.ref.name"]
                .iter()
                .filter_map(|key| chosen.annotations.get(*key).cloned()),
        );
        manifest = Some(chosen.digest);
        document = parse(&files.blob(chosen.digest)?.read(limits)?, "the manifest")?;
    }
    let (Some(config), Some(layers)) = (document.config, document.layers) else {
        return Err(invalid("the manifest has no config or no layers"));
    };
    let layers = layers.iter().map(|layer| files.blob(layer.digest)).collect::<Result<Vec<_>, _>>()?;
    Ok(Contents { config: files.blob(config.digest)?.read(limits)?, layers, names, manifest })
}

/// This machine's platform; else what names none; an archive of only other platforms is an error.
fn choose(manifests: &[Descriptor]) -> Result<&Descriptor, ImageError> {
    let ours = |d: &&Descriptor| d.platform.as_ref().is_some_and(|p| p.os == "linux" && p.architecture == "amd64");
    let unnamed = |d: &&Descriptor| d.platform.is_none();
    manifests
        .iter()
        .find(ours)
        .or_else(|| manifests.iter().find(unnamed))
        .ok_or_else(|| invalid("no manifest in it is for linux/amd64"))
}

fn read_docker(files: &Files, manifest: &[u8], limits: &Limits) -> Result<Contents, ImageError> {
    let entries: Vec<DockerEntry> = parse(manifest, "manifest.json")?;
    let [entry] = <[DockerEntry; 1]>::try_from(entries)
        .map_err(|entries| invalid(format!("the archive holds {} images; import one at a time", entries.len())))?;
    let find = |name: &String| files.find(name, None).ok_or_else(|| invalid(format!("the archive lacks {name:?}")));
    Ok(Contents {
        config: find(&entry.config)?.read(limits)?,
        layers: entry.layers.iter().map(find).collect::<Result<_, _>>()?,
        names: entry.repo_tags.unwrap_or_default(),
        manifest: None,
    })
}
