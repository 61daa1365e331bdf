//! The thread that writes. Whoever has something written hands it over and goes on.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, SyncSender},
    },
    thread,
    time::Duration,
};

use hypernetes_api::TenantId;
use serde_json::json;

use super::{
    Options, Shared,
    event::now,
    files::{API_VERSION, Chain, MAX_LINE},
};
use crate::fairness::account::Taken;

/// What is gathered before it is written, so that a busy server is not woken, and the disk not called, for each event.
const GATHER: Duration = Duration::from_millis(20);
/// And so many bytes at most.
const BATCH: usize = 4 << 20;

pub enum Message {
    /// An event of the chain of this name.
    Event { chain: Arc<str>, line: String, room: Taken },
    /// The tenant of this chain is gone.
    Gone(Arc<str>),
    /// It is there.
    There(Arc<str>),
    /// Of all other tenants than these.
    Only(HashSet<TenantId>),
    /// Something was dropped.
    Dropped,
    /// Answered when all that came before is written, or was tried to be.
    Flush(SyncSender<()>),
}

pub struct Writer {
    root: PathBuf,
    options: Options,
    shared: Arc<Shared>,
    chains: HashMap<Arc<str>, Chain>,
    /// Those that could not be written last time: it is said once.
    failing: HashSet<Arc<str>>,
    /// Chains that were removed: what comes for them is put into the system's.
    gone: HashSet<Arc<str>>,
}

impl Writer {
    pub fn new(root: &Path, options: Options, shared: Arc<Shared>) -> Self {
        let (chains, failing, gone) = Default::default();
        Self { root: root.to_owned(), options, shared, chains, failing, gone }
    }

    /// Until nobody is left who could send anything.
    pub fn run(mut self, messages: &Receiver<Message>) {
        while let Ok(first) = messages.recv() {
            let (mut lines, mut flushed) = (BTreeMap::<Arc<str>, Vec<String>>::new(), Vec::new());
            // The room that they take is given back when they are written.
            let mut rooms = Vec::new();
            let mut bytes = 0;
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    Message::Event { chain, line, room } => {
                        bytes += line.len();
                        let chain = if self.gone.contains(&chain) { TenantId::SYSTEM.into() } else { chain };
                        lines.entry(chain).or_default().push(line);
                        rooms.push(room);
                    }
                    Message::Gone(chain) => {
                        lines.remove(&chain);
                        self.remove(chain);
                    }
                    Message::There(chain) => drop(self.gone.remove(&chain)),
                    Message::Only(tenants) => self.remove_others(&tenants),
                    Message::Dropped => {}
                    Message::Flush(done) => flushed.push(done),
                }
                next = if bytes < BATCH { messages.try_recv().ok() } else { None };
            }
            for (chain, lines) in lines {
                self.write(&chain, lines);
            }
            drop(rooms);
            self.shared.waiting.fetch_sub(bytes as u64, Ordering::Relaxed);
            self.tell_of_gaps();
            if flushed.is_empty() {
                thread::sleep(GATHER);
            }
            for done in flushed {
                let _ = done.send(());
            }
        }
    }

    fn write(&mut self, name: &Arc<str>, mut lines: Vec<String>) {
        // What was lost before comes before what was not.
        let lost = self.shared.take_gap(name);
        if lost > 0 {
            lines.insert(0, gap(lost));
        }
        let events = lines.len() as u64 - u64::from(lost > 0);
        let written = self.append(name, &lines);
        match written {
            Ok(()) => {
                self.shared.written(events);
                if self.failing.remove(name) {
                    tracing::info!(chain = &**name, "the audit log can be written again");
                }
            }
            Err(error) => {
                self.shared.lost(name, events);
                self.shared.put_back(name, lost);
                if self.failing.insert(name.clone()) {
                    tracing::error!(chain = &**name, %error, "the audit log cannot be written: events are lost, and counted");
                }
            }
        }
    }

    fn append(&mut self, name: &Arc<str>, lines: &[String]) -> std::io::Result<()> {
        if !self.chains.contains_key(name) {
            let keep = self.options.keep(name);
            self.chains.insert(name.clone(), Chain::open(&self.root.join(&**name), keep)?);
        }
        match self.chains.get_mut(name) {
            Some(chain) => chain.append(lines),
            None => Ok(()),
        }
    }

    /// Removes a chain from the disk.
    fn remove(&mut self, chain: Arc<str>) {
        self.chains.remove(&chain);
        self.failing.remove(&chain);
        self.shared.take_gap(&chain);
        match fs::remove_dir_all(self.root.join(&*chain)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(chain = &*chain, %error, "removing the audit log of a tenant that is gone");
            }
            _ => {}
        }
        self.gone.insert(chain);
    }

    /// Removes the chains of all tenants but these, and the system.
    fn remove_others(&mut self, tenants: &HashSet<TenantId>) {
        // Where nothing has been recorded yet there is no directory.
        let Ok(chains) = fs::read_dir(&self.root) else { return };
        let names = chains.flatten().filter_map(|chain| chain.file_name().into_string().ok()?.parse::<TenantId>().ok());
        for tenant in names.filter(|tenant| !tenant.is_system() && !tenants.contains(tenant)).collect::<Vec<_>>() {
            self.remove(tenant.as_str().into());
        }
    }

    /// What was dropped since, of those who had nothing else written.
    fn tell_of_gaps(&mut self) {
        for name in self.shared.gaps() {
            if !self.failing.contains(&name) {
                self.write(&name, Vec::new());
            }
        }
    }
}

/// What the log says of events that are not in it.
fn gap(lost: u64) -> String {
    json!({"kind": "Gap", "apiVersion": API_VERSION, "lost": lost, "stageTimestamp": now()}).to_string()
}

/// Whether a line is short enough to be read again.
pub fn fits(line: &str) -> bool {
    line.len() < MAX_LINE - 256
}
