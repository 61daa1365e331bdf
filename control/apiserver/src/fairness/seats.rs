//! Seats: so many requests are worked on at once. Who finds none waits, in a queue of its tenant.
//!
//! ```text
//!              seat free, nobody waits ──────────────────────────────▶ worked on ─▶ answered
//! a request ─▶ else: shortest of its user's queues ─▶ its turn comes ──┘
//!                     ├─▶ all of them are full ─▶ 429
//!                     └─▶ waits for too long ───▶ 429
//! ```
//!
//! A tenant's own seats are as much of all as its processor time is of the machine's; what others leave it may borrow, but for a last
//! part, which is for those who have not had their own. Of a tenant's seats none of its users has all. A seat that becomes free goes to
//! the tenant that has least for its share, and in it to its queues one after the other. A user has a few of the queues, which are drawn
//! for it: one that fills its own is behind another's in hardly any (shuffle sharding, as upstream's priority and fairness has it).

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hypernetes_api::{ApiError, Reason, error::Details};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::{
    fairness::{
        account::Account,
        budget::Budget,
        flows::{Flow, of_one_user},
    },
    metrics::{FlowControl, rejected::Why},
};

/// Upstream's `--max-requests-inflight` and `--max-mutating-requests-inflight` together.
const TOTAL: u64 = 600;
/// Of a tenant that has anybody waiting.
const QUEUES: usize = 32;
/// That a user may be in.
const HAND: usize = 4;
/// Of those in one queue.
const LENGTH: usize = 12;
/// Nobody waits for longer: upstream's quarter of the time that a request has.
const PATIENCE: Duration = Duration::from_secs(15);

/// All seats of the server.
pub(crate) struct Seats {
    total: u64,
    /// Of the total, for those who have not had their own.
    reserve: u64,
    /// Of the machine, in thousandths of a core.
    milli_cpus: u64,
    taken: AtomicU64,
    /// How many are in the line. It is changed under the line's lock, and read without.
    waiting: AtomicU64,
    line: Mutex<Line>,
    served: AtomicU64,
    full: AtomicU64,
    late: AtomicU64,
}

/// Who waits.
#[derive(Default)]
struct Line {
    tenants: Vec<Tenant>,
    /// Of the next who comes, and the next who goes.
    next: u64,
}

struct Tenant {
    account: Arc<Account>,
    queues: [VecDeque<Waiter>; QUEUES],
    /// The queue whose turn it is.
    turn: usize,
    /// When somebody of it last was seated.
    last: u64,
}

struct Waiter {
    number: u64,
    flow: Flow,
    seat: oneshot::Sender<Seat>,
}

/// One request's, until it is dropped.
pub(crate) struct Seat {
    seats: Arc<Seats>,
    account: Arc<Account>,
    flow: Flow,
    given_back: bool,
}

fn refused() -> ApiError {
    let details = Details { retry_after_seconds: Some(1), ..Details::default() };
    ApiError::new(Reason::TooManyRequests, "Too many requests, please try again later.").with_details(details)
}

impl Seats {
    pub fn of_process() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from) as u64;
        Self::new(TOTAL, TOTAL / 8, cores * 1000)
    }

    fn new(total: u64, reserve: u64, milli_cpus: u64) -> Self {
        Self {
            total,
            reserve,
            milli_cpus,
            taken: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            line: Mutex::default(),
            served: AtomicU64::new(0),
            full: AtomicU64::new(0),
            late: AtomicU64::new(0),
        }
    }

    pub fn standing(&self) -> FlowControl {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        FlowControl {
            total: self.total,
            taken: read(&self.taken),
            waiting: read(&self.waiting),
            served: read(&self.served),
            full: read(&self.full),
            late: read(&self.late),
        }
    }

    /// A seat for a request of a tenant's user, perhaps later.
    ///
    /// # Errors
    /// `TooManyRequests`, in upstream's words.
    pub async fn take(self: &Arc<Self>, account: &Arc<Account>, user: &str) -> Result<Seat, ApiError> {
        let flow = account.seated.of(user);
        // Nobody is overtaken.
        if self.waiting.load(Ordering::SeqCst) == 0
            && let Some(seat) = self.seat(account, flow)
        {
            return Ok(seat);
        }
        let (number, mut seat) = self.join(account, flow)?;
        // A seat that has become free before it was in the line.
        self.fill();
        let place = InLine { seats: self, account, number };
        let waited = tokio::time::timeout(PATIENCE, &mut seat).await;
        drop(place);
        // It may have been given one in the last moment.
        match waited.ok().and_then(Result::ok).or_else(|| seat.try_recv().ok()) {
            Some(seat) => Ok(seat),
            None => {
                self.late.fetch_add(1, Ordering::Relaxed);
                account.rejected.count(Why::Late);
                Err(refused())
            }
        }
    }

    /// As much of all seats as the tenant has of the machine.
    fn own(&self, account: &Account) -> u64 {
        let part = self.total.saturating_mul(account.limit(Budget::ServerMilliCpus)) / self.milli_cpus.max(1);
        part.clamp(1, self.total)
    }

    /// A seat at once.
    fn seat(self: &Arc<Self>, account: &Arc<Account>, flow: Flow) -> Option<Seat> {
        // Who waits has a place of its tenant's, too: not all of these are seated.
        let most = (account.limit(Budget::Requests) / 2).max(1);
        account.seated.take(flow, of_one_user(most)).ok()?;
        let up_to = |count: &AtomicU64, most: u64| {
            let fits = |taken: u64| (taken < most).then_some(taken + 1);
            count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fits)
        };
        let Ok(before) = up_to(&account.seats, most) else {
            account.seated.leave(flow);
            return None;
        };
        let all = if before < self.own(account) { self.total } else { self.total - self.reserve };
        if up_to(&self.taken, all).is_err() {
            account.seats.fetch_sub(1, Ordering::SeqCst);
            account.seated.leave(flow);
            return None;
        }
        self.served.fetch_add(1, Ordering::Relaxed);
        Some(Seat { seats: self.clone(), account: account.clone(), flow, given_back: false })
    }

    /// A place in the shortest queue of those that are the user's.
    fn join(&self, account: &Arc<Account>, flow: Flow) -> Result<(u64, oneshot::Receiver<Seat>), ApiError> {
        let mut line = self.line.lock();
        let number = line.next;
        line.next += 1;
        let known = line.tenants.iter().position(|tenant| Arc::ptr_eq(&tenant.account, account));
        let place = known.unwrap_or_else(|| {
            let queues = std::array::from_fn(|_| VecDeque::new());
            line.tenants.push(Tenant { account: account.clone(), queues, turn: 0, last: 0 });
            line.tenants.len() - 1
        });
        let queues = &mut line.tenants[place].queues;
        let shortest = hand(flow).into_iter().min_by_key(|queue| queues[*queue].len()).unwrap_or(0);
        if queues[shortest].len() >= LENGTH {
            self.full.fetch_add(1, Ordering::Relaxed);
            account.rejected.count(Why::Full);
            return Err(refused());
        }
        let (seat, receiver) = oneshot::channel();
        queues[shortest].push_back(Waiter { number, flow, seat });
        self.waiting.fetch_add(1, Ordering::SeqCst);
        Ok((number, receiver))
    }

    /// Gives out what seats there are.
    fn fill(self: &Arc<Self>) {
        while self.waiting.load(Ordering::SeqCst) > 0
            && let Some((waiter, seat)) = self.next()
        {
            // Who has gone meanwhile has none; what is free then is given out by the next round, and not beneath this one.
            if let Err(mut seat) = waiter.seat.send(seat) {
                seat.give_back();
            }
        }
    }

    /// Who is seated next, and the seat.
    fn next(self: &Arc<Self>) -> Option<(Waiter, Seat)> {
        let mut line = self.line.lock();
        let mut order: Vec<usize> = (0..line.tenants.len()).collect();
        // By how much each would have of its share.
        order.sort_by(|one, other| {
            let [one, other] = [one, other].map(|place| &line.tenants[*place]);
            let [taken, others] = [one, other].map(|tenant| tenant.account.seats.load(Ordering::SeqCst) + 1);
            let shares = (taken * self.own(&other.account)).cmp(&(others * self.own(&one.account)));
            shares.then(one.last.cmp(&other.last))
        });
        for place in order {
            let stamp = line.next;
            let tenant = &mut line.tenants[place];
            for step in 0..QUEUES {
                let queue = (tenant.turn + step) % QUEUES;
                let Some(first) = tenant.queues[queue].front() else { continue };
                let Some(seat) = self.seat(&tenant.account, first.flow) else { continue };
                let waiter = tenant.queues[queue].pop_front();
                (tenant.turn, tenant.last) = ((queue + 1) % QUEUES, stamp);
                let empty = tenant.queues.iter().all(VecDeque::is_empty);
                line.next += 1;
                if empty {
                    line.tenants.swap_remove(place);
                }
                self.waiting.fetch_sub(1, Ordering::SeqCst);
                return waiter.map(|waiter| (waiter, seat));
            }
        }
        None
    }

    /// Whoever does not wait any longer is in nobody's way.
    fn leave(&self, account: &Arc<Account>, number: u64) {
        let mut line = self.line.lock();
        let Some(place) = line.tenants.iter().position(|tenant| Arc::ptr_eq(&tenant.account, account)) else { return };
        let queues = &mut line.tenants[place].queues;
        for queue in queues.iter_mut() {
            if let Some(at) = queue.iter().position(|waiter| waiter.number == number) {
                queue.remove(at);
                self.waiting.fetch_sub(1, Ordering::SeqCst);
            }
        }
        if queues.iter().all(VecDeque::is_empty) {
            line.tenants.swap_remove(place);
        }
    }
}

/// The queues of a user, drawn as cards are dealt.
fn hand(flow: Flow) -> [usize; HAND] {
    let mut left: Vec<usize> = (0..QUEUES).collect();
    let mut rest = flow.0;
    std::array::from_fn(|_| {
        let card = (rest % left.len() as u64) as usize;
        rest /= left.len() as u64;
        left.swap_remove(card)
    })
}

/// In the line, until it is dropped.
struct InLine<'a> {
    seats: &'a Seats,
    account: &'a Arc<Account>,
    number: u64,
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.seats.leave(self.account, self.number);
    }
}

impl Seat {
    fn give_back(&mut self) {
        self.given_back = true;
        self.account.seated.leave(self.flow);
        self.account.seats.fetch_sub(1, Ordering::SeqCst);
        self.seats.taken.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if !self.given_back {
            self.give_back();
            self.seats.fill();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::fairness::flows::Flows;

    /// Of eight seats three are each one's own, and two are not lent.
    fn seats() -> Arc<Seats> {
        Arc::new(Seats::new(8, 2, 1600))
    }

    fn tenant() -> Arc<Account> {
        let account = Account::default();
        account.set_limit(Budget::ServerMilliCpus, 600);
        Arc::new(account)
    }

    fn now(seats: &Arc<Seats>, account: &Arc<Account>, user: &str) -> Seat {
        seats.take(account, user).now_or_never().expect("there is no seat").unwrap()
    }

    type Waiting = JoinHandle<Result<Seat, ApiError>>;

    /// One that waits, and is in the line already.
    async fn later(seats: &Arc<Seats>, account: &Arc<Account>, user: &str) -> Waiting {
        let before = seats.standing().waiting;
        let (seats, account, user) = (seats.clone(), account.clone(), user.to_owned());
        let (line, waiting) = (seats.clone(), tokio::spawn(async move { seats.take(&account, &user).await }));
        while line.standing().waiting == before {
            assert!(!waiting.is_finished(), "it did not wait");
            tokio::task::yield_now().await;
        }
        waiting
    }

    /// Lets those go on who can.
    async fn settle() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenant_borrows_what_others_leave_but_not_the_last_of_it() {
        let (seats, acme, globex) = (seats(), tenant(), tenant());
        let mut borrowed: Vec<Seat> = (0..6).map(|_| now(&seats, &acme, "ann")).collect();
        let waits = later(&seats, &acme, "ann").await;
        // Another has its own at once, as far as there are any.
        let own = [now(&seats, &globex, "bob"), now(&seats, &globex, "bob")];
        let third = later(&seats, &globex, "bob").await;
        settle().await;
        assert!(!waits.is_finished() && !third.is_finished());
        // What is given back goes to whom it belongs.
        drop(borrowed.pop());
        settle().await;
        assert!(third.is_finished() && !waits.is_finished());
        drop((own, third.await.unwrap().unwrap()));
        settle().await;
        assert!(waits.is_finished(), "nobody else wants it");
        drop((borrowed, waits.await.unwrap().unwrap()));
        assert_eq!(seats.standing(), FlowControl { total: 8, taken: 0, waiting: 0, served: 10, full: 0, late: 0 });
        assert_eq!(seats.line.lock().tenants.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn between_tenants_seats_go_by_their_shares() {
        let (seats, acme, globex) = (seats(), tenant(), tenant());
        globex.set_limit(Budget::ServerMilliCpus, 200);
        let all: Vec<Seat> = (0..6).map(|_| now(&seats, &acme, "ann")).collect();
        let full = [now(&seats, &tenant(), "eve"), now(&seats, &tenant(), "eve")];
        let mut lines = Vec::new();
        for account in [&acme, &globex] {
            for _ in 0..10 {
                lines.push((Arc::ptr_eq(account, &acme), later(&seats, account, "ann").await));
            }
        }
        drop((all, full));
        settle().await;
        let seated = lines.iter().filter(|(_, waiting)| waiting.is_finished());
        let (of_acme, of_globex): (Vec<_>, Vec<_>) = seated.partition(|(acme, _)| *acme);
        // Three to one, and of the last two nobody borrows.
        assert_eq!((of_acme.len(), of_globex.len()), (5, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn no_user_of_a_tenant_starves_another() {
        let (seats, acme) = (seats(), tenant());
        // Four may be seated: three of one user.
        acme.set_limit(Budget::Requests, 8);
        let mut seated: Vec<Seat> = (0..3).map(|_| now(&seats, &acme, "hostile")).collect();
        let mut flood = Vec::new();
        for _ in 0..20 {
            flood.push(later(&seats, &acme, "hostile").await);
        }
        // Another is seated though so many wait, unless they share all that is counted.
        let hands = |user: &str| hand(acme.seated.of(user));
        let buckets = |user: &str| Flows::buckets(acme.seated.of(user));
        let apart = |user: &str| {
            buckets(user).iter().all(|bucket| !buckets("hostile").contains(bucket))
                && hands(user).iter().any(|queue| !hands("hostile").contains(queue))
        };
        let other = (0..).map(|n| format!("user-{n}")).find(|user| apart(user));
        let other = other.unwrap();
        let first = tokio::spawn({
            let (seats, acme, other) = (seats.clone(), acme.clone(), other.clone());
            async move { seats.take(&acme, &other).await }
        });
        settle().await;
        assert!(first.is_finished());
        // The next waits, for one round of the queues and not for the flood.
        let second = later(&seats, &acme, &other).await;
        let mut rounds = 0;
        while !second.is_finished() {
            seated.remove(0);
            settle().await;
            seated
                .extend(flood.extract_if(.., |one| one.is_finished()).filter_map(|one| one.now_or_never()?.ok()?.ok()));
            rounds += 1;
        }
        assert!(rounds <= HAND + 1, "{rounds}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_would_wait_for_too_long_or_behind_too_many_is_refused() {
        let (seats, acme) = (seats(), tenant());
        let seated: Vec<Seat> = (0..6).map(|_| now(&seats, &acme, "ann")).collect();
        let mut line = Vec::new();
        for _ in 0..HAND * LENGTH {
            line.push(later(&seats, &acme, "ann").await);
        }
        let full = seats.take(&acme, "ann").await.err().unwrap();
        assert_eq!(
            (full.reason, full.message.as_str()),
            (Reason::TooManyRequests, "Too many requests, please try again later.")
        );
        assert_eq!(full.details.unwrap().retry_after_seconds, Some(1));
        // One that gives up is in nobody's way.
        line.pop().unwrap().abort();
        settle().await;
        line.push(later(&seats, &acme, "ann").await);
        let began = tokio::time::Instant::now();
        for waiting in line {
            assert_eq!(waiting.await.unwrap().err().unwrap().reason, Reason::TooManyRequests);
        }
        assert_eq!(began.elapsed(), PATIENCE);
        drop(seated);
        let standing =
            FlowControl { total: 8, taken: 0, waiting: 0, served: 6, full: 1, late: HAND as u64 * LENGTH as u64 };
        assert_eq!(seats.standing(), standing);
    }

    #[test]
    fn a_hand_has_different_queues() {
        for flow in 0..1000_u64 {
            let mut hand = hand(Flow(flow.wrapping_mul(0x9e37_79b9_7f4a_7c15))).to_vec();
            hand.sort_unstable();
            hand.dedup();
            assert!(hand.len() == HAND && hand.iter().all(|queue| *queue < QUEUES));
        }
    }
}
