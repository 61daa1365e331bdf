//! A store of a snapshot, in an etcd where there is none.
//!
//! ```text
//! nothing ─▶ claimed (`restoring`) ─▶ objects, some at a time ─▶ `format` and `head`: a store
//! ```
//!
//! What was begun and not finished is no store, and no server starts with it. Revisions are etcd's: unlike those of a store in a
//! directory they may be lower than what somebody has seen before.

use bytes::Bytes;
use tokio::time::{Instant, timeout};
use tonic::Status;

use super::{
    ANSWER, Config, StartError, absent, envelope,
    head::Mark,
    keyspace::{FORMAT, Keyspace},
    members::Members,
    op, said, unchanged,
    wire::{Compare, DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest, request_op::Request},
};
use crate::{Encryption, entry::Record};

/// Objects in one transaction, of which etcd takes 128 operations by default, and their bytes unless one has more.
const TOGETHER: usize = 100;
const BYTES: usize = 512 << 10;

/// # Errors
/// When there is something, etcd cannot be reached, or does not take it.
pub(crate) async fn restore(config: &Config, records: Vec<Record>, encryption: &Encryption) -> Result<(), StartError> {
    let (members, space) = (Members::new(&config.endpoints)?, Keyspace::new(&config.prefix));
    let unreachable = |status: Status| StartError::Unreachable { urls: members.urls(), why: said(&status) };
    let occupied = || StartError::Occupied { urls: members.urls(), prefix: space.prefix().into() };
    let (key, range_end) = space.range();
    let anything = RangeRequest { key, range_end, limit: 1, keys_only: true, ..Default::default() };
    let found = members.wait_for(Instant::now() + config.patience, |mut kv| {
        let range = anything.clone();
        async move { kv.range(range).await }
    });
    if !found.await.map_err(unreachable)?.kvs.is_empty() {
        return Err(occupied());
    }
    // The revision of what was carried out; none: it was not.
    let send = async |compare: Vec<Compare>, requests: Vec<Request>| {
        let success = requests.into_iter().map(op).collect();
        let mut kv = members.ask().kv();
        let answer = timeout(ANSWER, kv.txn(TxnRequest { compare, success })).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("etcd has not answered in time")));
        let answer = answer.map_err(unreachable)?.into_inner();
        Ok::<_, StartError>(answer.header.filter(|_| answer.succeeded).map(|header| header.revision))
    };
    let put = |key: Vec<u8>, value: Bytes| Request::RequestPut(PutRequest { key, value, lease: 0 });
    let nobody = [space.restoring(), space.format()].map(absent);
    let claiming = send(nobody.into(), vec![put(space.restoring(), Bytes::new())]).await?;
    let claimed = claiming.ok_or_else(occupied)?;
    // Whoever deletes what is there and begins again has it.
    let still_ours = || vec![unchanged(space.restoring(), claimed)];
    let (mut puts, mut size) = (Vec::new(), 0);
    for record in records {
        let unsealed = || StartError::Foreign("there are no random numbers to encrypt with".into());
        let value = envelope::wrap(encryption, &record.key, &record.value, None).ok_or_else(unsealed)?;
        if puts.len() == TOGETHER || (size + value.len() > BYTES && !puts.is_empty()) {
            send(still_ours(), std::mem::take(&mut puts)).await?.ok_or_else(occupied)?;
            size = 0;
        }
        size += value.len();
        puts.push(put(space.object(&record.key), value));
    }
    send(still_ours(), puts).await?.ok_or_else(occupied)?;
    let done = vec![
        put(space.format(), FORMAT.to_string().into()),
        put(space.head(), Mark::new().bytes()),
        Request::RequestDeleteRange(DeleteRangeRequest { key: space.restoring() }),
    ];
    send(still_ours(), done).await?.ok_or_else(occupied).map(drop)
}
