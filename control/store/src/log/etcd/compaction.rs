//! Has etcd forget the past, as whoever keeps something in it must: versions of all keys, whoever's, that are older than the
//! interval and not the newest. Of several servers one does it each time: the one that first writes a key of its own for it.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tonic::{Code, Status};

use super::{
    keyspace::Keyspace,
    members::Members,
    wire::{
        CompactionRequest, Compare, PutRequest, RangeRequest, TxnRequest,
        compare::{CompareResult, CompareTarget, TargetUnion},
        request_op::Request,
    },
};

const DEADLINE: Duration = Duration::from_secs(10);
/// How long a compaction may take: etcd goes through a thousand versions at a time, and rests.
const COMPACT: Duration = Duration::from_secs(600);

/// Never returns.
pub(super) async fn run(members: Members, space: Keyspace, every: Duration) {
    let mut seen = None;
    loop {
        tokio::time::sleep(every).await;
        match turn(&members, &space, seen).await {
            Ok(now) => seen = Some(now),
            Err(status) => tracing::warn!(%status, "compacting etcd"),
        }
    }
}

/// Has etcd forget what was written over until this revision of its. With `physical` it returns when the member that was asked has done so.
///
/// # Errors
/// When it does not answer.
pub(super) async fn compact(members: &Members, revision: i64, physical: bool) -> Result<(), Status> {
    let compacting = CompactionRequest { revision, physical };
    let late = || Status::deadline_exceeded("etcd has not compacted what it has in time");
    match timeout(COMPACT, members.ask().kv().compact(compacting)).await.map_err(|_| late())? {
        // Somebody else who uses etcd was faster.
        Err(status) if status.code() != Code::OutOfRange => Err(status),
        Ok(_) | Err(_) => {
            tracing::debug!(revision, "etcd was compacted");
            Ok(())
        }
    }
}

/// When nobody has had a turn since the last: etcd forgets what is older than that. What was seen, for the next turn: the
/// version of the key, and etcd's revision.
async fn turn(members: &Members, space: &Keyspace, seen: Option<(i64, i64)>) -> Result<(i64, i64), Status> {
    let mut kv = members.ask().kv();
    if let Some((version, revision)) = seen {
        let compare = Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Version.into(),
            key: space.compaction(),
            target_union: Some(TargetUnion::Version(version)),
        };
        let put = PutRequest { key: space.compaction(), value: revision.to_string().into_bytes().into(), lease: 0 };
        let txn = TxnRequest { compare: vec![compare], success: vec![super::op(Request::RequestPut(put))] };
        let answer = kv.txn(txn).await?.into_inner();
        if answer.succeeded {
            compact(members, revision, false).await?;
            return Ok((version + 1, answer.header.map_or(0, |header| header.revision)));
        }
    }
    let range = RangeRequest { key: space.compaction(), ..Default::default() };
    let answer = members
        .read(Instant::now() + DEADLINE, |mut kv| {
            let range = range.clone();
            async move { kv.range(range).await }
        })
        .await?;
    let version = answer.kvs.first().map_or(0, |found| found.version);
    Ok((version, answer.header.map_or(0, |header| header.revision)))
}
