//! Who has which hardware address on one network.

use std::{collections::HashMap, net::Ipv4Addr};

/// Hardware addresses of one network: each belongs to at most one port.
#[derive(Debug, Clone, Default)]
pub(crate) struct Macs {
    owners: HashMap<String, String>,
    by_owner: HashMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MacError {
    #[error("{0:?} is not a hardware address of one station")]
    Invalid(String),
    #[error("the hardware address {mac} is in use by the port {owner:?}")]
    InUse { mac: String, owner: String },
}

impl Macs {
    /// Gives this very address, in lower case, for the one that the owner had.
    pub fn claim(&mut self, owner: &str, mac: &str) -> Result<String, MacError> {
        let mac = parse(mac)?;
        match self.owners.get(&mac) {
            Some(other) if other != owner => Err(MacError::InUse { mac, owner: other.clone() }),
            _ => {
                self.release(owner);
                self.note(owner, &mac);
                Ok(mac)
            }
        }
    }

    /// The one that the owner has, or a new one: Neutron's prefix and the end of the port's address, so that it is the
    /// same wherever the address is.
    pub fn allocate(&mut self, owner: &str, ip: Option<Ipv4Addr>) -> String {
        if let Some(mac) = self.by_owner.get(owner) {
            return mac.clone();
        }
        let start = ip.map_or(1, Ipv4Addr::to_bits);
        // A network has fewer ports than there are numbers of 24 bits.
        for number in start.. {
            let [_, a, b, c] = number.to_be_bytes();
            let mac = format!("fa:16:3e:{a:02x}:{b:02x}:{c:02x}");
            if !self.owners.contains_key(&mac) {
                self.note(owner, &mac);
                return mac;
            }
        }
        String::new()
    }

    /// Whose the address is, which is in lower case.
    pub fn owner(&self, mac: &str) -> Option<&str> {
        self.owners.get(mac).map(String::as_str)
    }

    /// All who have one.
    pub fn all_owners(&self) -> impl Iterator<Item = &String> {
        self.by_owner.keys()
    }

    pub fn release(&mut self, owner: &str) {
        if let Some(mac) = self.by_owner.remove(owner) {
            self.owners.remove(&mac);
        }
    }

    fn note(&mut self, owner: &str, mac: &str) {
        self.owners.insert(mac.to_owned(), owner.to_owned());
        self.by_owner.insert(owner.to_owned(), mac.to_owned());
    }
}

/// In lower case, with colons.
pub(crate) fn parse(text: &str) -> Result<String, MacError> {
    let invalid = || MacError::Invalid(text.chars().take(40).collect());
    let parts: Vec<&str> = text.split([':', '-']).collect();
    let hex = |part: &&str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    if parts.len() != 6 || !parts.iter().all(hex) {
        return Err(invalid());
    }
    let mac = parts.join(":").to_ascii_lowercase();
    // The lowest bit of the first byte: a group of stations.
    let group = u8::from_str_radix(&mac[..2], 16).map_err(|_| invalid())? & 1 == 1;
    if group || mac == "00:00:00:00:00:00" { Err(invalid()) } else { Ok(mac) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_port_each() {
        let mut macs = Macs::default();
        let ip = Some(Ipv4Addr::new(10, 244, 0, 2));
        assert_eq!(macs.allocate("a", ip), "fa:16:3e:f4:00:02");
        assert_eq!(macs.allocate("a", ip), "fa:16:3e:f4:00:02");
        assert_eq!(macs.allocate("b", ip), "fa:16:3e:f4:00:03");
        assert_eq!(macs.claim("c", "FA-16-3E-F4-00-09"), Ok("fa:16:3e:f4:00:09".into()));
        assert!(matches!(macs.claim("d", "fa:16:3e:f4:00:09"), Err(MacError::InUse { .. })));
        macs.release("c");
        macs.claim("d", "fa:16:3e:f4:00:09").unwrap();
        for bad in
            ["", "01:00:5e:00:00:01", "00:00:00:00:00:00", "fa:16:3e:f4:00", "fa:16:3e:f4:00:0x", "é:16:3e:f4:00:00"]
        {
            assert!(matches!(macs.claim("e", bad), Err(MacError::Invalid(_))), "{bad}");
        }
    }
}
