//! What is known of the store's objects in memory, kept current by its changes.
//!
//! Nobody works while nobody asks: what has changed is taken in when somebody does, so that an answer is as new as the store
//! was when the question was put. A store tells of a change before it acknowledges it. When something was missed, all is
//! read anew.

use std::sync::Arc;

use hypernetes_api::ApiError;
use hypernetes_store::{Changes, Entry, Key, Prefix, RangeOptions, Store};
use parking_lot::Mutex;

/// What is kept of the objects that are followed.
pub trait Known: Default + Send + 'static {
    /// Whether it begins with all that there is; else with nothing, and hears of what changes only.
    const LISTED: bool = true;

    /// An object is new, another, or no more. It may be told twice. Whoever asks next waits for it.
    fn changed(&mut self, key: &Key, now: Option<&Entry>);
}

/// What is known, and the watches that it is kept current by.
pub struct Following<K> {
    store: Arc<Store>,
    prefixes: Vec<Prefix>,
    followed: Mutex<Option<Followed<K>>>,
    /// Held by whoever begins.
    beginning: tokio::sync::Mutex<()>,
}

struct Followed<K> {
    changes: Vec<Changes>,
    known: K,
}

impl<K: Known> Following<K> {
    /// Begins when it is first asked.
    pub fn new(store: Arc<Store>, prefixes: Vec<Prefix>) -> Self {
        Self { store, prefixes, followed: Mutex::default(), beginning: tokio::sync::Mutex::default() }
    }

    /// # Errors
    /// When the store does not answer.
    pub async fn ask<T>(&self, question: impl FnOnce(&mut K) -> T) -> Result<T, ApiError> {
        let mut question = Some(question);
        loop {
            let answer = self.look(|known| question.take().map(|question| question(known))).flatten();
            if let Some(answer) = answer {
                return Ok(answer);
            }
            let _beginning = self.beginning.lock().await;
            if self.look(|_| ()).is_none() {
                let fresh = self.begin().await?;
                *self.followed.lock() = Some(fresh);
            }
        }
    }

    /// [`Self::ask`] without waiting. `None`: nothing is known, or something was missed.
    pub fn look<T>(&self, look: impl FnOnce(&mut K) -> T) -> Option<T> {
        let mut place = self.followed.lock();
        if !place.as_mut().is_some_and(Followed::catch_up) {
            *place = None;
        }
        place.as_mut().map(|followed| look(&mut followed.known))
    }

    async fn begin(&self) -> Result<Followed<K>, ApiError> {
        let (mut known, mut changes) = (K::default(), Vec::new());
        for prefix in &self.prefixes {
            let from = if K::LISTED {
                let listing = self.store.range(prefix, RangeOptions::default()).await?;
                listing.entries.iter().for_each(|entry| known.changed(&entry.key, Some(entry)));
                listing.revision
            } else {
                self.store.revision().await?
            };
            changes.push(self.store.watch(prefix, from).await?);
        }
        Ok(Followed { changes, known })
    }
}

impl<K: Known> Followed<K> {
    /// Takes in what has come; `false` when something was missed.
    fn catch_up(&mut self) -> bool {
        self.changes.iter_mut().all(|changes| {
            loop {
                match changes.try_recv() {
                    Ok(Some(change)) => self.known.changed(&change.key, change.now.as_ref()),
                    Ok(None) => return true,
                    Err(_) => return false,
                }
            }
        })
    }
}
