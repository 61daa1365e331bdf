//! Where the loads find what they ask for, and what is left of them removed.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

use crate::{
    load::{self, Requests},
    objects::Template,
    target::Target,
    wire::{Connection, Prepared},
};

/// What is made and removed beside the measured is so by so many clients.
const HELPERS: usize = 32;
const AGES: Duration = Duration::from_secs(3600);
/// How long a server may take for what it does by itself.
const PATIENCE: Duration = Duration::from_secs(120);
/// Names that are read at a time.
const PAGE: usize = 5000;
/// In every namespace, as long as there is one.
const ROOT_CA: &str = "kube-root-ca.crt";

/// A target with namespaces of ours in it.
#[derive(Clone)]
pub struct Stage {
    pub target: Target,
    pub template: Template,
    /// In the names of all that is made.
    pub run: String,
}

/// Requests that are known before, whoever sends them.
pub struct All<I>(pub I);

impl<I: Iterator<Item = Result<Prepared>> + Send + 'static> Requests for All<I> {
    fn next(&mut self, _: usize, _: &[u8]) -> Result<Option<Prepared>> {
        self.0.next().transpose()
    }
}

impl Stage {
    /// Of one load. Each has its own: that of the one before goes in its own time.
    pub fn namespace(&self, load: &str) -> String {
        format!("{}-{}", self.run, load.replace('@', "-"))
    }

    /// Of the namespace's ConfigMaps, or of one of them.
    pub fn path(namespace: &str, name: Option<&str>) -> String {
        match name {
            Some(name) => format!("/api/v1/namespaces/{namespace}/configmaps/{name}"),
            None => format!("/api/v1/namespaces/{namespace}/configmaps"),
        }
    }

    /// The object's name of a number.
    pub fn name(number: usize) -> String {
        format!("object-{number:08}")
    }

    /// Sends them all, as fast as it goes.
    pub async fn send_all(&self, requests: impl Iterator<Item = Result<Prepared>> + Send + 'static) -> Result<()> {
        load::run(&self.target, HELPERS, AGES, All(requests)).await.map(drop)
    }

    /// A namespace with so many ConfigMaps in it.
    pub async fn fill(&self, namespace: &str, objects: usize) -> Result<()> {
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}).to_string();
        let made = Prepared::post(self.target.uri("/api/v1/namespaces")?, body);
        Connection::open(&self.target).await?.whole(&made).await?;
        self.add(namespace, objects).await
    }

    /// ConfigMaps from the first number on.
    pub async fn add(&self, namespace: &str, objects: usize) -> Result<()> {
        let uri = self.target.uri(&Self::path(namespace, None))?;
        let template = self.template.clone();
        self.send_all((0..objects).map(move |n| {
            let made = template.object(&Self::name(n), 0);
            Ok(Prepared::post(uri.clone(), made))
        }))
        .await
    }

    /// Removes all ConfigMaps of a namespace but the one that a controller would make again.
    pub async fn empty(&self, namespace: &str) -> Result<()> {
        loop {
            let mut names = self.names(&Self::path(namespace, None)).await?;
            names.retain(|name| name != ROOT_CA);
            if names.is_empty() {
                return Ok(());
            }
            let (target, namespace) = (self.target.clone(), namespace.to_owned());
            let gone = names.into_iter().map(move |name| {
                let gone = Prepared::delete(target.uri(&Self::path(&namespace, Some(&name)))?);
                Ok(Prepared { or: Some(StatusCode::NOT_FOUND), ..gone })
            });
            self.send_all(gone).await?;
        }
    }

    /// The namespace and all in it. Where no controller of namespaces runs, its finalizer is taken off here.
    pub async fn remove(&self, namespace: &str) -> Result<()> {
        self.empty(namespace).await?;
        let path = format!("/api/v1/namespaces/{namespace}");
        let mut connection = Connection::open(&self.target).await?;
        let gone = Prepared::delete(self.target.uri(&path)?);
        connection.whole(&Prepared { or: Some(StatusCode::NOT_FOUND), ..gone }).await?;
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}, "spec": {}});
        let finalize = Prepared::put(self.target.uri(&format!("{path}/finalize"))?, body.to_string());
        // It may be gone by now, and then this is no error.
        let _ = connection.whole(&finalize).await;
        Ok(())
    }

    /// The names of a collection's objects of this run, of one page of it.
    async fn names(&self, path: &str) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Names {
            /// `null` where there are none.
            items: Option<Vec<Item>>,
        }
        #[derive(Deserialize)]
        struct Item {
            metadata: Named,
        }
        #[derive(Deserialize)]
        struct Named {
            name: String,
        }
        let mut target = self.target.clone();
        let bare = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        target.headers.insert(http::header::ACCEPT, HeaderValue::from_static(bare));
        let page = Prepared::get(target.uri(&format!("{path}?limit={PAGE}"))?);
        let page = Connection::open(&target).await?.whole(&page).await?;
        let page: Names = serde_json::from_slice(&page)?;
        Ok(page.items.into_iter().flatten().map(|item| item.metadata.name).collect())
    }

    /// Whatever this run has left, also one that was interrupted.
    pub async fn remove_all(&self) -> Result<()> {
        for name in self.names("/api/v1/namespaces").await? {
            if name.starts_with(&self.run) {
                self.remove(&name).await.with_context(|| format!("removing the namespace {name}"))?;
            }
        }
        Ok(())
    }

    /// Waits until an answer is as it is wanted.
    pub async fn wait(&self, path: &str, what: &str, done: impl Fn(&Bytes) -> bool) -> Result<()> {
        let mut connection = Connection::open(&self.target).await?;
        let asked = Prepared::get(self.target.uri(path)?);
        let began = Instant::now();
        while !done(&connection.whole(&asked).await?) {
            if began.elapsed() > PATIENCE {
                bail!("{}: {what} takes too long", self.target.name);
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// A list has all that it should have: looked at once, so that counting bytes is enough later. Returns its bytes.
    pub async fn check_list(&self, path: &str, objects: usize) -> Result<usize> {
        let mut connection = Connection::open(&self.target).await?;
        let whole = connection.whole(&Prepared::get(self.target.uri(path)?)).await?;
        let list: Value = serde_json::from_slice(&whole)?;
        let found = list["items"].as_array().map_or(0, Vec::len);
        // A controller may have put one of its own beside them.
        if found < objects {
            bail!("{}: a list of {found} objects where {objects} are", self.target.name);
        }
        Ok(whole.len())
    }
}
