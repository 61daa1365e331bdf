//! `hypernetes image`: images on this host.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;
use hypernetes_hyperd_api::{ImportImageRequest, hyperd_client::HyperdClient};
use k8s_cri::v1::{ListImagesRequest, image_service_client::ImageServiceClient};

use crate::Root;

/// Import and list images of this host
#[derive(clap::Args)]
pub struct Image {
    #[command(flatten)]
    root: Root,
    /// hyperd's socket [default: ROOT/hyperd/hyperd.sock, or ROOT/hyperd.sock of one that runs alone].
    #[arg(long, value_name = "FILE", global = true)]
    socket: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Import an OCI or Docker archive, or an OCI layout directory
    Import {
        file: PathBuf,
        /// Reference to give it, e.g. demo/web:1 [default: the archive's own]
        #[arg(long)]
        name: Option<String>,
    },
    /// List the images
    List,
}

impl Image {
    pub async fn run(self) -> Result<()> {
        let socket = self.socket.unwrap_or_else(|| self.root.hyperd().join("hyperd.sock"));
        let channel = hypernetes_hyperd_api::connect(&socket).await?;
        match self.verb {
            Verb::Import { file, name } => {
                let path = file.canonicalize().with_context(|| format!("finding {}", file.display()))?;
                let request =
                    ImportImageRequest { path: path.display().to_string(), name: name.clone().unwrap_or_default() };
                let mut steps = HyperdClient::new(channel).import_image(request).await?.into_inner();
                let mut id = String::new();
                while let Some(step) = steps.message().await? {
                    if !step.step.is_empty() {
                        println!("  {}", step.step);
                    }
                    id = step.image_id;
                }
                println!("imported {} as {}", file.display(), name.unwrap_or(id));
            }
            Verb::List => {
                let request = ListImagesRequest::default();
                let images = ImageServiceClient::new(channel).list_images(request).await?.into_inner().images;
                println!("{:<50} {:<20} {:>10}", "NAME", "ID", "MIB");
                for image in images {
                    let id: String = image.id.trim_start_matches("sha256:").chars().take(12).collect();
                    let name = image.repo_tags.first().map_or("<none>", String::as_str);
                    println!("{name:<50} {id:<20} {:>10.1}", image.size as f64 / f64::from(1 << 20));
                }
            }
        }
        Ok(())
    }
}
