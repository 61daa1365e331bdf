//! Names on the host that are made of the identifiers of API objects.

use crate::Error;

/// Digits of an identifier that go into a name: what is left of the 15 bytes of an interface's name after `tap`.
const DIGITS: usize = 12;

/// Name of the network namespace of a network.
pub(crate) fn namespace(network_uid: &str) -> Result<String, Error> {
    Ok(format!("hn-{}", digits(network_uid)?))
}

/// Name of the tap of a port.
pub(crate) fn tap(port_uid: &str) -> Result<String, Error> {
    Ok(format!("tap{}", digits(port_uid)?))
}

fn digits(uid: &str) -> Result<String, Error> {
    let digits: String = uid.chars().filter(|c| *c != '-').take(DIGITS).collect();
    let valid = digits.len() == DIGITS && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if valid { Ok(digits) } else { Err(Error::InvalidUid(uid.chars().take(64).collect())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_of_uids_alone() {
        let uid = "0cbd49cb-f76d-405d-9c86-562e1d579bd3";
        assert_eq!(namespace(uid).unwrap(), "hn-0cbd49cbf76d");
        assert_eq!(tap(uid).unwrap(), "tap0cbd49cbf76d");
        assert!(tap(uid).unwrap().len() <= 15);
        for bad in ["", "0cbd49cb", "../../../../x", "0CBD49CBF76D405D", "\"; flush ruleset"] {
            assert!(namespace(bad).is_err(), "{bad:?}");
        }
    }
}
