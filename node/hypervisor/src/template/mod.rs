//! Templates: booted, idle VMs that a pod's VM is a copy of, instead of booting.
//!
//! A template is made behind the first VM of its kind, which boots, and serves the ones after it. What it is made of is its
//! driver's to say; it lives as long as that, and its copies do not depend on it.

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    fs,
    future::Future,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::{Nic, TemplateInfo, VmSpec, host_memory};

/// How long after a failure no other attempt is made.
const RETRY_AFTER: Duration = Duration::from_secs(300);

/// What templates may take.
#[derive(Debug, Clone)]
pub struct TemplateLimits {
    /// Most templates that are kept; 0: none are made.
    pub count: usize,
    /// Most memory that they take together.
    pub bytes: u64,
    /// How long after the start of a VM its template is begun, so that the VM's own start is not slower for it.
    pub delay: Duration,
}

impl Default for TemplateLimits {
    fn default() -> Self {
        // With as much memory as a VM takes that does nothing, each; all together no more than a part of the host's.
        Self { count: 32, bytes: host_memory() / 8, delay: Duration::from_secs(3) }
    }
}

/// Everything that a VM and the template that it is copied from have to have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    tenant: String,
    cpus: u32,
    memory_mib: u32,
    disk_slots: u32,
    has_nic: bool,
    /// The VMM, how it runs the machine, and what boots.
    machine: String,
    /// The VMM's file: an upgrade while this process runs makes others of it.
    program: (u64, u64, i64),
}

impl Key {
    /// None when VMs like this are not copied. `program` is the VMM.
    pub fn new(limits: &TemplateLimits, program: &Path, machine: String, spec: &VmSpec) -> Option<Self> {
        if spec.tenant.is_empty() || limits.count == 0 {
            return None;
        }
        let program = fs::metadata(program).ok()?;
        Some(Self {
            tenant: spec.tenant.clone(),
            cpus: spec.cpus,
            memory_mib: spec.memory_mib,
            disk_slots: spec.disk_slots,
            has_nic: spec.nic.is_some(),
            machine,
            program: (program.dev(), program.ino(), program.mtime()),
        })
    }

    /// MiB of the guest.
    pub fn memory_mib(&self) -> u32 {
        self.memory_mib
    }

    /// What a VM of this kind is made with that has no network.
    pub fn spec(&self, id: String) -> VmSpec {
        // The agent of a copy changes the address to the copy's own.
        let nic = Nic { tap: String::new(), netns: None, mac: "52:54:00:00:00:01".into() };
        VmSpec {
            id,
            tenant: self.tenant.clone(),
            cpus: self.cpus,
            memory_mib: self.memory_mib,
            nic: self.has_nic.then_some(nic),
            disk_slots: self.disk_slots,
        }
    }
}

/// `F` is what copies are made of.
pub struct Template<F> {
    key: Key,
    pub form: F,
    bytes: u64,
    /// VMs that were made of it.
    copies: AtomicU64,
}

impl<F> Template<F> {
    /// `bytes`: of the host's memory.
    pub fn new(key: Key, form: F, bytes: u64) -> Arc<Self> {
        Arc::new(Self { key, form, bytes, copies: AtomicU64::new(0) })
    }

    pub fn was_copied(&self) {
        self.copies.fetch_add(1, Ordering::Relaxed);
    }
}

/// The templates of a driver.
pub struct Templates<F> {
    limits: TemplateLimits,
    state: Mutex<State<F>>,
    /// One is made at a time: each takes a processor for a second.
    turn: tokio::sync::Mutex<()>,
}

struct State<F> {
    /// The one used last is the last.
    ready: Vec<Arc<Template<F>>>,
    wanted: HashSet<Key>,
    failed: HashMap<Key, Instant>,
}

impl<F> Templates<F> {
    pub fn new(limits: TemplateLimits) -> Self {
        let state = State { ready: Vec::new(), wanted: HashSet::new(), failed: HashMap::new() };
        Self { limits, state: Mutex::new(state), turn: tokio::sync::Mutex::default() }
    }

    pub fn limits(&self) -> &TemplateLimits {
        &self.limits
    }

    pub fn find(&self, key: &Key) -> Option<Arc<Template<F>>> {
        let ready = &mut self.state.lock().ready;
        let at = ready.iter().position(|template| template.key == *key)?;
        let template = ready.remove(at);
        ready.push(template.clone());
        Some(template)
    }

    /// The one used last is the first.
    pub fn list(&self) -> Vec<TemplateInfo> {
        let info = |template: &Arc<Template<F>>| TemplateInfo {
            tenant: template.key.tenant.clone(),
            cpus: template.key.cpus,
            memory_mib: template.key.memory_mib,
            disk_slots: template.key.disk_slots,
            has_nic: template.key.has_nic,
            bytes: template.bytes,
            copies: template.copies.load(Ordering::Relaxed),
        };
        self.state.lock().ready.iter().rev().map(info).collect()
    }

    /// Forgets a template that does not work. Another one may be made.
    pub fn remove(&self, template: &Arc<Template<F>>) {
        self.state.lock().ready.retain(|other| !Arc::ptr_eq(other, template));
    }

    /// Forgets all of them, and gives them.
    pub fn take_all(&self) -> Vec<Arc<Template<F>>> {
        std::mem::take(&mut self.state.lock().ready)
    }

    /// Whether the caller shall make one: nobody else does, and it did not fail just now.
    fn claim(&self, key: &Key) -> bool {
        let mut state = self.state.lock();
        state.failed.retain(|_, when| when.elapsed() < RETRY_AFTER);
        let there = state.ready.iter().any(|template| template.key == *key) || state.failed.contains_key(key);
        !there && state.wanted.insert(key.clone())
    }

    fn fail(&self, key: &Key) {
        self.state.lock().failed.insert(key.clone(), Instant::now());
    }

    /// Keeps a template, and lets others go when there are too many: of the tenant that has most of them the one that was not
    /// used for longest, so that no tenant's many kinds of pods cost another its own.
    pub fn insert(&self, template: Arc<Template<F>>) {
        let ready = &mut self.state.lock().ready;
        // Of an earlier VMM of the same name there will be no copies any more.
        ready.retain(|other| other.key.program == template.key.program && other.key != template.key);
        ready.push(template);
        while ready.len() > self.limits.count || ready.iter().map(|t| t.bytes).sum::<u64>() > self.limits.bytes {
            let oldest = ready.remove(least_deserved(ready));
            tracing::debug!(key = ?oldest.key, "a template makes room for others");
        }
    }
}

/// Which of several templates goes first; the one used last is the last.
fn least_deserved<F>(ready: &[Arc<Template<F>>]) -> usize {
    let count = |of: &Arc<Template<F>>| ready.iter().filter(|other| other.key.tenant == of.key.tenant).count();
    let most = ready.iter().map(count).max().unwrap_or(0);
    ready.iter().position(|template| count(template) == most).unwrap_or(0)
}

/// Gives the claim back, however the attempt ends.
struct Claim<'a, F> {
    templates: &'a Templates<F>,
    key: &'a Key,
}

impl<F> Drop for Claim<'_, F> {
    fn drop(&mut self) {
        self.templates.state.lock().wanted.remove(self.key);
    }
}

/// Has a template made in the background, unless one is there or under way.
pub fn want<F, E, B>(templates: &Arc<Templates<F>>, key: Key, build: impl FnOnce(Key) -> B + Send + 'static)
where
    F: Send + Sync + 'static,
    E: std::fmt::Display + Send,
    B: Future<Output = Result<Arc<Template<F>>, E>> + Send,
{
    if !templates.claim(&key) {
        return;
    }
    let templates = templates.clone();
    tokio::spawn(async move {
        let templates = &*templates;
        let _claim = Claim { templates, key: &key };
        tokio::time::sleep(templates.limits.delay).await;
        let _turn = templates.turn.lock().await;
        let began = Instant::now();
        match build(key.clone()).await {
            // Kept, it would be made anew for each VM: it would be the first to go.
            Ok(template) if template.bytes > templates.limits.bytes => {
                tracing::warn!(
                    tenant = key.tenant,
                    bytes = template.bytes,
                    "a template is larger than all may be: VMs boot"
                );
                templates.fail(&key);
            }
            Ok(template) => {
                let (elapsed_ms, bytes) = (began.elapsed().as_millis(), template.bytes);
                tracing::info!(tenant = key.tenant, elapsed_ms, bytes, "VMs are copied from a template from now on");
                templates.insert(template);
            }
            Err(error) => {
                tracing::warn!(tenant = key.tenant, %error, "a template could not be made: VMs boot");
                templates.fail(&key);
            }
        }
    });
}
