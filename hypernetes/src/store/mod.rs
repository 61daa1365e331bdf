//! Where the server's store is: in its directory, or in an etcd that it shares.

mod command;
pub mod further;
mod rotate;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use hypernetes_controllers::runtime::Takeover;
use hypernetes_store::{
    Options, Store,
    log::etcd::{Config, Endpoints, StartError},
};

pub use command::{Store as Command, read_token};

/// A server waits for its etcd as long as it takes, and says so.
const AS_LONG_AS_IT_TAKES: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Where the server keeps its data.
#[derive(clap::Args)]
pub struct StoreArgs {
    #[command(flatten)]
    etcd: EtcdArgs,
    /// Seconds of the past that etcd keeps, of everything that is in it. 0: others have it forget.
    #[arg(long, value_name = "SECONDS", requires = "etcd", default_value_t = 300)]
    etcd_compaction_interval: u64,
}

/// An etcd, and what in it is the store's.
#[derive(clap::Args)]
pub struct EtcdArgs {
    /// Where its data is: in an etcd, 3.4 or newer, that other servers may use, too, by these endpoints [default: in DIR/store].
    #[arg(long = "store", value_name = "etcd=URL[,URL…]", value_parser = etcd_urls)]
    etcd: Option<Urls>,
    /// File of the certificates, in PEM, that sign those of etcd's members.
    #[arg(long, value_name = "FILE", requires = "etcd")]
    etcd_cafile: Option<PathBuf>,
    /// File of the certificate, in PEM, that etcd is shown.
    #[arg(long, value_name = "FILE", requires_all = ["etcd", "etcd_keyfile"])]
    etcd_certfile: Option<PathBuf>,
    /// File of that certificate's key, in PEM. Read for each connection, by the user that the server has become.
    #[arg(long, value_name = "FILE", requires_all = ["etcd", "etcd_certfile"])]
    etcd_keyfile: Option<PathBuf>,
    /// What its keys in etcd begin with.
    #[arg(long, value_name = "PREFIX", requires = "etcd", default_value = "/hypernetes/")]
    etcd_prefix: String,
}

#[derive(Clone)]
struct Urls(Vec<String>);

fn etcd_urls(text: &str) -> Result<Urls, String> {
    let urls = text.strip_prefix("etcd=").ok_or("etcd=URL[,URL…] is expected")?;
    Ok(Urls(urls.split(',').map(|url| url.trim().to_owned()).collect()))
}

impl EtcdArgs {
    /// Where it is; none: it is not in an etcd.
    pub fn config(&self) -> Option<Config> {
        let Urls(urls) = self.etcd.clone()?;
        let certificate = self.etcd_certfile.clone().zip(self.etcd_keyfile.clone());
        let endpoints = Endpoints { urls, authority: self.etcd_cafile.clone(), certificate };
        Some(Config { endpoints, prefix: self.etcd_prefix.clone(), ..Config::default() })
    }

    /// Where it is, of a command that is about an etcd.
    ///
    /// # Errors
    /// When none is named.
    fn named(&self) -> Result<Config> {
        self.config().context("--store etcd=URL[,URL…] is needed: which etcd?")
    }
}

impl StoreArgs {
    /// The files' paths hold from any directory after this.
    ///
    /// # Errors
    /// When one is not there.
    pub fn settle_paths(&mut self) -> Result<()> {
        let EtcdArgs { etcd_cafile, etcd_certfile, etcd_keyfile, .. } = &mut self.etcd;
        for path in [etcd_cafile, etcd_certfile, etcd_keyfile].into_iter().flatten() {
            *path = path.canonicalize().with_context(|| format!("opening {}", path.display()))?;
        }
        Ok(())
    }

    /// When this server may act: where the store is its own, whose lock it has, at once.
    pub fn takeover(&self) -> Takeover {
        if self.etcd().is_some() { Takeover::AfterLease } else { Takeover::AtOnce }
    }

    /// The etcd that it is in, if it is in one.
    pub fn etcd(&self) -> Option<Config> {
        let compaction = Duration::from_secs(self.etcd_compaction_interval);
        Some(Config { compaction, patience: AS_LONG_AS_IT_TAKES, ..self.etcd.config()? })
    }

    /// Opens it. `shown` is what `root` is called by whoever reads an error.
    ///
    /// # Errors
    /// When it cannot be opened, or is not where it was.
    pub async fn open(self, root: &Path, shown: &Path, options: Options) -> Result<Store> {
        let marker = root.join("store.etcd");
        let Some(config) = self.etcd() else {
            if let Ok(prefix) = std::fs::read_to_string(&marker) {
                bail!(
                    "this server's data is in an etcd, under {}: start it with --store, or remove {} to go on with \
                     what is in {}",
                    prefix.trim(),
                    marker.display(),
                    root.join("store").display()
                );
            }
            let path = root.join("store");
            check_directory(root, &path)?;
            return Store::open(&path, options).with_context(|| format!("starting in {}", shown.display()));
        };
        let config = Config { must_exist: has_run(root), ..config };
        let store = Store::etcd(&config, options).await.map_err(|error| not_started(error, shown))?;
        std::fs::write(&marker, format!("{}\n", config.prefix))
            .with_context(|| format!("writing {}", marker.display()))?;
        Ok(store)
    }
}

/// What its directory has to do with it is said only where it has.
fn not_started(error: StartError, shown: &Path) -> anyhow::Error {
    let missing = matches!(error, StartError::Missing { .. });
    let then = if missing { "; remove it to start as a new server of that etcd" } else { "" };
    anyhow::Error::new(error).context(format!("starting in {}{then}", shown.display()))
}

fn has_run(root: &Path) -> bool {
    root.join("operator.kubeconfig").exists()
}

/// A server that was ready once had objects. Without them its credentials are those of nobody, and to start as if it
/// were new would end every pod.
fn check_directory(root: &Path, store: &Path) -> Result<()> {
    // What a version before left is taken over.
    let before = std::fs::metadata(store.with_extension("redb")).is_ok_and(|file| file.len() > 0);
    if !before && !store.is_dir() && has_run(root) {
        bail!(
            "{} is missing, although this server has run before: put it back from a copy, make it of a snapshot \
             (`hypernetes snapshot restore FILE`), or remove {} to start as a new one",
            store.display(),
            root.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_ran_before_does_not_start_without_its_store() {
        let directory = tempfile::tempdir().unwrap();
        let (root, store) = (directory.path(), directory.path().join("store"));
        check_directory(root, &store).unwrap();
        std::fs::write(root.join("operator.kubeconfig"), "").unwrap();
        for of_before in ["", "something"] {
            std::fs::write(root.join("store.redb"), of_before).unwrap();
            assert_eq!(check_directory(root, &store).is_ok(), !of_before.is_empty());
        }
        std::fs::remove_file(root.join("store.redb")).unwrap();
        let error = check_directory(root, &store).unwrap_err().to_string();
        assert!(error.contains("store is missing"), "{error}");
        std::fs::create_dir(&store).unwrap();
        check_directory(root, &store).unwrap();
    }

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        store: StoreArgs,
    }

    fn line(words: &str) -> Result<StoreArgs, clap::Error> {
        use clap::Parser;
        Line::try_parse_from(["server"].into_iter().chain(words.split_whitespace())).map(|line| line.store)
    }

    #[test]
    fn an_etcd_is_named_by_its_endpoints() {
        let args = line("--store etcd=https://a:2379,https://b:2379 --etcd-certfile c --etcd-keyfile k").unwrap();
        assert_eq!(args.etcd().unwrap().endpoints.urls, ["https://a:2379", "https://b:2379"]);
        assert!(line("").unwrap().etcd().is_none());
        for wrong in ["--store redb=x", "--etcd-cafile x", "--store etcd=http://a --etcd-keyfile k"] {
            assert!(line(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_whose_etcd_is_empty_is_told_to_begin_anew() {
        let said = |error| format!("{:#}", not_started(error, Path::new("data/server")));
        let urls = || "http://a:1".to_owned();
        let missing = said(StartError::Missing { urls: urls(), prefix: "/hypernetes/".into() });
        assert!(missing.starts_with("starting in data/server; remove it to start as a new server"), "{missing}");
        let unreachable = said(StartError::Unreachable { urls: urls(), why: "refused".into() });
        assert!(unreachable.starts_with("starting in data/server: etcd cannot be reached"), "{unreachable}");
    }

    #[tokio::test]
    async fn what_is_in_an_etcd_is_not_looked_for_in_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("store.etcd"), "/hypernetes/\n").unwrap();
        let opened = line("").unwrap().open(directory.path(), directory.path(), Options::default()).await;
        let error = opened.err().expect("it is refused").to_string();
        assert!(error.contains("--store") && error.contains("/hypernetes/"), "{error}");
    }
}
