//! What is connected, kept on disk: one small file per attachment, and one per network that is kept without any.
//!
//! Invariant: a record is written before the first change to the kernel and removed after the last, so that nothing
//! of ours is there without a record. Losing records to a power failure is no loss: the taps are gone with it.

use std::{
    io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use hypernetes_api::TenantId;
use serde::{Deserialize, Serialize};

use crate::{Error, names};

/// A sandbox on a network: all that its VM and the namespace need to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Attachment {
    /// The CNI container id: the sandbox.
    pub container_id: String,
    pub tenant: TenantId,
    pub network_uid: String,
    pub port_uid: String,
    /// `metadata.name` of the Port.
    pub port: String,
    pub mac: Mac,
    pub mtu: u32,
    pub addresses: Vec<Address>,
    pub nameservers: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Address {
    pub ip: Ipv4Addr,
    /// Of the subnet.
    pub prefix_length: u8,
    pub gateway: Option<Ipv4Addr>,
}

impl Attachment {
    pub fn namespace(&self) -> Result<String, Error> {
        names::namespace(&self.network_uid)
    }

    pub fn tap(&self) -> Result<String, Error> {
        names::tap(&self.port_uid)
    }

    /// Whether the Port still says what the guest was told.
    pub fn agrees_with(&self, other: &Self) -> bool {
        let ips = |attachment: &Self| attachment.addresses.iter().map(|a| a.ip).collect::<Vec<_>>();
        self.network_uid == other.network_uid && self.mac == other.mac && ips(self) == ips(other)
    }
}

/// An Ethernet hardware address of one station.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Mac(pub [u8; 6]);

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl std::str::FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let mut bytes = [0; 6];
            let mut parts = text.split(':');
            for byte in &mut bytes {
                let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))?;
                *byte = u8::from_str_radix(part, 16).ok()?;
            }
            // The lowest bit of the first byte: a group of stations.
            (parts.next().is_none() && bytes[0] & 1 == 0 && bytes != [0; 6]).then_some(Self(bytes))
        };
        parse().ok_or_else(|| format!("{:?} is not a hardware address", text.chars().take(40).collect::<String>()))
    }
}

impl TryFrom<String> for Mac {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

/// The directories of the records.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    ports: PathBuf,
    /// Of networks that nothing is connected to: files with the name of the namespace and the network's uid in them.
    unused: PathBuf,
}

impl Records {
    /// `root` is the agent's directory.
    pub fn open(root: &Path) -> Result<Self, Error> {
        let records = Self { ports: root.join("ports"), unused: root.join("unused") };
        for directory in [&records.ports, &records.unused] {
            std::fs::create_dir_all(directory).map_err(|e| error(directory, e))?;
        }
        Ok(records)
    }

    /// Uids of networks whose namespaces are kept though nothing is connected.
    pub fn unused(&self) -> Result<Vec<String>, Error> {
        let mut all = Vec::new();
        for path in files(&self.unused)? {
            let uid = std::fs::read_to_string(&path).map_err(|e| error(&path, e))?;
            match self.path_of_unused(&uid) {
                Ok(own) if own == path => all.push(uid),
                // A crash of the machine cut it short: the namespace is gone as well.
                _ => remove(&path)?,
            }
        }
        Ok(all)
    }

    pub fn save_unused(&self, network_uid: &str) -> Result<(), Error> {
        let path = self.path_of_unused(network_uid)?;
        std::fs::write(&path, network_uid).map_err(|e| error(&path, e))
    }

    /// Removing what is not there is no error.
    pub fn remove_unused(&self, network_uid: &str) -> Result<(), Error> {
        remove(&self.path_of_unused(network_uid)?)
    }

    fn path_of_unused(&self, network_uid: &str) -> Result<PathBuf, Error> {
        Ok(self.unused.join(names::namespace(network_uid)?))
    }

    /// All records. What cannot be read (a crash of the machine cut it short) is removed: its tap is gone as well.
    pub fn load(&self) -> Result<Vec<Attachment>, Error> {
        let mut all = Vec::new();
        for path in files(&self.ports)? {
            let text = std::fs::read(&path).map_err(|e| error(&path, e))?;
            match serde_json::from_slice::<Attachment>(&text) {
                Ok(record) if self.path(&record.port_uid).is_ok_and(|own| own == path) => all.push(record),
                other => {
                    let why = other.err().map_or_else(|| "it is not where it belongs".to_owned(), |e| e.to_string());
                    tracing::warn!(path = %path.display(), why, "a record that cannot be used is dropped");
                    remove(&path)?;
                }
            }
        }
        Ok(all)
    }

    pub fn save(&self, attachment: &Attachment) -> Result<(), Error> {
        let path = self.path(&attachment.port_uid)?;
        let new = path.with_extension("new");
        let text = serde_json::to_vec(attachment).map_err(|e| error(&path, e.into()))?;
        std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &path)).map_err(|e| error(&path, e))
    }

    /// Removing what is not there is no error.
    pub fn remove(&self, port_uid: &str) -> Result<(), Error> {
        remove(&self.path(port_uid)?)
    }

    fn path(&self, port_uid: &str) -> Result<PathBuf, Error> {
        Ok(self.ports.join(format!("{}.json", names::tap(port_uid)?)))
    }
}

fn files(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = std::fs::read_dir(directory).map_err(|e| error(directory, e))?;
    entries.map(|entry| Ok(entry.map_err(|e| error(directory, e))?.path())).collect()
}

fn remove(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(error(path, e)),
        _ => Ok(()),
    }
}

fn error(path: &Path, source: io::Error) -> Error {
    Error::Record { path: path.into(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses() {
        let mac: Mac = "0a:58:0A:f4:00:05".parse().unwrap();
        assert_eq!(mac.to_string(), "0a:58:0a:f4:00:05");
        for bad in [
            "",
            "0a:58:0a:f4:00",
            "0a:58:0a:f4:00:05:06",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "+a:58:0a:f4:00:05",
            "a:58:0a:f4:00:05",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn records_survive_and_rubbish_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::open(directory.path()).unwrap();
        let attachment = crate::tests::attachment(1, 1);
        records.save(&attachment).unwrap();
        std::fs::write(directory.path().join("ports/tap1.json"), "{\"half\":").unwrap();
        assert_eq!(records.load().unwrap(), std::slice::from_ref(&attachment));
        assert!(!directory.path().join("ports/tap1.json").exists());
        records.remove(&attachment.port_uid).unwrap();
        records.remove(&attachment.port_uid).unwrap();
        assert_eq!(records.load().unwrap(), []);

        records.save_unused(&attachment.network_uid).unwrap();
        std::fs::write(directory.path().join("unused/hn-1"), "0").unwrap();
        assert_eq!(records.unused().unwrap(), std::slice::from_ref(&attachment.network_uid));
        for _ in 0..2 {
            records.remove_unused(&attachment.network_uid).unwrap();
            assert!(records.unused().unwrap().is_empty());
        }
    }
}
