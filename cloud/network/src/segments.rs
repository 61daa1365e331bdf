//! Who has which VXLAN network identifier, in the whole installation.

use std::collections::HashMap;

use crate::ranges::Ranges;

/// Identifiers have 24 bits; 0 is none (RFC 7348).
const LAST: u32 = (1 << 24) - 1;

/// Invariant: an identifier is free or belongs to exactly one network, named by its uid.
#[derive(Debug)]
pub(crate) struct Segments {
    free: Ranges,
    owners: HashMap<u32, Owner>,
    /// Where the search for a free one begins: one that was given back comes last, for hosts may still know it.
    next: u32,
}

#[derive(Debug)]
struct Owner {
    uid: String,
    /// Its object says so; else it is about to.
    stored: bool,
}

impl Default for Segments {
    fn default() -> Self {
        let mut free = Ranges::default();
        free.insert(1, LAST);
        Self { free, owners: HashMap::new(), next: 1 }
    }
}

impl Segments {
    /// Notes what a network's object says it has. False: it cannot, another's says the same.
    pub fn claim(&mut self, uid: &str, segment: u32) -> bool {
        if !(1..=LAST).contains(&segment) {
            return false;
        }
        if self.owners.get(&segment).is_some_and(|owner| owner.stored && owner.uid != uid) {
            return false;
        }
        // What another was about to be given by this server is not its any more.
        self.owners.insert(segment, Owner { uid: uid.to_owned(), stored: true });
        if self.free.remove(segment) && segment >= self.next {
            self.next = segment + 1;
        }
        true
    }

    /// The API server refused it: another server gave it to another network, of which this one will hear.
    pub fn is_elsewhere(&mut self, uid: &str, segment: u32) {
        let owner = self.owners.get_mut(&segment).filter(|owner| owner.uid == uid && !owner.stored);
        if let Some(owner) = owner {
            owner.uid.clear();
        }
    }

    /// The one that the network has, or a new one. None: all are taken.
    pub fn allocate(&mut self, uid: &str) -> Option<u32> {
        if let Some((segment, _)) = self.owners.iter().find(|(_, owner)| owner.uid == uid) {
            return Some(*segment);
        }
        let segment = self.free.lowest_from(self.next).or_else(|| self.free.lowest())?;
        self.free.remove(segment);
        self.owners.insert(segment, Owner { uid: uid.to_owned(), stored: false });
        self.next = segment + 1;
        Some(segment)
    }

    pub fn release(&mut self, uid: &str) {
        let free = &mut self.free;
        self.owners.retain(|segment, owner| {
            if owner.uid == uid {
                free.insert(*segment, *segment);
            }
            owner.uid != uid
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_each() {
        let mut segments = Segments::default();
        assert!(segments.claim("a", 5) && segments.claim("a", 5) && !segments.claim("b", 5));
        assert!(!segments.claim("b", 0) && !segments.claim("b", LAST + 1));
        assert_eq!(segments.allocate("a"), Some(5));
        assert_eq!(segments.allocate("b"), Some(6));
        segments.release("a");
        assert_eq!(segments.allocate("c"), Some(7), "what was given back comes last");
        assert!(segments.claim("d", 6) && !segments.claim("a", 6), "b's was not stored");
        assert_eq!(segments.allocate("b"), Some(8));
        segments.is_elsewhere("b", 8);
        assert_eq!(segments.allocate("b"), Some(9));
        assert!(segments.claim("x", 8));
        assert!(segments.claim("d", LAST));
        assert_eq!(segments.allocate("e"), Some(1), "and begins anew after the last");
    }
}
