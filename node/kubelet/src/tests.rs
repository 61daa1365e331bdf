//! The kubelet between an API server that checks nothing and a runtime without VMs.

mod api;
mod hooks;
mod hostile;
mod life;
mod relay;
mod runtime;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hypernetes_api::AllTenants;
use hypernetes_testing::server::{ACME, GLOBEX};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use self::{api::HostileApi, runtime::FakeRuntime};
use crate::{
    config::{KubeletConfig, ServerTls},
    node::{Shared, registration},
    pods::{manager, tenants},
    relay::NoRelay,
};

/// Longest that anything is waited for.
const SOON: Duration = Duration::from_secs(60);

/// A kubelet at work.
struct Host {
    directory: tempfile::TempDir,
    api: HostileApi,
    runtime: Arc<FakeRuntime>,
    shared: Arc<Shared>,
    stop: CancellationToken,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Host {
    async fn new() -> Self {
        Self::with(HostileApi::new(&[("key", "value")])).await
    }

    async fn with(api: HostileApi) -> Self {
        Self::prepared(api, |_, _, _| ()).await
    }

    /// One that finds what `before` has made: below the kubelet's own directory, in the API and in the runtime.
    async fn prepared(api: HostileApi, before: impl FnOnce(&Path, &HostileApi, &FakeRuntime)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("runtime.sock");
        let runtime = FakeRuntime::serve(&socket);
        before(&directory.path().join("node"), &api, &runtime);
        let config = KubeletConfig {
            node_name: "n1".into(),
            root: directory.path().join("node"),
            clients: api.clients(),
            all: AllTenants::grant(),
            cri_socket: socket,
            csi_drivers: [].into(),
            bind: ([127, 0, 0, 1], 0).into(),
            tls: ServerTls { serving: Default::default(), client_authority: String::new() },
            relay: Arc::new(NoRelay),
        };
        let mut shared = Shared::new(config).unwrap();
        shared.allocatable.pods = 10_000;
        let (shared, stop) = (Arc::new(shared), CancellationToken::new());
        tokio::spawn(registration::keep(shared.clone(), ([127, 0, 0, 1], 1).into(), || ()));
        tokio::spawn(manager::run(shared.clone(), stop.clone()));
        tokio::spawn(stop.clone().run_until_cancelled_owned(tenants::keep(shared.clone())));
        Self { directory, api, runtime, shared, stop }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn pod_path(&self, uid: &str) -> PathBuf {
        self.path("node/pods").join(uid)
    }

    /// Looks again whenever the API's objects change, and now and then, as the runtime tells nothing.
    async fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let mut changes = self.api.changes();
        let waiting = async {
            while !holds() {
                let _ = tokio::time::timeout(Duration::from_millis(20), changes.changed()).await;
            }
        };
        assert!(tokio::time::timeout(SOON, waiting).await.is_ok(), "in vain: {what}");
    }

    async fn until_runs(&self, uid: &str) {
        self.until(&format!("{uid} runs"), || self.runtime.runs(uid)).await;
    }

    async fn until_gone(&self, uid: &str) {
        self.until(&format!("{uid} is gone"), || self.api.pod(uid).is_none()).await;
    }

    async fn until_failed(&self, uid: &str) -> Value {
        let status = || self.api.pod(uid).map(|pod| pod["status"].clone()).unwrap_or_default();
        self.until(&format!("{uid} is failed"), || status()["phase"] == "Failed").await;
        status()
    }
}

/// A pod of one container, with these fields in its specification.
fn pod(spec: Value) -> Value {
    let mut pod = json!({"spec": {"containers": [{"name": "a", "image": "i"}]}});
    for (field, value) in spec.as_object().unwrap() {
        pod["spec"][field] = value.clone();
    }
    pod
}

/// All that lies below a directory but what is left out: paths, kinds, modes, owners and contents.
#[expect(clippy::disallowed_methods, reason = "what the kubelet does is looked at from outside")]
fn picture(directory: &Path, without: &[PathBuf]) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    let mut seen = Vec::new();
    let mut left = vec![directory.to_owned()];
    while let Some(path) = left.pop() {
        if without.contains(&path) {
            continue;
        }
        let found = std::fs::symlink_metadata(&path).unwrap();
        let content = if found.is_file() { std::fs::read(&path).unwrap() } else { Vec::new() };
        seen.push(format!("{path:?} {:o} {} {} {content:?}", found.mode(), found.uid(), found.gid()));
        if found.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    seen.sort();
    seen
}
