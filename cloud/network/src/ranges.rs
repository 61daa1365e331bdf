//! Sets of numbers, as ranges: the free addresses of a subnet, the free identifiers of segments.

use std::collections::BTreeMap;

/// A set of numbers. What it costs depends on its gaps, not on its size.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ranges {
    /// Last by first; ranges neither touch nor overlap.
    ranges: BTreeMap<u32, u32>,
}

impl Ranges {
    pub fn lowest(&self) -> Option<u32> {
        self.ranges.keys().next().copied()
    }

    /// The lowest that is not below `from`.
    pub fn lowest_from(&self, from: u32) -> Option<u32> {
        if self.contains(from) { Some(from) } else { self.ranges.range(from..).next().map(|(first, _)| *first) }
    }

    pub fn contains(&self, number: u32) -> bool {
        self.ranges.range(..=number).next_back().is_some_and(|(_, last)| *last >= number)
    }

    /// Adds a range, both ends included; parts of it may be there already.
    pub fn insert(&mut self, mut first: u32, mut last: u32) {
        if first > last {
            return;
        }
        // The one before it may touch it, too.
        let before = self.ranges.range(..=first).next_back().map(|(f, l)| (*f, *l));
        if let Some((f, l)) = before.filter(|(_, l)| l.saturating_add(1) >= first) {
            self.ranges.remove(&f);
            (first, last) = (f, last.max(l));
        }
        while let Some((f, l)) = self.ranges.range(first..=last.saturating_add(1)).next().map(|(f, l)| (*f, *l)) {
            self.ranges.remove(&f);
            last = last.max(l);
        }
        self.ranges.insert(first, last);
    }

    /// Whether it was there.
    pub fn remove(&mut self, number: u32) -> bool {
        let Some((first, last)) = self.ranges.range(..=number).next_back().map(|(f, l)| (*f, *l)) else { return false };
        if last < number {
            return false;
        }
        self.ranges.remove(&first);
        if first < number {
            self.ranges.insert(first, number - 1);
        }
        if number < last {
            self.ranges.insert(number + 1, last);
        }
        true
    }

    pub fn pop_lowest(&mut self) -> Option<u32> {
        let lowest = self.lowest()?;
        self.remove(lowest);
        Some(lowest)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_ends_of_all_numbers() {
        let mut ranges = Ranges::default();
        ranges.insert(u32::MAX, u32::MAX);
        ranges.insert(0, 0);
        ranges.insert(u32::MAX - 1, u32::MAX);
        assert!(ranges.remove(u32::MAX) && ranges.remove(0) && !ranges.remove(0));
        assert_eq!(ranges.pop_lowest(), Some(u32::MAX - 1));
        assert_eq!(ranges.pop_lowest(), None);
    }

    proptest! {
        #[test]
        fn behaves_as_a_set(changes in prop::collection::vec((0..3, 0u32..40, 0u32..6), 0..60)) {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for (what, number, length) in changes {
                match what {
                    0 => {
                        ranges.insert(number, number + length);
                        set.extend(number..=number + length);
                    }
                    1 => prop_assert_eq!(ranges.remove(number), set.remove(&number)),
                    _ => prop_assert_eq!(ranges.pop_lowest(), set.pop_first()),
                }
                prop_assert_eq!(ranges.lowest(), set.first().copied());
                prop_assert_eq!(ranges.lowest_from(20), set.range(20..).next().copied());
                for number in 0..50 {
                    prop_assert_eq!(ranges.contains(number), set.contains(&number));
                }
                let gaps = ranges.ranges.iter().zip(ranges.ranges.iter().skip(1));
                prop_assert!(gaps.clone().all(|((_, last), (first, _))| last + 1 < *first));
            }
        }
    }
}
