//! Places for connections: so many in all, so many from one source, some for the system's own alone.

use std::{collections::HashMap, sync::Arc};

use hypernetes_api::auth::Source;
use parking_lot::Mutex;

use crate::fairness::{pace::Pace, payer};

/// Descriptors that are left to everything else.
const OTHER_DESCRIPTORS: u64 = 1024;
/// No more than this, whatever the limit of descriptors is.
const MOST: usize = 10_000;
/// So many sources are remembered before any is forgotten.
const SOURCES: usize = 1024;

/// How many connections there may be.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub total: usize,
    /// Of the total, for clients with a certificate of the system's.
    pub reserved: usize,
    /// From one source, without the system's own.
    pub source: usize,
    /// From one source, of those that have not asked for anything yet.
    pub source_new: usize,
}

impl Limits {
    /// By the descriptors that this process may have.
    pub fn of_process() -> Self {
        let descriptors = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
        let half = descriptors.map_or(OTHER_DESCRIPTORS, |(soft, _)| soft).saturating_sub(OTHER_DESCRIPTORS) / 2;
        let total = usize::try_from(half).unwrap_or(MOST).clamp(64, MOST);
        Self { total, reserved: total / 8, source: total / 2, source_new: (total / 8).min(512) }
    }
}

/// Who has which place.
pub(crate) struct Places {
    limits: Limits,
    taken: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    /// Not the system's.
    open: usize,
    system: usize,
    /// Those that have connections, and those that have not paid for what they had.
    sources: HashMap<Source, BySource>,
    /// Sources at which those that are through are next looked for.
    sweep_at: usize,
}

#[derive(Clone)]
struct BySource {
    all: usize,
    new: usize,
    pace: Arc<Pace>,
}

impl Default for BySource {
    fn default() -> Self {
        Self { all: 0, new: 0, pace: payer::source_pace() }
    }
}

impl BySource {
    fn is_through(&self) -> bool {
        self.all == 0 && self.pace.is_quiet()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    New,
    Asking,
    System,
}

/// One connection's, until it is dropped.
pub(crate) struct Place {
    places: Arc<Places>,
    source: Source,
    pace: Arc<Pace>,
    standing: Mutex<Standing>,
}

impl Places {
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, taken: Mutex::default() })
    }

    /// A place for a connection of which only the source is known. It may be in the reserved part, for as long as it
    /// takes to learn whether it is the system's own.
    pub fn take(self: &Arc<Self>, source: Source) -> Option<Place> {
        let mut taken = self.taken.lock();
        let (all, new) = taken.sources.get(&source).map_or((0, 0), |by_source| (by_source.all, by_source.new));
        let full = taken.open + taken.system >= self.limits.total;
        if full || all >= self.limits.source || new >= self.limits.source_new {
            return None;
        }
        taken.open += 1;
        if taken.sources.len() >= taken.sweep_at.max(SOURCES) {
            taken.sources.retain(|_, by_source| !by_source.is_through());
            taken.sweep_at = taken.sources.len() * 2;
        }
        let by_source = taken.sources.entry(source).or_default();
        by_source.all += 1;
        by_source.new += 1;
        let pace = by_source.pace.clone();
        Some(Place { places: self.clone(), source, pace, standing: Mutex::new(Standing::New) })
    }
}

impl Place {
    /// Of its source.
    pub fn pace(&self) -> &Arc<Pace> {
        &self.pace
    }

    /// The client is known as one of the system's own, or as none (`false`). False: there is no place for it.
    pub fn settle(&self, system: bool) -> bool {
        let mut standing = self.standing.lock();
        let mut taken = self.places.taken.lock();
        if system {
            self.leave(&mut taken, *standing);
            taken.system += 1;
            *standing = Standing::System;
            return true;
        }
        taken.open <= self.places.limits.total - self.places.limits.reserved
    }

    /// The client has asked for something.
    pub fn asks(&self) {
        let mut standing = self.standing.lock();
        if *standing == Standing::New {
            *standing = Standing::Asking;
            if let Some(by_source) = self.places.taken.lock().sources.get_mut(&self.source) {
                by_source.new -= 1;
            }
        }
    }

    fn leave(&self, taken: &mut Counts, standing: Standing) {
        if standing == Standing::System {
            taken.system -= 1;
            return;
        }
        taken.open -= 1;
        if let Some(by_source) = taken.sources.get_mut(&self.source) {
            by_source.all -= 1;
            by_source.new -= usize::from(standing == Standing::New);
            if by_source.is_through() {
                taken.sources.remove(&self.source);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let standing = *self.standing.lock();
        self.leave(&mut self.places.taken.lock(), standing);
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn one_source_leaves_room_for_others_and_all_of_them_for_the_system() {
        let places = Places::new(Limits { total: 8, reserved: 2, source: 4, source_new: 2 });
        let from = |last: u8| places.take(Source::from(IpAddr::from([127, 0, 0, last])));
        let (one, two) = (from(2).unwrap(), from(2).unwrap());
        assert!(from(2).is_none(), "two that have not asked for anything");
        one.asks();
        two.asks();
        two.asks();
        let _more = [from(2).unwrap(), from(2).unwrap()];
        assert!(from(2).is_none(), "four of one source");
        let others = [from(3).unwrap(), from(3).unwrap()];
        assert!(others.iter().all(|place| place.settle(false)));
        // Six of eight are taken: what is left is for the system's own.
        let stranger = from(4).unwrap();
        assert!(!stranger.settle(false));
        assert!(stranger.settle(true));
        let own = from(5).unwrap();
        assert!(own.settle(true));
        assert!(from(6).is_none());
        drop((own, one, two));
        assert!(from(7).unwrap().settle(false));
    }
}
