//! As many containers, images and volumes as a pod can have, made and removed in any order.

mod common;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use common::node::{Node, POD_UID, describe_volume, node};
use k8s_cri::v1 as cri;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

/// Disks of a VM, and those of them that can be written to.
const SLOTS: usize = 21;
const WRITABLE: usize = 7;
const IMAGES: usize = 21;
const VOLUMES: usize = WRITABLE;
const MOST_CONTAINERS: usize = 20;
const STEPS: usize = 70;

struct Pod {
    node: Node,
    sandbox: String,
    /// What is in each volume.
    volumes: Vec<(PathBuf, String)>,
    /// By id, what each has.
    containers: BTreeMap<String, Has>,
    made: usize,
}

#[derive(Clone, Copy, Debug)]
struct Has {
    image: usize,
    volume: Option<usize>,
}

fn image(n: usize) -> String {
    format!("test/image-{n}:1")
}

impl Pod {
    async fn new() -> Self {
        let node = node().await;
        for n in 0..IMAGES {
            node.import(&image(n), &[("which", &format!("image {n}"))]).await;
        }
        std::fs::create_dir_all(node.path("volumes/acme")).unwrap();
        let pod = node.path("pods").join(POD_UID);
        let volume = |n: usize| {
            let mount = pod.join(format!("volumes/kubernetes.io~csi/pvc-{n}/mount"));
            std::fs::create_dir_all(&mount).unwrap();
            let path = node.path("volumes/acme").join(format!("{n}.raw"));
            // Each of another length: a disk is told its new one.
            std::fs::File::create(&path).unwrap().set_len((16 + 8 * n as u64) << 20).unwrap();
            describe_volume(&mount, "acme", &n.to_string());
            (mount, String::new())
        };
        let volumes = (0..VOLUMES).map(volume).collect();
        let sandbox = node.run_sandbox("acme").await;
        Self { node, sandbox, volumes, containers: BTreeMap::new(), made: 0 }
    }

    async fn create(&mut self, has: Has) -> Result<String, tonic::Status> {
        self.made += 1;
        let mount = |path: &Path| cri::Mount {
            host_path: path.display().to_string(),
            container_path: "/data".into(),
            ..Default::default()
        };
        let mounts = has.volume.map(|volume| mount(&self.volumes[volume].0));
        let mut config = self.node.config(&format!("c{}", self.made), "sleep 1000", mounts.into_iter().collect());
        config.image = Some(cri::ImageSpec { image: image(has.image), ..Default::default() });
        let id = self.node.create(&self.sandbox, config).await?;
        let request = cri::StartContainerRequest { container_id: id.clone() };
        self.node.runtime().await.start_container(request).await?;
        self.containers.insert(id.clone(), has);
        Ok(id)
    }

    async fn remove(&mut self, id: &str) {
        self.containers.remove(id);
        let request = cri::RemoveContainerRequest { container_id: id.into() };
        self.node.runtime().await.remove_container(request).await.unwrap();
    }

    /// Sees whether a container has its own files, and its volume what was last written there; writes something else.
    async fn check(&mut self, id: &str) {
        let has = self.containers[id];
        let expected = format!("image {}", has.image);
        let Some(volume) = has.volume else {
            assert_eq!(self.node.exec(id, "cat /which").await, (0, expected), "{has:?}");
            return;
        };
        let next = format!("volume {volume} by {id}");
        let script = format!("cat /which /data/file 2>/dev/null; echo -n '{next}' > /data/file");
        let (code, output) = self.node.exec(id, &script).await;
        assert_eq!((code, output), (0, expected + &self.volumes[volume].1), "{has:?}");
        self.volumes[volume].1 = next;
    }

    async fn check_all(&mut self) {
        for id in self.containers.keys().cloned().collect::<Vec<_>>() {
            self.check(&id).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_and_volumes_come_and_go_in_any_order() {
    let seed = std::env::var("SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    eprintln!("SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut pod = Pod::new().await;
    for step in 0..STEPS {
        // Up to as many as there may be, and down again, and so on.
        let growing = step % 40 < 26;
        let ids: Vec<String> = pod.containers.keys().cloned().collect();
        if !ids.is_empty() && (ids.len() == MOST_CONTAINERS || random.random_bool(if growing { 0.1 } else { 0.8 })) {
            pod.remove(ids.choose(&mut random).unwrap()).await;
        } else {
            // Any image, but no more different disks than there can be.
            let volume = random.random_bool(0.4).then(|| random.random_range(0..VOLUMES));
            let images = 0..SLOTS - VOLUMES;
            let id = pod.create(Has { image: random.random_range(images), volume }).await.unwrap();
            pod.check(&id).await;
        }
        if step == STEPS / 2 {
            pod.check_all().await;
            // Its successor knows what is where.
            pod.node.restart().await;
            pod.check_all().await;
        }
    }
    pod.check_all().await;
    for id in pod.containers.keys().cloned().collect::<Vec<_>>() {
        pod.remove(&id).await;
    }

    // Twenty images and a volume, one for each of the VM's disks.
    for n in 0..MOST_CONTAINERS {
        let volume = (n < SLOTS - MOST_CONTAINERS).then_some(n);
        pod.create(Has { image: n, volume }).await.unwrap();
    }
    pod.check_all().await;
    let full = pod.create(Has { image: MOST_CONTAINERS, volume: None }).await.unwrap_err();
    assert_eq!(full.code(), tonic::Code::ResourceExhausted, "{full}");
    assert!(full.message().contains("21 in all, of which 7 can be written to"), "{full}");
    // What is there already needs no disk; and where one was, another can be.
    pod.create(Has { image: 3, volume: Some(0) }).await.unwrap();
    let gone = pod.containers.iter().find(|(_, has)| has.image == 19).unwrap().0.clone();
    pod.remove(&gone).await;
    pod.create(Has { image: MOST_CONTAINERS, volume: None }).await.unwrap();
    pod.check_all().await;

    let sandbox = pod.sandbox.clone();
    pod.node.remove(&sandbox).await;
    for (volume, _) in pod.volumes.iter().enumerate().filter(|(_, (_, content))| !content.is_empty()) {
        let path = pod.node.path("volumes/acme").join(format!("{volume}.raw"));
        let check = std::process::Command::new("fsck.ext4").arg("-fn").arg(&path).output().unwrap();
        assert!(check.status.success(), "{check:?}");
    }
    pod.node.hyperd.take().unwrap().shutdown_background();
}
