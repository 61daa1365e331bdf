//! Values by labels, of which there are no more than so many whatever is asked for, and which are found without a lock.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    sync::OnceLock,
};

/// Labels and their value, once there are any.
type Place<K, V> = OnceLock<Box<(K, V)>>;

/// A table of open addresses, from which nothing is ever taken: a place that has been filled stays as it is. It is made when
/// something is counted for the first time.
pub struct Series<K, V> {
    places: usize,
    table: OnceLock<Table<K, V>>,
}

struct Table<K, V> {
    places: Box<[Place<K, V>]>,
    hasher: RandomState,
    /// What finds no place.
    other: Box<V>,
}

/// Places that are looked at: in a table that is this full around them, others may find room and this one does not.
const PROBES: usize = 32;

impl<K: Hash + Eq, V: Default> Series<K, V> {
    pub fn new(places: usize) -> Self {
        Self { places, table: OnceLock::new() }
    }

    fn table(&self) -> &Table<K, V> {
        self.table.get_or_init(|| Table {
            places: std::iter::repeat_with(OnceLock::new).take(self.places).collect(),
            hasher: RandomState::new(),
            other: Box::default(),
        })
    }

    /// The value of these labels, which is made when it is first asked for.
    pub fn of(&self, key: &K) -> &V
    where
        K: Clone,
    {
        let table = self.table();
        let first = table.hasher.hash_one(key) as usize;
        for probe in 0..PROBES.min(table.places.len()) {
            let place = &table.places[first.wrapping_add(probe) % table.places.len()];
            // Two that come at once are in one place after the other.
            let (have, value) = &**place.get_or_init(|| Box::new((key.clone(), V::default())));
            if have == key {
                return value;
            }
        }
        &table.other
    }

    /// All that there are; those that found no place are nobody's.
    pub fn all(&self) -> impl Iterator<Item = (Option<&K>, &V)> {
        self.table.get().into_iter().flat_map(|table| {
            let filled = table.places.iter().filter_map(OnceLock::get).map(|place| (Some(&place.0), &place.1));
            filled.chain([(None, &*table.other)])
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn whatever_is_counted_there_are_no_more_than_the_places() {
        let series: Series<usize, AtomicUsize> = Series::new(16);
        for key in 0..1000 {
            series.of(&(key % 100)).fetch_add(1, Ordering::Relaxed);
        }
        let sum: usize = series.all().map(|(_, count)| count.load(Ordering::Relaxed)).sum();
        assert_eq!((series.all().count(), sum), (17, 1000));
        for (key, count) in series.all().filter_map(|(key, count)| Some((key?, count))) {
            assert_eq!(count.load(Ordering::Relaxed), 10, "{key}");
        }
    }

    #[test]
    fn threads_that_come_at_once_count_in_one_place() {
        let series: Series<usize, AtomicUsize> = Series::new(64);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for key in 0..400 {
                        series.of(&(key % 4)).fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        let counts: Vec<_> = series.all().map(|(_, count)| count.load(Ordering::Relaxed)).collect();
        assert_eq!(counts.iter().sum::<usize>(), 1600);
        assert_eq!(counts.len(), 5, "{counts:?}");
    }
}
