//! Reading the log: boot from the newest snapshot, and catching up with the log's end.

use bytes::Bytes;
use tidelog_metadata_log::LogError;
use tidelog_metadata_state::{ApplyError, Entry, EntryBody, EntryError, State};
use tidelog_types::{ClusterId, LogEpoch, LogSeq, Place};

use crate::config::Mistake;
use crate::handle::MetadataStats;
use crate::node::Node;
use crate::snapshots::SnapshotStoreError;

/// Entries asked for in one read.
const READ_ENTRIES: usize = 256;

/// Where the log ends, at the replica's next place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogEnd {
    /// In an open epoch.
    Open,
    /// Behind a seal, before the next epoch's Begin.
    Sealed,
}

/// Why the log could not be read on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplicaError {
    /// The store did not answer: try again.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The snapshot store did not answer: try again.
    #[error("snapshot: {0}")]
    Snapshot(#[from] SnapshotStoreError),
    /// What this replica knows is not a beginning of the log: boot anew.
    #[error("the replica has to start from the newest snapshot: {0}")]
    StartOver(String),
    /// Nothing that this process could do mends it.
    #[error(transparent)]
    Fatal(#[from] NodeError),
}

/// Why a node stopped for good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// The log has no genesis.
    #[error("the metadata log is empty: initialise the cluster first (`tidelog init`)")]
    NotInitialised,
    /// The log belongs to another cluster than the object store.
    #[error(
        "the metadata log belongs to cluster {found}, the object store to cluster {expected}: one of the two URLs is wrong"
    )]
    OtherCluster {
        /// Cluster of the object store.
        expected: ClusterId,
        /// Cluster of the metadata log.
        found: ClusterId,
    },
    /// An entry's bytes are damaged, or of a newer version.
    #[error("metadata entry at {place}: {error}")]
    Entry {
        /// Its place.
        place: Place,
        /// What is wrong with it.
        error: EntryError,
    },
    /// An entry contradicts what this replica knows.
    #[error("metadata entry: {0}")]
    Apply(ApplyError),
    /// A snapshot's bytes are damaged, or of a newer version.
    #[error("snapshot {name}: {error}")]
    Snapshot {
        /// Its name.
        name: String,
        /// What is wrong with it.
        error: String,
    },
}

impl Node {
    /// Loads the newest snapshot. The replica then stands somewhere in the log; [`Node::catch_up`] does the rest.
    pub(crate) async fn load_snapshot(&mut self) -> Result<(), ReplicaError> {
        let newest = self.newest_epoch().await?;
        let first = Place::begin_of(newest);
        let bytes = self.read_place(first).await?.ok_or(ReplicaError::Fatal(NodeError::NotInitialised))?;
        let entry = decode(first, &bytes)?;
        let state = match entry.body {
            EntryBody::Genesis { cluster } => {
                self.check_cluster(cluster)?;
                State::new()
            }
            EntryBody::Begin(begin) => match begin.snapshot {
                None => State::new(),
                Some(snapshot) => {
                    let bytes = match self.snapshots.read(&snapshot.name).await {
                        // A newer Begin names another one since; the reads above were no snapshot of their own.
                        Err(SnapshotStoreError::NotFound(name)) => {
                            return Err(ReplicaError::StartOver(format!("snapshot {name} is gone")));
                        }
                        other => other?,
                    };
                    let damaged = |error: String| NodeError::Snapshot { name: snapshot.name.clone(), error };
                    let state = State::decode_snapshot(&bytes).map_err(|error| damaged(error.to_string()))?;
                    if state.next() != snapshot.next {
                        return Err(damaged(format!(
                            "it ends at {}, named for {}",
                            state.next(),
                            snapshot.next
                        ))
                        .into());
                    }
                    state
                }
            },
            EntryBody::Seal | EntryBody::Batch(_) => {
                let error = EntryError::Field { field: "body" };
                return Err(NodeError::Entry { place: first, error }.into());
            }
        };
        if let Some(cluster) = state.cluster() {
            self.check_cluster(cluster)?;
        }
        self.booting = Some(state);
        if self.errs(Mistake::ShowUnfinishedBoot) {
            self.publish_booted();
        }
        Ok(())
    }

    fn check_cluster(&self, found: ClusterId) -> Result<(), NodeError> {
        let expected = self.config.cluster;
        if found == expected { Ok(()) } else { Err(NodeError::OtherCluster { expected, found }) }
    }

    /// The newest epoch that has begun. Epochs are dense and their first places are never removed, so a search over
    /// first places finds it; nothing has to be remembered or trusted.
    async fn newest_epoch(&self) -> Result<LogEpoch, LogError> {
        // Galloping from what is known: `begun` has begun, or is 0; `absent` has not.
        let mut begun = self.shared.state.read().next().epoch;
        if begun > LogEpoch::ZERO && self.read_place(Place::begin_of(begun)).await?.is_none() {
            begun = LogEpoch(begun.0 - 1);
        }
        let mut step = 1;
        let mut absent = loop {
            let candidate = LogEpoch(begun.0 + step);
            if self.read_place(Place::begin_of(candidate)).await?.is_none() {
                break candidate;
            }
            begun = candidate;
            step *= 2;
        };
        while begun.next() < absent {
            let middle = LogEpoch(begun.0.midpoint(absent.0));
            if self.read_place(Place::begin_of(middle)).await?.is_some() {
                begun = middle;
            } else {
                absent = middle;
            }
        }
        Ok(begun)
    }

    async fn read_place(&self, place: Place) -> Result<Option<Bytes>, LogError> {
        MetadataStats::add(&self.shared.stats.reads, 1);
        let read = self.log.read(self.config.shard, place.epoch, place.seq, 1).await?;
        Ok(read.into_iter().next())
    }

    /// Applies entries until the log's end.
    pub(crate) async fn catch_up(&mut self) -> Result<LogEnd, ReplicaError> {
        loop {
            let from = self.next_place();
            MetadataStats::add(&self.shared.stats.reads, 1);
            let entries = self.log.read(self.config.shard, from.epoch, from.seq, READ_ENTRIES).await?;
            let full = entries.len() == READ_ENTRIES;
            for bytes in entries {
                let place = self.next_place();
                if place.epoch != from.epoch {
                    // Nothing can stand behind a seal; the next read begins in the next epoch.
                    break;
                }
                self.apply_bytes(place, &bytes)?;
            }
            let next = self.next_place();
            if full || next.epoch != from.epoch {
                continue;
            }
            // `next` was absent. That is the end of the log only if the next epoch, read afterwards, has not begun.
            if next.seq == LogSeq::ZERO {
                return if next.epoch == LogEpoch::ZERO {
                    Err(NodeError::NotInitialised.into())
                } else {
                    Ok(LogEnd::Sealed)
                };
            }
            if self.errs(Mistake::SkipSuccessorCheck)
                || self.read_place(Place::begin_of(next.epoch.next())).await?.is_none()
            {
                return Ok(LogEnd::Open);
            }
            if self.read_place(next).await?.is_none() {
                return Err(ReplicaError::StartOver(format!("place {next} was truncated")));
            }
        }
    }

    /// Whether the epoch after `epoch` has begun, by a strongly consistent read that starts now.
    pub(crate) async fn has_successor(
        log: std::sync::Arc<dyn tidelog_metadata_log::MetadataLog>,
        shard: tidelog_types::ShardId,
        epoch: LogEpoch,
    ) -> Result<bool, LogError> {
        let read = log.read(shard, epoch.next(), LogSeq::ZERO, 1).await?;
        Ok(!read.is_empty())
    }

    pub(crate) fn apply_bytes(&mut self, place: Place, bytes: &Bytes) -> Result<(), ReplicaError> {
        let mut entry = decode(place, bytes)?;
        match &mut entry.body {
            EntryBody::Genesis { cluster } => self.check_cluster(*cluster)?,
            EntryBody::Begin(begin) if self.errs(Mistake::SkipSealCheck) => {
                let shared = self.shared.state.read();
                let state = self.booting.as_ref().unwrap_or(&shared);
                begin.seal = state.open_seal().unwrap_or(begin.seal);
                begin.digest = state.digest();
            }
            _ => {}
        }
        self.apply(place, &entry, bytes)
    }

    /// Applies an entry, answers whoever waits for it, wakes readers, and tells followers.
    pub(crate) fn apply(&mut self, place: Place, entry: &Entry, bytes: &Bytes) -> Result<(), ReplicaError> {
        let applied = match &mut self.booting {
            Some(state) => state.apply(place, entry),
            None => self.shared.state.write().apply(place, entry),
        };
        let applied = applied.map_err(|error| match error {
            ApplyError::DeadBranch { .. } => ReplicaError::StartOver(error.to_string()),
            other => NodeError::Apply(other).into(),
        })?;
        MetadataStats::add(&self.shared.stats.applied, 1);
        // While it boots, readers see the replica from before: who waits is answered when they see this one.
        if self.booting.is_none() {
            self.proposals.resolve(&applied);
        }
        if let EntryBody::Begin(begin) = &entry.body {
            self.proposals.epoch_begun(begin.leader);
        }
        self.shared.wake(&applied);
        self.shared.tail.push(place, bytes.clone());
        Ok(())
    }
}

fn decode(place: Place, bytes: &[u8]) -> Result<Entry, NodeError> {
    Entry::decode(bytes).map_err(|error| NodeError::Entry { place, error })
}
