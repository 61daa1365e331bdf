//! Claims, with the real driver over its socket, and a real API server and volume service in process.
#![expect(clippy::disallowed_methods, reason = "what a pod's directory holds is looked at from outside")]

use std::{fs, ops::Deref, path::Path};

use hypernetes_api::{
    AllTenants, names,
    types::volume::{Attachment, Volume, VolumeSpec},
};
use hypernetes_client::Clients;
use hypernetes_csi::CsiConfig;
use hypernetes_testing::{
    server::{ACME, InProcess, make},
    wait::eventually,
};
use hypernetes_volume::{Volumes, VolumesConfig};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{claim::ReleaseError, *};
use crate::{
    config::{KubeletConfig, ServerTls},
    pod::spec::expansion::Environment,
    relay::NoRelay,
};

const GIB: u64 = 1 << 30;

struct Node {
    in_process: InProcess,
    shared: Arc<Shared>,
    _volumes: Arc<Volumes>,
    driver: tokio::task::JoinHandle<()>,
}

impl Deref for Node {
    type Target = InProcess;

    fn deref(&self) -> &InProcess {
        &self.in_process
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

async fn shared(directory: &Path, clients: &Clients, driver: &str) -> Arc<Shared> {
    let config = KubeletConfig {
        node_name: "n1".into(),
        root: directory.into(),
        clients: clients.clone(),
        all: AllTenants::grant(),
        cri_socket: directory.join("nobody.sock"),
        csi_drivers: [(driver.to_owned(), directory.join("csi.sock"))].into(),
        bind: ([127, 0, 0, 1], 0).into(),
        tls: ServerTls { serving: Default::default(), client_authority: String::new() },
        relay: Arc::new(NoRelay),
    };
    Arc::new(Shared::new(config).unwrap())
}

fn drive(directory: &Path, clients: &Clients) -> tokio::task::JoinHandle<()> {
    let config = CsiConfig::new("n1", directory.join("csi.sock"), directory.join("pods"), clients.clone());
    tokio::spawn(async move { hypernetes_csi::run(config, CancellationToken::new()).await.unwrap() })
}

impl Node {
    /// One tenant with a volume `data` of 1 GiB, and a claim and a persistent volume of that name, bound.
    async fn new() -> Self {
        let in_process = InProcess::start();
        let (directory, clients) = (in_process.directory(), &in_process.clients);
        let config = VolumesConfig::new(directory.join("volumes"), "https://cloud.example");
        let volumes = Volumes::start(clients, AllTenants::grant(), config).unwrap();
        let socket = directory.join("csi.sock");
        let driver = drive(directory, clients);
        let shared = shared(directory, clients, names::VOLUME_DRIVER).await;
        let node = Self { in_process, shared, _volumes: volumes, driver };
        eventually(|| async { socket.exists().then_some(()) }).await;
        node.tenant(ACME).await;
        let spec = VolumeSpec { size_bytes: GIB, ..VolumeSpec::default() };
        node.api(ACME).create(&PostParams::default(), &Volume::new("data", spec)).await.unwrap();
        eventually(|| async {
            let volume = node.api::<Volume>(ACME).get("data").await.unwrap();
            (volume.status?.phase == "Available").then_some(())
        })
        .await;
        node.claim("data", json!({})).await;
        node
    }

    /// A claim and its volume, as the provisioner leaves them; `more` goes into the volume's specification.
    async fn claim(&self, name: &str, more: Value) {
        let claims = self.in_default::<PersistentVolumeClaim>(ACME);
        let size = json!({"storage": "1Gi"});
        let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": size}, "volumeName": name});
        let claim = make(&claims, json!({"metadata": {"name": name}, "spec": spec})).await;
        let mut spec = json!({
            "accessModes": ["ReadWriteOnce"], "capacity": size,
            "claimRef": {"namespace": "default", "name": name, "uid": claim.metadata.uid},
            "csi": {"driver": names::VOLUME_DRIVER, "volumeHandle": "data", "fsType": "ext4",
                    // What a tenant may try.
                    "volumeAttributes": {names::TENANT_ANNOTATION: "system"}},
        });
        merge(&mut spec, more);
        self.make::<PersistentVolume>(ACME, json!({"metadata": {"name": name}, "spec": spec})).await;
        let bound = Patch::Merge(json!({"status": {"phase": "Bound"}}));
        claims.patch_status(name, &PatchParams::default(), &bound).await.unwrap();
    }

    async fn prepare(&self, pod: &Pod) -> Result<(), SyncError> {
        prepare_in(&self.shared, pod).await
    }

    async fn refused(&self, pod: &Pod, reason: &str) -> String {
        let error = self.prepare(pod).await.unwrap_err();
        assert_eq!(error.reason, reason, "{error:?}");
        error.message
    }

    async fn release(&self, pod: &Pod) {
        release(&self.shared, &dir(&self.shared, pod)).await.unwrap();
    }

    /// Where the runtime is told to find the first mount, and what lies there.
    fn descriptor(&self, pod: &Pod) -> Option<Value> {
        let spec = pod.spec.as_ref().unwrap();
        let mounts = mounts(&dir(&self.shared, pod), spec, &spec.containers[0], &Environment::default()).unwrap();
        let text = fs::read(Path::new(&mounts[0].host_path).join(names::VOLUME_DESCRIPTOR)).ok()?;
        Some(serde_json::from_slice(&text).unwrap())
    }

    async fn attachment(&self) -> Option<Attachment> {
        self.api(ACME).get_opt("data").await.unwrap()
    }
}

fn id(pod: &Pod) -> PodId {
    let text = |field: &Option<String>| field.clone().unwrap();
    PodId {
        tenant: ACME.parse().unwrap(),
        uid: text(&pod.metadata.uid).parse().unwrap(),
        namespace: text(&pod.metadata.namespace).parse().unwrap(),
        name: text(&pod.metadata.name).parse().unwrap(),
    }
}

fn dir(shared: &Shared, pod: &Pod) -> PodDir {
    shared.pods.make(id(pod).uid).unwrap()
}

async fn prepare_in(shared: &Arc<Shared>, pod: &Pod) -> Result<(), SyncError> {
    prepare(shared, &id(pod), pod, &dir(shared, pod), &mut Tokens::default()).await.map(drop)
}

fn merge(into: &mut Value, more: Value) {
    match more {
        Value::Object(map) if into.is_object() => map.into_iter().for_each(|(key, value)| merge(&mut into[key], value)),
        other => *into = other,
    }
}

fn pod(name: &str, claim: Value, container: Value) -> Pod {
    let mut containers = json!([{"name": "c", "image": "i"}]);
    merge(&mut containers[0], container);
    let volumes = json!([{"name": "v", "persistentVolumeClaim": claim}]);
    let metadata = json!({"name": name, "namespace": "default", "uid": format!("uid-{name}")});
    serde_json::from_value(json!({"metadata": metadata, "spec": {"containers": containers, "volumes": volumes}}))
        .unwrap()
}

fn mounting(name: &str) -> Pod {
    pod(name, json!({"claimName": "data"}), json!({"volumeMounts": [{"name": "v", "mountPath": "/data"}]}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claims_volume_is_the_pods_until_its_end() {
    let node = Node::new().await;
    let (web, other) = (mounting("web"), mounting("other"));
    node.prepare(&web).await.unwrap();
    let descriptor = node.descriptor(&web).unwrap();
    assert_eq!((&descriptor["mode"], &descriptor["readOnly"]), (&json!("Filesystem"), &json!(false)));
    assert_eq!(descriptor["tenant"], ACME, "the pod's tenant, whatever the volume says");
    let attachment = node.attachment().await.unwrap();
    assert_eq!((attachment.spec.pod.name.as_str(), attachment.spec.pod.uid.as_str()), ("web", "uid-web"));

    let message = node.refused(&other, "FailedAttachVolume").await;
    assert_eq!(
        message,
        "Multi-Attach error for volume \"data\" Volume is already used by pod(s) default/web on node n1"
    );
    // A later kubelet goes on without asking, though the claim has gone.
    let claims = node.in_default::<PersistentVolumeClaim>(ACME);
    claims.delete("data", &Default::default()).await.unwrap();
    let later = shared(node.directory(), &node.clients, names::VOLUME_DRIVER).await;
    prepare_in(&later, &web).await.unwrap();

    release(&later, &dir(&later, &web)).await.unwrap();
    assert!(node.attachment().await.is_none() && node.descriptor(&web).is_none());
    node.release(&web).await;
    node.release(&other).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_gets_what_another_has_given_back() {
    let node = Node::new().await;
    let (web, other) = (mounting("web"), mounting("other"));
    node.prepare(&web).await.unwrap();
    node.refused(&other, "FailedAttachVolume").await;
    node.release(&web).await;
    node.prepare(&other).await.unwrap();
    assert_eq!(node.attachment().await.unwrap().spec.pod.uid, "uid-other");
    // One that never had it gives nothing away.
    node.release(&web).await;
    assert!(node.attachment().await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_bound_is_waited_for() {
    let node = Node::new().await;
    let wants = |claim: &str| pod("web", json!({"claimName": claim}), json!({}));
    let message = node.refused(&wants("nothing"), "FailedMount").await;
    assert!(message.contains("persistentvolumeclaim \"nothing\" not found"), "{message}");
    let claims = node.in_default::<PersistentVolumeClaim>(ACME);
    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    make(&claims, json!({"metadata": {"name": "late"}, "spec": spec})).await;
    let message = node.refused(&wants("late"), "FailedMount").await;
    assert_eq!(
        message,
        "MountVolume.SetUp failed for volume \"v\" : error processing PVC default/late: PVC is not bound"
    );
    // Nor is one that names a volume which is another claim's.
    let stolen = json!({"spec": {"volumeName": "data"}, "status": {"phase": "Bound"}});
    claims.patch("late", &PatchParams::default(), &Patch::Merge(&stolen)).await.unwrap();
    claims.patch_status("late", &PatchParams::default(), &Patch::Merge(&stolen)).await.unwrap();
    let message = node.refused(&wants("late"), "FailedMount").await;
    assert!(message.contains("bound to another claim"), "{message}");
    assert!(node.attachment().await.is_none());
    let unknown = shared(node.directory(), &node.clients, "else.example").await;
    let web = mounting("web");
    let error = prepare_in(&unknown, &web).await.unwrap_err();
    assert!(error.message.contains("driver name volume.csi.hypernetes.io not found"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn block_volumes_are_devices_and_readers_only_read() {
    let node = Node::new().await;
    node.claim("block", json!({"volumeMode": "Block"})).await;
    let block = |container| pod("raw", json!({"claimName": "block", "readOnly": true}), container);
    let mount = json!({"volumeMounts": [{"name": "v", "mountPath": "/x"}]});
    let message = node.refused(&block(mount.clone()), "FailedMount").await;
    assert!(message.contains("has volumeMode Block, but is specified in volumeMounts"), "{message}");
    let device = json!({"volumeDevices": [{"name": "v", "devicePath": "/dev/xvda"}]});
    let message = node.refused(&pod("web", json!({"claimName": "data"}), device.clone()), "FailedMount").await;
    assert!(message.contains("has volumeMode Filesystem, but is specified in volumeDevices"), "{message}");
    let raw = block(device);
    node.prepare(&raw).await.unwrap();
    let descriptor = node.descriptor(&raw).unwrap();
    assert_eq!((&descriptor["mode"], &descriptor["readOnly"]), (&json!("Block"), &json!(true)));
    let spec = raw.spec.as_ref().unwrap();
    let mounts = mounts(&dir(&node.shared, &raw), spec, &spec.containers[0], &Environment::default()).unwrap();
    assert_eq!(mounts[0].container_path, "/dev/xvda");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_driver_refuses_is_said_and_left_clean() {
    let mut node = Node::new().await;
    node.claim("xfs", json!({"csi": {"fsType": "xfs"}})).await;
    node.claim("options", json!({"mountOptions": ["noexec"]})).await;
    node.claim("gone", json!({"csi": {"volumeHandle": "gone"}})).await;
    for (claim, words) in [
        ("xfs", "code = InvalidArgument desc = the file system \"xfs\" is not supported"),
        ("options", "mount options are not supported"),
        ("gone", "code = NotFound"),
    ] {
        let wants = pod(claim, json!({"claimName": claim}), json!({}));
        let message = node.refused(&wants, "FailedMount").await;
        assert!(message.contains(words) && message.contains(&format!("for volume {claim:?}")), "{message}");
        node.release(&wants).await;
    }
    assert!(node.attachment().await.is_none());
    // Without a driver the pod waits, and so does its end.
    let web = mounting("web");
    node.prepare(&web).await.unwrap();
    node.driver.abort();
    let _ = (&mut node.driver).await;
    // Its connections have ends of their own, a little later.
    fs::remove_file(node.directory().join("csi.sock")).unwrap();
    let unreachable = shared(node.directory(), &node.clients, names::VOLUME_DRIVER).await;
    let error = release(&unreachable, &dir(&unreachable, &web)).await.unwrap_err();
    assert!(matches!(&error, ReleaseError::Driver { volume, .. } if volume == "data"), "{error}");
    assert!(node.attachment().await.is_some(), "not given back, and not forgotten");
    node.driver = drive(node.directory(), &node.clients);
    eventually(|| async { release(&unreachable, &dir(&unreachable, &web)).await.ok() }).await;
    assert!(node.attachment().await.is_none());
}
