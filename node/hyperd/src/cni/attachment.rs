//! What hyperd remembers of a pod's attachment: enough to check and to undo it after the configuration has changed, and
//! after hyperd was killed at any moment.

use std::{
    fs,
    io::{self, Read},
    marker::PhantomData,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{config::ConfigList, pod::Pod};
use crate::records::{UNFINISHED, remove, write_atomically};

const MAX_BYTES: u64 = 8 << 20;

/// One pod's attachment. Written before the first plugin runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Attachment {
    pub pod: Pod,
    /// The chain as it was then.
    pub list: ConfigList,
    /// The pod's network namespace, if it was given one.
    pub netns: Option<PathBuf>,
    /// The last plugin's answer; none: ADD did not come to its end.
    pub result: Option<Value>,
}

/// A directory of records, one per sandbox.
#[derive(Debug)]
pub(crate) struct PerSandbox<T>(PathBuf, PhantomData<fn(T)>);

impl<T> Clone for PerSandbox<T> {
    fn clone(&self) -> Self {
        Self::new(self.0.clone())
    }
}

impl<T> PerSandbox<T> {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self(directory, PhantomData)
    }

    fn path(&self, sandbox_id: &str) -> PathBuf {
        self.0.join(format!("{sandbox_id}.json"))
    }

    /// Durable when it returns.
    pub(crate) fn save(&self, sandbox_id: &str, record: &T) -> io::Result<()>
    where
        T: Serialize,
    {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
        write_atomically(&self.path(sandbox_id), &serde_json::to_vec_pretty(record)?)
    }

    pub(crate) fn load(&self, sandbox_id: &str) -> io::Result<Option<T>>
    where
        T: DeserializeOwned,
    {
        let mut text = Vec::new();
        match fs::File::open(self.path(sandbox_id)) {
            Ok(file) => file.take(MAX_BYTES).read_to_end(&mut text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(serde_json::from_slice(&text)?))
    }

    /// That it is gone already is fine.
    pub(crate) fn remove(&self, sandbox_id: &str) -> io::Result<()> {
        remove(&self.path(sandbox_id))
    }

    /// The sandboxes that have one.
    pub(crate) fn list(&self) -> io::Result<Vec<String>> {
        super::netns::names(&self.0)
            .map(|names| names.iter().filter_map(|name| name.strip_suffix(".json").map(str::to_owned)).collect())
    }

    /// Removes what was being written when hyperd was killed. For a start, when nothing is.
    pub(crate) fn remove_unfinished(&self) -> io::Result<()> {
        let names = super::netns::names(&self.0)?;
        let mut unfinished = names.iter().filter(|name| Path::new(name).extension().is_some_and(|e| e == UNFINISHED));
        unfinished.try_for_each(|name| remove(&self.0.join(name)))
    }
}
