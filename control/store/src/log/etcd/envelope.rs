//! What a value is in etcd: itself, or sealed with the operator's keys.
//!
//! ```text
//! VALUE                what does not begin with a zero byte, as it is
//! 0 0 VALUE            what does
//! 0 1 ID SALT CONTENT  sealed, as its object's key
//! ```

use bytes::Bytes;

use crate::{Encryption, Key};

const MARK: u8 = 0;
const PLAIN: u8 = 0;
const SEALED: u8 = 1;

/// It cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum Unread {
    #[error("{key} in etcd is sealed with encryption key {id}, which is not among those of --encryption-keys")]
    NoKey { key: Key, id: u32 },
    #[error("{0} in etcd is damaged, or not what was written there")]
    Damaged(Key),
}

/// As it is written. None: it cannot be sealed.
pub(super) fn wrap(encryption: &Encryption, key: &Key, value: &Bytes) -> Option<Bytes> {
    if !encryption.is_none() {
        let sealed = encryption.seal_value(key.as_str().as_bytes(), value)?;
        return Some([&[MARK, SEALED], sealed.as_slice()].concat().into());
    }
    Some(match value.first() {
        Some(&MARK) => [&[MARK, PLAIN], value.as_ref()].concat().into(),
        _ => value.clone(),
    })
}

/// The value, and the number of the key that it was sealed with; 0: none.
///
/// # Errors
/// When it was sealed with a key that is not there, or is not what was sealed.
pub(super) fn open(encryption: &Encryption, key: &Key, found: Vec<u8>) -> Result<(Bytes, u32), Unread> {
    let damaged = || Unread::Damaged(key.clone());
    match found.as_slice() {
        [MARK, PLAIN, value @ ..] => Ok((Bytes::copy_from_slice(value), 0)),
        [MARK, SEALED, sealed @ ..] => {
            let id = Encryption::key_of_value(sealed).ok_or_else(damaged)?;
            if !encryption.has(id) {
                return Err(Unread::NoKey { key: key.clone(), id });
            }
            let value = encryption.open_value(key.as_str().as_bytes(), sealed).ok_or_else(damaged)?;
            Ok((value.into(), id))
        }
        [MARK, ..] => Err(damaged()),
        _ => Ok((found.into(), 0)),
    }
}

/// The number of the key that something was sealed with; 0: none.
pub(super) fn sealed_with(found: &[u8]) -> u32 {
    match found {
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
        for value in [&b""[..], b"{}", b"\0", b"\0\0", b"\0\x01x"].map(Bytes::from_static) {
            let (plain, sealed) = (wrap(&none, &a, &value).unwrap(), wrap(&keys, &a, &value).unwrap());
            for encryption in [&none, &keys] {
                assert_eq!(open(encryption, &a, plain.to_vec()), Ok((value.clone(), 0)));
            }
            assert_eq!(open(&keys, &a, sealed.to_vec()), Ok((value.clone(), 7)));
            assert_eq!((sealed_with(&plain), sealed_with(&sealed)), (0, 7));
            assert_eq!(open(&keys, &b, sealed.to_vec()), Err(Unread::Damaged(b.clone())));
            assert_eq!(open(&none, &a, sealed.to_vec()), Err(Unread::NoKey { key: a.clone(), id: 7 }));
        }
        assert_eq!(open(&none, &a, vec![0]), Err(Unread::Damaged(a.clone())));
        assert_eq!(open(&none, &a, vec![0, 2, 3]), Err(Unread::Damaged(a)));
    }
}
