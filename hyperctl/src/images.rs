//! `images`, `pull`, `load` and `rmi`.

use std::{
    future::Future,
    io::{IsTerminal, Write},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use hypernetes_hyperd_api::ImportImageRequest;
use serde::Serialize;

use crate::{
    connection::Clients,
    credentials, cri,
    output::{self, Format, Row},
    units,
};

/// List images
#[derive(clap::Args)]
pub struct List {
    /// Ids only.
    #[arg(long, short)]
    quiet: bool,
    /// This one only.
    image: Option<String>,
}

#[derive(Serialize)]
struct ImageRow {
    id: String,
    tags: Vec<String>,
    digests: Vec<String>,
    size_bytes: u64,
}

impl Row for ImageRow {
    const COLUMNS: &'static [&'static str] = &["IMAGE", "IMAGE ID", "SIZE"];

    fn cells(&self) -> Vec<String> {
        let name = self.tags.first().or(self.digests.first()).map_or("<none>", String::as_str);
        vec![name.into(), units::short_id(&self.id), units::bytes(self.size_bytes)]
    }
}

impl List {
    pub async fn run(self, clients: &Clients, format: Format) -> Result<()> {
        let filter =
            self.image.map(|image| cri::ImageFilter { image: Some(cri::ImageSpec { image, ..Default::default() }) });
        let listed = clients.images.clone().list_images(cri::ListImagesRequest { filter }).await?.into_inner().images;
        let mut rows: Vec<ImageRow> = listed
            .into_iter()
            .map(|image| ImageRow {
                id: image.id,
                tags: image.repo_tags,
                digests: image.repo_digests,
                size_bytes: image.size,
            })
            .collect();
        rows.sort_by(|one, other| one.tags.cmp(&other.tags));
        if self.quiet {
            rows.iter().for_each(|row| println!("{}", row.id));
            return Ok(());
        }
        output::print(format, &rows)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum PullPolicy {
    Missing,
    Always,
    Never,
}

/// Pull images from their registries
///
/// Credentials come from --creds, else from ~/.docker/config.json (or $DOCKER_CONFIG) and the helpers that it names.
#[derive(clap::Args)]
pub struct Pull {
    /// USER:PASSWORD, or USER alone to be read from the input.
    #[arg(long, value_name = "USER[:PASSWORD]", env = "HYPERCTL_CREDS", hide_env_values = true)]
    creds: Option<String>,
    #[arg(required = true)]
    image: Vec<String>,
}

impl Pull {
    pub async fn run(self, clients: &Clients) -> Result<()> {
        for image in &self.image {
            let auth = match &self.creds {
                Some(text) => Some(credentials::given(text)?),
                None => credentials::stored(image)?,
            };
            println!("{}", pull(clients, image, auth).await?);
        }
        Ok(())
    }
}

/// Sees to it that the image is there.
pub async fn ensure(clients: &Clients, image: &str, policy: PullPolicy) -> Result<()> {
    let spec = Some(cri::ImageSpec { image: image.into(), ..Default::default() });
    let request = cri::ImageStatusRequest { image: spec, verbose: false };
    let there = clients.images.clone().image_status(request).await?.into_inner().image.is_some();
    match policy {
        PullPolicy::Missing if there => return Ok(()),
        PullPolicy::Never if there => return Ok(()),
        PullPolicy::Never => bail!("the image {image} is not here, and is not to be pulled"),
        PullPolicy::Missing | PullPolicy::Always => {}
    }
    pull(clients, image, credentials::stored(image)?).await?;
    Ok(())
}

/// The id of the pulled image.
async fn pull(clients: &Clients, image: &str, auth: Option<cri::AuthConfig>) -> Result<String> {
    let spec = Some(cri::ImageSpec { image: image.into(), ..Default::default() });
    let request = cri::PullImageRequest { image: spec, auth, sandbox_config: None };
    let mut images = clients.images.clone();
    let pulled = waiting(&format!("pulling {image}"), images.pull_image(request)).await;
    Ok(pulled?.into_inner().image_ref)
}

/// Says how long something takes, to a person only. CRI does not tell how far a pull is.
async fn waiting<T>(what: &str, work: impl Future<Output = T>) -> T {
    let person = std::io::stderr().is_terminal();
    let began = Instant::now();
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => {
                if person {
                    eprint!("\r\x1b[K");
                }
                return done;
            }
            () = tokio::time::sleep(Duration::from_millis(500)), if person => {
                eprint!("\r\x1b[K{what} … {} s", began.elapsed().as_secs());
            }
        }
    }
}

/// Load an image from an archive: `docker save`, or OCI
#[derive(clap::Args)]
pub struct Load {
    /// Reference to give it, e.g. web:1 [default: the archive's own].
    #[arg(long)]
    name: Option<String>,
    #[arg(long, short, value_name = "FILE", hide = true, conflicts_with = "file")]
    input: Option<PathBuf>,
    /// An archive, an OCI layout directory, or nothing for the input.
    file: Option<PathBuf>,
}

impl Load {
    pub async fn run(self, clients: &Clients) -> Result<()> {
        let spooled;
        let path = match self.file.or(self.input) {
            Some(path) if path.as_os_str() != "-" => {
                path.canonicalize().with_context(|| format!("finding {}", path.display()))?
            }
            _ if std::io::stdin().is_terminal() => bail!("name an archive, or give it as the input"),
            // hyperd reads a file.
            _ => {
                spooled = spool()?;
                spooled.path().to_owned()
            }
        };
        let request = ImportImageRequest { path: path.display().to_string(), name: self.name.unwrap_or_default() };
        let mut steps = clients.hyperd.clone().import_image(request).await?.into_inner();
        let person = std::io::stderr().is_terminal();
        let mut id = String::new();
        while let Some(step) = steps.message().await? {
            if person && !step.step.is_empty() {
                let (done, total) = (units::bytes(step.done_bytes), units::bytes(step.total_bytes));
                eprint!("\r\x1b[K{}: {done} of {total}", output::printable(&step.step));
            }
            id = step.image_id;
        }
        if person {
            eprint!("\r\x1b[K");
        }
        println!("{id}");
        Ok(())
    }
}

/// Our input as a file.
fn spool() -> Result<tempfile::NamedTempFile> {
    let mut file = tempfile::Builder::new().prefix("hyperctl-load-").tempfile()?;
    std::io::copy(&mut std::io::stdin().lock(), &mut file).context("reading the archive")?;
    file.flush()?;
    Ok(file)
}

/// Remove images
#[derive(clap::Args)]
pub struct Remove {
    #[arg(required = true)]
    image: Vec<String>,
}

impl Remove {
    pub async fn run(self, clients: &Clients) -> Result<()> {
        for image in self.image {
            let spec = || Some(cri::ImageSpec { image: image.clone(), ..Default::default() });
            let request = cri::ImageStatusRequest { image: spec(), verbose: false };
            if clients.images.clone().image_status(request).await?.into_inner().image.is_none() {
                bail!("there is no image {image}");
            }
            clients.images.clone().remove_image(cri::RemoveImageRequest { image: spec() }).await?;
            println!("{image}");
        }
        Ok(())
    }
}
