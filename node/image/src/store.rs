//! The images on this host: `rootfs/<id>.erofs` for each, and `index.json`, whose replacement is what makes an image
//! visible or forgets it.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc;

use crate::{
    Credentials, DISK_BYTES, Digest, Image, ImageError, Limits, Progress, Reference,
    archive::{self, Contents},
    config::ConfigDocument,
    erofs::Writer,
    layer::{self, Budget},
    pull,
    tree::{Tree, invalid},
};

/// All images under one directory. Cheap to share behind an `Arc`.
pub struct ImageStore {
    directory: PathBuf,
    limits: Limits,
    images: RwLock<Vec<Image>>,
    /// One pull or import at a time of one thing.
    busy: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl ImageStore {
    /// Opens or makes the store; what an interrupted import or pull left is removed.
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub fn open(directory: PathBuf, limits: Limits) -> Result<Self, ImageError> {
        let store = Self { directory, limits, images: RwLock::default(), busy: Mutex::default() };
        let prepare = || -> io::Result<Vec<Image>> {
            let _ = fs::remove_dir_all(store.temporary());
            for directory in [store.directory.clone(), store.temporary(), store.directory.join("rootfs")] {
                fs::create_dir_all(directory)?;
            }
            let images: Vec<Image> = match fs::read(store.index()) {
                Ok(bytes) => serde_json::from_slice(&bytes)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
                Err(error) => return Err(error),
            };
            for file in fs::read_dir(store.directory.join("rootfs"))? {
                let path = file?.path();
                if !images.iter().any(|image| image.rootfs == path) {
                    fs::remove_file(path)?;
                }
            }
            Ok(images.into_iter().filter(|image| image.rootfs.is_file()).collect())
        };
        let images = prepare().map_err(|source| ImageError::Store { path: store.directory.clone(), source })?;
        *store.images.write() = images;
        Ok(store)
    }

    fn temporary(&self) -> PathBuf {
        self.directory.join("tmp")
    }

    fn index(&self) -> PathBuf {
        self.directory.join("index.json")
    }

    /// By id (`sha256:…` or its hex digits), or by reference (tag or digest; normalised as Docker does).
    pub fn get(&self, reference_or_id: &str) -> Option<Image> {
        let images = self.images.read();
        images.iter().find(|image| names(image, reference_or_id)).cloned()
    }

    pub fn list(&self) -> Vec<Image> {
        self.images.read().clone()
    }

    /// Pulls from a registry; concurrent pulls of one reference do the work once.
    ///
    /// # Errors
    /// As [`ImageError`]'s variants say; the store is unchanged then.
    pub async fn pull(&self, reference: &str, credentials: Option<Credentials>) -> Result<Image, ImageError> {
        let reference = Reference::parse(reference)?;
        let _turn = self.turn(reference.to_string()).await;
        let work = self.work_directory()?;
        let contents = pull::pull(&reference, credentials, work.path(), &self.limits).await?;
        let tags = if reference.digest().is_some() { Vec::new() } else { reference.tagged().into_iter().collect() };
        self.add(contents, tags, Some(reference), None).await
    }

    /// Imports an OCI or Docker archive (tar), or an OCI layout directory, under a name or its own.
    ///
    /// # Errors
    /// As [`ImageError`]'s variants say; the store is unchanged then.
    pub async fn import(
        &self,
        path: &Path,
        name: Option<&str>,
        progress: mpsc::Sender<Progress>,
    ) -> Result<Image, ImageError> {
        let name = name.map(Reference::parse).transpose()?;
        let (path, limits) = (path.to_owned(), self.limits.clone());
        let contents = blocking(move || archive::read(&path, &limits)).await?;
        let tags = match &name {
            Some(name) => name.tagged().into_iter().collect(),
            // What an archive calls an image need not be a reference ("latest"); such names are no names.
            None => contents
                .names
                .iter()
                .filter(|n| n.contains(['/', ':']))
                .filter_map(|n| Reference::parse(n).ok()?.tagged())
                .collect(),
        };
        self.add(contents, tags, name, Some(progress)).await
    }

    /// Removes a tag or, by id or digest, the whole image. Removing what is absent does nothing.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub async fn remove(&self, reference_or_id: &str) -> Result<(), ImageError> {
        let tag = Reference::parse(reference_or_id).ok().and_then(|r| r.tagged());
        let reference_or_id = reference_or_id.to_owned();
        self.change(move |images| {
            images.retain_mut(|image| {
                if !names(image, &reference_or_id) {
                    return true;
                }
                let by_id = by_id(image, &reference_or_id);
                image.tags.retain(|t| by_id || Some(t) != tag.as_ref());
                !by_id && !image.tags.is_empty()
            });
        })
    }

    /// Bytes and inodes that the store uses.
    pub fn usage(&self) -> (u64, u64) {
        let images = self.images.read();
        let bytes = images.iter().filter_map(|image| image.rootfs.metadata().ok()).map(|m| m.blocks() * 512).sum();
        (bytes, images.len() as u64 + 1)
    }

    async fn turn(&self, key: String) -> tokio::sync::OwnedMutexGuard<()> {
        let mutex = {
            let mut busy = self.busy.lock();
            busy.retain(|_, mutex| Arc::strong_count(mutex) > 1);
            busy.entry(key).or_default().clone()
        };
        mutex.lock_owned().await
    }

    fn work_directory(&self) -> Result<tempfile::TempDir, ImageError> {
        let path = self.temporary();
        tempfile::tempdir_in(&path).map_err(|source| ImageError::Store { path, source })
    }

    /// Builds the root file system unless it is there, and makes the image visible.
    async fn add(
        &self,
        contents: Contents,
        tags: Vec<String>,
        reference: Option<Reference>,
        progress: Option<mpsc::Sender<Progress>>,
    ) -> Result<Image, ImageError> {
        let id = Digest::of(&contents.config);
        let _turn = self.turn(id.to_string()).await;
        let document: ConfigDocument = serde_json::from_slice(&contents.config)
            .map_err(|error| invalid(format!("the image's configuration: {error}")))?;
        check(&document, &contents, &self.limits)?;
        let digests: Vec<String> = match (&reference, contents.manifest) {
            (Some(reference), Some(digest)) => vec![format!("{}@{digest}", reference.repository())],
            _ => Vec::new(),
        };
        let rootfs = self.directory.join("rootfs").join(format!("{}.erofs", id.hex()));
        if !self.images.read().iter().any(|image| image.id == id) {
            let work = self.work_directory()?;
            let (target, limits, diff_ids) = (rootfs.clone(), self.limits.clone(), document.rootfs.diff_ids);
            blocking(move || build(&contents, &diff_ids, work.path(), &target, &limits, progress.as_ref())).await?;
        }
        let size_bytes = rootfs.metadata().map(|m| m.blocks() * 512).unwrap_or(0);
        let new = Image { id, tags, digests, size_bytes, config: document.config, rootfs };
        self.change(move |images| {
            // A tag names one image: the newest that was given it.
            for image in images.iter_mut().filter(|image| image.id != new.id) {
                image.tags.retain(|tag| !new.tags.contains(tag));
            }
            match images.iter_mut().find(|image| image.id == new.id) {
                Some(image) => {
                    let missing = |have: &[String], add: Vec<String>| {
                        add.into_iter().filter(|n| !have.contains(n)).collect::<Vec<_>>()
                    };
                    let (tags, digests) = (missing(&image.tags, new.tags), missing(&image.digests, new.digests));
                    image.tags.extend(tags);
                    image.digests.extend(digests);
                }
                None => images.push(new),
            }
        })?;
        self.get(&id.to_string()).ok_or_else(|| invalid("the image was removed while it was added"))
    }

    /// Changes the index durably, then what is seen of it, then removes files that it no longer names.
    fn change(&self, edit: impl FnOnce(&mut Vec<Image>)) -> Result<(), ImageError> {
        let mut images = self.images.write();
        let mut changed = images.clone();
        edit(&mut changed);
        let replace = || -> io::Result<()> {
            let temporary = self.temporary().join("index.json");
            let mut file = File::create(&temporary)?;
            file.write_all(&serde_json::to_vec_pretty(&changed)?)?;
            file.sync_all()?;
            fs::rename(&temporary, self.index())?;
            File::open(&self.directory)?.sync_all()
        };
        replace().map_err(|source| store_error(&self.index(), source))?;
        for gone in images.iter().filter(|old| !changed.iter().any(|new| new.id == old.id)) {
            let _ = fs::remove_file(&gone.rootfs);
        }
        *images = changed;
        Ok(())
    }
}

fn by_id(image: &Image, text: &str) -> bool {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    image.id.hex() == digits || image.digests.iter().any(|digest| digest == text)
}

fn names(image: &Image, text: &str) -> bool {
    if by_id(image, text) {
        return true;
    }
    let Ok(reference) = Reference::parse(text) else { return false };
    match reference.digest() {
        Some(digest) => image.digests.contains(&format!("{}@{digest}", reference.repository())),
        None => reference.tagged().is_some_and(|tag| image.tags.contains(&tag)),
    }
}

fn check(document: &ConfigDocument, contents: &Contents, limits: &Limits) -> Result<(), ImageError> {
    if document.os != "linux" || document.architecture != "amd64" {
        return Err(invalid(format!("it is for {:?}/{:?}, not linux/amd64", document.os, document.architecture)));
    }
    let layers = contents.layers.len();
    if layers != document.rootfs.diff_ids.len() {
        return Err(invalid(format!("{layers} layers and {} diff_ids", document.rootfs.diff_ids.len())));
    }
    if layers > limits.layers {
        return Err(invalid(format!("{layers} layers; {} is the limit", limits.layers)));
    }
    Ok(())
}

fn store_error(path: &Path, source: io::Error) -> ImageError {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ImageError::NoSpace(source.to_string()),
        _ => ImageError::Store { path: path.to_owned(), source },
    }
}

/// Streams the layers into a new file system image, and puts it in place when it is durable.
fn build(
    contents: &Contents,
    diff_ids: &[Digest],
    work: &Path,
    target: &Path,
    limits: &Limits,
    progress: Option<&mpsc::Sender<Progress>>,
) -> Result<(), ImageError> {
    let path = work.join("rootfs.erofs");
    let stored = |source| store_error(&path, source);
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o640).open(&path).map_err(stored)?;
    let mut writer = Writer::new(io::BufWriter::with_capacity(1 << 20, file)).map_err(stored)?;
    let mut tree = Tree::new(limits.entries);
    let mut budget = Budget::new(limits);
    let total_bytes = contents.layers.iter().map(|blob| blob.length).sum();
    let mut done_bytes = 0;
    for (index, (blob, diff_id)) in contents.layers.iter().zip(diff_ids).enumerate() {
        if let Some(progress) = progress {
            let step = format!("layer {} of {}", index + 1, contents.layers.len());
            // Whoever does not read the progress misses some of it.
            let _ = progress.try_send(Progress { step, done_bytes, total_bytes });
        }
        let reader = blob.open().map_err(stored)?;
        layer::apply(reader, *diff_id, &mut tree, &mut writer, &mut budget)?;
        done_bytes += blob.length;
    }
    let (out, length) = writer.finish(&tree)?;
    if length > DISK_BYTES {
        return Err(invalid(format!("its file system takes {length} bytes; {DISK_BYTES} is the limit")));
    }
    let file = out.into_inner().map_err(|error| stored(error.into_error()))?;
    file.set_len(DISK_BYTES).map_err(stored)?;
    file.sync_all().map_err(stored)?;
    fs::rename(&path, target).map_err(stored)?;
    target.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all()).map_err(stored)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(invalid(format!("the image could not be processed: {error}"))),
    }
}
