//! Waiting for what happens.

use std::{
    panic::Location,
    time::{Duration, Instant},
};

/// Longest wait for what happens in milliseconds, on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// Asks until there is an answer.
///
/// # Panics
/// At the caller's place, when there is none within a minute.
#[track_caller]
pub fn eventually<T, F: Future<Output = Option<T>>>(ask: impl Fn() -> F) -> impl Future<Output = T> {
    let caller = Location::caller();
    async move {
        let started = Instant::now();
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            assert!(started.elapsed() < SOON, "waited in vain at {caller}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
