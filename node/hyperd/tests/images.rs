//! hyperd with a real image store and no VMM: images through CRI, and what a host that cannot start VMs says.

mod common;

use std::sync::Arc;

use async_trait::async_trait;
use hypernetes_hyperd::HyperdConfig;
use hypernetes_hyperd_api::{ImportImageRequest, hyperd_client::HyperdClient};
use hypernetes_hypervisor::{Accelerator, Hypervisor, HypervisorError, HypervisorInfo, Vm, VmRecord, VmSpec};
use hypernetes_image::{ImageStore, Limits};
use k8s_cri::v1::{
    self as cri, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};
use tonic::Code;

struct NoVmm;

#[async_trait]
impl Hypervisor for NoVmm {
    async fn create(&self, _spec: VmSpec) -> Result<Box<dyn Vm>, HypervisorError> {
        Err(HypervisorError::Host("QEMU is missing: install qemu-system-x86".into()))
    }

    async fn adopt(&self, record: VmRecord) -> Result<Box<dyn Vm>, HypervisorError> {
        Err(HypervisorError::Gone { id: record.spec.id })
    }

    fn describe(&self) -> HypervisorInfo {
        HypervisorInfo {
            vmm: "none".into(),
            accelerator: Accelerator::Tcg,
            accelerator_reason: "a test".into(),
            kernel: "/none".into(),
            disk_slots: 20,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_imported_and_seen_through_cri() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    let images = Arc::new(ImageStore::open(root.join("images"), Limits::default()).unwrap());
    let config = HyperdConfig::new(&root, Arc::new(NoVmm), images);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(hypernetes_hyperd::run(config, async move { drop(stopped.await) }));
    while !root.join("hyperd.sock").exists() {
        assert!(!server.is_finished(), "hyperd ended: {:?}", server.await);
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let channel = hypernetes_hyperd_api::connect(&root.join("hyperd.sock")).await.unwrap();

    let layout = directory.path().join("layout");
    common::layout::busybox_layout(&layout, &[]);
    let mut hyperd = HyperdClient::new(channel.clone());
    let import = |path: String| ImportImageRequest { path, name: "test/busybox:1".into() };
    let mut steps = hyperd.import_image(import(layout.display().to_string())).await.unwrap().into_inner();
    let mut id = String::new();
    while let Some(step) = steps.message().await.unwrap() {
        id = step.image_id;
    }
    assert!(id.starts_with("sha256:"), "{id}");

    let mut images = ImageServiceClient::new(channel.clone());
    let spec = |image: &str| Some(cri::ImageSpec { image: image.into(), ..Default::default() });
    for name in ["test/busybox:1", "docker.io/test/busybox:1", &id] {
        let request = cri::ImageStatusRequest { image: spec(name), verbose: false };
        let image = images.image_status(request).await.unwrap().into_inner().image;
        assert_eq!(image.unwrap_or_else(|| panic!("no image {name}")).id, id);
    }
    let listed = images.list_images(cri::ListImagesRequest::default()).await.unwrap().into_inner().images;
    assert_eq!(listed.len(), 1);
    for (name, count) in [("test/busybox:1", 1), ("test/other", 0)] {
        let filter = Some(cri::ImageFilter { image: spec(name) });
        assert_eq!(
            images.list_images(cri::ListImagesRequest { filter }).await.unwrap().into_inner().images.len(),
            count
        );
    }
    let verbose = cri::ImageStatusRequest { image: spec(&id), verbose: true };
    let info = images.image_status(verbose).await.unwrap().into_inner().info;
    let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
    assert_eq!(info["imageSpec"]["os"], "linux");
    let used = images.image_fs_info(cri::ImageFsInfoRequest::default()).await.unwrap().into_inner().image_filesystems;
    let used = used[0].used_bytes.unwrap().value;
    assert!(used >= listed[0].size && used < listed[0].size + (1 << 20), "{used} and {}", listed[0].size);
    for (name, code, message) in [
        ("Not A Name", Code::InvalidArgument, "couldn't parse image name"),
        ("127.0.0.1:1/nobody:1", Code::Unavailable, "RegistryUnavailable"),
    ] {
        let request = cri::PullImageRequest { image: spec(name), ..Default::default() };
        let error = images.pull_image(request).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.message().starts_with(message), "{error}");
    }
    for _ in 0..2 {
        images.remove_image(cri::RemoveImageRequest { image: spec(&id) }).await.unwrap();
    }
    assert!(images.list_images(cri::ListImagesRequest::default()).await.unwrap().into_inner().images.is_empty());

    let mut steps = hyperd.import_image(import("/no/such/archive".into())).await.unwrap().into_inner();
    let error = loop {
        if let Err(error) = steps.message().await {
            break error;
        }
    };
    assert!(error.message().contains("/no/such/archive"), "{error}");
    assert_eq!(hyperd.import_image(import("relative".into())).await.unwrap_err().code(), Code::InvalidArgument);

    let config = cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata { name: "a".into(), uid: "u".into(), ..Default::default() }),
        ..Default::default()
    };
    let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
    let mut runtime = RuntimeServiceClient::new(channel);
    let error = runtime.run_pod_sandbox(request).await.unwrap_err();
    assert!(error.message().contains("install qemu-system-x86"), "{error}");
    assert!(
        runtime.list_pod_sandbox(cri::ListPodSandboxRequest::default()).await.unwrap().into_inner().items.is_empty()
    );
    stop.send(()).unwrap();
    server.await.unwrap().unwrap();
    assert!(!root.join("hyperd.sock").exists());
}
