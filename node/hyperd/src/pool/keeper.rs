//! Who fills the pool, and empties it again.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::join_all;
use tokio_util::sync::CancellationToken;

use super::{Kind, PUT_OFF, Pool, PoolLimits, Ready, Waiting};
use crate::{
    agent::Agent,
    cni::Style,
    error::Result,
    identity,
    rehearsal::{self, Play},
    runtime::{Runtime, new_id},
};

/// Between looks at what has become too much.
const TIDY: Duration = Duration::from_secs(10);
/// A template takes some seconds to be made.
const TEMPLATE_SOON: Duration = Duration::from_secs(1);
/// A copied VM's agent answers within milliseconds, one on a busy machine within a second.
const GREETING: Duration = Duration::from_secs(10);

/// What there is to do.
enum Step {
    Make(Order),
    End(Vec<Ready>),
    Nothing,
}

/// A VM that is to wait.
struct Order {
    kind: Kind,
    /// As in [`Waiting`].
    image: Option<PathBuf>,
    netns: Option<PathBuf>,
}

impl Waiting {
    /// How many there should be.
    fn target(&mut self, now: Instant, limits: &PoolLimits) -> usize {
        self.demand.target(now, limits.idle).min(limits.count_of_a_kind)
    }
}

/// How many VMs of each kind are to wait: as many as are wanted, up to the part of the tenant's. The kinds that are wanted most
/// come first.
fn targets(state: &mut HashMap<Kind, Waiting>, now: Instant, limits: &PoolLimits) -> HashMap<Kind, usize> {
    let mut wanted: Vec<(usize, Kind)> = state
        .iter_mut()
        .map(|(kind, waiting)| (waiting.target(now, limits), kind.clone()))
        .filter(|(target, _)| *target > 0)
        .collect();
    let tenants = wanted.iter().map(|(_, kind)| &kind.tenant).collect::<HashSet<_>>().len();
    let part = limits.count.checked_div(tenants).unwrap_or(limits.count).clamp(1, limits.count_of_a_tenant.max(1));
    wanted.sort_by_key(|(target, _)| std::cmp::Reverse(*target));
    let mut left: HashMap<String, usize> = HashMap::new();
    wanted
        .into_iter()
        .map(|(target, kind)| {
            let left = left.entry(kind.tenant.clone()).or_insert(part);
            let target = target.min(*left);
            *left -= target;
            (kind, target)
        })
        .collect()
}

impl Pool {
    fn next_step(&self) -> Step {
        let now = Instant::now();
        let mut state = self.state.lock();
        let mut surplus = Vec::new();
        let targets = targets(&mut state, now, &self.limits);
        for (kind, waiting) in state.iter_mut() {
            surplus.append(&mut waiting.dead);
            let target = targets.get(kind).copied().unwrap_or(0);
            surplus.extend(waiting.ready.drain(..waiting.ready.len().saturating_sub(target)));
            waiting.put_off_until = waiting.put_off_until.filter(|until| *until > now);
        }
        if !surplus.is_empty() {
            return Step::End(surplus);
        }
        state.retain(|_, waiting| !waiting.ready.is_empty() || waiting.demand.target(now, self.limits.idle) > 0);
        if state.values().map(|waiting| waiting.ready.len()).sum::<usize>() >= self.limits.count {
            return Step::Nothing;
        }
        let missing = state.iter().filter(|(_, waiting)| waiting.put_off_until.is_none()).map(|(kind, waiting)| {
            let missing = targets.get(kind).copied().unwrap_or(0).saturating_sub(waiting.ready.len());
            (missing, kind, waiting)
        });
        match missing.filter(|(missing, ..)| *missing > 0).max_by_key(|(missing, ..)| *missing) {
            Some((_, kind, waiting)) => {
                Step::Make(Order { kind: kind.clone(), image: waiting.image.clone(), netns: waiting.netns.clone() })
            }
            None => Step::Nothing,
        }
    }

    fn put_off(&self, kind: &Kind, by: Duration) {
        if let Some(waiting) = self.state.lock().get_mut(kind) {
            waiting.put_off_until = Some(Instant::now() + by);
        }
    }

    /// When there is something to do though nobody says so.
    fn look_again_in(&self) -> Duration {
        let now = Instant::now();
        let soonest = self.state.lock().values().filter_map(|waiting| waiting.put_off_until).min();
        soonest.map_or(TIDY, |until| until.saturating_duration_since(now).min(TIDY))
    }
}

impl Runtime {
    /// Keeps the pool filled until `stop`; then ends all that wait.
    pub(crate) async fn keep_pool(self: Arc<Self>, stop: CancellationToken) {
        if self.pool.limits.count == 0 {
            return;
        }
        let work = async {
            loop {
                match self.pool.next_step() {
                    Step::Make(order) => self.fill(order).await,
                    Step::End(surplus) => self.end_all(surplus).await,
                    Step::Nothing => {
                        let _ = tokio::time::timeout(self.pool.look_again_in(), self.pool.changed.notified()).await;
                    }
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
        let waiting: Vec<Ready> = self
            .pool
            .state
            .lock()
            .drain()
            .flat_map(|(_, mut waiting)| {
                waiting.ready.append(&mut waiting.dead);
                waiting.ready
            })
            .collect();
        self.end_all(waiting).await;
        // And the one that was being made.
        let known: HashSet<String> = self.sandboxes().iter().map(|sandbox| sandbox.id.clone()).collect();
        self.config.hypervisor.sweep(&known, &known).await;
        self.cni.disconnect_others(&known.into_iter().collect()).await;
        self.cni.close_nursery().await;
    }

    /// Ends what waits connected, so that addresses become free. Whether there was any.
    pub(crate) async fn release_networks(&self) -> bool {
        let connected = self.pool.take_connected();
        let any = !connected.is_empty();
        self.end_all(connected).await;
        any
    }

    async fn end_all(&self, surplus: Vec<Ready>) {
        join_all(surplus.into_iter().map(|ready| async move {
            let _ = ready.vm.kill().await;
            self.disconnect(&ready.id).await;
        }))
        .await;
    }

    /// For a VM that no pod had and that has ended. What cannot be undone now the next start undoes.
    async fn disconnect(&self, id: &str) {
        if let Err(error) = self.cni.del(id).await {
            tracing::warn!(vm = id, %error, "a network was left behind");
        }
    }

    /// Adds a VM, when no pod is being made and there is a template for it.
    async fn fill(&self, order: Order) {
        let kind = &order.kind;
        // The sender lives in the pool.
        let _ = self.pool.busy.subscribe().wait_for(|busy| *busy == 0).await;
        let mut spec = kind.spec(new_id());
        spec.nic = kind.network.map(|_| hypernetes_hypervisor::Nic {
            tap: String::new(),
            netns: None,
            mac: rehearsal::MAC.into(),
        });
        if !self.config.hypervisor.would_copy(&spec) {
            // Behind the pod that has just been made one is being made; there is no event for its end.
            return self.pool.put_off(kind, TEMPLATE_SOON);
        }
        let began = Instant::now();
        let id = spec.id.clone();
        match self.make_ready(&order, spec).await {
            Ok(ready) => {
                tracing::debug!(vm = id, tenant = kind.tenant, elapsed_ms = began.elapsed().as_millis(), "a VM waits");
                self.pool.state.lock().entry(order.kind).or_default().ready.push(ready);
            }
            Err(error) => {
                tracing::warn!(vm = id, %error, "a VM could not be made ready");
                self.disconnect(&id).await;
                self.pool.put_off(kind, PUT_OFF);
            }
        }
    }

    async fn make_ready(
        &self,
        Order { kind, image, netns }: &Order,
        mut spec: hypernetes_hypervisor::VmSpec,
    ) -> Result<Ready> {
        let id = spec.id.clone();
        let tap = match kind.network {
            Some(style) => Some(self.cni.prepare(&id, style, netns.as_deref()).await?),
            None => None,
        };
        if let (Some(nic), Some(tap)) = (&mut spec.nic, &tap) {
            nic.tap.clone_from(&tap.name);
            nic.netns = Some(tap.netns.clone());
        }
        let vm: Arc<dyn hypernetes_hypervisor::Vm> = self.config.hypervisor.create(spec).await?.into();
        vm.set_background(true);
        let agent = Agent::new(vm.agent());
        let prepared = async {
            let greeting = agent.hello_within(GREETING).await?;
            let entropy = rand::random::<[u8; 32]>().to_vec();
            let play = image.clone().filter(|_| !self.config.hypervisor.copies_are_rehearsed()).map(Play::nothing);
            rehearsal::run(&*vm, &agent, &greeting, entropy, tap.is_some(), play).await?;
            let network = match (kind.network, &tap) {
                (Some(Style::Ahead(chain)), Some(tap)) => {
                    Some(self.cni.connect_ahead(&id, &kind.tenant, chain, tap).await?)
                }
                _ => None,
            };
            if let Some(network) = &network {
                identity::join(&agent, network).await?;
            }
            Ok((greeting, network))
        };
        match prepared.await {
            Ok((greeting, network)) => Ok(Ready { id, vm, agent, greeting, tap, network }),
            Err(error) => {
                let _ = vm.kill().await;
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hypernetes_hypervisor::Hypervisor;

    use super::*;
    use crate::{agent::Greeting, fake::FakeHypervisor};

    #[test]
    fn no_tenant_has_all_that_wait() {
        let limits = PoolLimits::default();
        let now = Instant::now();
        let kind =
            |tenant: &str, cpus| Kind { tenant: tenant.into(), cpus, memory_mib: 64, disk_slots: 1, network: None };
        let mut state: HashMap<Kind, Waiting> = HashMap::new();
        let want = |state: &mut HashMap<Kind, Waiting>, kind, count| {
            let waiting = state.entry(kind).or_default();
            (0..count).for_each(|_| waiting.demand.taken(now));
        };
        for cpus in 1..8 {
            want(&mut state, kind("busy", cpus), 50);
        }
        let of = |targets: &HashMap<Kind, usize>, tenant: &str| -> usize {
            targets.iter().filter(|(kind, _)| kind.tenant == tenant).map(|(_, target)| target).sum()
        };
        assert_eq!(of(&targets(&mut state, now, &limits), "busy"), limits.count_of_a_tenant);
        for n in 0..7 {
            want(&mut state, kind(&format!("quiet{n}"), 1), 1);
        }
        let targets = targets(&mut state, now, &limits);
        assert_eq!(of(&targets, "busy"), limits.count / 8);
        assert!((0..7).all(|n| of(&targets, &format!("quiet{n}")) == 1));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_vm_that_is_found_dead_is_ended_by_the_keeper_with_what_it_leaves() {
        let directory = tempfile::tempdir().unwrap();
        let hypervisor = FakeHypervisor::new(directory.path(), tokio::runtime::Handle::current());
        let pool = Pool::new(PoolLimits::default());
        let kind = Kind { tenant: "a".into(), cpus: 1, memory_mib: 64, disk_slots: 1, network: None };
        let id = new_id();
        let vm: Arc<dyn hypernetes_hypervisor::Vm> = hypervisor.create(kind.spec(id.clone())).await.unwrap().into();
        let agent = Agent::new(vm.agent());
        let greeting = Greeting {
            version: 1,
            agent_version: String::new(),
            kernel_release: String::new(),
            boot_id: String::new(),
        };
        pool.give_back(
            kind.clone(),
            Ready { id: id.clone(), vm: vm.clone(), agent, greeting, tap: None, network: None },
        );
        vm.kill().await.unwrap();
        assert!(pool.take(&kind).is_none());
        match pool.next_step() {
            Step::End(surplus) => assert_eq!(surplus.iter().map(|ready| &ready.id).collect::<Vec<_>>(), [&id]),
            _ => panic!("nothing is ended"),
        }
        assert!(!matches!(pool.next_step(), Step::End(_)));
    }
}
