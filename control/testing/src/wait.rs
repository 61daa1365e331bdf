//! Waiting for what happens.

use std::{
    fmt::Debug,
    panic::Location,
    time::{Duration, Instant},
};

use kube::{Api, Resource};
use serde::de::DeserializeOwned;

/// Longest wait for what happens in milliseconds, on a busy machine.
const SOON: Duration = Duration::from_secs(60);
/// Between two looks at an object, and how many there are: on a machine where each takes long, they are more than a minute.
const PAUSE: Duration = Duration::from_millis(20);
const LOOKS: usize = 3000;

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

/// Waits for an object to be so, which `what` says in words.
///
/// # Panics
/// At the caller's place, with the object, when it never is.
#[track_caller]
pub fn until<K>(api: &Api<K>, name: &str, what: &'static str, so: impl Fn(&K) -> bool) -> impl Future<Output = K>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    look(Location::caller(), api, name, what, move |seen| seen.as_ref().filter(|object| so(object)).cloned())
}

/// Waits until an object is gone.
///
/// # Panics
/// As [`until`].
#[track_caller]
pub fn until_gone<K>(api: &Api<K>, name: &str) -> impl Future<Output = ()>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    look(Location::caller(), api, name, "gone", |seen| seen.is_none().then_some(()))
}

fn look<K, T>(
    caller: &'static Location<'static>,
    api: &Api<K>,
    name: &str,
    what: &'static str,
    answer: impl Fn(&Option<K>) -> Option<T>,
) -> impl Future<Output = T>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let name = name.to_owned();
    async move {
        let mut last = None;
        for _ in 0..LOOKS {
            last = api.get_opt(&name).await.unwrap();
            if let Some(answer) = answer(&last) {
                return answer;
            }
            tokio::time::sleep(PAUSE).await;
        }
        panic!("{caller}: {name} is not {what}: {last:#?}")
    }
}
