//! A decorator that does what is asked and loses the answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tidelog_types::{LogEpoch, LogSeq, Place, ShardId};

use crate::{Append, LogError, MetadataLog};

/// Performs each append and answers `Unknown` to the first so many of each place, whatever the outcome was.
///
/// This is what a connection reset after the effect looks like. Reads and removals pass through.
#[derive(Debug, Clone)]
pub struct LostReplies {
    inner: Arc<dyn MetadataLog>,
    lost_per_place: usize,
    lost: Arc<Mutex<BTreeMap<(ShardId, Place), usize>>>,
}

impl LostReplies {
    /// Loses the first `lost_per_place` replies of each place.
    pub fn new(inner: Arc<dyn MetadataLog>, lost_per_place: usize) -> Self {
        Self { inner, lost_per_place, lost: Arc::default() }
    }

    /// Replies lost so far, over all places.
    pub fn lost(&self) -> usize {
        self.lost.lock().values().sum()
    }

    fn lose_one(&self, shard: ShardId, place: Place) -> bool {
        let mut lost = self.lost.lock();
        let lost_here = lost.entry((shard, place)).or_default();
        let lose = *lost_here < self.lost_per_place;
        *lost_here += usize::from(lose);
        lose
    }
}

#[async_trait]
impl MetadataLog for LostReplies {
    async fn append(&self, shard: ShardId, place: Place, bytes: Bytes) -> Append {
        let outcome = self.inner.append(shard, place, bytes).await;
        if !self.lose_one(shard, place) {
            return outcome;
        }
        Append::Unknown(LogError {
            operation: "append",
            target: format!("{}, shard {}, place {place}", self.inner.describe(), shard.0),
            cause: "the reply was lost".to_owned(),
            retryable: true,
        })
    }

    async fn read(
        &self,
        shard: ShardId,
        epoch: LogEpoch,
        from: LogSeq,
        limit: usize,
    ) -> Result<Vec<Bytes>, LogError> {
        self.inner.read(shard, epoch, from, limit).await
    }

    async fn remove(&self, shard: ShardId, epoch: LogEpoch, seqs: &[LogSeq]) -> Result<(), LogError> {
        self.inner.remove(shard, epoch, seqs).await
    }

    fn entry_bytes_max(&self) -> usize {
        self.inner.entry_bytes_max()
    }

    fn describe(&self) -> String {
        format!("{}, replies lost", self.inner.describe())
    }
}
