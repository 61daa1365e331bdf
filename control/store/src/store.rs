//! A log and the cache above it.

use std::{cell::Cell, path::Path, sync::Arc};

use hypernetes_api::TenantId;

use crate::{
    Changes, Encryption, Entry, Key, Listing, MAX_VALUE_BYTES, Options, Part, Prefix, Quotas, RangeOptions, ReadError,
    Revision, RotationError, Txn, TxnError, Usage,
    log::{
        Log,
        embedded::{Contents, Embedded, OpenError, Snapshot},
        etcd::{self, Config, Etcd, StartError},
    },
    mvcc::Cache,
};

tokio::task_local! {
    /// Whether the cache has all that had been acknowledged when this was begun.
    static IS_CURRENT: Cell<bool>;
}

/// Does something that has to see what had been acknowledged when it began: only the first that it asks waits for that, where it has to
/// be asked for. Each answer is of a moment since then.
pub async fn as_of_now<T>(work: impl Future<Output = T>) -> T {
    IS_CURRENT.scope(Cell::new(false), work).await
}

/// The store of a cluster. Closed when it is dropped and nothing that was begun waits for an answer any more.
pub struct Store {
    cache: Arc<Cache>,
    log: Box<dyn Log>,
}

impl Store {
    /// Opens the store in a directory, or makes it with mode 0700. Another process that has it open is an error. What a version
    /// before left in the file of the same name with `.redb` behind it is taken over.
    ///
    /// # Errors
    /// When it cannot be read, is locked, damaged, holds something else, is of a newer version, or older than what was here.
    pub fn open(path: &Path, options: Options) -> Result<Self, OpenError> {
        let cache = Arc::new(Cache::new(options));
        let log = Embedded::open(path, cache.clone())?;
        Ok(Self { cache, log: Box::new(log) })
    }

    /// The store in an etcd, which other servers may have open, too. Within a runtime of tokio, which it needs as long as it is.
    ///
    /// # Errors
    /// When etcd cannot be reached in time, or has something else.
    pub async fn etcd(config: &Config, options: Options) -> Result<Self, StartError> {
        let cache = Arc::new(Cache::new(options));
        let log = Etcd::start(config, cache.clone()).await?;
        Ok(Self { cache, log: Box::new(log) })
    }

    /// Makes a store in an etcd that has nothing under the prefix, of a snapshot of a store on any engine.
    ///
    /// # Errors
    /// When there is something, or etcd does not take it. What was begun then is no store, and has to be deleted.
    pub async fn restore_to_etcd(
        config: &Config,
        contents: Contents,
        encryption: &Encryption,
    ) -> Result<(), StartError> {
        etcd::restore::restore(config, contents.into_records(), encryption).await
    }

    #[cfg(test)]
    pub(crate) fn of(cache: Arc<Cache>, log: Box<dyn Log>) -> Self {
        Self { cache, log }
    }

    /// The cache has all that was acknowledged before now, or before what this belongs to began ([`as_of_now`]).
    async fn barrier(&self) -> Result<(), ReadError> {
        if IS_CURRENT.try_with(Cell::get) != Ok(true) {
            self.log.barrier().await?;
            let _ = IS_CURRENT.try_with(|current| current.set(true));
        }
        Ok(())
    }

    /// What the key holds.
    ///
    /// # Errors
    /// When the log cannot tell how far it is.
    pub async fn get(&self, key: &Key) -> Result<Option<Entry>, ReadError> {
        self.barrier().await?;
        Ok(self.cache.get(key))
    }

    /// What the key held a moment ago: for who guards it, and is told when that was not the newest.
    pub fn recent(&self, key: &Key) -> Option<Entry> {
        self.cache.get(key)
    }

    /// Entries under a prefix in key order.
    ///
    /// # Errors
    /// When the revision that is asked for is not kept any more, or not there yet.
    pub async fn range(&self, prefix: &Prefix, options: RangeOptions) -> Result<Listing, ReadError> {
        self.barrier().await?;
        self.cache.range(prefix, &options)
    }

    /// Number of entries under a prefix now.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub async fn count(&self, prefix: &Prefix) -> Result<usize, ReadError> {
        self.barrier().await?;
        Ok(self.cache.count(prefix))
    }

    /// How many entries there were after a key, and the last that was counted where there can be more than `most`.
    ///
    /// # Errors
    /// When the revision that is asked for is not kept any more, or not there yet.
    pub async fn count_after(
        &self,
        prefix: &Prefix,
        after: &Key,
        revision: Revision,
        most: usize,
    ) -> Result<(usize, Option<Key>), ReadError> {
        if revision > self.cache.revision() {
            self.barrier().await?;
        }
        self.cache.count_after(prefix, after, revision, most)
    }

    /// Returns when the transaction is durable and visible to reads, with its revision.
    ///
    /// # Errors
    /// Nothing was written, but for [`TxnError::Unknown`].
    pub async fn commit(&self, txn: Txn) -> Result<Revision, TxnError> {
        match txn.ops.iter().filter_map(|op| op.value()).find(|value| value.len() > MAX_VALUE_BYTES) {
            Some(value) => Err(TxnError::TooLarge(value.len())),
            None => self.log.commit(txn).await,
        }
    }

    /// Every change under the prefix after `from`.
    ///
    /// # Errors
    /// When `from` is not kept any more, or not there yet.
    pub async fn watch(&self, prefix: &Prefix, from: Revision) -> Result<Changes, ReadError> {
        if from > self.cache.revision() {
            self.barrier().await?;
        }
        self.cache.watch(prefix, None, from)
    }

    /// [`Store::watch`] of a part of those changes: no other change costs it anything.
    ///
    /// # Errors
    /// As [`Store::watch`].
    pub async fn watch_part(&self, prefix: &Prefix, part: Part<&str>, from: Revision) -> Result<Changes, ReadError> {
        if from > self.cache.revision() {
            self.barrier().await?;
        }
        self.cache.watch(prefix, Some(part), from)
    }

    /// The revision of the newest committed transaction.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub async fn revision(&self) -> Result<Revision, ReadError> {
        self.barrier().await?;
        Ok(self.cache.revision())
    }

    /// Every watch has been told of everything until this revision: once it has sent what it was told, it may say so.
    pub fn told(&self) -> Revision {
        self.cache.told()
    }

    /// Returns when every watch has been told of everything until this revision: for whoever was told of it by one watch and
    /// asks what is kept current by another. A barrier of [`Store::revision`] says nothing of that.
    pub async fn all_told(&self, revision: Revision) {
        self.cache.all_told(revision).await;
    }

    /// Whether it answers, and can be written to but for a full disk, on which reads and deletions go on.
    ///
    /// # Errors
    /// When what keeps it does not answer now, or nothing will ever be written to it again.
    pub async fn health(&self) -> Result<(), ReadError> {
        if let Some(why) = self.log.ended().borrow().clone() {
            return Err(ReadError::Io(why));
        }
        self.log.barrier().await
    }

    /// Returns when nothing can be written any more, and says why. The process should end then: only opening the log
    /// anew tells what is in it.
    pub fn ended(&self) -> impl Future<Output = String> + Send + 'static {
        let mut ended = self.log.ended();
        async move {
            let why = ended.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
            why.unwrap_or_else(|| "the store's writer has ended".into())
        }
    }

    /// Uses other keys from now on. When it returns nothing that this store keeps is sealed with another than the first of them, but for what an
    /// etcd's files have until it is defragmented and its log is gone. One at a time.
    ///
    /// # Errors
    /// When a key that is needed is not among them: nothing has changed. Or when it could not be finished: the new keys are used, and those of
    /// before needed. It may be tried again.
    pub async fn rotate(&self, keys: Encryption) -> Result<(), RotationError> {
        if self.cache.options().encryption.is_none() {
            return Err(RotationError::None);
        }
        self.log.rotate(keys).await
    }

    /// How much each tenant may keep.
    pub fn quotas(&self) -> &Quotas {
        self.cache.quotas()
    }

    /// All that there is now, to be kept elsewhere: sealed as the store's own files are.
    pub fn snapshot(&self) -> Snapshot {
        let (revision, entries) = self.cache.all();
        Snapshot::new(revision, entries, self.cache.options().values, self.cache.options().encryption.now())
    }

    /// What a tenant keeps now.
    pub fn usage(&self, tenant: &TenantId) -> Usage {
        self.cache.usage(tenant.as_str())
    }

    /// Forgets versions older than `revision`. Reads and watches from before it fail with `Compacted`.
    ///
    /// # Errors
    /// When there is no such revision yet.
    pub async fn compact(&self, revision: Revision) -> Result<(), ReadError> {
        self.cache.compact(revision)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.log.close();
        self.cache.close();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use tokio::sync::watch;

    use super::*;

    #[derive(Default)]
    struct Counts(Arc<AtomicUsize>);

    #[async_trait]
    impl Log for Counts {
        async fn commit(&self, _: Txn) -> Result<Revision, TxnError> {
            Err(TxnError::Unavailable("it takes nothing".into()))
        }

        async fn barrier(&self) -> Result<(), ReadError> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }

        async fn rotate(&self, _: Encryption) -> Result<(), RotationError> {
            Err(RotationError::None)
        }

        fn ended(&self) -> watch::Receiver<Option<String>> {
            watch::channel(None).1
        }

        fn close(&mut self) {}
    }

    #[tokio::test]
    async fn what_belongs_together_waits_once() {
        let log = Counts::default();
        let asked = log.0.clone();
        let store = Store::of(Arc::new(Cache::new(Options::default())), Box::new(log));
        let read = async || {
            store.revision().await.unwrap();
            store.get(&Key::parse("//pods/acme/ns/name").unwrap()).await.unwrap();
            asked.swap(0, Ordering::Relaxed)
        };
        assert_eq!(read().await, 2);
        assert_eq!(as_of_now(read()).await, 1);
        // Something else inside is as new as its own beginning; and whether the store answers is asked of itself.
        let inside = as_of_now(async {
            store.revision().await.unwrap();
            as_of_now(store.revision()).await.unwrap();
            store.health().await.unwrap();
            asked.swap(0, Ordering::Relaxed)
        });
        assert_eq!(inside.await, 3);
    }
}
