//! The service over a real API server and store, in process.

mod facade;
mod hostile;
mod openstack;
mod pods;
mod two_servers;

use std::{ops::Deref, sync::Arc, time::Duration};

use axum::body::Body;
use hypernetes_api::{
    AllTenants,
    types::network::{Network, NetworkSpec, Port, Subnet, SubnetSpec},
};
use hypernetes_client::Clients;
use hypernetes_testing::{
    http::{Answer, send, text},
    server::{ACME, GLOBEX, InProcess, id},
    tokens::Tokens,
    wait::eventually,
};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{Api, api::PostParams};
use serde_json::{Value, json};

use crate::{NetworkConfig, NetworkService};

struct Cloud {
    in_process: InProcess,
    service: Arc<NetworkService>,
}

impl Deref for Cloud {
    type Target = InProcess;

    fn deref(&self) -> &InProcess {
        &self.in_process
    }
}

trait Refused {
    /// The message.
    fn refused(self, code: u16, kind: &str) -> String;
}

impl Refused for Answer {
    #[track_caller]
    fn refused(self, code: u16, kind: &str) -> String {
        let error = &self.body["NeutronError"];
        assert_eq!((self.status.as_u16(), error["type"].as_str()), (code, Some(kind)), "{}", self.body);
        assert_eq!(error["detail"], "");
        error["message"].as_str().unwrap().to_owned()
    }
}

impl Cloud {
    /// Two tenants with what every tenant has.
    async fn new() -> Self {
        let cloud = Self::empty();
        for tenant in [ACME, GLOBEX] {
            cloud.tenant(tenant).await;
        }
        cloud
    }

    fn empty() -> Self {
        let in_process = InProcess::start();
        let service = start(&in_process.clients);
        Self { in_process, service }
    }

    async fn tenant(&self, tenant: &str) {
        self.in_process.tenant(tenant).await;
        self.account(tenant).await;
        self.api::<Network>(tenant)
            .create(&PostParams::default(), &Network::new("default", NetworkSpec::default()))
            .await
            .unwrap();
        let spec = SubnetSpec { network: "default".into(), cidr: "10.244.0.0/16".into(), ..SubnetSpec::default() };
        self.api::<Subnet>(tenant).create(&PostParams::default(), &Subnet::new("default", spec)).await.unwrap();
    }

    /// Another process over the same objects.
    fn restart(&mut self) {
        self.service = start(&self.clients);
    }

    fn pods(&self, tenant: &str) -> Api<Pod> {
        self.in_default(tenant)
    }

    async fn pod(&self, tenant: &str, name: &str) -> Pod {
        self.pods(tenant).create(&PostParams::default(), &pod(name)).await.unwrap()
    }

    /// The pod's port, once it is accepted.
    async fn port_of(&self, tenant: &str, pod: &Pod) -> Port {
        let name = hypernetes_api::types::network::port_of_pod(pod.metadata.uid.as_deref().unwrap());
        eventually(|| async {
            self.api::<Port>(tenant).get_opt(&name).await.unwrap().filter(crate::state::is_accepted)
        })
        .await
    }

    async fn call(&self, token: &str, method: &str, path: &str, body: Value) -> Answer {
        self.send(token, method, path, text(&body)).await
    }

    async fn send(&self, token: &str, method: &str, path: &str, body: impl Into<Body>) -> Answer {
        send(self.service.router(), token, method, &format!("/networking/v2.0{path}"), body).await
    }

    async fn get(&self, token: &str, path: &str) -> Answer {
        self.call(token, "GET", path, Value::Null).await
    }

    async fn delete(&self, token: &str, path: &str) -> Answer {
        self.call(token, "DELETE", path, Value::Null).await
    }

    /// The id of the only object of that name, once the service has heard of it.
    async fn id_of(&self, token: &str, collection: &str, name: &str) -> String {
        eventually(|| async {
            let list = self.get(token, &format!("/{collection}?name={name}")).await.ok();
            let objects = list[collection].as_array().unwrap();
            assert!(objects.len() < 2, "{list}");
            objects.first().map(|object| object["id"].as_str().unwrap().to_owned())
        })
        .await
    }
}

fn start(clients: &Clients) -> Arc<NetworkService> {
    let config = NetworkConfig::new("https://cloud.example:6443/");
    NetworkService::start(clients, AllTenants::grant(), Arc::new(Tokens), config)
}

fn pod(name: &str) -> Pod {
    let spec = json!({"containers": [{"name": "c", "image": "i"}], "automountServiceAccountToken": false});
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
}

fn ip(port: &Port) -> &str {
    &port.spec.fixed_ips[0].ip_address
}
