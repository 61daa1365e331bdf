//! What a value is in etcd: itself, or sealed with the operator's keys.
//!
//! ```text
//! VALUE                what does not begin with a zero byte, as it is
//! 0 0 VALUE            what does
//! 0 1 ID SALT CONTENT  sealed, as its object's key
//! 0 2 RANK …           one of these, of a transaction that was not alone ([`super::revisions`])
//! ```

use bytes::Bytes;

use crate::{Encryption, Key};

const MARK: u8 = 0;
const PLAIN: u8 = 0;
const SEALED: u8 = 1;
const RANKED: u8 = 2;

/// It cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum Unread {
    #[error("{key} in etcd is sealed with encryption key {id}, which is not among those of --encryption-keys")]
    NoKey { key: Key, id: u32 },
    #[error("{0} in etcd is damaged, or not what was written there")]
    Damaged(Key),
}

/// As it is written by a transaction of that rank. None: it cannot be sealed.
pub(super) fn wrap(encryption: &Encryption, key: &Key, value: &Bytes, rank: Option<u8>) -> Option<Bytes> {
    let rank = rank.map(|rank| [MARK, RANKED, rank]);
    let rank = rank.as_ref().map_or(&[][..], |rank| rank);
    if !encryption.is_none() {
        let sealed = encryption.seal_value(key.as_str().as_bytes(), value)?;
        return Some([rank, &[MARK, SEALED], &sealed].concat().into());
    }
    Some(match value.first() {
        Some(&MARK) => [rank, &[MARK, PLAIN], value].concat().into(),
        _ if rank.is_empty() => value.clone(),
        _ => [rank, value].concat().into(),
    })
}

/// Without its rank, and that.
fn rank_of(found: &[u8]) -> (&[u8], Option<u8>) {
    match found {
        [MARK, RANKED, rank, rest @ ..] => (rest, Some(*rank)),
        _ => (found, None),
    }
}

/// The value, the number of the key that it was sealed with (0: none), and its transaction's rank.
///
/// # Errors
/// When it was sealed with a key that is not there, or is not what was sealed.
pub(super) fn open(encryption: &Encryption, key: &Key, found: Vec<u8>) -> Result<(Bytes, u32, Option<u8>), Unread> {
    let damaged = || Unread::Damaged(key.clone());
    let found = Bytes::from(found);
    let (content, rank) = rank_of(&found);
    match content {
        [MARK, PLAIN, value @ ..] => Ok((found.slice_ref(value), 0, rank)),
        [MARK, SEALED, sealed @ ..] => {
            let id = Encryption::key_of_value(sealed).ok_or_else(damaged)?;
            if !encryption.has(id) {
                return Err(Unread::NoKey { key: key.clone(), id });
            }
            let value = encryption.open_value(key.as_str().as_bytes(), sealed).ok_or_else(damaged)?;
            Ok((value.into(), id, rank))
        }
        [MARK, ..] => Err(damaged()),
        value => Ok((found.slice_ref(value), 0, rank)),
    }
}

/// The number of the key that something was sealed with; 0: none.
pub(super) fn sealed_with(found: &[u8]) -> u32 {
    match rank_of(found).0 {
        [MARK, SEALED, sealed @ ..] => Encryption::key_of_value(sealed).unwrap_or_default(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use hypernetes_api::{ResourceId, TenantId};

    use super::*;

    #[test]
    fn every_value_comes_back_and_none_is_taken_for_another() {
        let key = |name| Key::new(&ResourceId::new("", "secrets"), &TenantId::system(), "default", name).unwrap();
        let (a, b) = (key("a"), key("b"));
        let (none, keys) = (Encryption::none(), Encryption::test(&[7]));
        for value in [&b""[..], b"{}", b"\0", b"\0\0", b"\0\x01x", b"\0\x02\x03x"].map(Bytes::from_static) {
            for rank in [None, Some(0), Some(9)] {
                let [plain, sealed] = [&none, &keys].map(|encryption| wrap(encryption, &a, &value, rank).unwrap());
                for encryption in [&none, &keys] {
                    assert_eq!(open(encryption, &a, plain.to_vec()), Ok((value.clone(), 0, rank)));
                }
                assert_eq!(open(&keys, &a, sealed.to_vec()), Ok((value.clone(), 7, rank)));
                assert_eq!((sealed_with(&plain), sealed_with(&sealed)), (0, 7));
                assert_eq!(open(&keys, &b, sealed.to_vec()), Err(Unread::Damaged(b.clone())));
                assert_eq!(open(&none, &a, sealed.to_vec()), Err(Unread::NoKey { key: a.clone(), id: 7 }));
            }
        }
        for damaged in [vec![0], vec![0, 3, 3], vec![0, 2], vec![0, 2, 3, 0], vec![0, 2, 3, 0, 2, 3]] {
            assert_eq!(open(&none, &a, damaged), Err(Unread::Damaged(a.clone())));
        }
    }
}
