//! `hypernetes snapshot`: the store of a running server in one file, and a store of such a file.

use std::{
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use futures::StreamExt;
use hypernetes_store::{Encryption, Store, log::embedded::Contents};

use crate::{Root, kubeconfig, privileges, show, store::EtcdArgs};

/// Keep what a server has stored, look at what was kept, and go on with it
///
/// A snapshot is the whole store at one version: all tenants' objects, secrets and password hashes among them, sealed with the
/// server's first encryption key if it has any. Volumes and images are not in it.
#[derive(clap::Args)]
pub struct Snapshot {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    root: Root,
    /// The server's file of keys, where it has one.
    #[arg(long, value_name = "FILE", global = true)]
    encryption_keys: Option<PathBuf>,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Write a snapshot of the running server into a new FILE, for its owner alone
    Save { file: PathBuf },
    /// Check a snapshot, every byte of it, and say what is in it
    Inspect { file: PathBuf },
    /// Make the store of a server that is not there any more of a snapshot, whichever kind of store that was of
    ///
    /// The server must not run, and have no store: move ROOT/server/store away before. It goes on with what was there then; whatever came later
    /// is lost, and every client lists anew. With --store it is made in that etcd, where nothing may be under the prefix, and servers are
    /// started with the same; versions are that etcd's then, and may be lower than before: restart what runs on the nodes, too.
    Restore {
        file: PathBuf,
        #[command(flatten)]
        etcd: EtcdArgs,
    },
}

impl Snapshot {
    pub async fn run(self) -> Result<()> {
        let keys = || self.encryption_keys.as_deref().map_or(Ok(Encryption::none()), Encryption::read);
        match &self.action {
            Action::Save { file } => save(&self.root.server(), file).await,
            Action::Inspect { file } => {
                let contents = Contents::read(file, &keys()?)?;
                let mut text = format!("version {}, {} objects\n", contents.revision, contents.objects());
                for (tenant, (objects, bytes)) in contents.tenants() {
                    text += &format!("{tenant:<34} {objects:>8} objects {bytes:>12} bytes\n");
                }
                Ok(show(&text)?)
            }
            Action::Restore { file, etcd } => {
                let keys = keys()?;
                if let Some(config) = etcd.config() {
                    let contents = Contents::read(file, &keys)?;
                    let objects = contents.objects();
                    Store::restore_to_etcd(&config, contents, &keys).await?;
                    println!("{} in etcd: {objects} objects", config.prefix);
                    return Ok(());
                }
                let server = self.root.server();
                let store = server.join("store");
                let contents = Contents::read(file, &keys)?;
                let objects = contents.objects();
                let revision = contents.restore(&store, &keys)?;
                // Under `up` the server is another user than who restores.
                privileges::give_content_to_owner(&server)
                    .with_context(|| format!("giving {} to the server's user", store.display()))?;
                println!("{}: {objects} objects; it goes on at version {revision}", store.display());
                Ok(())
            }
        }
    }
}

async fn save(server: &Path, file: &Path) -> Result<()> {
    let client = kubeconfig::operator(server).await?;
    let request = http::Request::get("/snapshot").body(kube::client::Body::empty())?;
    let answer = client.send(request).await.context("asking the server for a snapshot")?;
    if !answer.status().is_success() {
        anyhow::bail!("the server gives no snapshot: {}", answer.status());
    }
    let writing = || format!("writing {}", file.display());
    let mut out =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).with_context(writing)?;
    let mut body = http_body_util::BodyDataStream::new(answer.into_body());
    let mut size = 0;
    while let Some(piece) = body.next().await {
        let piece = piece.context("reading the snapshot")?;
        size += piece.len();
        out.write_all(&piece).with_context(writing)?;
    }
    out.sync_all().with_context(writing)?;
    println!("{}: {size} bytes; `hypernetes snapshot inspect` checks it", file.display());
    Ok(())
}
