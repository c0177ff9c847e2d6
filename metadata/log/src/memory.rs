//! The metadata log in memory: for tests, simulation and `--memory`.
//!
//! Clones share the same places, so that several nodes of one process see one log. Everything is gone with the last
//! clone.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tidelog_types::{LogEpoch, LogSeq, Place, ShardId};

use crate::{Append, LogError, MetadataLog, check_entry_length};

/// As in an object store: what runs on the memory backend runs on the other ones, except for DynamoDB's lower cap.
const ENTRY_BYTES_MAX: usize = 256 * 1024;

/// A [`MetadataLog`] in memory; cheap to clone, clones share the places.
#[derive(Debug, Clone, Default)]
pub struct MemoryLog {
    places: Arc<Mutex<BTreeMap<(ShardId, Place), Bytes>>>,
}

impl MemoryLog {
    /// An empty log.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many places are occupied, over all shards and epochs.
    pub fn occupied_places(&self) -> usize {
        self.places.lock().len()
    }
}

#[async_trait]
impl MetadataLog for MemoryLog {
    async fn append(&self, shard: ShardId, place: Place, bytes: Bytes) -> Append {
        let target = format!("memory, shard {}, place {place}", shard.0);
        if let Err(refused) = check_entry_length(&target, bytes.len(), ENTRY_BYTES_MAX) {
            return Append::Unknown(refused);
        }
        let mut places = self.places.lock();
        if let Some(existing) = places.get(&(shard, place)) {
            return Append::Occupied(existing.clone());
        }
        // A copy, because the caller's bytes may be a window into a much larger buffer that would stay alive with them.
        places.insert((shard, place), Bytes::copy_from_slice(&bytes));
        Append::Appended
    }

    async fn read(
        &self,
        shard: ShardId,
        epoch: LogEpoch,
        from: LogSeq,
        limit: usize,
    ) -> Result<Vec<Bytes>, LogError> {
        let places = self.places.lock();
        let occupied = places.range((shard, Place::new(epoch, from))..);
        let dense = occupied
            .zip(from.0..)
            .take_while(|(((s, place), _), seq)| *s == shard && *place == Place::new(epoch, LogSeq(*seq)));
        Ok(dense.take(limit).map(|((_, bytes), _)| bytes.clone()).collect())
    }

    async fn remove(&self, shard: ShardId, epoch: LogEpoch, seqs: &[LogSeq]) -> Result<(), LogError> {
        let mut places = self.places.lock();
        for seq in seqs {
            places.remove(&(shard, Place::new(epoch, *seq)));
        }
        Ok(())
    }

    fn entry_bytes_max(&self) -> usize {
        ENTRY_BYTES_MAX
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }
}
