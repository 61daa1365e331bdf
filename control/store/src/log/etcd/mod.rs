//! The engine over etcd, from 3.4 on, which several servers share.
//!
//! ```text
//! commit ─▶ with all that wait a transaction of etcd ─▶ etcd ─▶ one watch over all keys ─▶ cache ─▶ whoever waits
//! read ───▶ a linearizable read of one small key: how far the cache has to be ──────────────────▶ cache
//! ```
//!
//! Revisions are made of etcd's, of which others who use the same etcd take some ([`revisions`]). A server that is cut off from
//! etcd reads nothing and writes nothing.

mod barrier;
mod budget;
mod commit;
mod compaction;
mod endpoints;
mod envelope;
mod follow;
mod head;
mod keyspace;
mod members;
mod opening;
mod pages;
mod reseal;
pub(crate) mod restore;
mod revisions;
mod sending;
mod shared;
mod tls;
mod waiting;

/// etcd's messages (see `proto/etcd.proto`).
mod wire {
    #![allow(clippy::all)]
    tonic::include_proto!("etcdserverpb");
}

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
    time::Instant,
};
use tonic::Status;

use self::{
    barrier::Barriers,
    commit::Committer,
    follow::{Followed, Follower, Lost, check_format},
    head::Mark,
    keyspace::{FORMAT, Keyspace},
    members::Members,
    waiting::Waiting,
    wire::{
        Compare, PutRequest, RangeRequest, RequestOp, TxnRequest,
        compare::{CompareResult, CompareTarget, TargetUnion},
        request_op::Request,
    },
};
use super::Log;
use crate::{Encryption, ReadError, Revision, RotationError, Txn, TxnError, mvcc::Cache};

pub use endpoints::{EndpointError, Endpoints};
pub use shared::Shared;

/// Where the store is, and how it is kept.
#[derive(Debug, Clone)]
pub struct Config {
    pub endpoints: Endpoints,
    /// Of all its keys.
    pub prefix: String,
    /// How much of the past etcd keeps, of all keys that are in it; zero: others see to that, but for what other encryption keys
    /// have sealed.
    pub compaction: Duration,
    /// How long etcd is waited for at the start.
    pub patience: Duration,
    /// An etcd in which nothing is is the wrong one.
    pub must_exist: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            endpoints: Endpoints::default(),
            prefix: "/hypernetes/".into(),
            compaction: Duration::from_secs(300),
            patience: Duration::from_secs(30),
            must_exist: false,
        }
    }
}

/// The store cannot be opened. Nothing in it has changed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    #[error(
        "etcd cannot be reached at {urls}: {why}; start it, or correct the endpoints and the files of certificates"
    )]
    Unreachable { urls: String, why: String },
    #[error("there is nothing of a store under {prefix} in the etcd at {urls}, although there was one")]
    Missing { urls: String, prefix: String },
    #[error(
        "there is something under {prefix} in the etcd at {urls}: choose another prefix, or delete what is there \
         (etcdctl del --prefix {prefix})"
    )]
    Occupied { urls: String, prefix: String },
    /// Of a newer version, or something else.
    #[error("{0}")]
    Foreign(String),
}

/// Closed when it is dropped.
pub(crate) struct Etcd {
    committer: Arc<Committer>,
    barriers: Barriers,
    ended: watch::Receiver<Option<String>>,
    tasks: Vec<AbortHandle>,
}

/// How long etcd may take for a write.
const ANSWER: Duration = Duration::from_secs(5);
/// Between attempts to reach etcd at the start.
const PAUSE: Duration = Duration::from_millis(500);

impl Etcd {
    pub async fn start(config: &Config, cache: Arc<Cache>) -> Result<Self, StartError> {
        let members = Members::new(&config.endpoints)?;
        let space = Keyspace::new(&config.prefix);
        let waiting = Arc::new(Waiting::default());
        let (followed, following) = watch::channel(Followed::default());
        let went_back = Arc::new(Notify::new());
        let mut follower = Follower {
            members: members.clone(),
            space: space.clone(),
            cache: cache.clone(),
            waiting: waiting.clone(),
            followed,
            went_back: went_back.clone(),
            otherwise_sealed: false,
        };
        let sealed = !cache.options().encryption.is_none();
        let deadline = Instant::now() + config.patience;
        loop {
            let beginning = async {
                let there = is_there(&members, &space, !config.must_exist, deadline).await?;
                if there {
                    raise_format(&members, &space, deadline).await?;
                    opening::load(&mut follower, deadline).await?;
                }
                Ok(there)
            };
            match beginning.await {
                Ok(true) => break,
                Ok(false) => return Err(StartError::Missing { urls: members.urls(), prefix: space.prefix().into() }),
                Err(Lost::Data(why)) => return Err(StartError::Foreign(why)),
                Err(why) if Instant::now() >= deadline => {
                    let why = match why {
                        Lost::Connection(status) => said(&status),
                        Lost::Past(why) | Lost::Data(why) => why,
                    };
                    return Err(StartError::Unreachable { urls: members.urls(), why });
                }
                Err(why) => tracing::warn!(%why, urls = members.urls(), "waiting for etcd"),
            }
            tokio::time::sleep(PAUSE).await;
        }
        let (barriers, asker) = barrier::barriers(members.clone(), space.clone(), following, went_back);
        let otherwise_sealed = follower.otherwise_sealed;
        let (ending, ended) = watch::channel(None);
        let mut tasks = vec![
            tokio::spawn(async move {
                let why = follower.run().await;
                tracing::error!(why, "the store has ended");
                let _ = ending.send(Some(why));
            })
            .abort_handle(),
            tokio::spawn(asker.run()).abort_handle(),
        ];
        if !config.compaction.is_zero() {
            let compacting = compaction::run(members.clone(), space.clone(), config.compaction);
            tasks.push(tokio::spawn(compacting).abort_handle());
        }
        let budget = Arc::default();
        let (outbox, sender) = sending::sending(members.clone(), space.clone(), cache.clone(), waiting.clone());
        tasks.push(tokio::spawn(sender.run()).abort_handle());
        let committer = Committer { members, space, cache, budget, waiting, barriers: barriers.clone(), outbox };
        let committer = Arc::new(committer);
        if sealed && otherwise_sealed {
            tasks.push(tokio::spawn(reseal::run(committer.clone())).abort_handle());
        }
        Ok(Self { committer, barriers, ended, tasks })
    }
}

/// Whether there is a store; made when it may be.
async fn is_there(members: &Members, space: &Keyspace, make: bool, deadline: Instant) -> Result<bool, Lost> {
    let read = |range: RangeRequest| {
        members.wait_for(deadline, move |mut kv| {
            let range = range.clone();
            async move { kv.range(range).await }
        })
    };
    let format = read(RangeRequest { key: space.format(), ..Default::default() }).await?;
    if let Some(found) = format.kvs.first() {
        return check_format(space, Some(&found.value)).map(|()| true);
    }
    if !make {
        return Ok(false);
    }
    let (key, range_end) = space.range();
    // Of the same moment: another server may be making it.
    let revision = format.header.map_or(0, |header| header.revision);
    let others = read(RangeRequest { key, range_end, limit: 1, revision, keys_only: true }).await?;
    if !others.kvs.is_empty() {
        return check_format(space, None).map(|()| true);
    }
    let puts = [(space.format(), FORMAT.to_string().into()), (space.head(), Mark::new().bytes())];
    let success = puts.map(|(key, value)| op(Request::RequestPut(PutRequest { key, value, lease: 0 })));
    // Whoever makes it, and whatever the answer is: it is looked for once more.
    let nobody = [space.format(), space.restoring()].map(absent);
    let making = TxnRequest { compare: nobody.into(), success: success.into() };
    members.ask().kv().txn(making).await?;
    Ok(true)
}

/// What a key holds was written at this revision of etcd's.
fn unchanged(key: Vec<u8>, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key,
        target_union: Some(TargetUnion::ModRevision(revision)),
    }
}

/// There is no such key.
fn absent(key: Vec<u8>) -> Compare {
    unchanged(key, 0)
}

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

/// Before anything is written: what would misread it ends, or does not start.
async fn raise_format(members: &Members, space: &Keyspace, deadline: Instant) -> Result<(), Lost> {
    let range = RangeRequest { key: space.format(), ..Default::default() };
    let found = members.wait_for(deadline, |mut kv| {
        let range = range.clone();
        async move { kv.range(range).await }
    });
    let found = found.await?.kvs.into_iter().next();
    let Some(found) = found.filter(|found| found.value != FORMAT.to_string().as_bytes()) else { return Ok(()) };
    // Another version may have raised it further since it was looked at.
    check_format(space, Some(&found.value))?;
    let same = unchanged(space.format(), found.mod_revision);
    let put = Request::RequestPut(PutRequest { key: space.format(), value: FORMAT.to_string().into(), lease: 0 });
    let raising = TxnRequest { compare: vec![same], success: vec![op(put)] };
    // Where it fails another server has done it.
    members.ask().kv().txn(raising).await?;
    Ok(())
}

#[async_trait]
impl Log for Etcd {
    async fn commit(&self, txn: Txn) -> Result<Revision, TxnError> {
        self.committer.commit(&txn).await
    }

    async fn barrier(&self) -> Result<(), ReadError> {
        self.barriers.wait().await
    }

    async fn rotate(&self, keys: Encryption) -> Result<(), RotationError> {
        reseal::rotate(&self.committer, keys).await
    }

    fn ended(&self) -> watch::Receiver<Option<String>> {
        self.ended.clone()
    }

    fn close(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// What an answer without a result means to an operator.
fn said(status: &Status) -> String {
    use std::error::Error;
    let mut text = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
