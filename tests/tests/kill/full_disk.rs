//! hyperd's disk is full: nothing that runs ends, what cannot be made leaves nothing, and room can be made by removing pods.

use std::{collections::BTreeSet, fs, io::Write, path::Path};

use k8s_cri::v1 as cri;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{
    leaves_nothing,
    node::{Node, within},
    on_a_thread, remains, remove_all, running,
};

/// Until not one byte more goes in.
fn fill(path: &Path) {
    let mut file = fs::File::create(path).unwrap();
    let mut size = 1 << 20;
    while size > 0 {
        if file.write_all(&vec![0; size]).is_err() {
            size /= 2;
        }
    }
}

/// VMs that run. Each has its directory: the sandboxes', templates, and those that wait.
async fn vms(node: &Node) -> BTreeSet<String> {
    let all = || remains::vms(node).into_iter().map(|vm| vm.id).collect::<BTreeSet<_>>();
    within("every VM to be known", async || all().is_subset(&remains::machines(node)).then_some(())).await;
    all()
}

#[test]
fn a_full_disk_ends_nothing_and_leaves_nothing() {
    on_a_thread(async || {
        let mut node = Node::new();
        let root = node.path("root");
        mount(Some("disk"), &root, Some("tmpfs"), MsFlags::empty(), Some("size=256m,mode=0711")).unwrap();
        node.start().await;
        node.import_image();
        let pod = running(&mut node).await;

        fill(&root.join("fill"));
        let mut client = node.client().await.unwrap();
        for _ in 0..3 {
            let config = node.sandbox_config();
            let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
            let error = client.run_pod_sandbox(request).await.unwrap_err();
            assert!(error.message().contains("No space left on device"), "{error}");
            assert_eq!(error.code(), tonic::Code::ResourceExhausted, "{error}");
        }
        assert_eq!(node.sandboxes().await.len(), 1);
        assert_eq!(remains::names(&root.join("sandboxes")), BTreeSet::from([format!("{}.json", pod.sandbox)]));
        assert!(vms(&node).await.contains(&pod.sandbox));
        assert_eq!(node.containers().await[0].state(), cri::ContainerState::ContainerRunning);

        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: pod.sandbox.clone() };
        client.remove_pod_sandbox(request).await.unwrap();
        assert_eq!((node.sandboxes().await, node.containers().await), (vec![], vec![]));
        within("its VM to be gone", async || (!vms(&node).await.contains(&pod.sandbox)).then_some(())).await;

        fs::remove_file(root.join("fill")).unwrap();
        let next = running(&mut node).await;
        remove_all(&node).await;
        node.stop();
        leaves_nothing(&node, &BTreeSet::from([pod.sandbox, next.sandbox])).await;
        umount2(&root, MntFlags::MNT_DETACH).unwrap();
    });
}
