//! What one candidate knows of a lease, and what follows. Pure: no I/O, and all moments are given.
//!
//! Moments are of the candidate's own monotonic clock; those in the lease are for people to read and nobody compares
//! them. A lease is another's to take once it has not been seen to change for as long as it says, and the holder stops
//! [`Timing::renew`] after it *sent* what renewed it last, which is before anybody can have seen that. So no two hold it
//! at once as long as no clock runs `lease / renew` times as fast as another.

use std::time::Duration;

use hypernetes_client::fence::Fence;
use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use tokio::time::Instant;

/// How long what lasts. The defaults are those of upstream's components (`--leader-elect-lease-duration` and so on).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// A lease that has not been renewed for this long may be taken. Whole seconds.
    pub lease: Duration,
    /// Who could not renew it for this long stops.
    pub renew: Duration,
    /// Between one attempt and the next.
    pub retry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        let [lease, renew, retry] = [15, 10, 2].map(Duration::from_secs);
        Self { lease, renew, retry }
    }
}

pub(super) struct Candidate {
    identity: String,
    timing: Timing,
    /// The lease as it was last seen, and since when it has been seen to be so.
    seen: Option<(Lease, Instant)>,
    /// Until when it is this one's.
    until: Option<Instant>,
}

fn holder(lease: &Lease) -> &str {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
}

impl Candidate {
    pub fn new(identity: &str, timing: Timing) -> Self {
        Self { identity: identity.to_owned(), timing, seen: None, until: None }
    }

    /// Takes in what an answer that came now says.
    pub fn saw(&mut self, lease: Option<Lease>, now: Instant) {
        let before = self.seen.take();
        let same = |lease: &Lease| before.filter(|(last, _)| last.spec == lease.spec).map(|(_, since)| since);
        self.seen = lease.map(|lease| {
            let since = same(&lease).unwrap_or(now);
            (lease, since)
        });
        if self.seen.as_ref().is_none_or(|(lease, _)| holder(lease) != self.identity) {
            self.until = None;
        }
    }

    /// Whether this says more than what was seen.
    pub fn is_news(&self, lease: Option<&Lease>) -> bool {
        let revision = |lease: &Lease| lease.metadata.resource_version.as_deref().and_then(|text| text.parse().ok());
        let revision = |lease: Option<&Lease>| lease.and_then(revision).unwrap_or(0u64);
        lease.is_none() || revision(lease) > revision(self.seen.as_ref().map(|(lease, _)| lease))
    }

    /// When it may be taken from who has it, unless it changes before; `None`: nobody else has it.
    pub fn free(&self) -> Option<Instant> {
        let (lease, since) = self.seen.as_ref().filter(|(lease, _)| !["", &self.identity].contains(&holder(lease)))?;
        let lasts = lease.spec.as_ref().and_then(|spec| u64::try_from(spec.lease_duration_seconds?).ok());
        Some(*since + lasts.map_or(self.timing.lease, Duration::from_secs))
    }

    /// The lease as it is to be written, over the version that was seen; `None` while it is another's. `wall`: for people.
    pub fn claim(&self, now: Instant, wall: Timestamp) -> Option<Lease> {
        if self.free().is_some_and(|free| now < free) {
            return None;
        }
        let mut lease = self.seen.as_ref().map(|(lease, _)| lease.clone()).unwrap_or_default();
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(&self.identity) {
            spec.acquire_time = Some(MicroTime(wall));
            spec.lease_transitions = Some(match &self.seen {
                Some(_) => spec.lease_transitions.unwrap_or(0).saturating_add(1),
                None => 0,
            });
        }
        self.hold(spec, wall);
        Some(lease)
    }

    /// [`Candidate::claim`] whoever has it.
    pub fn seize(&self, wall: Timestamp) -> Lease {
        let free = Self { seen: self.seen.clone(), ..Self::new(&self.identity, self.timing) };
        let now = free.seen.as_ref().map_or_else(Instant::now, |(_, since)| *since);
        let long = Duration::from_secs(u64::from(u32::MAX));
        free.claim(now + long, wall).unwrap_or_default()
    }

    fn hold(&self, spec: &mut LeaseSpec, wall: Timestamp) {
        spec.holder_identity = Some(self.identity.clone());
        spec.lease_duration_seconds = Some(i32::try_from(self.timing.lease.as_secs()).unwrap_or(i32::MAX).max(1));
        spec.renew_time = Some(MicroTime(wall));
    }

    /// The lease as it is to be written by its holder who lets go of it, as upstream's `ReleaseOnCancel` has it.
    pub fn release(&self, wall: Timestamp) -> Option<Lease> {
        let (mut lease, _) = self.seen.clone().filter(|(lease, _)| holder(lease) == self.identity)?;
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        (spec.acquire_time, spec.renew_time) = (Some(MicroTime(wall)), Some(MicroTime(wall)));
        Some(lease)
    }

    /// It was written, as the answer has it, by a request that was sent then.
    pub fn wrote(&mut self, lease: Lease, sent: Instant) {
        self.seen = Some((lease, sent));
        self.until = Some(sent + self.timing.renew);
    }

    /// Until when it may act, unless it is renewed; `None`: it may not.
    pub fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Which term of its own it is, if it is one.
    pub fn fence(&self) -> Option<Fence> {
        let (lease, _) = self.seen.as_ref().filter(|(lease, _)| holder(lease) == self.identity)?;
        Fence::of(lease)
    }

    pub fn holds(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    /// The lease in the store, and how often it was written.
    #[derive(Default)]
    struct Store(Option<Lease>, u64);

    impl Store {
        /// As a replacement of the version that it names, or a creation.
        fn write(&mut self, mut lease: Lease) -> Option<Lease> {
            let version = |lease: &Lease| lease.metadata.resource_version.clone();
            if self.0.as_ref().and_then(version) != version(&lease) {
                return None;
            }
            self.1 += 1;
            lease.metadata.resource_version = Some(self.1.to_string());
            self.0 = Some(lease.clone());
            Some(lease)
        }
    }

    enum Call {
        Read,
        Write(Box<Lease>),
    }

    enum Answer {
        Read(Option<Lease>),
        Written(Lease),
        Refused,
    }

    /// A request on its way; whoever sent it may have given it up.
    struct Request {
        from: usize,
        number: u64,
        sent: Instant,
        call: Option<Call>,
        /// In milliseconds of the world.
        arrives: u64,
        answer: Option<Answer>,
        answers: u64,
    }

    struct Runner {
        candidate: Candidate,
        /// Its clock's speed, and what it showed at first.
        rate: f64,
        began: Instant,
        /// Until when nothing that it says or hears gets through.
        cut_off: u64,
        waits_for: Option<(u64, Instant)>,
        next: Instant,
        terms: usize,
        held: bool,
    }

    impl Runner {
        fn clock(&self, world: u64) -> Instant {
            #[expect(clippy::cast_precision_loss, reason = "a day has 27 bits")]
            let seconds = world as f64 * self.rate / 1000.0;
            self.began + Duration::from_secs_f64(seconds)
        }
    }

    /// Ten minutes of three candidates, in steps of 20 ms. How many terms there were, or `Err`: two acted at once.
    fn ten_minutes(seed: u64, rates: std::ops::Range<f64>) -> Result<usize, String> {
        let mut random = StdRng::seed_from_u64(seed);
        let (timing, base) = (Timing::default(), Instant::now());
        let mut runners: Vec<Runner> = (0..3)
            .map(|number| {
                let began = base + Duration::from_secs(random.random_range(0..100_000));
                Runner {
                    candidate: Candidate::new(&format!("candidate-{number}"), timing),
                    rate: random.random_range(rates.clone()),
                    began,
                    cut_off: 0,
                    waits_for: None,
                    next: began,
                    terms: 0,
                    held: false,
                }
            })
            .collect();
        let (mut store, mut requests, mut number) = (Store::default(), Vec::<Request>::new(), 0);
        for world in (0..600_000).step_by(20) {
            for runner in &mut runners {
                if world % 1000 == 0 && random.random_bool(0.02) {
                    runner.cut_off = world + random.random_range(0..40_000);
                }
            }
            // What arrives at the store, and what comes back.
            for request in &mut requests {
                if request.arrives > world {
                    continue;
                }
                if let Some(call) = request.call.take() {
                    request.answer = Some(match call {
                        Call::Read => Answer::Read(store.0.clone()),
                        Call::Write(lease) => store.write(*lease).map_or(Answer::Refused, Answer::Written),
                    });
                }
                let runner = &mut runners[request.from];
                if request.answers > world || runner.cut_off > world || request.answer.is_none() {
                    continue;
                }
                let waited = runner.waits_for.is_some_and(|(number, _)| number == request.number);
                let (Some(answer), now) = (request.answer.take(), runner.clock(world)) else { continue };
                if !waited {
                    continue;
                }
                runner.waits_for = None;
                match answer {
                    Answer::Written(lease) => runner.candidate.wrote(lease, request.sent),
                    Answer::Refused => runner.next = now,
                    Answer::Read(lease) => {
                        runner.candidate.saw(lease, now);
                        let claim = runner.candidate.claim(now, Timestamp::UNIX_EPOCH + Duration::from_millis(world));
                        runner.next = claim.map_or(now + timing.retry, |_| now);
                    }
                }
            }
            requests.retain(|request| request.call.is_some() || request.answer.is_some());
            for (from, runner) in runners.iter_mut().enumerate() {
                let now = runner.clock(world);
                if runner.waits_for.is_some_and(|(_, until)| now >= until) {
                    (runner.waits_for, runner.next) = (None, now);
                }
                if runner.waits_for.is_some() || now < runner.next {
                    continue;
                }
                let wall = Timestamp::UNIX_EPOCH + Duration::from_millis(world);
                // After a refusal, and now and then, it looks first.
                let claim = runner.candidate.claim(now, wall).filter(|_| random.random_bool(0.7));
                let call = claim.map_or(Call::Read, |lease| Call::Write(Box::new(lease)));
                // What is given up arrives nevertheless, perhaps long after.
                let slow = random.random_bool(0.1);
                let mut delay = || random.random_range(0..if slow { 30_000 } else { 500 });
                let arrives = world.max(runner.cut_off) + delay();
                let request = Request {
                    from,
                    number,
                    sent: now,
                    call: Some(call),
                    arrives,
                    answer: None,
                    answers: arrives + delay(),
                };
                requests.push(request);
                runner.waits_for = Some((number, now + timing.renew / 2));
                runner.next = now + timing.retry;
                number += 1;
            }
            let mut acting = Vec::new();
            for (place, runner) in runners.iter_mut().enumerate() {
                let holds = runner.candidate.holds(runner.clock(world));
                runner.terms += usize::from(holds && !runner.held);
                runner.held = holds;
                acting.extend(holds.then_some(place));
            }
            if acting.len() > 1 {
                return Err(format!("seed {seed}: {acting:?} act at {world} ms"));
            }
        }
        Ok(runners.iter().map(|runner| runner.terms).sum())
    }

    /// Delays, cut-offs, requests that arrive after they were given up, and clocks of which the fastest is 1.47 times as
    /// fast as the slowest: never two at once, and somebody again and again.
    #[test]
    fn never_two_at_once() {
        let terms: usize = (0..200).map(|seed| ten_minutes(seed, 0.85..1.25).unwrap()).sum();
        assert!(terms > 1000, "{terms} terms in 200 runs");
    }

    /// The test above can fail: with clocks that are farther apart it does.
    #[test]
    fn two_at_once_where_clocks_are_too_far_apart() {
        assert!((0..200).any(|seed| ten_minutes(seed, 0.4..1.6).is_err()));
    }

    #[test]
    fn the_fields_are_upstreams() {
        let now = Instant::now();
        let wall = |second: i64| Timestamp::from_second(second).unwrap();
        let (mut a, mut b) = (Candidate::new("a", Timing::default()), Candidate::new("b", Timing::default()));
        let shown = |lease: &Lease| {
            let spec = lease.spec.clone().unwrap();
            let second = |time: Option<MicroTime>| time.unwrap().0.as_second();
            let (holder, lasts) = (spec.holder_identity.unwrap(), spec.lease_duration_seconds.unwrap());
            (holder, lasts, second(spec.acquire_time), second(spec.renew_time), spec.lease_transitions.unwrap())
        };
        let first = a.claim(now, wall(1)).unwrap();
        assert_eq!(shown(&first), ("a".into(), 15, 1, 1, 0));
        a.wrote(first.clone(), now);
        let renewed = a.claim(now, wall(3)).unwrap();
        assert_eq!(shown(&renewed), ("a".into(), 15, 1, 3, 0));
        b.saw(Some(first.clone()), now);
        let later = now + Duration::from_secs(14);
        assert!(b.claim(later, wall(15)).is_none(), "it is a's");
        b.saw(Some(renewed.clone()), later);
        let later = later + Duration::from_secs(14);
        assert!(b.claim(later, wall(29)).is_none(), "it was renewed");
        assert_eq!(shown(&b.seize(wall(29))), ("b".into(), 15, 29, 29, 1));
        assert_eq!(shown(&b.claim(later + Duration::from_secs(1), wall(30)).unwrap()), ("b".into(), 15, 30, 30, 1));
        a.wrote(renewed, now);
        let released = a.release(wall(40)).unwrap();
        assert_eq!(shown(&released), (String::new(), 1, 40, 40, 0));
        b.saw(Some(released), later);
        assert_eq!(shown(&b.claim(later, wall(41)).unwrap()), ("b".into(), 15, 41, 41, 1));
        assert!(b.release(wall(41)).is_none(), "it is not its own");
    }
}
