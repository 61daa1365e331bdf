//! The images on this host: `index.json`, whose replacement is what makes an image visible or forgets it; `rootfs/`, what
//! each image has for itself; `layers/`, what images share.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Semaphore, mpsc};

use crate::{
    Credentials, Digest, Image, ImageError, Limits, Progress, PullStatus, Puller, Reference, Retries,
    archive::{self, Contents},
    assemble::assemble,
    charge::Charges,
    config::ConfigDocument,
    durable,
    error::{invalid, store_error},
    layer::Expected,
    layers::Layers,
    manifest::Descriptor,
    policy::Policy,
    private,
    pull::{self, Counters, Pulls},
    record::{Access, KnownAs, Record},
    registry::{Reach, Session},
};

/// How many layers of one image are fetched at the same time.
const PARALLEL_LAYERS: usize = 3;
/// How many layers and images are unpacked at the same time, all pulls together: it takes processors and memory.
const PARALLEL_UNPACKING: usize = 4;

/// What a store is opened with.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub limits: Limits,
    pub retries: Retries,
    /// Directory of registries' `hosts.toml` and certificates, laid out as containerd's `certs.d`.
    pub hosts: Option<PathBuf>,
    /// A containers-policy.json(5). Without one every image is accepted.
    pub policy: Option<PathBuf>,
    /// References of images that are never collected.
    pub pinned: Vec<String>,
    /// Registries may be at loopback, link-local and private addresses without being configured in `hosts`.
    pub internal_registries: bool,
}

/// All images under one directory. Cheap to share behind an `Arc`.
pub struct ImageStore {
    directory: PathBuf,
    options: Options,
    layers: Arc<Layers>,
    records: RwLock<Vec<Record>>,
    /// One pull, layer or image at a time of one name.
    busy: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Layers of images that are being made: they stay, though no image has them yet.
    held: Arc<Mutex<HashMap<Digest, usize>>>,
    pulls: Pulls,
    charges: Charges,
    unpack_turns: Semaphore,
}

/// What was removed to make room.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    pub images: Vec<Digest>,
    pub bytes: u64,
}

impl ImageStore {
    /// Opens or makes the store, with the default registries and no policy.
    ///
    /// # Errors
    /// As [`ImageStore::open_with`].
    pub fn open(directory: PathBuf, limits: Limits) -> Result<Self, ImageError> {
        Self::open_with(directory, Options { limits, ..Options::default() })
    }

    /// Opens or makes the store; what an interrupted import or pull left is removed.
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub fn open_with(directory: PathBuf, options: Options) -> Result<Self, ImageError> {
        let prepare = || -> io::Result<(Vec<Record>, Layers)> {
            let _ = fs::remove_dir_all(directory.join("tmp"));
            for directory in [directory.clone(), directory.join("tmp"), directory.join("rootfs")] {
                private::make(&directory)?;
            }
            let records: Vec<Record> = match fs::read(directory.join("index.json")) {
                Ok(bytes) => serde_json::from_slice(&bytes)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
                Err(error) => return Err(error),
            };
            let layers = Layers::open(directory.join("layers"))?;
            let whole = |record: &Record| {
                record.image.rootfs.is_file() && record.layers.iter().all(|layer| layers.get(layer).is_some())
            };
            let mut records: Vec<Record> = records.into_iter().filter(whole).collect();
            let imported = |layer: &Digest| layers.get(layer).is_some_and(|layer| layer.registries.is_empty());
            records.iter_mut().for_each(|record| record.complete(imported));
            for file in fs::read_dir(directory.join("rootfs"))? {
                let path = file?.path();
                let of = |record: &Record| path.file_stem().is_some_and(|stem| stem == record.image.id.hex().as_str());
                if !records.iter().any(of) {
                    fs::remove_file(path)?;
                }
            }
            Ok((records, layers))
        };
        let (records, layers) = prepare().map_err(store_error(&directory))?;
        let store = Self {
            directory,
            options,
            layers: Arc::new(layers),
            records: RwLock::new(records),
            busy: Mutex::default(),
            held: Arc::default(),
            pulls: Pulls::default(),
            charges: Charges::default(),
            unpack_turns: Semaphore::new(PARALLEL_UNPACKING),
        };
        store.sweep();
        Ok(store)
    }

    fn temporary(&self) -> PathBuf {
        self.directory.join("tmp")
    }

    fn rootfs(&self) -> PathBuf {
        self.directory.join("rootfs")
    }

    fn config_path(&self, id: &Digest) -> PathBuf {
        self.rootfs().join(format!("{}.json", id.hex()))
    }

    /// By id (`sha256:…` or its hex digits), or by reference (tag or digest; normalised as Docker does).
    pub fn get(&self, reference_or_id: &str) -> Option<Image> {
        let records = self.records.read();
        records.iter().map(|record| &record.image).find(|image| names(image, reference_or_id)).cloned()
    }

    pub fn list(&self) -> Vec<Image> {
        self.records.read().iter().map(|record| record.image.clone()).collect()
    }

    /// Whether an image may be used for a puller (a tenant's id, or empty): they have pulled it, or anybody may. What is not
    /// known of an image means no.
    pub fn may_use(&self, id: &Digest, puller: &str) -> bool {
        let records = self.records.read();
        records.iter().any(|record| record.image.id == *id && record.may_be_used_by(puller))
    }

    /// Everybody of whom it is known what they have pulled.
    pub fn pullers(&self) -> BTreeSet<String> {
        self.records.read().iter().flat_map(|record| &record.pulled_by).cloned().collect()
    }

    /// Forgets what a puller has shown; the images stay until they are collected.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub fn forget_puller(&self, puller: &str) -> Result<(), ImageError> {
        if !self.pullers().contains(puller) {
            return Ok(());
        }
        self.change(|records| {
            for record in records.iter_mut() {
                record.forget(puller);
            }
        })
    }

    /// The configuration document as the image has it (OCI image-spec, `config.md`).
    pub fn config_document(&self, id: &Digest) -> Option<String> {
        fs::read_to_string(self.config_path(id)).ok()
    }

    /// Whether it is never collected.
    pub fn is_pinned(&self, image: &Image) -> bool {
        self.options.pinned.iter().any(|reference| names(image, reference))
    }

    /// The pulls that are under way.
    pub fn pulls(&self) -> Vec<PullStatus> {
        self.pulls.list()
    }

    /// Pulls from a registry for somebody; concurrent pulls of one reference do the work once. The registry is asked in any
    /// case, so that whoever has pulled an image has shown that they may have it.
    ///
    /// # Errors
    /// As [`ImageError`]'s variants say; no image has changed then.
    pub async fn pull(
        &self,
        reference: &str,
        credentials: Option<Credentials>,
        puller: &Puller,
    ) -> Result<Image, ImageError> {
        let reference = Reference::parse(reference)?;
        let started = Instant::now();
        let active = self.pulls.begin(&reference);
        let access = match &credentials {
            Some(_) => Access::Pullers(BTreeSet::from([puller.id.clone()])),
            None => Access::Everybody,
        };
        let outcome = self.pull_now(&reference, credentials, (access, puller), &active.counters).await;
        match &outcome {
            Ok(image) => {
                let received = active.counters.received_bytes.load(Ordering::Relaxed);
                tracing::info!(image = %reference, id = %image.id, received, took = ?started.elapsed(), "pulled");
            }
            Err(error) => {
                tracing::warn!(image = %reference, %error, "not pulled");
                if matches!(error, ImageError::NoSpace(_) | ImageError::Quota { .. }) {
                    self.sweep();
                }
            }
        }
        outcome
    }

    async fn pull_now(
        &self,
        reference: &Reference,
        credentials: Option<Credentials>,
        (access, puller): (Access, &Puller),
        counters: &Counters,
    ) -> Result<Image, ImageError> {
        let _turn = self.turn(reference.to_string()).await;
        let limits = &self.options.limits;
        let reach = if self.options.internal_registries { Reach::Anywhere } else { Reach::Public };
        let session = Session::new(self.options.hosts.as_deref(), reference, credentials, self.options.retries, reach)?;
        let (digest, document) = pull::resolve(&session, reference, limits).await?;
        if let Some(path) = &self.options.policy {
            Policy::read(path)?.check(path, &session, reference, digest, limits).await?;
        }
        let resolved = pull::fetch(&session, document, limits).await?;
        if Digest::of(&resolved.config) != resolved.manifest.config.digest {
            return Err(invalid("the configuration has another digest"));
        }
        let document = self.parse_config(&resolved.config, resolved.manifest.layers.len())?;
        let diff_ids = document.rootfs.diff_ids.clone();
        let held = self.hold(&diff_ids);
        let work = self.work_directory()?;
        let pairs: Vec<(&Descriptor, Digest)> = resolved.manifest.layers.iter().zip(diff_ids.clone()).collect();
        counters.layers_total.store(pairs.len(), Ordering::Relaxed);
        let id = resolved.manifest.config.digest;
        let mut charge = self.charges.begin(puller);
        // What the registry says of layers that are not here; what they take is known when they are.
        let (has, new) = self.charged(puller, &id, &diff_ids);
        let told = |(descriptor, layer): &(&Descriptor, Digest)| match self.layers.get(layer) {
            Some(_) => self.layers.disk_bytes(layer),
            None => descriptor.size.unwrap_or(0),
        };
        charge
            .set(pairs.iter().filter(|(_, layer)| new.contains(layer)).map(told).fold(0, u64::saturating_add), has)?;
        let missing = |(_, diff_id): &&(&Descriptor, Digest)| !self.may_have(diff_id, reference.registry());
        let total = pairs.iter().filter(missing).map(|(descriptor, _)| descriptor.size.unwrap_or(0)).sum();
        counters.total_bytes.store(total, Ordering::Relaxed);
        let mut fetches = Vec::new();
        for (descriptor, diff_id) in pairs {
            let fetch = self.pull_layer(&session, reference, descriptor, diff_id, work.path(), counters);
            fetches.push(fetch.boxed());
        }
        stream::iter(fetches).buffer_unordered(PARALLEL_LAYERS).try_collect::<()>().await?;
        let (has, new) = self.charged(puller, &id, &diff_ids);
        charge.set(self.layer_bytes(&new), has)?;
        let tags = if reference.digest().is_some() { Vec::new() } else { reference.tagged().into_iter().collect() };
        let digests = vec![format!("{}@{digest}", reference.repository())];
        let pulled_by = Some(puller.id.clone()).filter(|id| !id.is_empty()).into_iter().collect();
        let known_as = KnownAs { tags, digests, access, pulled_by };
        let image = self.add(resolved.config, document, known_as, work.path()).await;
        drop((held, charge));
        image
    }

    /// Bytes that somebody has pulled and that are here, and the layers of an image that are not among them.
    fn charged(&self, puller: &Puller, id: &Digest, layers: &[Digest]) -> (u64, HashSet<Digest>) {
        let records = self.records.read();
        let theirs = records.iter().filter(|record| record.pulled_by.contains(&puller.id));
        let (mut own, mut have, mut known) = (0, HashSet::new(), false);
        for record in theirs {
            own += self.own_bytes(&record.image.id);
            have.extend(record.layers.iter().copied());
            known |= record.image.id == *id;
        }
        let new = layers.iter().filter(|layer| !known && !have.contains(*layer)).copied().collect();
        (own + self.layer_bytes(&have), new)
    }

    /// Whether a layer is here that a puller from this registry may have.
    fn may_have(&self, diff_id: &Digest, registry: &str) -> bool {
        self.layers.get(diff_id).is_some_and(|layer| layer.registries.contains(registry))
    }

    async fn pull_layer(
        &self,
        session: &Session,
        reference: &Reference,
        descriptor: &Descriptor,
        diff_id: Digest,
        work: &Path,
        counters: &Counters,
    ) -> Result<(), ImageError> {
        // The registry's own: what one registry sends slowly, nobody waits for who has it from another.
        let _turn = self.turn(format!("layer {diff_id} of {}", reference.registry())).await;
        if self.may_have(&diff_id, reference.registry()) {
            counters.layers_done.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let path = work.join(descriptor.digest.hex());
        session.blob(descriptor, &path, self.options.limits.unpacked_bytes, &counters.received_bytes).await?;
        let _turn = self.turn(format!("layer {diff_id}")).await;
        let registry = reference.registry().to_owned();
        let expected = Expected { diff_id, stored: None };
        let (layers, limits, work) = (self.layers.clone(), self.options.limits.clone(), work.to_owned());
        self.blocking(move || {
            let stored = fs::File::open(&path).map_err(store_error(&path))?;
            match layers.get(&diff_id) {
                None => layers.put(stored, expected, Some(&registry), &work, &limits)?,
                Some(_) => layers.vouch(stored, expected, &registry, &work, &limits)?,
            }
            fs::remove_file(&path).map_err(store_error(&path))
        })
        .await?;
        counters.layers_done.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Imports an OCI or Docker archive (tar), or an OCI layout directory, under a name or its own.
    ///
    /// # Errors
    /// As [`ImageError`]'s variants say; no image has changed then.
    pub async fn import(
        &self,
        path: &Path,
        name: Option<&str>,
        progress: mpsc::Sender<Progress>,
    ) -> Result<Image, ImageError> {
        let outcome = self.import_now(path, name, progress).await;
        if matches!(outcome, Err(ImageError::NoSpace(_))) {
            self.sweep();
        }
        outcome
    }

    async fn import_now(
        &self,
        path: &Path,
        name: Option<&str>,
        progress: mpsc::Sender<Progress>,
    ) -> Result<Image, ImageError> {
        let name = name.map(Reference::parse).transpose()?;
        let contents = {
            let (path, limits, name) = (path.to_owned(), self.options.limits.clone(), name.clone());
            self.blocking(move || archive::read(&path, name.as_ref(), &limits)).await?
        };
        let Contents { config, layers: blobs, names, manifest } = contents;
        let document = self.parse_config(&config, blobs.len())?;
        let held = self.hold(&document.rootfs.diff_ids);
        let work = self.work_directory()?;
        let total_bytes = blobs.iter().map(|blob| blob.length).sum();
        let (mut done_bytes, count) = (0, blobs.len());
        for (index, (blob, diff_id)) in blobs.into_iter().zip(&document.rootfs.diff_ids).enumerate() {
            let step = format!("layer {} of {count}", index + 1);
            // Whoever does not read the progress misses some of it.
            let _ = progress.try_send(Progress { step, done_bytes, total_bytes });
            done_bytes += blob.length;
            let _turn = self.turn(format!("layer {diff_id}")).await;
            if self.layers.get(diff_id).is_some() {
                // Who imports is the host's operator, who may have every layer.
                continue;
            }
            let expected = Expected { diff_id: *diff_id, stored: blob.digest };
            let (layers, limits, work) = (self.layers.clone(), self.options.limits.clone(), work.path().to_owned());
            let archive = path.to_owned();
            self.blocking(move || {
                let unreadable =
                    |error: io::Error| ImageError::Archive { path: archive.clone(), reason: error.to_string() };
                layers.put(blob.open().map_err(unreadable)?, expected, None, &work, &limits)
            })
            .await?;
        }
        let _ = progress.try_send(Progress { step: "file system".into(), done_bytes, total_bytes });
        let tags = match &name {
            Some(name) => name.tagged().into_iter().collect(),
            // What an archive calls an image need not be a reference ("latest"); such names are no names.
            None => names
                .iter()
                .filter(|n| n.contains(['/', ':']))
                .filter_map(|n| Reference::parse(n).ok()?.tagged())
                .collect(),
        };
        let digests = name.zip(manifest).map(|(name, digest)| format!("{}@{digest}", name.repository()));
        let image = {
            let (digests, access) = (digests.into_iter().collect(), Access::Everybody);
            let known_as = KnownAs { tags, digests, access, pulled_by: BTreeSet::new() };
            self.add(config, document, known_as, work.path()).await
        };
        drop(held);
        image
    }

    fn parse_config(&self, config: &[u8], layers: usize) -> Result<ConfigDocument, ImageError> {
        let document: ConfigDocument =
            serde_json::from_slice(config).map_err(|error| invalid(format!("the image's configuration: {error}")))?;
        if document.os != "linux" || document.architecture != "amd64" {
            return Err(invalid(format!("it is for {:?}/{:?}, not linux/amd64", document.os, document.architecture)));
        }
        let diff_ids = document.rootfs.diff_ids.len();
        if layers != diff_ids {
            return Err(invalid(format!("{layers} layers and {diff_ids} diff_ids")));
        }
        match self.options.limits.layers {
            limit if layers > limit => Err(invalid(format!("{layers} layers; {limit} is the limit"))),
            _ => Ok(document),
        }
    }

    /// Makes the disk of an image whose layers are here unless it is there, and makes the image visible.
    async fn add(
        &self,
        config: Vec<u8>,
        document: ConfigDocument,
        known_as: KnownAs,
        work: &Path,
    ) -> Result<Image, ImageError> {
        let KnownAs { tags, digests, access, pulled_by } = known_as;
        let id = Digest::of(&config);
        let _turn = self.turn(id.to_string()).await;
        let layers = document.rootfs.diff_ids;
        let known = self.records.read().iter().find(|record| record.image.id == id).map(|r| r.image.rootfs.clone());
        let rootfs = match known {
            Some(rootfs) => rootfs,
            None => {
                let (directory, limits, work) = (self.rootfs(), self.options.limits.clone(), work.to_owned());
                let (store, diff_ids, config_path) = (self.layers.clone(), layers.clone(), self.config_path(&id));
                let made = self.blocking(move || {
                    durable::write(&config_path, &work.join("config.json"), &config)
                        .map_err(store_error(&config_path))?;
                    assemble(&store, &diff_ids, &id, &directory, &work, &limits)
                });
                made.await.inspect_err(|_| self.remove_own(&id))?
            }
        };
        let image = Image { id, tags, digests, size_bytes: 0, config: document.config, rootfs };
        let mut new = Record { image, layers, used: now(), access: Some(access), pulled_by };
        new.image.size_bytes = self.own_bytes(&id) + self.layer_bytes(&new.layers);
        let changed = self.change(move |records| {
            // A tag names one image: the newest that was given it.
            for record in records.iter_mut().filter(|record| record.image.id != id) {
                record.image.tags.retain(|tag| !new.image.tags.contains(tag));
            }
            match records.iter_mut().find(|record| record.image.id == id) {
                Some(record) => {
                    let missing = |have: &[String], add: Vec<String>| {
                        add.into_iter().filter(|n| !have.contains(n)).collect::<Vec<_>>()
                    };
                    let tags = missing(&record.image.tags, new.image.tags);
                    let digests = missing(&record.image.digests, new.image.digests);
                    record.image.tags.extend(tags);
                    record.image.digests.extend(digests);
                    record.used = new.used;
                    record.pulled_by.extend(new.pulled_by);
                    record.access = match (record.access.take(), new.access) {
                        (Some(known), Some(shown)) => Some(known.merge(shown)),
                        (known, shown) => shown.or(known),
                    };
                }
                None => records.push(new),
            }
        });
        if changed.is_err() && !self.records.read().iter().any(|record| record.image.id == id) {
            self.remove_own(&id);
        }
        changed?;
        self.get(&id.to_string()).ok_or_else(|| invalid("the image was removed while it was added; pull it again"))
    }

    /// Removes a tag or, by id or digest, the whole image. Removing what is absent does nothing.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub async fn remove(&self, reference_or_id: &str) -> Result<(), ImageError> {
        let tag = Reference::parse(reference_or_id).ok().and_then(|r| r.tagged());
        let reference_or_id = reference_or_id.to_owned();
        self.change(move |records| {
            records.retain_mut(|Record { image, .. }| {
                if !names(image, &reference_or_id) {
                    return true;
                }
                let by_id = by_id(image, &reference_or_id);
                image.tags.retain(|t| by_id || Some(t) != tag.as_ref());
                !by_id && !image.tags.is_empty()
            });
        })?;
        self.sweep();
        Ok(())
    }

    /// Removes images that nobody uses, the longest unused first, until so many bytes are free again.
    /// Those in use, pinned, or used within `min_age` stay.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub async fn collect(
        &self,
        bytes: u64,
        in_use: &HashSet<Digest>,
        min_age: Duration,
    ) -> Result<Collected, ImageError> {
        let mut collected = Collected::default();
        let now = now();
        self.sweep();
        self.change(|records| {
            for record in records.iter_mut().filter(|record| in_use.contains(&record.image.id)) {
                record.used = now;
            }
        })?;
        while collected.bytes < bytes {
            let before = self.usage().0;
            let oldest = {
                let records = self.records.read();
                let unused = records.iter().filter(|record| {
                    !in_use.contains(&record.image.id)
                        && !self.is_pinned(&record.image)
                        && now.saturating_sub(record.used) >= min_age.as_secs()
                });
                unused.min_by_key(|record| record.used).map(|record| record.image.id)
            };
            let Some(id) = oldest else { break };
            self.remove(&id.to_string()).await?;
            collected.images.push(id);
            collected.bytes += before.saturating_sub(self.usage().0);
        }
        if !collected.images.is_empty() {
            tracing::info!(images = collected.images.len(), bytes = collected.bytes, "unused images were removed");
        }
        Ok(collected)
    }

    /// Bytes and inodes that the store uses; what images share counts once.
    pub fn usage(&self) -> (u64, u64) {
        let (mut bytes, mut inodes) = (0, 1);
        for directory in ["rootfs", "layers", "tmp"] {
            tally(&self.directory.join(directory), &mut bytes, &mut inodes);
        }
        (bytes, inodes)
    }

    /// Removes what an image has for itself.
    fn remove_own(&self, id: &Digest) {
        for extension in ["vmdk", "erofs", "json"] {
            let _ = fs::remove_file(self.rootfs().join(format!("{}.{extension}", id.hex())));
        }
    }

    fn own_bytes(&self, id: &Digest) -> u64 {
        let blocks = |extension: &str| {
            let path = self.rootfs().join(format!("{}.{extension}", id.hex()));
            path.metadata().map_or(0, |metadata| metadata.blocks())
        };
        (blocks("erofs") + blocks("vmdk") + blocks("json")) * 512
    }

    fn layer_bytes<'a>(&self, layers: impl IntoIterator<Item = &'a Digest>) -> u64 {
        let different: HashSet<&Digest> = layers.into_iter().collect();
        different.into_iter().map(|layer| self.layers.disk_bytes(layer)).sum()
    }

    async fn turn(&self, key: String) -> tokio::sync::OwnedMutexGuard<()> {
        let mutex = {
            let mut busy = self.busy.lock();
            busy.retain(|_, mutex| Arc::strong_count(mutex) > 1);
            busy.entry(key).or_default().clone()
        };
        mutex.lock_owned().await
    }

    /// Keeps layers from being swept until dropped.
    fn hold(&self, layers: &[Digest]) -> Held {
        let mut held = self.held.lock();
        for layer in layers {
            *held.entry(*layer).or_default() += 1;
        }
        Held { all: self.held.clone(), layers: layers.to_vec() }
    }

    /// Removes layers that no image has and none that is being made will have.
    fn sweep(&self) {
        let records = self.records.read();
        let held = self.held.lock();
        let used: HashSet<&Digest> = records.iter().flat_map(|record| &record.layers).collect();
        for layer in self.layers.all().unwrap_or_default() {
            if !used.contains(&layer) && !held.contains_key(&layer) {
                self.layers.remove(&layer);
            }
        }
    }

    fn work_directory(&self) -> Result<tempfile::TempDir, ImageError> {
        let path = self.temporary();
        tempfile::tempdir_in(&path).map_err(store_error(path))
    }

    /// Changes the index durably, then what is seen of it, then removes files that it no longer names.
    fn change(&self, edit: impl FnOnce(&mut Vec<Record>)) -> Result<(), ImageError> {
        let mut records = self.records.write();
        let mut changed = records.clone();
        edit(&mut changed);
        let index = self.directory.join("index.json");
        let replace =
            || durable::write(&index, &self.temporary().join("index.json"), &serde_json::to_vec_pretty(&changed)?);
        replace().map_err(store_error(&index))?;
        for gone in records.iter().filter(|old| !changed.iter().any(|new| new.image.id == old.image.id)) {
            self.remove_own(&gone.image.id);
        }
        *records = changed;
        Ok(())
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
    ) -> Result<T, ImageError> {
        let _one_of_few = self.unpack_turns.acquire().await;
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(error) => Err(invalid(format!("the image could not be processed: {error}"))),
        }
    }
}

/// Layers that an image needs which is being made.
struct Held {
    all: Arc<Mutex<HashMap<Digest, usize>>>,
    layers: Vec<Digest>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        for layer in &self.layers {
            if let Some(count) = all.get_mut(layer) {
                *count -= 1;
                if *count == 0 {
                    all.remove(layer);
                }
            }
        }
    }
}

fn tally(directory: &Path, bytes: &mut u64, inodes: &mut u64) {
    for file in fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(metadata) = file.metadata() else { continue };
        *bytes += metadata.blocks() * 512;
        *inodes += 1;
        if metadata.is_dir() {
            tally(&file.path(), bytes, inodes);
        }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
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
