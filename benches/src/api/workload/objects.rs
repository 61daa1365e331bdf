//! Requests about one object each.

use std::time::Duration;

use anyhow::Result;
use http::{Method, Uri};

use super::Settings;
use crate::{
    load::{self, Requests, Sample},
    objects::Template,
    stage::{All, Stage},
    wire::{MERGE_PATCH, Prepared},
};

/// Objects that are read and changed: each client has some of its own, so that none is in another's way.
pub const STANDING: usize = 1024;

/// Makes one request after the other from a count.
struct Counted<F>(u64, F);

impl<F: FnMut(u64) -> Prepared + Send + 'static> Requests for Counted<F> {
    fn next(&mut self, _: usize, _: &[u8]) -> Result<Option<Prepared>> {
        self.0 += 1;
        Ok(Some((self.1)(self.0)))
    }
}

pub async fn create(stage: &Stage, namespace: &str, clients: usize, lasts: Duration) -> Result<Sample> {
    let uri = stage.target.uri(&Stage::path(namespace, None))?;
    let template = stage.template.clone();
    let make = move |n| Prepared::post(uri.clone(), template.object(&format!("made-{n:010}"), n));
    load::run(&stage.target, clients, lasts, Counted(0, make)).await
}

/// Of all objects that are there.
fn uris(stage: &Stage, namespace: &str) -> Result<Vec<Uri>> {
    (0..STANDING).map(|n| stage.target.uri(&Stage::path(namespace, Some(&Stage::name(n))))).collect()
}

pub async fn get(stage: &Stage, namespace: &str, clients: usize, lasts: Duration) -> Result<Sample> {
    let least_bytes = stage.template.object("", 0).len();
    let uris = uris(stage, namespace)?;
    let make = move |n| Prepared { least_bytes, ..Prepared::get(uris[n as usize % STANDING].clone()) };
    load::run(&stage.target, clients, lasts, Counted(0, make)).await
}

/// A client's own objects, one after the other, each time another step of them.
struct Changes<F> {
    uris: Vec<Uri>,
    clients: usize,
    /// By client.
    done: Vec<u64>,
    make: F,
}

impl<F: Fn(Uri, usize, u64) -> Prepared + Send + 'static> Requests for Changes<F> {
    fn next(&mut self, client: usize, _: &[u8]) -> Result<Option<Prepared>> {
        let own = (self.uris.len() / self.clients).max(1);
        let step = self.done[client] + 1;
        let at = (client * own + step as usize % own) % self.uris.len();
        self.done[client] = step;
        Ok(Some((self.make)(self.uris[at].clone(), at, step)))
    }
}

async fn change(
    stage: &Stage,
    namespace: &str,
    clients: usize,
    lasts: Duration,
    make: impl Fn(Uri, usize, u64) -> Prepared + Send + 'static,
) -> Result<Sample> {
    let changes = Changes { uris: uris(stage, namespace)?, clients, done: vec![0; clients], make };
    load::run(&stage.target, clients, lasts, changes).await
}

pub async fn update(stage: &Stage, namespace: &str, clients: usize, lasts: Duration) -> Result<Sample> {
    let template = stage.template.clone();
    let make = move |uri, at, step| Prepared::put(uri, template.object(&Stage::name(at), step));
    change(stage, namespace, clients, lasts, make).await
}

pub async fn patch(stage: &Stage, namespace: &str, clients: usize, lasts: Duration) -> Result<Sample> {
    let make = |uri, _, step| Prepared {
        method: Method::PATCH,
        content_type: MERGE_PATCH,
        ..Prepared::put(uri, Template::patch(step))
    };
    change(stage, namespace, clients, lasts, make).await
}

/// Until none is left, or the time is over.
pub async fn delete(stage: &Stage, namespace: &str, clients: usize, settings: &Settings) -> Result<Sample> {
    let (target, namespace) = (stage.target.clone(), namespace.to_owned());
    let all = (0..settings.delete_objects)
        .map(move |n| Ok(Prepared::delete(target.uri(&Stage::path(&namespace, Some(&Stage::name(n))))?)));
    load::run(&stage.target, clients, settings.lasts, All(all)).await
}
