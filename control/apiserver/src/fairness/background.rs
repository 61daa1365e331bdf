//! Where the work of whoever has had its share is done: by threads that give way to all others of the process.
//!
//! Its pace says how much of it is done, this says when: not while anybody else has something to do. A connection is in one
//! place or the other as a whole and goes from one to the other between two steps.

use std::{cell::Cell, future::poll_fn, pin::Pin, sync::OnceLock, task::Poll};

use hypernetes_background::{LEAST, give_way};
use tokio::runtime::{Builder, Handle, Runtime};

/// Of the threads.
const NAME: &str = "background";

/// Who has work done.
pub(crate) trait Debtor: Send + Sync + 'static {
    /// Whether its work, which is in the background or not, is to be there.
    fn gives_way(&self, already: bool) -> bool;
}

tokio::task_local! {
    /// Where what is done would be if it were not in the background.
    static HOME: Handle;
}

thread_local! {
    /// Whether this thread is one of those.
    static BEHIND: Cell<bool> = const { Cell::new(false) };
}

/// Does something of somebody's, as tokio's `spawn` would, wherever it belongs: there from the start, so that what is begun
/// where it belongs wakes nobody elsewhere.
pub(crate) fn spawn(payer: impl Debtor, work: impl Future<Output = ()> + Send + 'static) {
    match background() {
        Some(background) => {
            // What is begun in the background may belong elsewhere later.
            let home = HOME.try_with(Handle::clone).unwrap_or_else(|_| Handle::current());
            let work = HOME.scope(home.clone(), work);
            let behind = payer.gives_way(BEHIND.get());
            go_on(payer, Box::pin(work), [home, background.clone()], behind);
        }
        None => drop(tokio::spawn(work)),
    }
}

/// Whether who asks is being worked for in the background.
pub(crate) fn is_behind() -> bool {
    BEHIND.get()
}

fn go_on<D: Debtor>(payer: D, mut work: Pin<Box<dyn Future<Output = ()> + Send>>, places: [Handle; 2], behind: bool) {
    let place = places[usize::from(behind)].clone();
    place.spawn(async move {
        let ended = poll_fn(|cx| match payer.gives_way(behind) == behind {
            true => work.as_mut().poll(cx).map(|()| true),
            false => Poll::Ready(false),
        });
        if !ended.await {
            go_on(payer, work, places, !behind);
        }
    });
}

/// The runtime of those threads: as many as there are processors. None: they cannot be had, and all work is done in one place.
pub fn background() -> Option<&'static Handle> {
    static BACKGROUND: OnceLock<Option<Runtime>> = OnceLock::new();
    let runtime = BACKGROUND.get_or_init(|| {
        let started = Builder::new_multi_thread()
            .worker_threads(std::thread::available_parallelism().map_or(2, usize::from))
            .thread_name(NAME)
            .on_thread_start(|| {
                BEHIND.set(true);
                give_way(LEAST);
            })
            .enable_all()
            .build();
        started.inspect_err(|error| tracing::error!(%error, "starting threads for the background")).ok()
    });
    runtime.as_ref().map(Runtime::handle)
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use tokio::sync::{mpsc, watch};

    use super::*;

    struct Test(Arc<AtomicBool>);

    impl Debtor for Test {
        fn gives_way(&self, _: bool) -> bool {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[tokio::test]
    async fn work_is_where_its_payer_belongs() {
        let in_arrears = Arc::new(AtomicBool::new(false));
        let (step, mut steps) = watch::channel(0);
        let (seen, mut places) = mpsc::unbounded_channel();
        spawn(Test(in_arrears.clone()), async move {
            while steps.changed().await.is_ok() {
                // It may have seen the step before it stood still.
                tokio::task::yield_now().await;
                seen.send(std::thread::current().name() == Some(NAME)).unwrap();
            }
        });
        for behind in [false, true, true, false] {
            in_arrears.store(behind, Ordering::Relaxed);
            step.send_modify(|step| *step += 1);
            assert_eq!(places.recv().await, Some(behind));
        }
        // What is begun in the background is not there for good.
        let (seen, begun) = tokio::sync::oneshot::channel();
        let late = Test(in_arrears.clone());
        spawn(Test(Arc::new(AtomicBool::new(true))), async move {
            spawn(late, async move { seen.send(std::thread::current().name() == Some(NAME)).unwrap() });
        });
        assert_eq!(begun.await, Ok(false));
        drop(step);
        assert_eq!(places.recv().await, None, "it ends");
    }
}
