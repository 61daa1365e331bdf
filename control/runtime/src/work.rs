//! Workers: what they take from a queue, they bring to a reconciler, and outlive whatever it does.

use std::{fmt::Debug, hash::Hash, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Error, Informers, Mishap, Queue, Recorder, Severity, Subject, Tenanted, attempt};

/// What a reconciliation may take. Each of its requests has a shorter deadline of its own (`hypernetes_client`).
const LIMIT: Duration = Duration::from_secs(60);

/// Brings what a key names to where it should be, from whatever state it is in.
#[async_trait]
pub trait Reconciler: Send + Sync + 'static {
    const NAME: &'static str;
    type Key: Tenanted + Clone + Eq + Hash + Send + Sync + Debug + 'static;

    /// `Some`: look again after that time, though nothing changes. May be given up at any await point, and is then
    /// called again from the start.
    ///
    /// # Errors
    /// The key is tried again later; conflicts with other writers are among the errors and quite normal.
    async fn reconcile(&self, key: &Self::Key) -> Result<Option<Duration>, Error>;

    /// The object that a key names, and who tells its tenant when [`Reconciler::reconcile`] came to no answer. `None`:
    /// the key is no object's.
    fn told(&self, key: &Self::Key) -> Option<(&Recorder, Subject)>;
}

/// One worker. Never ends, whatever the reconciler does; when it is dropped, others go on with its key.
pub async fn work<R: Reconciler>(reconciler: Arc<R>, queue: Queue<R::Key>) {
    let mut worker = queue.worker();
    loop {
        let key = worker.next().await;
        let outcome = attempt(LIMIT, async { reconciler.reconcile(&key).await }).await;
        let failed = !matches!(outcome, Ok(Ok(_)));
        match outcome {
            Ok(Ok(Some(delay))) => queue.add_after(key.clone(), delay),
            Ok(Ok(None)) => {}
            Ok(Err(error)) if error.is_passing() => tracing::debug!(controller = R::NAME, ?key, %error, "again"),
            Ok(Err(error)) => tracing::warn!(controller = R::NAME, ?key, %error, "not reconciled"),
            Err(mishap) => {
                tracing::error!(controller = R::NAME, ?key, %mishap, "not reconciled");
                // Whatever goes wrong here, too: it is said once more with the next attempt.
                let _ = attempt(LIMIT, tell(&*reconciler, &key, mishap)).await;
            }
        }
        worker.done(failed);
    }
}

async fn tell<R: Reconciler>(reconciler: &R, key: &R::Key, mishap: Mishap) {
    let Some((recorder, subject)) = reconciler.told(key) else { return };
    let message = format!("{} could not act on this object: {mishap}. It is tried again, ever less often.", R::NAME);
    recorder.say(&subject, Severity::Warning, "ReconcileFailed", message).await;
}

/// Runs `workers` workers once the caches are filled, until `stop`.
pub fn drive<R: Reconciler>(
    tasks: &TaskTracker,
    informers: &Informers,
    reconciler: R,
    queue: Queue<R::Key>,
    workers: usize,
    stop: &CancellationToken,
) {
    let reconciler = Arc::new(reconciler);
    for _ in 0..workers {
        let (reconciler, queue, informers) = (reconciler.clone(), queue.clone(), informers.clone());
        let work = async move {
            informers.synced().await;
            work(reconciler, queue).await;
        };
        tasks.spawn(stop.clone().run_until_cancelled_owned(work));
    }
}

#[cfg(test)]
mod tests {
    use hypernetes_api::TenantId;
    use tokio::sync::mpsc;

    use super::*;
    use crate::mishaps;

    #[derive(Debug, Clone, PartialEq, Eq, Hash)]
    struct Named(TenantId, &'static str);

    impl Tenanted for Named {
        fn tenant(&self) -> &TenantId {
            &self.0
        }
    }

    struct Unruly(mpsc::UnboundedSender<&'static str>);

    #[async_trait]
    impl Reconciler for Unruly {
        const NAME: &'static str = "unruly";
        type Key = Named;

        async fn reconcile(&self, key: &Named) -> Result<Option<Duration>, Error> {
            self.0.send(key.1).unwrap();
            match key.1 {
                "panics" => panic!("as a test wants"),
                "hangs" => std::future::pending().await,
                "waits" => Err(Error::Waiting("for ever".into())),
                _ => Ok(None),
            }
        }

        fn told(&self, key: &Named) -> Option<(&Recorder, Subject)> {
            if key.1 == "panics" { panic!("here, too") } else { None }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_panics_or_hangs_comes_again_and_holds_nobody_up() {
        let (sender, mut seen) = mpsc::unbounded_channel();
        let queue = Queue::default();
        tokio::spawn(work(Arc::new(Unruly(sender)), queue.clone()));
        for round in 1..=5 {
            for key in ["panics", "hangs", "waits", "good"] {
                queue.add(Named(TenantId::system(), key));
            }
            let mut all = Vec::new();
            while all.last() != Some(&"good") {
                all.push(seen.recv().await.unwrap());
            }
            assert!(all.contains(&"panics") && all.contains(&"hangs"), "round {round}: {all:?}");
        }
        // Nobody asks for them any more, and they come by themselves.
        let again: Vec<_> = [seen.recv().await, seen.recv().await, seen.recv().await].into_iter().flatten().collect();
        assert_eq!(again.len(), 3);
        assert!(mishaps(Mishap::Panicked) >= 10 && mishaps(Mishap::TooLong) >= 5);
    }
}
