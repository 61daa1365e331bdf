//! Volume drivers, as the kubelet calls them: CSI over unix sockets.
//!
//! Drivers that stage volumes on the node first are not spoken to yet; ours has nothing to stage.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use hypernetes_csi::v1::{self, node_client::NodeClient};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

/// Longest call; the kubelet's own limit.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// In upstream's words.
    #[error("driver name {0} not found in the list of registered CSI drivers")]
    Unknown(String),
    /// As upstream shows what a driver answers.
    #[error("rpc error: code = {:?} desc = {}", .0.code(), .0.message())]
    Refused(Status),
}

/// The node's drivers by name.
pub struct Drivers {
    clients: BTreeMap<String, NodeClient<Channel>>,
}

impl Drivers {
    /// Each is connected to when it is first needed, and again when it has begun anew.
    pub fn new(sockets: &BTreeMap<String, PathBuf>) -> Self {
        let clients = sockets.iter().map(|(name, socket)| (name.clone(), connect(socket))).collect();
        Self { clients }
    }

    pub async fn publish(&self, driver: &str, request: v1::NodePublishVolumeRequest) -> Result<(), DriverError> {
        self.client(driver)?.node_publish_volume(request).await.map_err(DriverError::Refused)?;
        Ok(())
    }

    pub async fn unpublish(&self, driver: &str, volume: String, target: &Path) -> Result<(), DriverError> {
        let target_path = target.display().to_string();
        let request = v1::NodeUnpublishVolumeRequest { volume_id: volume, target_path };
        self.client(driver)?.node_unpublish_volume(request).await.map_err(DriverError::Refused)?;
        Ok(())
    }

    fn client(&self, driver: &str) -> Result<NodeClient<Channel>, DriverError> {
        self.clients.get(driver).cloned().ok_or_else(|| DriverError::Unknown(driver.to_owned()))
    }
}

fn connect(socket: &Path) -> NodeClient<Channel> {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://driver").timeout(CALL_TIMEOUT);
    NodeClient::new(endpoint.connect_with_connector_lazy(connector))
}
