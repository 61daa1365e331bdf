//! The service over a real API server and store, in process.

mod facade;
mod hostile;
mod lifecycle;
mod openstack;

use std::{ops::Deref, path::PathBuf, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use hypernetes_api::{
    AllTenants,
    names::VOLUME_DRIVER,
    types::network::PodReference,
    types::volume::{Attachment, AttachmentSpec, Volume},
};
use hypernetes_testing::{
    http::{Answer, send, text},
    server::{ACME, GLOBEX, InProcess, id},
    tokens::Tokens,
    wait::eventually,
};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};

use crate::{Volumes, VolumesConfig};

const MEMBER: &str = "member@0123456789abcdef0123456789abcdef";
const READER: &str = "reader@0123456789abcdef0123456789abcdef";
const OTHER: &str = "admin@fedcba9876543210fedcba9876543210";
const GIB: u64 = 1 << 30;

struct Cloud {
    in_process: InProcess,
    service: Arc<Volumes>,
}

impl Deref for Cloud {
    type Target = InProcess;

    fn deref(&self) -> &InProcess {
        &self.in_process
    }
}

trait Refused {
    /// The message of a fault, which has Cinder's form.
    fn refused(self, code: u16, fault: &str) -> String;
}

impl Refused for Answer {
    #[track_caller]
    fn refused(self, code: u16, fault: &str) -> String {
        let error = &self.body[fault];
        assert_eq!((self.status.as_u16(), error["code"].as_u64()), (code, Some(code.into())), "{}", self.body);
        assert_eq!(self.body.as_object().map(serde_json::Map::len), Some(1), "{}", self.body);
        error["message"].as_str().unwrap().to_owned()
    }
}

impl Cloud {
    /// Two tenants.
    async fn new() -> Self {
        let cloud = Self::empty(|config| config);
        for tenant in [ACME, GLOBEX] {
            cloud.tenant(tenant).await;
        }
        cloud
    }

    fn empty(configure: impl FnOnce(VolumesConfig) -> VolumesConfig) -> Self {
        let in_process = InProcess::start();
        let config = VolumesConfig::new(in_process.directory().join("volumes"), "https://cloud.example:6443/");
        let service = Volumes::start(&in_process.clients, AllTenants::grant(), configure(config)).unwrap();
        Self { in_process, service }
    }

    /// Another process over the same objects and files.
    fn restart(&mut self) {
        let config = self.service.config.clone();
        self.service = Volumes::start(&self.clients, AllTenants::grant(), config).unwrap();
    }

    /// The operator's storage class `standard`, the default one.
    async fn class(&self) {
        self.make::<StorageClass>(
            "system",
            json!({
                "metadata": {"name": "standard",
                             "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
                "provisioner": VOLUME_DRIVER,
            }),
        )
        .await;
        self.make::<StorageClass>("system", json!({"metadata": {"name": "foreign"}, "provisioner": "else.example"}))
            .await;
    }

    /// What a node's driver does.
    async fn attach(&self, tenant: &str, volume: &str) {
        let pod = PodReference { namespace: "default".into(), name: "web".into(), uid: "pod-uid".into() };
        let spec = AttachmentSpec { volume: volume.into(), node: "n1".into(), pod, read_only: false };
        self.api(tenant).create(&PostParams::default(), &Attachment::new(volume, spec)).await.unwrap();
    }

    async fn detach(&self, tenant: &str, volume: &str) {
        self.api::<Attachment>(tenant).delete(volume, &DeleteParams::default()).await.unwrap();
    }

    /// Files of a tenant's volumes.
    fn files(&self, tenant: &str) -> Vec<PathBuf> {
        let directory = self.directory().join("volumes").join(tenant);
        let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// The volume once it has the status, as the API shows it.
    #[track_caller]
    fn with_status(&self, token: &str, id: &Value, status: &str) -> impl Future<Output = Value> {
        let path = format!("/volumes/{}", id.as_str().unwrap());
        eventually(move || {
            let path = path.clone();
            async move {
                let volume = self.get(token, &path).await.ok()["volume"].clone();
                (volume["status"] == status).then_some(volume)
            }
        })
    }

    async fn call(&self, token: &str, method: &str, path: &str, body: Value) -> Answer {
        self.send(token, method, path, text(&body)).await
    }

    /// A path below the token's own project.
    async fn send(&self, token: &str, method: &str, path: &str, body: impl Into<Body>) -> Answer {
        let project = token.split_once('@').map_or(ACME, |(_, project)| project);
        self.send_to(token, method, &format!("/volume/v3/{project}{path}"), body).await
    }

    async fn send_to(&self, token: &str, method: &str, path: &str, body: impl Into<Body>) -> Answer {
        let router = Router::new().nest("/volume", self.service.router(Arc::new(Tokens)));
        send(router, token, method, path, body).await
    }

    async fn get(&self, token: &str, path: &str) -> Answer {
        self.call(token, "GET", path, Value::Null).await
    }

    async fn delete(&self, token: &str, path: &str) -> Answer {
        self.call(token, "DELETE", path, Value::Null).await
    }

    async fn create(&self, body: Value) -> Value {
        let answer = self.call(MEMBER, "POST", "/volumes", json!({"volume": body})).await;
        assert_eq!(answer.status, 202, "{}", answer.body);
        answer.body["volume"].clone()
    }
}
