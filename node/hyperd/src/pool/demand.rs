//! How many VMs should wait for pods of one kind.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// So many pods within this time come again, as far as anybody knows.
const WINDOW: Duration = Duration::from_secs(30);
const MOST: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Demand {
    /// When pods were made, the last at the end.
    taken: VecDeque<Instant>,
}

impl Demand {
    pub(super) fn taken(&mut self, now: Instant) {
        if self.taken.len() == MOST {
            self.taken.pop_front();
        }
        self.taken.push_back(now);
    }

    /// As many as were taken within the window; one until `idle` is over; then none.
    pub(super) fn target(&mut self, now: Instant, idle: Duration) -> usize {
        let Some(last) = self.taken.back().copied() else { return 0 };
        let recent = self.taken.iter().filter(|at| now.saturating_duration_since(**at) <= WINDOW).count();
        match recent {
            0 if now.saturating_duration_since(last) > idle => {
                self.taken.clear();
                0
            }
            0 => {
                self.taken.drain(..self.taken.len() - 1);
                1
            }
            recent => recent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_follows_what_was_taken_and_falls_to_nothing() {
        let idle = Duration::from_secs(600);
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut demand = Demand::default();
        assert_eq!(demand.target(start, idle), 0);
        for second in 0..5 {
            demand.taken(after(second));
        }
        assert_eq!(demand.target(after(5), idle), 5);
        assert_eq!(demand.target(after(32), idle), 3);
        assert_eq!(demand.target(after(100), idle), 1);
        assert_eq!(demand.target(after(604), idle), 1);
        assert_eq!(demand.target(after(606), idle), 0);
        assert_eq!(demand.target(after(607), idle), 0);
    }
}
