//! Work that one object can make panic goes on for the others, and for that object later.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures::{FutureExt, future::BoxFuture};

/// Does the work until it returns, and again when it panics: after `lost` has been told how often it has, and after the
/// time that `lost` says.
pub async fn persist<S: Send>(
    state: &mut S,
    mut work: impl for<'s> FnMut(&'s mut S) -> BoxFuture<'s, ()>,
    mut lost: impl FnMut(u32) -> BoxFuture<'static, Duration>,
) {
    let mut times = 0;
    while AssertUnwindSafe(work(state)).catch_unwind().await.is_err() {
        times += 1;
        let wait = lost(times).await;
        tokio::time::sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(left: &mut u32) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let before = *left;
            *left = before.saturating_sub(1);
            assert_eq!(before, 0, "not yet");
        })
    }

    #[tokio::test]
    async fn what_panics_is_done_again_after_a_while() {
        let mut left = 3;
        let mut told = Vec::new();
        let lost = |times| {
            told.push(times);
            async { Duration::from_millis(1) }.boxed()
        };
        persist(&mut left, work, lost).await;
        assert_eq!((left, told), (0, vec![1, 2, 3]));
    }
}
