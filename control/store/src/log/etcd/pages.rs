//! All that is under the prefix as of one revision, some at a time.

use std::time::Duration;

use tokio::time::Instant;
use tonic::Status;

use super::{
    keyspace::Keyspace,
    members::Members,
    revisions::{number, whole},
    wire::{KeyValue, RangeRequest},
};
use crate::Revision;

/// How long all of it may take, and one answer.
const ALL: Duration = Duration::from_secs(120);
const ANSWER: Duration = Duration::from_secs(10);
/// Keys asked for at once, first and at the most; and how many bytes an answer should have.
const PAGE: i64 = 100;
const LARGEST_PAGE: i64 = 10_000;
const PAGE_BYTES: usize = 2 << 20;

pub(super) struct Pages<'a> {
    members: &'a Members,
    deadline: Instant,
    key: Vec<u8>,
    range_end: Vec<u8>,
    limit: i64,
    /// 0: whatever there is when it is asked first.
    at: i64,
    more: bool,
}

impl<'a> Pages<'a> {
    /// As of a revision, or as it is now.
    pub fn new(members: &'a Members, space: &Keyspace, at: Option<Revision>) -> Self {
        let ((key, range_end), at) = (space.range(), at.map_or(0, number));
        Self { members, deadline: Instant::now() + ALL, key, range_end, limit: PAGE, at, more: true }
    }

    /// The next of them; none: that was all.
    ///
    /// # Errors
    /// When etcd does not answer, or has forgotten the revision.
    pub async fn next(&mut self) -> Result<Option<Vec<KeyValue>>, Status> {
        if !self.more {
            return Ok(None);
        }
        let (key, range_end) = (std::mem::take(&mut self.key), self.range_end.clone());
        let range = RangeRequest { key, range_end, limit: self.limit, revision: self.at, ..Default::default() };
        let asking = self.members.read(self.deadline.min(Instant::now() + ANSWER), |mut kv| {
            let range = range.clone();
            async move { kv.range(range).await }
        });
        let page = asking.await?;
        if self.at == 0 {
            self.at = page.header.map_or(0, |header| header.revision);
        }
        let bytes: usize = page.kvs.iter().map(|found| found.key.len() + found.value.len()).sum();
        if bytes > PAGE_BYTES {
            self.limit = (self.limit / 2).max(1);
        } else if bytes < PAGE_BYTES / 4 {
            self.limit = (self.limit * 2).min(LARGEST_PAGE);
        }
        self.key = page.kvs.last().map(|found| found.key.clone()).unwrap_or_default();
        // The smallest that is larger.
        self.key.push(0);
        self.more = page.more;
        Ok(Some(page.kvs))
    }

    /// Of what has come.
    pub fn revision(&self) -> Revision {
        whole(self.at)
    }
}
