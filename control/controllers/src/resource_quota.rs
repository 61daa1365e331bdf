//! Quotas know what there is of what they count: upstream's resourcequota controller.
//!
//! ```text
//! what is counted is new ─▶ it is said so, and nothing more of it is let in ─▶ what there is is added up ─▶ it is let in as far as there is room
//! something goes, or takes less ─▶ what there is is added up
//! ```
//!
//! What comes, admission adds itself, in the transaction that makes it; so a sum is written only over the version of the quota that it was
//! begun with, and is true whenever it is.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use hypernetes_api::TenantId;
use hypernetes_client::Api;
use hypernetes_kinds::{Home, Resource, registry};
use hypernetes_quota::{Amounts, Counted, Quota, amounts};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, ResourceQuota, ResourceQuotaStatus};
use kube::{
    api::{DynamicObject, ListParams},
    discovery::{ApiResource, Discovery, Scope},
};
use parking_lot::Mutex;
use serde_json::Value;

use crate::{
    Wiring,
    runtime::{Cache, Context, During, Error, Key, Queue, Reconciler, Recorder, Subject},
};

/// Objects of a list that are looked at together.
const PAGE: u32 = 500;
/// What takes longer than this to add up is not added up whenever something changes: it would take no more than a tenth of a worker's time,
/// whatever a tenant does.
const QUICK: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_secs(10);

/// Whom a change of an object may concern: the quotas of its namespace.
#[derive(Clone)]
pub struct Counting {
    quotas: Cache<ResourceQuota>,
    queue: Queue<Key>,
    /// How long those took that are not quick.
    slow: Slow,
}

type Slow = Arc<Mutex<HashMap<Key, Duration>>>;

pub fn start(wiring: &Wiring<'_>) -> Counting {
    let quotas = wiring.informers.of::<ResourceQuota>();
    let counting = Counting { quotas, queue: wiring.queue(), slow: Slow::default() };
    let queue = counting.queue.clone();
    counting.quotas.subscribe(move |key, before, now| {
        // What is used is written by admission and by us.
        let hard = |quota: &ResourceQuota| quota.status.as_ref().and_then(|status| status.hard.clone());
        let same = |before: &ResourceQuota, now: &ResourceQuota| before.spec == now.spec && hard(before) == hard(now);
        if now.is_some_and(|now| before.is_none_or(|before| !same(before, now))) {
            queue.add(key.clone());
        }
    });
    let pods = counting.clone();
    wiring.informers.of::<Pod>().subscribe(move |key, before, now| {
        if let (Some(before), Some(now)) = (before, now)
            && takes_another(before, now)
        {
            pods.changed(&key.tenant, &key.namespace, "", "pods");
        }
    });
    let context = Context::new(wiring.informers, "resourcequota-controller");
    wiring.drive(Quotas { context, slow: counting.slow.clone() }, counting.queue.clone());
    counting
}

/// Whether a change of a pod may be one of what it takes.
fn takes_another(before: &Pod, now: &Pod) -> bool {
    let of = |pod: &Pod| {
        let deadline = pod.spec.as_ref().and_then(|spec| spec.active_deadline_seconds);
        let status = pod.status.as_ref();
        let phase =
            status.and_then(|status| status.phase.clone()).filter(|phase| phase == "Succeeded" || phase == "Failed");
        (deadline, phase, pod.metadata.deletion_timestamp.clone())
    };
    let held = |pod: &Pod| -> Vec<_> {
        let status = pod.status.iter();
        let containers = status.flat_map(|status| [&status.container_statuses, &status.init_container_statuses]);
        containers.flatten().flatten().map(|one| (one.resources.clone(), one.allocated_resources.clone())).collect()
    };
    of(before) != of(now) || held(before) != held(now)
}

impl Counting {
    /// An object of this namespace is another, or gone.
    pub fn changed(&self, tenant: &TenantId, namespace: &str, group: &str, plural: &str) {
        let quotas = self.quotas.list(tenant, namespace);
        if quotas.is_empty() {
            return;
        }
        let Some(counted) = Counted::of(group, plural) else { return };
        for quota in quotas.iter().filter(|quota| counts(quota, &counted)) {
            let key = Key::new(tenant, namespace, quota.metadata.name.as_deref().unwrap_or_default());
            let took = self.slow.lock().get(&key).copied();
            match took {
                None => self.queue.add(key),
                Some(took) => self.queue.add_after(key, (took * 10).min(LONGEST)),
            }
        }
    }

    /// Some objects of a kind may have gone unheard.
    pub fn listed_anew(&self, group: &str, plural: &str) {
        let Some(counted) = Counted::of(group, plural) else { return };
        let all = self.quotas.all().into_iter().filter(|(_, quota)| counts(quota, &counted));
        all.for_each(|(key, _)| self.queue.add(key));
    }
}

fn counts(quota: &ResourceQuota, counted: &Counted) -> bool {
    let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
    hard.is_some_and(|hard| hard.keys().any(|name| counted.counts(name)))
}

struct Quotas {
    context: Context,
    slow: Slow,
}

#[async_trait]
impl Reconciler for Quotas {
    const NAME: &'static str = "resourcequota";
    type Key = Key;

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let api = self.context.namespaced::<ResourceQuota>(&key.tenant, &key.namespace);
        let read = api.get_opt(&key.name).await.during("reading a quota")?;
        let Some(mut quota) = read.filter(|quota| quota.metadata.deletion_timestamp.is_none()) else {
            self.slow.lock().remove(key);
            return Ok(None);
        };
        let hard = quota.spec.clone().unwrap_or_default().hard.unwrap_or_default();
        let status = quota.status.clone().unwrap_or_default();
        let known = status.hard.clone().unwrap_or_default();
        if !hard.keys().all(|name| known.contains_key(name)) {
            let mut used = status.used.clone().unwrap_or_default();
            used.retain(|name, _| known.contains_key(name) && hard.contains_key(name));
            quota.status = Some(ResourceQuotaStatus { hard: Some(hard.clone()), used: Some(used) });
            quota = self.write(&api, &quota, "saying what a quota counts").await?;
        }
        let object = serde_json::to_value(&quota)?;
        let began = Instant::now();
        let (used, again) = self.used(key, &Quota::of(&object), &amounts::read(&object["spec"]["hard"])).await?;
        match began.elapsed() {
            took if took > QUICK => drop(self.slow.lock().insert(key.clone(), took)),
            _ => drop(self.slow.lock().remove(key)),
        }
        let now = ResourceQuotaStatus { hard: Some(hard), used: Some(serde_json::from_value(amounts::write(&used))?) };
        let status = quota.status.take().unwrap_or_default();
        let have = status.used.is_some() && amounts::read(&object["status"]["used"]) == used;
        if !have || status.hard != now.hard {
            quota.status = Some(now);
            self.write(&api, &quota, "writing what is used of a quota").await?;
        }
        Ok(again)
    }

    fn told(&self, key: &Key) -> Option<(&Recorder, Subject)> {
        self.context.told::<ResourceQuota>(key)
    }
}

impl Quotas {
    async fn write(
        &self,
        api: &Api<ResourceQuota>,
        quota: &ResourceQuota,
        doing: &'static str,
    ) -> Result<ResourceQuota, Error> {
        let name = quota.metadata.name.as_deref().unwrap_or_default();
        api.replace_status(name, &self.context.posting(), quota).await.during(doing)
    }

    /// What there is of what a quota is to count; and when something of it will have gone though nobody says so.
    async fn used(&self, key: &Key, quota: &Quota, hard: &Amounts) -> Result<(Amounts, Option<Duration>), Error> {
        let (mut used, mut again, now) = (Amounts::new(), None::<Duration>, Timestamp::now());
        let mut kinds = BTreeMap::<(&str, &str), BTreeSet<&str>>::new();
        for name in hard.keys() {
            if let Some(of) = Counted::named(name) {
                kinds.entry(of).or_default().insert(name);
            }
        }
        let places = self.places(&key.tenant, kinds.keys().copied()).await?;
        for ((group, plural), names) in kinds {
            let (Some(counted), Some(kind)) = (Counted::of(group, plural), places.get(&(group, plural))) else {
                continue;
            };
            let api: Api<DynamicObject> = Api::namespaced_with(self.context.client(&key.tenant), &key.namespace, kind);
            let sum = match counted {
                Counted::Objects { .. } => {
                    let many = if quota.has_no_scopes() { count(&api).await? } else { 0 };
                    names.into_iter().map(|name| (name.to_owned(), many)).map(of_count).collect()
                }
                Counted::Pods | Counted::Services | Counted::Claims => {
                    let objects = list(&api).await?;
                    let next =
                        objects.iter().filter_map(|object| counted.less_at(object)).filter(|at| *at >= now).min();
                    let next = next.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default());
                    // It is over after that moment, and not at it.
                    again = next.map(|next| next + Duration::from_secs(1)).into_iter().chain(again).min();
                    quota.usage(&counted, names, &objects, now)
                }
            };
            used.extend(sum);
        }
        Ok((used, again))
    }

    /// The kinds of resources as a tenant has them; those that it does not have in namespaces are left out.
    async fn places<'a>(
        &self,
        tenant: &TenantId,
        resources: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<HashMap<(&'a str, &'a str), ApiResource>, Error> {
        let (mut places, mut others) = (HashMap::new(), Vec::new());
        for (group, plural) in resources {
            match registry::builtin().iter().find(|one| one.ty.group == group && one.plural == plural) {
                Some(resource) if resource.ty.namespaced && resource.home == Home::Tenant => {
                    places.insert((group, plural), api_resource(resource));
                }
                Some(_) => {}
                None => others.push((group, plural)),
            }
        }
        if others.is_empty() {
            return Ok(places);
        }
        // The tenant's own.
        let groups: Vec<&str> = others.iter().map(|(group, _)| *group).collect();
        let discovery = Discovery::new(self.context.client(tenant)).filter(&groups).run().await;
        let discovery = discovery.during("discovering what a quota counts")?;
        for (kind, capabilities) in discovery.groups().flat_map(|group| group.recommended_resources()) {
            let wanted = others.iter().find(|(group, plural)| *group == kind.group && *plural == kind.plural);
            if let Some(wanted) = wanted.filter(|_| capabilities.scope == Scope::Namespaced) {
                places.insert(*wanted, kind);
            }
        }
        Ok(places)
    }
}

fn api_resource(resource: &Resource) -> ApiResource {
    ApiResource {
        group: resource.ty.group.clone(),
        version: resource.ty.version.clone(),
        api_version: resource.ty.api_version(),
        kind: resource.ty.kind.clone(),
        plural: resource.plural.clone(),
    }
}

fn of_count((name, many): (String, usize)) -> (String, hypernetes_schema::quantity::Quantity) {
    (name, hypernetes_schema::quantity::Quantity::count(many))
}

/// How many there are, of which nothing is read but that.
async fn count(api: &Api<DynamicObject>) -> Result<usize, Error> {
    let (mut many, mut parameters) = (0, ListParams::default().limit(PAGE));
    loop {
        let page = api.list_metadata(&parameters).await.during("counting objects")?;
        many += page.items.len();
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => return Ok(many),
        }
    }
}

/// All of them as they are at one moment, as values.
async fn list(api: &Api<DynamicObject>) -> Result<Vec<Value>, Error> {
    let (mut all, mut parameters) = (Vec::new(), ListParams::default().limit(PAGE));
    loop {
        let page = api.list(&parameters).await.during("listing what a quota counts")?;
        for mut object in page.items {
            object.metadata.managed_fields = None;
            let mut value = object.data;
            value["metadata"] = serde_json::to_value(&object.metadata)?;
            all.push(value);
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => return Ok(all),
        }
    }
}
