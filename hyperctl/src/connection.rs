//! The way to hyperd.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use hypernetes_hyperd_api::{connect, hyperd_client::HyperdClient};
use tonic::transport::Channel;

use crate::cri::{image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient};

/// Where hyperd is when nothing is said: of `make up` in this directory, alone in it, or of a host's installation.
const USUAL_PLACES: [&str; 6] = [
    "data/hyperd/hyperd.sock",
    "data/hyperd.sock",
    "/run/hypernetes/hyperd.sock",
    "/var/run/hypernetes/hyperd.sock",
    "/var/lib/hypernetes/hyperd/hyperd.sock",
    "/var/lib/hypernetes/hyperd.sock",
];
/// Largest answer of the runtime.
const MAX_MESSAGE: usize = 64 << 20;

#[derive(clap::Args)]
pub struct Target {
    /// hyperd's socket, as a path or unix:// address.
    #[arg(long, value_name = "FILE", global = true, env = "HYPERCTL_SOCKET", help_heading = "Every command")]
    socket: Option<String>,
    /// Directory of `hypernetes up` or of `hypernetes hyperd`.
    #[arg(long, value_name = "DIR", global = true, env = "HYPERNETES_ROOT", help_heading = "Every command")]
    root: Option<PathBuf>,
}

/// What hyperd serves.
#[derive(Clone)]
pub struct Clients {
    pub runtime: RuntimeServiceClient<Channel>,
    pub images: ImageServiceClient<Channel>,
    pub hyperd: HyperdClient<Channel>,
    /// Directory of the socket: hyperd's own.
    pub directory: PathBuf,
}

impl Target {
    pub async fn connect(&self) -> Result<Clients> {
        let socket = self.socket()?;
        let channel = connect(&socket).await?;
        let directory = std::path::absolute(&socket)?.parent().unwrap_or(Path::new("/")).to_owned();
        Ok(Clients {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
            images: ImageServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
            hyperd: HyperdClient::new(channel).max_decoding_message_size(MAX_MESSAGE),
            directory,
        })
    }

    fn socket(&self) -> Result<PathBuf> {
        if let Some(socket) = &self.socket {
            return Ok(socket.strip_prefix("unix://").unwrap_or(socket).into());
        }
        let places: Vec<PathBuf> = match &self.root {
            Some(root) => vec![root.join("hyperd.sock"), root.join("hyperd/hyperd.sock")],
            None => USUAL_PLACES.map(PathBuf::from).to_vec(),
        };
        match places.iter().find(|place| place.exists()) {
            Some(place) => Ok(place.clone()),
            None => {
                let places: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
                bail!("no hyperd found at {}: say where with --socket or --root", places.join(", "))
            }
        }
    }
}
