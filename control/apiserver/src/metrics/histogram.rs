//! How often something was how large.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bounds as upstream has them, with their texts, and in the unit of what is observed.
pub type Bounds<const N: usize> = [(&'static str, u64); N];

const fn ms(text: &'static str, ms: u64) -> (&'static str, u64) {
    (text, ms * 1_000_000)
}

/// Of `apiserver_request_duration_seconds`, observed in nanoseconds.
pub const DURATIONS: Bounds<23> = [
    ms("0.005", 5),
    ms("0.025", 25),
    ms("0.05", 50),
    ms("0.1", 100),
    ms("0.2", 200),
    ms("0.4", 400),
    ms("0.6", 600),
    ms("0.8", 800),
    ms("1", 1000),
    ms("1.25", 1250),
    ms("1.5", 1500),
    ms("2", 2000),
    ms("3", 3000),
    ms("4", 4000),
    ms("5", 5000),
    ms("6", 6000),
    ms("8", 8000),
    ms("10", 10_000),
    ms("15", 15_000),
    ms("20", 20_000),
    ms("30", 30_000),
    ms("45", 45_000),
    ms("60", 60_000),
];

/// Of `apiserver_response_sizes`, in bytes.
pub const SIZES: Bounds<7> = [
    ("1000", 1_000),
    ("10000", 10_000),
    ("100000", 100_000),
    ("1e+06", 1_000_000),
    ("1e+07", 10_000_000),
    ("1e+08", 100_000_000),
    ("1e+09", 1_000_000_000),
];

pub struct Histogram<const N: usize> {
    /// How many are no larger than the bound, and larger than the one before.
    counts: [AtomicU64; N],
    larger: AtomicU64,
    sum: AtomicU64,
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Self { counts: std::array::from_fn(|_| AtomicU64::new(0)), larger: AtomicU64::new(0), sum: AtomicU64::new(0) }
    }
}

impl<const N: usize> Histogram<N> {
    pub fn observe(&self, bounds: &Bounds<N>, value: u64) {
        let place = bounds.iter().position(|(_, bound)| value <= *bound);
        place.map_or(&self.larger, |place| &self.counts[place]).fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// How many are no larger than each bound, how many there are in all, and their sum.
    pub fn read(&self) -> ([u64; N], u64, u64) {
        let mut so_far = 0;
        let counts = self.counts.each_ref().map(|count| {
            so_far += count.load(Ordering::Relaxed);
            so_far
        });
        (counts, so_far + self.larger.load(Ordering::Relaxed), self.sum.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_no_larger_than_its_bound() {
        let sizes = Histogram::default();
        for value in [0, 1000, 1001, 2_000_000_000] {
            sizes.observe(&SIZES, value);
        }
        assert_eq!(sizes.read(), ([2, 3, 3, 3, 3, 3, 3], 4, 2_000_002_001));
    }
}
