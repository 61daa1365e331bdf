//! Logins that failed: whoever fails often waits, each source for itself.
//!
//! A password is tried from a source for a user. After a few failures the source has to wait before it may try that user
//! again, and longer each time; a source that fails for many users waits for all of them. Nobody can so lock out another,
//! who comes from elsewhere. A try that has to wait costs no hash.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use hypernetes_api::auth::Source;
use parking_lot::Mutex;

/// Failures for one user that cost no wait: people mistype.
const FREE: u32 = 5;
/// Failures from one source, of any users: many people may come through one address.
const FREE_OF_SOURCE: u32 = 50;
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Others may come through the same address.
const LONGEST_WAIT_OF_SOURCE: Duration = Duration::from_secs(5);
/// What was so long ago is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(900);
/// Pairs that are remembered; when there are more the ones that failed longest ago go.
const REMEMBERED: usize = 20_000;
/// Of names, which are a stranger's text.
const NAME_BYTES: usize = 256;

/// Logins of one source that are being checked or wait for their turn.
const TURNS_OF_SOURCE: usize = 16;

type Who = (Option<Source>, String);

#[derive(Default)]
pub(crate) struct Attempts {
    failures: Mutex<HashMap<Who, Failures>>,
    turns: Mutex<HashMap<Source, usize>>,
}

struct Failures {
    count: u32,
    last: Instant,
}

impl Failures {
    fn wait(&self, free: u32, longest: Duration, now: Instant) -> Duration {
        let Some(more) = self.count.checked_sub(free) else { return Duration::ZERO };
        let wait = Duration::from_secs(1 << more.min(20)).min(longest);
        wait.saturating_sub(now.saturating_duration_since(self.last))
    }
}

/// A turn to have a password checked, until it is dropped.
pub(crate) struct Turn<'a> {
    attempts: &'a Attempts,
    source: Option<Source>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let Some(source) = self.source else { return };
        let mut turns = self.attempts.turns.lock();
        if let Some(count) = turns.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                turns.remove(&source);
            }
        }
    }
}

impl Attempts {
    /// # Errors
    /// How long to wait.
    pub fn begin(&self, source: Option<Source>, user: &str) -> Result<Turn<'_>, Duration> {
        self.begin_at(source, user, Instant::now())
    }

    fn begin_at(&self, source: Option<Source>, user: &str, now: Instant) -> Result<Turn<'_>, Duration> {
        let failures = self.failures.lock();
        let wait = |user: &str, free, longest| {
            failures.get(&who(source, user)).map_or(Duration::ZERO, |failed| failed.wait(free, longest, now))
        };
        let wait = wait(user, FREE, LONGEST_WAIT).max(wait("", FREE_OF_SOURCE, LONGEST_WAIT_OF_SOURCE));
        if !wait.is_zero() {
            return Err(wait);
        }
        if let Some(source) = source {
            let mut turns = self.turns.lock();
            let count = turns.entry(source).or_default();
            if *count >= TURNS_OF_SOURCE {
                return Err(Duration::from_secs(1));
            }
            *count += 1;
        }
        Ok(Turn { attempts: self, source })
    }

    pub fn failed(&self, source: Option<Source>, user: &str) {
        self.failed_at(source, user, Instant::now());
    }

    fn failed_at(&self, source: Option<Source>, user: &str, now: Instant) {
        let mut failures = self.failures.lock();
        for user in [user, ""] {
            let failed = failures.entry(who(source, user)).or_insert(Failures { count: 0, last: now });
            if now.saturating_duration_since(failed.last) > FORGET_AFTER {
                failed.count = 0;
            }
            failed.count = failed.count.saturating_add(1);
            failed.last = now;
        }
        if failures.len() > REMEMBERED {
            failures.retain(|_, f| now.saturating_duration_since(f.last) <= FORGET_AFTER);
        }
        if failures.len() > REMEMBERED {
            let mut times: Vec<Instant> = failures.values().map(|f| f.last).collect();
            times.sort_unstable();
            let median = times[times.len() / 2];
            failures.retain(|_, f| f.last > median);
        }
    }

    /// The password was right. What the source has failed with other users stays.
    pub fn succeeded(&self, source: Option<Source>, user: &str) {
        self.failures.lock().remove(&who(source, user));
    }
}

/// The empty name is the source itself; no user has it.
fn who(source: Option<Source>, user: &str) -> Who {
    let mut end = user.len().min(NAME_BYTES);
    while !user.is_char_boundary(end) {
        end -= 1;
    }
    (source, user[..end].to_owned())
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn source(last: u8) -> Option<Source> {
        Some(Source::from(IpAddr::from([127, 0, 0, last])))
    }

    #[test]
    fn failures_of_one_source_for_one_user_cost_that_source_and_user() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        for _ in 0..FREE {
            assert!(attempts.begin_at(source(2), "alice", now).is_ok());
            attempts.failed_at(source(2), "alice", now);
        }
        assert_eq!(attempts.begin_at(source(2), "alice", now).err(), Some(Duration::from_secs(1)));
        attempts.failed_at(source(2), "alice", now);
        assert_eq!(attempts.begin_at(source(2), "alice", now).err(), Some(Duration::from_secs(2)));
        assert!(attempts.begin_at(source(2), "bob", now).is_ok());
        assert!(attempts.begin_at(source(3), "alice", now).is_ok());
        let later = now + Duration::from_secs(2);
        assert!(attempts.begin_at(source(2), "alice", later).is_ok());
        attempts.succeeded(source(2), "alice");
        assert!(attempts.begin_at(source(2), "alice", now).is_ok());
        for _ in 0..100 {
            attempts.failed_at(source(2), "alice", now);
        }
        assert_eq!(attempts.begin_at(source(2), "alice", now).err(), Some(LONGEST_WAIT));
    }

    #[test]
    fn a_source_that_fails_for_many_users_waits_for_all() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        for i in 0..FREE_OF_SOURCE {
            attempts.failed_at(source(2), &format!("user-{i}"), now);
        }
        assert!(attempts.begin_at(source(2), "anybody", now).is_err());
        assert!(attempts.begin_at(source(3), "anybody", now).is_ok());
    }

    #[test]
    fn one_source_does_not_take_all_turns_and_what_is_remembered_is_bounded() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        let turns: Vec<_> = (0..TURNS_OF_SOURCE).map(|_| attempts.begin_at(source(2), "a", now).unwrap()).collect();
        assert!(attempts.begin_at(source(2), "a", now).is_err());
        assert!(attempts.begin_at(source(3), "a", now).is_ok());
        drop(turns);
        assert!(attempts.begin_at(source(2), "a", now).is_ok());
        for i in 0..REMEMBERED as u64 + 10 {
            attempts.failed_at(source(2), &i.to_string(), now + Duration::from_millis(i));
        }
        assert!(attempts.failures.lock().len() <= REMEMBERED);
        attempts.failed_at(source(2), &"é".repeat(NAME_BYTES), now);
    }
}
