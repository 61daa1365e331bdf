//! How fast the server works for somebody: a tenant, or a source that has not said who it is.
//!
//! Work is counted in processor time, whatever it is done for: TLS, requests, pieces of answers. Who has had its share waits,
//! and whoever would wait for too long is refused. It costs nothing to let wait, so that a flood is as slow as its share,
//! however cheap its requests are to send; and one expensive request is followed by a pause, not by another.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::ready,
    time::Duration,
};

use hypernetes_api::{ApiError, Reason, error::Details};
use tokio::time::Instant;

use crate::fairness::clock::timed;

/// Processor time that may be had at once, after a while without any: some dozens of requests.
const BURST: Duration = Duration::from_millis(20);
/// Of a connection whose requests are small: some of them at once, and so much on and on.
const CONNECTION_BURST: Duration = Duration::from_millis(2);
const CONNECTION_MILLI_CPUS: u64 = 50;
/// Nobody waits for longer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How much of what is expected of a request is what the last one has cost: one part in so many.
const SMOOTHING: u64 = 8;

/// A leaky bucket of processor time.
pub(crate) struct Pace {
    began: Instant,
    /// What may be had at once.
    burst: Duration,
    /// Thousandths of a core.
    rate: AtomicU64,
    /// When everything that was done is paid for, in nanoseconds since the beginning.
    paid: AtomicU64,
    /// Nanoseconds of processor time that all of it took.
    spent: AtomicU64,
    /// What was spent when the last request ended.
    spent_before: AtomicU64,
    /// Nanoseconds that a request is expected to take.
    expected: AtomicU64,
}

impl Pace {
    /// At a rate in thousandths of a core.
    pub fn new(rate: u64) -> Self {
        Self::with_burst(rate, BURST)
    }

    /// Of one connection: whether it has what can wait for what others have.
    pub fn of_connection() -> Self {
        Self::with_burst(CONNECTION_MILLI_CPUS, CONNECTION_BURST)
    }

    fn with_burst(rate: u64, burst: Duration) -> Self {
        Self {
            began: Instant::now(),
            burst,
            rate: AtomicU64::new(rate),
            paid: AtomicU64::default(),
            spent: AtomicU64::default(),
            spent_before: AtomicU64::default(),
            expected: AtomicU64::default(),
        }
    }

    pub fn set(&self, rate: u64) {
        self.rate.store(rate, Ordering::Relaxed);
    }

    /// Nothing is owed: whoever comes later is served as if it were new.
    pub fn is_quiet(&self) -> bool {
        self.owed().is_zero()
    }

    /// Whether more is owed than may be. Who was, is until nothing is owed.
    pub fn is_in_arrears(&self, was: bool) -> bool {
        if was { !self.is_quiet() } else { !self.to_wait(self.owed()).is_zero() }
    }

    /// How much of the rate has been used of late, in thousandths of a core.
    pub fn used(&self) -> u64 {
        let rate = self.rate.load(Ordering::Relaxed);
        let part = self.owed().as_secs_f64() / self.pays(self.burst).as_secs_f64();
        (rate as f64 * part.min(1.0)) as u64
    }

    /// Does something, and charges the time of this thread that it takes.
    pub fn time<T>(&self, work: impl FnOnce() -> T) -> T {
        let (result, cost) = timed(work);
        self.charge(cost);
        result
    }

    /// As if all had been had that may be at once, and as much again.
    pub fn exhaust(&self) {
        self.charge(self.burst * 2);
    }

    /// Charges what others have done.
    pub fn charge(&self, cost: Duration) {
        self.spent.fetch_add(cost.as_nanos() as u64, Ordering::Relaxed);
        let (now, lasts) = (self.now(), self.pays(cost).as_nanos() as u64);
        let _ = self
            .paid
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |paid| Some(paid.max(now).saturating_add(lasts)));
    }

    /// Waits until a request may begin. While the turn is kept the request's cost is expected; what it does is charged
    /// beside that.
    ///
    /// # Errors
    /// When it would wait for too long: 429, with the budget's name.
    pub async fn turn(self: &Arc<Self>, budget: &str) -> Result<Turn, ApiError> {
        let expected = Duration::from_nanos(self.expected.load(Ordering::Relaxed));
        let lasts = self.pays(expected).as_nanos() as u64;
        let now = self.now();
        let most = (self.pays(self.burst) + PATIENCE).as_nanos() as u64;
        let reserved = self.paid.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |paid| {
            let paid = paid.max(now);
            (paid - now <= most).then(|| paid.saturating_add(lasts))
        });
        let Ok(before) = reserved else {
            let limit = self.rate.load(Ordering::Relaxed);
            let message = format!("too many requests, please try again later: {budget}={limit}, limited: {limit}");
            let details = Details { retry_after_seconds: Some(1), ..Details::default() };
            return Err(ApiError::new(Reason::TooManyRequests, message).with_details(details));
        };
        let turn = Turn { pace: self.clone(), lasts };
        self.wait(Duration::from_nanos(before.saturating_sub(now))).await;
        Ok(turn)
    }

    /// Waits for as long as more is owed than may be.
    pub async fn pause(&self) {
        self.wait(self.owed()).await;
    }

    async fn wait(&self, owed: Duration) {
        let wait = self.to_wait(owed);
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    /// Until no more is owed than may be; for so long as anybody has patience.
    fn to_wait(&self, owed: Duration) -> Duration {
        owed.saturating_sub(self.pays(self.burst)).min(PATIENCE)
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// The time until all is paid for.
    fn owed(&self) -> Duration {
        Duration::from_nanos(self.paid.load(Ordering::Relaxed).saturating_sub(self.now()))
    }

    /// How long it takes to pay for so much processor time.
    fn pays(&self, cost: Duration) -> Duration {
        Duration::from_nanos((cost.as_nanos() * 1000 / u128::from(self.rate.load(Ordering::Relaxed).max(1))) as u64)
    }

    /// A request has ended: what was spent since the one before is what one costs.
    fn learn(&self) {
        let spent = self.spent.load(Ordering::Relaxed);
        let last = spent.saturating_sub(self.spent_before.swap(spent, Ordering::Relaxed));
        let expected = self.expected.load(Ordering::Relaxed);
        self.expected.store(expected - expected / SMOOTHING + last / SMOOTHING, Ordering::Relaxed);
    }
}

/// Of a request that has begun, until what it cost is known.
pub(crate) struct Turn {
    pace: Arc<Pace>,
    /// What was reserved of the time to pay.
    lasts: u64,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.pace.learn();
        let give_back = |paid: u64| Some(paid.saturating_sub(self.lasts));
        let _ = self.pace.paid.fetch_update(Ordering::Relaxed, Ordering::Relaxed, give_back);
    }
}

/// Does something that may go on for long, no faster than somebody's pace. What it does must not be in the way of others
/// while it pauses: it holds no lock of theirs. It begins at once.
pub(crate) async fn at_pace<T>(pace: &Pace, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    let (mut begun, mut pause) = (false, None);
    poll_fn(|cx| {
        let wait = pace.to_wait(pace.owed());
        if begun && pause.is_none() && !wait.is_zero() {
            pause = Some(Box::pin(tokio::time::sleep(wait)));
        }
        if let Some(sleep) = &mut pause {
            ready!(sleep.as_mut().poll(cx));
            pause = None;
        }
        begun = true;
        pace.time(|| work.as_mut().poll(cx))
    })
    .await
}

#[cfg(test)]
mod tests {
    use hypernetes_background::processor_time;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_has_had_its_share_waits_and_is_refused_when_it_would_for_too_long() {
        let pace = Arc::new(Pace::new(100));
        let began = Instant::now();
        let turn = pace.turn("b").await.unwrap();
        pace.charge(BURST);
        drop(turn);
        drop(pace.turn("b").await.unwrap());
        assert_eq!(began.elapsed(), Duration::ZERO, "a burst is free");
        // A tenth of a core pays for 100 ms in a second.
        pace.charge(Duration::from_millis(100));
        drop(pace.turn("b").await.unwrap());
        assert!(began.elapsed() >= Duration::from_secs(1) && began.elapsed() < Duration::from_secs(2));
        assert_eq!(pace.used(), 100);
        pace.charge(Duration::from_millis(600));
        let refused = pace.turn("b").await.err().unwrap();
        assert_eq!(refused.reason, Reason::TooManyRequests);
        assert!(refused.message.contains("b=100, limited: 100"), "{}", refused.message);
        pace.pause().await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(pace.is_quiet() && pace.used() == 0);
        pace.turn("b").await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_wait_go_one_after_the_other() {
        let pace = Arc::new(Pace::new(100));
        // So many that a request is known to cost 10 ms.
        for _ in 0..100 {
            let turn = pace.turn("b").await.unwrap();
            pace.charge(Duration::from_millis(10));
            drop(turn);
        }
        let began = Instant::now();
        let waiting: Vec<_> = (0..5)
            .map(|_| {
                let pace = pace.clone();
                tokio::spawn(async move {
                    let _turn = pace.turn("b").await.unwrap();
                    pace.charge(Duration::from_millis(10));
                    began.elapsed()
                })
            })
            .collect();
        let mut times = Vec::new();
        for waiting in waiting {
            times.push(waiting.await.unwrap());
        }
        assert!(times.windows(2).all(|pair| pair[1] >= pair[0] + Duration::from_millis(80)), "{times:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_goes_on_for_long_pauses() {
        let pace = Arc::new(Pace::new(100));
        let began = Instant::now();
        at_pace(&pace, async {
            for _ in 0..10 {
                pace.charge(Duration::from_millis(20));
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert!(began.elapsed() >= Duration::from_millis(1200), "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn what_is_done_is_charged_and_what_is_waited_for_is_not() {
        let pace = Arc::new(Pace::new(1000));
        at_pace(&pace, tokio::time::sleep(Duration::from_millis(50))).await;
        assert!(pace.spent.load(Ordering::Relaxed) < 25_000_000);
        let until = || processor_time() + Duration::from_millis(20);
        at_pace(&pace, async {
            let until = until();
            while processor_time() < until {}
        })
        .await;
        assert!(pace.spent.load(Ordering::Relaxed) >= 20_000_000);
    }
}
