//! Appending an entry until its place is seen occupied.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidelog_metadata_log::env::Entropy;
use tidelog_metadata_log::{Append, MetadataLog};
use tidelog_types::{Place, ShardId};

use crate::handle::{MetadataStats, Shared};

/// What stands at a place in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Landed {
    /// The entry that was to be appended, by whichever of its tries.
    Own,
    /// Another entry, with these bytes; ours is not in the log and never will be.
    Other(Bytes),
    /// The node gave up although it must not.
    #[cfg(feature = "planted-mistakes")]
    GivenUp,
}

/// How an append is made and repeated.
#[derive(Debug, Clone)]
pub(crate) struct Appender {
    pub log: Arc<dyn MetadataLog>,
    pub shard: ShardId,
    pub shared: Arc<Shared>,
    pub entropy: Entropy,
    pub retry_pause: Duration,
}

impl Appender {
    /// Repeats the very same bytes at the same place until the place is seen occupied, however long that takes.
    ///
    /// Nothing else resolves an append of unknown outcome: an absent place may be filled by a request that is still
    /// on its way, and an error or a deadline says nothing about what the store has done.
    pub async fn append(&self, place: Place, bytes: Bytes) -> Landed {
        let mut pause = Backoff::new(self.retry_pause);
        loop {
            MetadataStats::add(&self.shared.stats.appends, 1);
            match self.log.append(self.shard, place, bytes.clone()).await {
                Append::Appended => return self.landed_own(&bytes),
                Append::Occupied(found) if found == bytes => return self.landed_own(&bytes),
                Append::Occupied(found) => {
                    MetadataStats::add(&self.shared.stats.conflicts, 1);
                    return Landed::Other(found);
                }
                Append::Unknown(error) => {
                    MetadataStats::add(&self.shared.stats.unknown_appends, 1);
                    tracing::warn!(event = "append_unknown", %place, %error, "append is repeated");
                }
            }
            pause.wait(&self.entropy).await;
        }
    }

    fn landed_own(&self, bytes: &Bytes) -> Landed {
        MetadataStats::add(&self.shared.stats.entries, 1);
        MetadataStats::add(&self.shared.stats.entry_bytes, bytes.len() as u64);
        Landed::Own
    }
}

/// Pauses that double up to 32 times the first, each shortened by up to a half so that many nodes do not keep step.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    doublings: u32,
}

const DOUBLINGS_MAX: u32 = 5;

impl Backoff {
    pub fn new(first: Duration) -> Self {
        Self { first, doublings: 0 }
    }

    pub fn next(&mut self, entropy: &Entropy) -> Duration {
        let longest = self.first * (1 << self.doublings);
        self.doublings = (self.doublings + 1).min(DOUBLINGS_MAX);
        let half = longest / 2;
        half + Duration::from_micros(entropy.below(u64::try_from(half.as_micros()).unwrap_or(0) + 1))
    }

    pub async fn wait(&mut self, entropy: &Entropy) {
        tokio::time::sleep(self.next(entropy)).await;
    }
}
