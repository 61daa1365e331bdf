//! OCI and Docker archives (tar) and OCI layout directories: where their blobs are. Nothing is unpacked.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{
    Digest, ImageError, Limits, Reference,
    error::invalid,
    manifest::{Descriptor, Document, MAX_INDEXES, choose},
    tarball::{Kind, Reader, Source},
};

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
    pub digest: Option<Digest>,
}

impl Blob {
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
        let mut archive = Reader::new(Seekable(File::open(path).map_err(failed)?));
        let (mut members, mut links) = (HashMap::new(), Vec::new());
        while let Some(member) = archive.next_member().map_err(|error| failed(explain(path, error)))? {
            if members.len() + links.len() > limits.layers * 8 + 64 {
                return Err(invalid("the archive has too many members"));
            }
            let name = plain(&String::from_utf8_lossy(&member.path));
            match member.kind {
                Kind::File => drop(members.insert(name, (member.position, member.size))),
                // `docker save` has made links of layers that it holds already.
                Kind::Symlink | Kind::HardLink => {
                    let target = String::from_utf8_lossy(&member.target).into_owned();
                    let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
                    let target = if member.kind == Kind::Symlink { format!("{directory}/{target}") } else { target };
                    links.push((name, plain(&target)));
                }
                _ => {}
            }
        }
        for (name, target) in links {
            if let Some(place) = members.get(&target).copied() {
                members.insert(name, place);
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

    fn blob(&self, descriptor: &Descriptor) -> Result<Blob, ImageError> {
        let digest = descriptor.digest;
        let blob = self
            .find(&format!("blobs/sha256/{}", digest.hex()), Some(digest))
            .ok_or_else(|| invalid(format!("the archive lacks {digest}")))?;
        match descriptor.size {
            Some(size) if size != blob.length => {
                Err(invalid(format!("{digest} has {} bytes, and the manifest says {size}", blob.length)))
            }
            _ => Ok(blob),
        }
    }
}

/// Passes over members by seeking.
struct Seekable(File);

impl Read for Seekable {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Source for Seekable {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let bytes = i64::try_from(bytes).map_err(|_| io::ErrorKind::InvalidData)?;
        self.0.seek(SeekFrom::Current(bytes)).map(drop)
    }
}

/// A member's name without `.` and `..`.
fn plain(name: &str) -> String {
    let mut parts = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// A compressed archive is the most common mistake.
fn explain(path: &Path, error: io::Error) -> io::Error {
    let mut magic = [0; 4];
    let compressed = File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok()
        && (magic.starts_with(&[0x1f, 0x8b]) || magic == [0x28, 0xb5, 0x2f, 0xfd]);
    if compressed { io::Error::other("it is compressed: decompress it first (gunzip, unzstd)") } else { error }
}

fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|error| invalid(format!("{what}: {error}")))
}

/// Finds the image for this machine's platform in an archive or directory; of several images the one that is named.
pub(crate) fn read(path: &Path, name: Option<&Reference>, limits: &Limits) -> Result<Contents, ImageError> {
    let files = Files::open(path, limits)?;
    if let Some(index) = files.find("index.json", None) {
        return read_oci(&files, &index.read(limits)?, name, limits);
    }
    if files.members.is_some()
        && let Some(manifest) = files.find("manifest.json", None)
    {
        return read_docker(&files, &manifest.read(limits)?, name, limits);
    }
    Err(ImageError::Archive {
        path: path.to_owned(),
        reason: "it has neither index.json (OCI) nor manifest.json (Docker)".into(),
    })
}

/// Under which an OCI index tells an image's name.
const NAME_ANNOTATIONS: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

fn read_oci(files: &Files, index: &[u8], name: Option<&Reference>, limits: &Limits) -> Result<Contents, ImageError> {
    let mut names = Vec::new();
    let mut document = Document::parse(index, "index.json")?;
    let mut manifest = None;
    for level in 0..MAX_INDEXES {
        let Some(mut manifests) = document.manifests.take() else { break };
        // Images of several names beside each other, at the top; of several platforms below.
        if level == 0 && manifests.len() > 1 {
            let named = |d: &Descriptor| NAME_ANNOTATIONS.iter().any(|key| is_called(annotation(d, key), name));
            if manifests.iter().any(named) {
                manifests.retain(named);
            }
        }
        let chosen = choose(&manifests)?;
        names.extend(NAME_ANNOTATIONS.iter().filter_map(|key| annotation(chosen, key).map(str::to_owned)));
        manifest = Some(chosen.digest);
        document = Document::parse(&files.blob(chosen)?.read(limits)?, "the manifest")?;
    }
    let image = document.into_manifest(limits.layers)?;
    let layers = image.layers.iter().map(|layer| files.blob(layer)).collect::<Result<Vec<_>, _>>()?;
    Ok(Contents { config: files.blob(&image.config)?.read(limits)?, layers, names, manifest })
}

fn annotation<'a>(descriptor: &'a Descriptor, key: &str) -> Option<&'a str> {
    descriptor.annotations.as_ref()?.get(key).map(String::as_str)
}

fn is_called(found: Option<&str>, name: Option<&Reference>) -> bool {
    let found = found.and_then(|found| Reference::parse(found).ok());
    found.zip(name).is_some_and(|(found, name)| found.tagged() == name.tagged())
}

fn read_docker(
    files: &Files,
    manifest: &[u8],
    name: Option<&Reference>,
    limits: &Limits,
) -> Result<Contents, ImageError> {
    let mut entries: Vec<DockerEntry> = parse(manifest, "manifest.json")?;
    if entries.len() > 1 {
        entries.retain(|e| e.repo_tags.iter().flatten().any(|tag| is_called(Some(tag), name)));
    }
    let [entry] = <[DockerEntry; 1]>::try_from(entries)
        .map_err(|_| invalid("the archive holds several images; name one of them"))?;
    let find =
        |name: &String| files.find(&plain(name), None).ok_or_else(|| invalid(format!("the archive lacks {name:?}")));
    if entry.layers.len() > limits.layers {
        return Err(invalid(format!("{} layers; {} is the limit", entry.layers.len(), limits.layers)));
    }
    Ok(Contents {
        config: find(&entry.config)?.read(limits)?,
        layers: entry.layers.iter().map(find).collect::<Result<_, _>>()?,
        names: entry.repo_tags.unwrap_or_default(),
        manifest: None,
    })
}
