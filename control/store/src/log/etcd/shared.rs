//! What servers of one store tell each other beside it: which authority all of them have, and, sealed with tokens and for as long
//! as those are good, what a further server needs.

use bytes::Bytes;
use tokio::time::Instant;
use tonic::Status;

use super::{
    Config, PAUSE, StartError, absent,
    keyspace::Keyspace,
    members::Members,
    op, said,
    wire::{DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, TxnRequest, request_op::Request},
};

/// No part of the store, nor of its snapshots, and not sealed by it.
pub struct Shared {
    members: Members,
    space: Keyspace,
    deadline: Instant,
}

impl Shared {
    /// Asks nobody yet. What is asked of it has the time of `config.patience`, all together.
    ///
    /// # Errors
    /// When the endpoints or files are none.
    pub fn new(config: &Config) -> Result<Self, StartError> {
        let (members, space) = (Members::new(&config.endpoints)?, Keyspace::new(&config.prefix));
        Ok(Self { members, space, deadline: Instant::now() + config.patience })
    }

    /// Which authority the servers have; none: nobody has said yet.
    ///
    /// # Errors
    /// When etcd cannot be reached in time.
    pub async fn authority(&self) -> Result<Option<String>, StartError> {
        let found = self.get(self.space.authority()).await?;
        Ok(found.map(|value| String::from_utf8_lossy(&value).into_owned()))
    }

    /// Whether there is a store.
    ///
    /// # Errors
    /// When etcd cannot be reached in time.
    pub async fn has_store(&self) -> Result<bool, StartError> {
        Ok(self.get(self.space.format()).await?.is_some())
    }

    /// Says which it is, unless somebody has. Then what was said.
    ///
    /// # Errors
    /// When etcd cannot be reached in time.
    pub async fn claim_authority(&self, authority: &str) -> Result<String, StartError> {
        let key = self.space.authority();
        let put = PutRequest { key: key.clone(), value: Bytes::copy_from_slice(authority.as_bytes()), lease: 0 };
        let request = TxnRequest { compare: vec![absent(key)], success: vec![op(Request::RequestPut(put))] };
        // Whatever the answer is, or if there is none: it is looked for once more. What is there is not written over.
        loop {
            if let Some(said) = self.authority().await? {
                return Ok(said);
            }
            if let Err(why) = self.members.ask().kv().txn(request.clone()).await {
                if Instant::now() >= self.deadline {
                    return Err(self.unreachable(&why));
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Keeps something under an ID for so many seconds, in which it can be withdrawn: etcd itself ends it.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn offer(&self, id: &str, value: Vec<u8>, seconds: u32) -> Result<(), StartError> {
        let granting = LeaseGrantRequest { ttl: seconds.into() };
        let lease = self.members.ask().lease().lease_grant(granting).await.map_err(|why| self.unreachable(&why))?;
        let put = PutRequest { key: self.space.token(id), value: value.into(), lease: lease.into_inner().id };
        self.write(Request::RequestPut(put)).await
    }

    /// What is kept under an ID.
    ///
    /// # Errors
    /// When etcd cannot be reached in time.
    pub async fn offered(&self, id: &str) -> Result<Option<Vec<u8>>, StartError> {
        self.get(self.space.token(id)).await
    }

    /// The IDs under which something is kept.
    ///
    /// # Errors
    /// When etcd cannot be reached in time.
    pub async fn offers(&self) -> Result<Vec<String>, StartError> {
        let first = self.space.token("");
        let mut range_end = first.clone();
        range_end.last_mut().into_iter().for_each(|last| *last += 1);
        let range = RangeRequest { key: first.clone(), range_end, keys_only: true, ..Default::default() };
        let found = self.range(range).await?;
        let id = |key: Vec<u8>| String::from_utf8(key.get(first.len()..)?.to_vec()).ok();
        Ok(found.into_iter().filter_map(|found| id(found.key)).collect())
    }

    /// Ends what is kept under an ID before its time.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn withdraw(&self, id: &str) -> Result<(), StartError> {
        self.write(Request::RequestDeleteRange(DeleteRangeRequest { key: self.space.token(id) })).await
    }

    async fn get(&self, key: Vec<u8>) -> Result<Option<Vec<u8>>, StartError> {
        let found = self.range(RangeRequest { key, ..Default::default() }).await?;
        Ok(found.into_iter().next().map(|found| found.value))
    }

    async fn range(&self, range: RangeRequest) -> Result<Vec<super::wire::KeyValue>, StartError> {
        let reading = self.members.wait_for(self.deadline, |mut kv| {
            let range = range.clone();
            async move { kv.range(range).await }
        });
        Ok(reading.await.map_err(|why| self.unreachable(&why))?.kvs)
    }

    async fn write(&self, request: Request) -> Result<(), StartError> {
        let request = TxnRequest { compare: Vec::new(), success: vec![op(request)] };
        self.members.ask().kv().txn(request).await.map(drop).map_err(|why| self.unreachable(&why))
    }

    fn unreachable(&self, why: &Status) -> StartError {
        StartError::Unreachable { urls: self.members.urls(), why: said(why) }
    }
}
