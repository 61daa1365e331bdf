//! `hypernetes store`: what an operator does with the store of servers that run.

use std::{
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use hypernetes_store::log::etcd::{Config, Shared};

use super::{
    EtcdArgs,
    further::{self, Token},
    rotate,
};
use crate::{Root, openrc, pki::Authority};

/// Change the keys that the store of a running server is encrypted with, and let further servers use it
#[derive(clap::Args)]
pub struct Store {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Use other encryption keys, and return when nothing that the server keeps is sealed with another than the first of FILE
    ///
    /// FILE is the one that the server is started with (`--encryption-keys`), with a new key before the others. It is sent to the server, which need not be
    /// able to read it. When this has returned the other lines may be removed; whatever interrupts it, run it again. Each of several servers over one etcd
    /// is told: first of the new key behind the old one, and then of the new one before it.
    RotateKeys {
        file: PathBuf,
        #[command(flatten)]
        root: Root,
    },
    #[command(subcommand)]
    Token(TokenAction),
}

/// Let further servers use the etcd of one that there is
#[derive(clap::Subcommand)]
enum TokenAction {
    /// Make a token in a new FILE, for its owner alone
    ///
    /// On the host of a server, with its --root. Whoever has the token and reaches the etcd can be a server, which is to be everybody, until it expires or
    /// is revoked: take FILE to the further server's host, name it there (`server --token-file FILE`), and remove it when that server has started.
    Create {
        file: PathBuf,
        #[command(flatten)]
        etcd: EtcdArgs,
        #[command(flatten)]
        root: Root,
        /// How long it is good, in minutes.
        #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=10_080))]
        minutes: u32,
    },
    /// End tokens before their time: those of these IDs, or all
    Revoke {
        ids: Vec<String>,
        #[command(flatten)]
        etcd: EtcdArgs,
    },
}

impl Store {
    pub async fn run(self) -> Result<()> {
        match self.action {
            Action::RotateKeys { file, root } => rotate::run(&root.server(), &file).await,
            Action::Token(TokenAction::Create { file, etcd, root, minutes }) => {
                create(&etcd.named()?, &root.server(), &file, minutes).await
            }
            Action::Token(TokenAction::Revoke { ids, etcd }) => revoke(&etcd.named()?, ids).await,
        }
    }
}

async fn create(config: &Config, server: &Path, file: &Path, minutes: u32) -> Result<()> {
    let pki = server.join("pki");
    if !Authority::is_there(&pki) {
        bail!("{} has no server's authority: is --root right?", pki.display());
    }
    let openrc_file = server.join("admin.openrc");
    let text = std::fs::read_to_string(&openrc_file).with_context(|| format!("reading {}", openrc_file.display()))?;
    let password = openrc::parse(&text).remove("OS_PASSWORD");
    let password = password.with_context(|| format!("{} has no password", openrc_file.display()))?;
    let writing = || format!("writing {}", file.display());
    // What cannot be kept is not made.
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).with_context(writing)?;
    let token = match further::invite(config, &Authority::open(&pki)?, &password, minutes * 60).await {
        Ok(token) => token,
        Err(error) => {
            let _ = std::fs::remove_file(file);
            return Err(error);
        }
    };
    out.write_all(token.text().as_bytes()).and_then(|()| out.sync_all()).with_context(writing)?;
    println!(
        "{}: token {}, good for {minutes} minutes; to end it: `hypernetes store token revoke {}`",
        file.display(),
        token.id(),
        token.id()
    );
    Ok(())
}

async fn revoke(config: &Config, ids: Vec<String>) -> Result<()> {
    let shared = Shared::new(config)?;
    let there = shared.offers().await?;
    if let Some(unknown) = ids.iter().find(|id| !there.contains(id)) {
        bail!("there is no token {unknown} (any more)");
    }
    for id in if ids.is_empty() { there } else { ids } {
        shared.withdraw(&id).await?;
        println!("the token {id} is revoked");
    }
    Ok(())
}

/// What a file says.
///
/// # Errors
/// When it cannot be read, or is no token.
pub fn read_token(file: &Path) -> Result<Token> {
    let text = std::fs::read_to_string(file).with_context(|| format!("opening {}", file.display()))?;
    Token::parse(&text).with_context(|| file.display().to_string())
}
