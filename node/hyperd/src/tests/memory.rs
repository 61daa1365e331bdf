//! What all VMs together may have of the host's memory.

use super::*;

impl Node {
    /// One more of the same pod, of 256 MiB as those without limits.
    async fn try_sandbox(&self, attempt: u32) -> Result<String, tonic::Status> {
        let mut config = self.sandbox_config();
        config.metadata.as_mut().unwrap().attempt = attempt;
        let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
        self.runtime().await.run_pod_sandbox(request).await.map(|made| made.into_inner().pod_sandbox_id)
    }

    async fn refuses(&self, attempt: u32) {
        let error = self.try_sandbox(attempt).await.unwrap_err();
        assert_eq!(error.code(), Code::ResourceExhausted, "{error}");
        assert!(error.message().contains("have 512 MiB"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_vms_than_the_host_has_memory_for() {
    let mut node = Node::with_memory(600).await;
    let (first, second) = (node.try_sandbox(0).await.unwrap(), node.try_sandbox(1).await.unwrap());
    node.refuses(2).await;
    assert_eq!(node.hypervisor.machines().len(), 2);
    // Who comes after a killed hyperd counts what runs.
    node.kill().await;
    node.run().await;
    node.refuses(2).await;
    // What is on the disk leaves its memory to others, and has it again when there is room.
    node.hibernate(&first).await.unwrap();
    let third = node.try_sandbox(2).await.unwrap();
    let error = node.resume(&first).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted, "{error}");
    for ended in [second, third] {
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: ended };
        node.runtime().await.stop_pod_sandbox(request).await.unwrap();
    }
    node.resume(&first).await.unwrap();
    node.try_sandbox(3).await.unwrap();
    node.refuses(4).await;
}
