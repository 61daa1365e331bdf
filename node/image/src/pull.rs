//! One pull: what it resolves to, and how far it is.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use parking_lot::Mutex;

use crate::{
    Digest, ImageError, Limits, Reference,
    error::invalid,
    manifest::{Document, MAX_INDEXES, Manifest, choose},
    registry::Session,
};

/// What a reference means at this moment.
#[derive(Debug)]
pub(crate) struct Resolved {
    /// For this machine's platform.
    pub manifest: Manifest,
    /// Its bytes, for people to look at.
    pub config: Vec<u8>,
}

/// The manifest or index that a reference names, with its digest.
pub(crate) async fn resolve(
    session: &Session,
    reference: &Reference,
    limits: &Limits,
) -> Result<(Digest, Document), ImageError> {
    let named = reference.digest().map(|digest| digest.to_string()).or_else(|| reference.tag().map(str::to_owned));
    let named = named.ok_or_else(|| invalid("the reference has neither a tag nor a sha256 digest"))?;
    let found = session.manifest(&named, limits.metadata_bytes).await?;
    Ok((found.digest, Document::parse(&found.bytes, "the manifest")?))
}

/// Goes down from an index to this platform's manifest and its configuration.
pub(crate) async fn fetch(session: &Session, mut document: Document, limits: &Limits) -> Result<Resolved, ImageError> {
    for _ in 0..MAX_INDEXES {
        let Some(manifests) = document.manifests.take() else { break };
        let chosen = choose(&manifests)?;
        let found = session.manifest(&chosen.digest.to_string(), limits.metadata_bytes).await?;
        document = Document::parse(&found.bytes, "the manifest")?;
    }
    let manifest = document.into_manifest(limits.layers)?;
    let config = session.document(&manifest.config, limits.metadata_bytes).await?;
    Ok(Resolved { manifest, config })
}

/// How far a pull is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullStatus {
    pub reference: String,
    pub layers_done: usize,
    /// 0 until the manifest is known.
    pub layers_total: usize,
    /// Compressed bytes; layers that were here already count for neither.
    pub received_bytes: u64,
    pub total_bytes: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    reference: String,
    pub layers_done: AtomicUsize,
    pub layers_total: AtomicUsize,
    pub received_bytes: AtomicU64,
    pub total_bytes: AtomicU64,
}

/// The pulls that are under way.
#[derive(Debug, Default, Clone)]
pub(crate) struct Pulls(Arc<Mutex<Vec<Arc<Counters>>>>);

impl Pulls {
    pub fn begin(&self, reference: &Reference) -> ActivePull {
        let counters = Arc::new(Counters { reference: reference.to_string(), ..Counters::default() });
        self.0.lock().push(counters.clone());
        ActivePull { pulls: self.clone(), counters }
    }

    pub fn list(&self) -> Vec<PullStatus> {
        let status = |counters: &Arc<Counters>| PullStatus {
            reference: counters.reference.clone(),
            layers_done: counters.layers_done.load(Ordering::Relaxed),
            layers_total: counters.layers_total.load(Ordering::Relaxed),
            received_bytes: counters.received_bytes.load(Ordering::Relaxed),
            total_bytes: counters.total_bytes.load(Ordering::Relaxed),
        };
        self.0.lock().iter().map(status).collect()
    }
}

/// Listed until dropped.
pub(crate) struct ActivePull {
    pulls: Pulls,
    pub counters: Arc<Counters>,
}

impl Drop for ActivePull {
    fn drop(&mut self) {
        self.pulls.0.lock().retain(|counters| !Arc::ptr_eq(counters, &self.counters));
    }
}
