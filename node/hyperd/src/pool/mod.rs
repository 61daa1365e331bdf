//! VMs that wait for their pods: copies of templates whose agents have been greeted and that have rehearsed a pod's life.
//!
//! A pod takes one that fits and pays for no start of a VM. How many wait follows from how many were taken just now:
//! a burst leaves a fuller pool behind it, and a quiet hour an empty one (docs/decisions/0017).

mod demand;
mod keeper;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt;
use hypernetes_hypervisor::{Vm, VmSpec};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use self::demand::Demand;
use crate::{
    agent::{Agent, Greeting},
    cni::{PodNetwork, PreparedTap, Style},
};

/// A VM that has waited and does not answer within this time is not worth waiting for.
pub(crate) const STILL_THERE: Duration = Duration::from_secs(5);

/// After a VM could not be made, or was not to be had, until the next of its kind is tried.
const PUT_OFF: Duration = Duration::from_secs(30);

/// What the pool may take.
#[derive(Debug, Clone)]
pub struct PoolLimits {
    /// Most VMs that wait; 0: none do.
    pub count: usize,
    /// Most of them for pods of one kind.
    pub count_of_a_kind: usize,
    /// Most of them for pods of one tenant; where many want some, each has its part of `count`.
    pub count_of_a_tenant: usize,
    /// How long after the last pod of a kind one still waits for the next.
    pub idle: Duration,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self { count: 32, count_of_a_kind: 12, count_of_a_tenant: 16, idle: Duration::from_secs(600) }
    }
}

/// What a VM and the pod that takes it must have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Kind {
    pub tenant: String,
    pub cpus: u32,
    pub memory_mib: u32,
    pub disk_slots: u32,
    /// How it is connected to a network; none: it has no interface.
    pub network: Option<Style>,
}

impl Kind {
    pub(crate) fn spec(&self, id: String) -> VmSpec {
        VmSpec {
            id,
            tenant: self.tenant.clone(),
            cpus: self.cpus,
            memory_mib: self.memory_mib,
            nic: None,
            disk_slots: self.disk_slots,
        }
    }
}

/// A VM that waits.
pub(crate) struct Ready {
    /// Becomes the sandbox's.
    pub id: String,
    pub vm: Arc<dyn Vm>,
    pub agent: Agent,
    pub greeting: Greeting,
    pub tap: Option<PreparedTap>,
    /// What it is connected to already.
    pub network: Option<PodNetwork>,
}

pub(crate) struct Pool {
    limits: PoolLimits,
    state: Mutex<HashMap<Kind, Waiting>>,
    /// The keeper has something to do.
    changed: Notify,
    /// Pods that are being made: the keeper waits for these.
    busy: watch::Sender<usize>,
}

#[derive(Default)]
struct Waiting {
    demand: Demand,
    ready: Vec<Ready>,
    /// Found of no use, with what else they leave on this host.
    dead: Vec<Ready>,
    /// An image that pods of this kind use, to rehearse with.
    image: Option<PathBuf>,
    /// The network namespace that the last one's tap is in.
    netns: Option<PathBuf>,
    /// No other attempt is made before.
    put_off_until: Option<Instant>,
}

/// While it lives, nothing is made for the pool.
pub(crate) struct Busy<'a>(&'a Pool);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.send_modify(|count| *count -= 1);
    }
}

impl Pool {
    pub(crate) fn new(limits: PoolLimits) -> Self {
        Self { limits, state: Mutex::default(), changed: Notify::new(), busy: watch::Sender::new(0) }
    }

    pub(crate) fn busy(&self) -> Busy<'_> {
        self.busy.send_modify(|count| *count += 1);
        Busy(self)
    }

    /// A VM for a pod of this kind, if one waits; in any case the pool learns that it was wanted. It runs, and may not answer.
    pub(crate) fn take(&self, kind: &Kind) -> Option<Ready> {
        if self.limits.count == 0 || kind.tenant.is_empty() {
            return None;
        }
        self.state.lock().entry(kind.clone()).or_default().demand.taken(Instant::now());
        self.changed.notify_one();
        loop {
            let ready = self.state.lock().get_mut(kind)?.ready.pop()?;
            let ended = ready.vm.wait().now_or_never().is_some();
            let cut_off = ready.tap.as_ref().is_some_and(|tap| !tap.is_there());
            if !ended && !cut_off {
                ready.vm.set_background(false);
                return Some(ready);
            }
            tracing::warn!(vm = ready.id, ended, cut_off, "a VM that waited is of no use");
            // The keeper ends it: the pod that wants one does not wait for that.
            self.state.lock().entry(kind.clone()).or_default().dead.push(ready);
            self.changed.notify_one();
        }
    }

    /// Takes back a VM that nothing was done with.
    pub(crate) fn give_back(&self, kind: Kind, ready: Ready) {
        ready.vm.set_background(true);
        self.state.lock().entry(kind).or_default().ready.push(ready);
    }

    /// Takes out what waits connected, and has none connected for a while: there may be no addresses left but theirs.
    pub(crate) fn take_connected(&self) -> Vec<Ready> {
        let until = Instant::now() + PUT_OFF;
        let mut taken = Vec::new();
        for waiting in self.state.lock().values_mut() {
            let connected: Vec<Ready> = waiting.ready.extract_if(.., |ready| ready.network.is_some()).collect();
            if !connected.is_empty() {
                waiting.put_off_until = Some(until);
                taken.extend(connected);
            }
        }
        taken
    }

    /// Where pods of this kind have their taps.
    pub(crate) fn uses_netns(&self, kind: &Kind, netns: &std::path::Path) {
        if let Some(waiting) = self.state.lock().get_mut(kind) {
            waiting.netns = Some(netns.to_owned());
        }
    }

    /// What pods of this kind run.
    pub(crate) fn uses_image(&self, kind: &Kind, rootfs: &std::path::Path) {
        if let Some(waiting) = self.state.lock().get_mut(kind) {
            waiting.image = Some(rootfs.to_owned());
        }
    }
}
