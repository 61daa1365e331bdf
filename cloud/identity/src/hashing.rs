//! Whose password is checked next: threads that do nothing else, and what waits for them.
//!
//! A hash takes a core for dozens of milliseconds. Sources have their turns one after the other, and a source's users theirs
//! among them: who asks for many waits for those, and nobody else does. The threads give way to everything else that this
//! machine has to do.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
};

use hypernetes_api::auth::Source;
use hypernetes_background::{LESS, give_way};
use parking_lot::{Condvar, Mutex};

/// What waits at most, in all.
const MAX_WAITING: usize = 256;

type Work = Box<dyn FnOnce() + Send>;

/// Queues that have their turns one after the other.
struct Lanes<K, Q>(VecDeque<(K, Q)>);

impl<K, Q> Default for Lanes<K, Q> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

/// What waits, for something that `T` says.
trait Queue<T>: Default {
    fn length(&self) -> usize;
    fn push(&mut self, whose: T);
    fn pop(&mut self) -> Option<Work>;
    /// The newest of the longest queue.
    fn shorten(&mut self);
}

impl Queue<Work> for VecDeque<Work> {
    fn length(&self) -> usize {
        self.len()
    }

    fn push(&mut self, work: Work) {
        self.push_back(work);
    }

    fn pop(&mut self) -> Option<Work> {
        self.pop_front()
    }

    fn shorten(&mut self) {
        self.pop_back();
    }
}

impl<K: PartialEq, T, Q: Queue<T>> Queue<(K, T)> for Lanes<K, Q> {
    fn length(&self) -> usize {
        self.0.iter().map(|(_, queue)| queue.length()).sum()
    }

    fn push(&mut self, (whose, rest): (K, T)) {
        match self.0.iter_mut().find(|(key, _)| *key == whose) {
            Some((_, queue)) => queue.push(rest),
            None => {
                let mut queue = Q::default();
                queue.push(rest);
                self.0.push_back((whose, queue));
            }
        }
    }

    fn pop(&mut self) -> Option<Work> {
        let (whose, mut queue) = self.0.pop_front()?;
        let work = queue.pop();
        if queue.length() > 0 {
            self.0.push_back((whose, queue));
        }
        work
    }

    fn shorten(&mut self) {
        let Some(longest) = (0..self.0.len()).max_by_key(|place| self.0[*place].1.length()) else { return };
        self.0[longest].1.shorten();
        if self.0[longest].1.length() == 0 {
            self.0.remove(longest);
        }
    }
}

#[derive(Default)]
struct Waiting {
    lanes: Lanes<Option<Source>, Lanes<String, VecDeque<Work>>>,
    ended: bool,
}

impl Waiting {
    /// Where there is no room, it is taken from whoever has the most.
    fn push(&mut self, source: Option<Source>, user: &str, work: Work) {
        self.lanes.push((source, (user.to_owned(), work)));
        if self.lanes.length() > MAX_WAITING {
            self.lanes.shorten();
        }
    }
}

/// Threads that hash passwords, until it is dropped.
pub(crate) struct Hashing(Arc<(Mutex<Waiting>, Condvar)>);

impl Hashing {
    /// With so many threads.
    pub fn start(threads: usize) -> Self {
        let shared = Arc::new((Mutex::new(Waiting::default()), Condvar::new()));
        for _ in 0..threads.max(1) {
            let shared = shared.clone();
            let started = thread::Builder::new().name("passwords".into()).spawn(move || run(&shared));
            if let Err(error) = started {
                tracing::error!(%error, "starting a thread that checks passwords");
            }
        }
        Self(shared)
    }

    /// Has something hashed for a login of a user from a source. What is given up meanwhile is not done. None: there was no
    /// room for it.
    pub async fn run<T: Send + 'static>(
        &self,
        source: Option<Source>,
        user: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        let work = move || {
            if !answer.is_closed() {
                let _ = answer.send(work());
            }
        };
        let (waiting, more) = &*self.0;
        waiting.lock().push(source, user, Box::new(work));
        more.notify_one();
        answered.await.ok()
    }
}

impl Drop for Hashing {
    fn drop(&mut self) {
        let (waiting, more) = &*self.0;
        waiting.lock().ended = true;
        more.notify_all();
    }
}

fn run((waiting, more): &(Mutex<Waiting>, Condvar)) {
    give_way(LESS);
    loop {
        let work = {
            let mut waiting = waiting.lock();
            loop {
                if waiting.ended {
                    return;
                }
                match waiting.lanes.pop() {
                    Some(work) => break work,
                    None => more.wait(&mut waiting),
                }
            }
        };
        // Whoever waits for it learns that there will be no answer.
        let _ = catch_unwind(AssertUnwindSafe(work));
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn source(last: u8) -> Option<Source> {
        Some(Source::from(IpAddr::from([192, 0, 2, last])))
    }

    /// What is done, in order.
    fn order(waiting: &mut Waiting, done: &Arc<Mutex<Vec<&'static str>>>) -> Vec<&'static str> {
        while let Some(work) = waiting.lanes.pop() {
            work();
        }
        std::mem::take(&mut *done.lock())
    }

    #[test]
    fn sources_have_their_turns_and_users_theirs_among_them() {
        let (done, mut waiting) = (Arc::new(Mutex::new(Vec::new())), Waiting::default());
        let mut add = |from: u8, user: &str, what: &'static str| {
            let done = done.clone();
            waiting.push(source(from), user, Box::new(move || done.lock().push(what)));
        };
        for what in ["a1", "a2", "a3"] {
            add(1, "alice", what);
        }
        add(1, "bob", "b1");
        add(2, "alice", "other");
        assert_eq!(order(&mut waiting, &done), ["a1", "other", "b1", "a2", "a3"]);
    }

    #[test]
    fn who_asks_for_the_most_has_no_room_first() {
        let (done, mut waiting) = (Arc::new(Mutex::new(Vec::new())), Waiting::default());
        let victim = done.clone();
        waiting.push(source(2), "victim", Box::new(move || victim.lock().push("victim")));
        for number in 0..MAX_WAITING * 2 {
            // Whatever names it thinks of.
            waiting.push(source(1), &number.to_string(), Box::new(|| {}));
        }
        assert_eq!(waiting.lanes.length(), MAX_WAITING);
        assert_eq!(order(&mut waiting, &done), ["victim"]);
    }

    #[tokio::test]
    async fn what_is_given_up_is_not_done() {
        let hashing = Hashing::start(1);
        let (begun, waits) = std::sync::mpsc::channel::<()>();
        let (first, second) = (
            hashing.run(source(1), "a", move || waits.recv().is_err()),
            hashing.run(source(1), "b", || panic!("nobody waits for it")),
        );
        let mut first = Box::pin(first);
        // Both are in their queues as soon as they are asked for.
        assert!(futures::poll!(&mut first).is_pending());
        {
            let mut second = Box::pin(second);
            assert!(futures::poll!(&mut second).is_pending());
        }
        drop(begun);
        assert_eq!(first.await, Some(true));
        assert_eq!(hashing.run(source(1), "c", || 3).await, Some(3));
        // A panic is one login's.
        assert_eq!(hashing.run(source(1), "c", || panic!("this hash")).await, None::<()>);
        assert_eq!(hashing.run(source(1), "c", || 4).await, Some(4));
    }
}
