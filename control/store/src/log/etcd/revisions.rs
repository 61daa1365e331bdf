//! Which revision a transaction has: etcd's, which all that etcd carries out at once share, and its rank among those.
//!
//! ```text
//! etcd's revision, 55 bits ‖ rank, 8 bits; 255: it was alone
//! ```
//!
//! So each has a revision of its own, a watch goes on between two of them, and what has come to 255 has all of etcd's revision. Ranks
//! are kept with values ([`super::envelope`]) and, of what was deleted, in [`super::head`]: every server knows the same.

use crate::Revision;

const RANK_BITS: u32 = 8;
const ALONE: u8 = u8::MAX;
/// Transactions that can be told apart at one of etcd's revisions.
pub(super) const RANKS: usize = ALONE as usize;

/// Of the transaction with this rank; none: it was alone. etcd's are positive, and begin with 1.
pub(super) fn ranked(number: i64, rank: Option<u8>) -> Revision {
    let number = u64::try_from(number).unwrap_or_default();
    Revision(if number == 0 { 0 } else { number << RANK_BITS | u64::from(rank.unwrap_or(ALONE)) })
}

/// Everything until one of etcd's.
pub(super) fn whole(number: i64) -> Revision {
    ranked(number, None)
}

/// etcd's.
pub(super) fn number(revision: Revision) -> i64 {
    i64::try_from(revision.0 >> RANK_BITS).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_in_order_between_etcds_revisions() {
        let in_order =
            [whole(0), whole(1), ranked(2, Some(0)), ranked(2, Some(1)), ranked(2, None), ranked(3, Some(0))];
        assert!(in_order.is_sorted_by(|one, other| one < other));
        assert_eq!(in_order.map(number), [0, 1, 2, 2, 2, 3]);
        assert_eq!(number(whole(i64::MAX >> RANK_BITS)), i64::MAX >> RANK_BITS);
    }
}
