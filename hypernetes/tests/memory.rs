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
use kube::api::PostParams;
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// With the default objects. What the server process needs of memory is a little more: blocks are rounded up.
const MOST: usize = 40 << 10;
const TENANTS: usize = 100;
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

#[tokio::test]
async fn a_tenant_is_small() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let api = InProcess::start();
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
    stop.cancel();
    drop((identity, networks));
}
