//! What a tenant takes: memory, with all that the control plane keeps of it, counted byte by byte, and commits until it is ready.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures::future::try_join_all;
use hypernetes_api::{AllTenants, TenantId, types::identity::Project};
use hypernetes_controllers::{ControllersConfig, runtime::Informers};
use hypernetes_identity::{Identity, IdentityConfig};
use hypernetes_network::{NetworkConfig, NetworkService};
use hypernetes_testing::{
    server::{InProcess, id},
    wait::eventually,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api,
    api::{DynamicObject, GroupVersionKind, PostParams},
    discovery::ApiResource,
};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

/// With the default objects. What the server process needs of memory is a little more: blocks are rounded up.
const MOST: usize = 40 << 10;
const TENANTS: usize = 100;
/// A definition of about 3 kB of which no object was ever written, with both versions of it that were written a moment ago (8 KiB), and
/// the watch that the garbage collector has of its objects (15 KiB).
const MOST_OF_A_DEFINITION: usize = 32 << 10;
const DEFINITIONS: usize = 100;
/// Of one tenant: its Project, which becomes ready, its objects, and the network's segment.
const COMMITS: u64 = 20;
/// Objects that each has from its start: four namespaces with a service account and a config map each, a network and its subnet, and
/// the service of the API with what is behind it.
const OBJECTS: u64 = 17;

/// Bytes that are allocated now.
static LIVE: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[allow(unsafe_code)]
// SAFETY: all is the system's; beside it is counted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps what is asked of both.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

/// Makes tenants whose ids begin with a digit, and waits until they have all that they begin with.
async fn make(api: &InProcess, digit: char) {
    let tenants: Vec<TenantId> = (0..TENANTS).map(|number| id(&format!("{digit}{number:031x}"))).collect();
    let projects = api.api::<Project>(TenantId::SYSTEM);
    let (made, options) = (&projects, &PostParams::default());
    let make = |tenant: &TenantId| {
        let spec = json!({"displayName": tenant.as_str(), "domain": "default", "enabled": true});
        let project: Project =
            serde_json::from_value(json!({"metadata": {"name": tenant.as_str()}, "spec": spec})).unwrap();
        async move { made.create(options, &project).await }
    };
    try_join_all(tenants.iter().map(make)).await.unwrap();
    eventually(|| async {
        let listed = projects.list(&Default::default()).await.unwrap();
        let ready = |project: &&Project| project.status.as_ref().is_some_and(|status| status.phase == "Ready");
        let own = |project: &&Project| project.metadata.name.as_deref().is_some_and(|name| name.starts_with(digit));
        let complete = tenants.iter().all(|tenant| api.store.usage(tenant).objects == OBJECTS);
        (complete && listed.iter().filter(own).filter(ready).count() == TENANTS).then_some(())
    })
    .await;
}

/// All that looks after tenants.
struct Plane {
    stop: CancellationToken,
    _identity: Arc<Identity>,
    _networks: Arc<NetworkService>,
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn start(api: &InProcess) -> Plane {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let certificate = api.authority();
    api.domain().await;
    tokio::spawn(api.server.follow_tenants());
    let identity = Identity::start(&api.clients, IdentityConfig::new("https://127.0.0.1:6443"));
    let config = NetworkConfig::new("https://127.0.0.1:6443");
    let networks = NetworkService::start(&api.clients, AllTenants::grant(), identity.clone(), config);
    let stop = CancellationToken::new();
    let config = ControllersConfig {
        informers: Informers::new(api.clients.clone(), AllTenants::grant(), stop.clone()),
        cluster_ca_pem: certificate,
        api_server: ([192, 0, 2, 1], 6443).into(),
        authorities: Arc::new(api.server.authorities()),
    };
    tokio::spawn(hypernetes_controllers::run(config, stop.clone()));
    Plane { stop, _identity: identity, _networks: networks }
}

#[tokio::test]
async fn a_tenant_is_small() {
    let api = InProcess::start();
    let _plane = start(&api).await;
    // What is there once, whoever comes, is there with the first.
    make(&api, 'a').await;
    let (before, first) = (LIVE.load(Ordering::Relaxed), api.store.revision().await.unwrap());
    make(&api, 'b').await;
    let commits = api.store.revision().await.unwrap().0 - first.0;
    let each = LIVE.load(Ordering::Relaxed).saturating_sub(before) / TENANTS;
    println!("a tenant: {:.1} KiB, {:.2} commits", each as f64 / 1024.0, commits as f64 / TENANTS as f64);
    assert!(each < MOST, "a tenant takes {each} bytes");
    // Others write, too, if seldom.
    assert!(commits <= COMMITS * TENANTS as u64 + 10, "{TENANTS} tenants take {commits} commits");
}

/// A definition of about 3 kB, as clients write it.
fn definition(number: usize) -> Value {
    let text = json!({"type": "string", "maxLength": 64, "description": "What this says of the widget, in one line."});
    let fields: Map<String, Value> = (0..24).map(|field| (format!("field{field}"), text.clone())).collect();
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": fields}}});
    let group = format!("g{number}.example.org");
    json!({
        "metadata": {"name": format!("widgets.{group}")},
        "spec": {
            "group": group, "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": schema},
            }],
        },
    })
}

#[tokio::test]
async fn definitions_are_small() {
    let api = InProcess::start();
    let _plane = start(&api).await;
    make(&api, 'a').await;
    let tenant = id(&format!("a{:031x}", 1));
    let definitions = api.api::<CustomResourceDefinition>(tenant.as_str());
    let (made, options) = (&definitions, &PostParams::default());
    let define = async |numbers: std::ops::Range<usize>| {
        let make = |number| {
            let definition = serde_json::from_value(definition(number)).unwrap();
            async move { made.create(options, &definition).await }
        };
        let end = numbers.end;
        try_join_all(numbers.map(make)).await.unwrap();
        eventually(|| async {
            let all = made.list(&Default::default()).await.unwrap();
            let established = |one: &&CustomResourceDefinition| {
                let conditions = one.status.iter().flat_map(|status| status.conditions.iter().flatten());
                conditions.into_iter().any(|one| one.type_ == "Established" && one.status == "True")
            };
            (all.iter().filter(established).count() == end).then_some(())
        })
        .await;
        // Whoever asks for one of them has the server know all.
        let kind = GroupVersionKind::gvk(&format!("g{}.example.org", end - 1), "v1", "Widget");
        let objects: Api<DynamicObject> =
            Api::all_with(api.clients.tenant(&tenant), &ApiResource::from_gvk_with_plural(&kind, "widgets"));
        assert!(objects.list(&Default::default()).await.unwrap().items.is_empty());
    };
    define(0..10).await;
    let before = LIVE.load(Ordering::Relaxed);
    define(10..10 + DEFINITIONS).await;
    let each = LIVE.load(Ordering::Relaxed).saturating_sub(before) / DEFINITIONS;
    println!("a definition: {:.1} KiB", each as f64 / 1024.0);
    assert!(each < MOST_OF_A_DEFINITION, "a definition takes {each} bytes");
}
