//! What the cluster knows.

use std::sync::Arc;

use imbl::OrdMap;
use tidelog_types::{
    AgentInstance, ClusterId, GroupName, LogEpoch, LogIndex, LogSeq, Place, ProducerId, TimestampMs, TopicId,
    TopicName, TopicPartition,
};

use crate::command::{Outcome, ProposalNumber};
use crate::digest::Digest;
use crate::entry::{EntryId, SnapshotRef};
use crate::group::Group;
use crate::limits::{DESTRUCTION_MARGIN_MS, PRODUCER_EXPIRY_MS};
use crate::producer::Producer;
use crate::slices::ObjectId;
use crate::topic::{ObjectRecord, Partition, Topic};

/// The state machine. Cloning is cheap: large parts are shared until one side changes them, so that a snapshot is
/// written from a clone while the original goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub(crate) cluster: Option<ClusterId>,
    /// The place of the next entry.
    pub(crate) next: Place,
    /// How many entries were applied.
    pub(crate) index: LogIndex,
    /// The seal that closed the epoch before `next`, while `next` is the first place of an epoch.
    pub(crate) seal: Option<EntryId>,
    pub(crate) leader: Option<Leader>,
    pub(crate) log_time: TimestampMs,
    pub(crate) digest: Digest,
    /// Snapshots that Begins named, oldest first; the last one is the one in force.
    pub(crate) snapshots: Vec<SnapshotRef>,
    /// All removable places below this one were removed.
    pub(crate) truncated_below: Place,
    /// The places of seals, for the epochs that truncation has not finished with.
    pub(crate) epoch_ends: OrdMap<LogEpoch, LogSeq>,
    /// Segments named below this index are collected or about to be.
    pub(crate) floor: LogIndex,
    pub(crate) topics: OrdMap<TopicId, Arc<Topic>>,
    pub(crate) names: OrdMap<TopicName, TopicId>,
    /// How many topics had each name so far.
    pub(crate) directories: OrdMap<TopicName, u32>,
    pub(crate) next_topic: u64,
    pub(crate) partitions_total: u64,
    pub(crate) producers: OrdMap<ProducerId, Producer>,
    pub(crate) next_producer: i64,
    pub(crate) objects: OrdMap<ObjectId, ObjectRecord>,
    pub(crate) next_object: u64,
    pub(crate) agents: OrdMap<AgentInstance, AgentMemory>,
    pub(crate) groups: OrdMap<GroupName, Arc<Group>>,
    /// The next generation of any group.
    pub(crate) next_generation: u64,
    /// What all groups weigh.
    pub(crate) group_bytes: u64,
    /// Partitions that all groups share, each counted in each group.
    pub(crate) group_partitions: u64,
}

/// Who leads the current epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// The leading agent.
    pub agent: AgentInstance,
    /// Where other agents reach it; may be empty.
    pub address: String,
}

/// The outcomes that an agent may still ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AgentMemory {
    pub lowest_unresolved: ProposalNumber,
    /// When it last proposed something.
    pub last_index: LogIndex,
    pub outcomes: OrdMap<ProposalNumber, Arc<Outcome>>,
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    /// The state before the first entry.
    pub fn new() -> Self {
        Self {
            cluster: None,
            next: Place::begin_of(LogEpoch::ZERO),
            index: LogIndex(0),
            seal: None,
            leader: None,
            log_time: TimestampMs(0),
            digest: Digest::default(),
            snapshots: Vec::new(),
            truncated_below: Place::begin_of(LogEpoch::ZERO),
            epoch_ends: OrdMap::new(),
            floor: LogIndex(0),
            topics: OrdMap::new(),
            names: OrdMap::new(),
            directories: OrdMap::new(),
            next_topic: 1,
            partitions_total: 0,
            producers: OrdMap::new(),
            next_producer: 0,
            objects: OrdMap::new(),
            next_object: 0,
            agents: OrdMap::new(),
            groups: OrdMap::new(),
            next_generation: 1,
            group_bytes: 0,
            group_partitions: 0,
        }
    }

    /// The cluster's id; `None` before the genesis.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster
    }

    /// The place of the next entry: all before it were applied.
    pub fn next(&self) -> Place {
        self.next
    }

    /// How many entries were applied.
    pub fn index(&self) -> LogIndex {
        self.index
    }

    /// The seal of the epoch before, if the log stands between two epochs.
    pub fn open_seal(&self) -> Option<EntryId> {
        self.seal
    }

    /// Who leads the current epoch; `None` between epochs and before the first.
    pub fn leader(&self) -> Option<&Leader> {
        self.leader.as_ref()
    }

    /// Log time: the largest time of any entry so far.
    pub fn log_time(&self) -> TimestampMs {
        self.log_time
    }

    /// Digest of all outcomes so far.
    pub fn digest(&self) -> u64 {
        self.digest.0
    }

    /// The snapshot that the newest Begin names.
    pub fn snapshot(&self) -> Option<&SnapshotRef> {
        self.snapshots.last()
    }

    /// Snapshots that earlier Begins named and that may still exist, oldest first.
    pub fn older_snapshots(&self) -> &[SnapshotRef] {
        self.snapshots.split_last().map_or(&[], |(_, older)| older)
    }

    /// The places that truncation may remove: those below the snapshot in force, and of each epoch neither its first
    /// place, nor its seal, nor the place just below the seal. Only closed epochs are listed, so whoever asks while an
    /// epoch is open knows that each of them has a successor.
    pub fn removable_places(&self) -> Vec<(LogEpoch, std::ops::Range<u64>)> {
        let Some(snapshot) = self.snapshot().filter(|_| self.seal.is_none()) else { return Vec::new() };
        let from = self.truncated_below;
        self.epoch_ends
            .range(from.epoch..=snapshot.next.epoch)
            .map(|(epoch, seal)| {
                let first = if *epoch == from.epoch { from.seq.0.max(1) } else { 1 };
                let kept_below_seal = seal.0.saturating_sub(1);
                let end = if *epoch == snapshot.next.epoch {
                    snapshot.next.seq.0.min(kept_below_seal)
                } else {
                    kept_below_seal
                };
                (*epoch, first..end)
            })
            .filter(|(_, places)| !places.is_empty())
            .collect()
    }

    /// All removable places below this one were removed before.
    pub fn truncated_below(&self) -> Place {
        self.truncated_below
    }

    /// The collection floor: segments named below it are never committed any more.
    pub fn floor(&self) -> LogIndex {
        self.floor
    }

    /// The topic of a name.
    pub fn topic_by_name(&self, name: &TopicName) -> Option<&Topic> {
        self.topic(*self.names.get(name)?)
    }

    /// A topic.
    pub fn topic(&self, id: TopicId) -> Option<&Topic> {
        self.topics.get(&id).map(Arc::as_ref)
    }

    /// Topics by name, those after `after`.
    pub fn topics_after<'a>(&'a self, after: Option<&TopicName>) -> impl Iterator<Item = &'a Topic> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, |name| Excluded(name.clone()));
        self.names.range((from, Unbounded)).filter_map(|(_, id)| self.topic(*id))
    }

    /// How many topics were ever created, and how many there are: another pair means other topics.
    pub fn topic_counts(&self) -> (u64, usize) {
        (self.next_topic, self.topics.len())
    }

    /// A partition.
    pub fn partition(&self, at: TopicPartition) -> Option<&Partition> {
        self.topic(at.topic)?.partition(at.partition)
    }

    /// A segment object that slices refer to.
    pub fn object(&self, id: ObjectId) -> Option<&ObjectRecord> {
        self.objects.get(&id)
    }

    /// All segment objects that slices refer to, oldest first.
    pub fn objects(&self) -> impl Iterator<Item = (ObjectId, &ObjectRecord)> {
        self.objects.iter().map(|(id, record)| (*id, record))
    }

    /// How many partitions all topics have together.
    pub fn partitions_total(&self) -> u64 {
        self.partitions_total
    }

    /// What came of a proposal, if the agent may still ask.
    pub fn outcome(&self, agent: AgentInstance, number: ProposalNumber) -> Option<&Arc<Outcome>> {
        self.agents.get(&agent)?.outcomes.get(&number)
    }

    /// Whether [`crate::command::Command::ExpireProducers`], proposed at `now`, would forget anyone.
    pub fn has_expired_producers(&self, now: TimestampMs) -> bool {
        let cutoff = self.expiry_cutoff(now);
        self.producers.values().any(|producer| producer.last_used < cutoff)
    }

    /// Producers last used before this time have expired, as a proposer whose clock says `proposer_time` may claim.
    pub(crate) fn expiry_cutoff(&self, proposer_time: TimestampMs) -> TimestampMs {
        let now = self.log_time.min(proposer_time);
        now.saturating_add_ms(-(DESTRUCTION_MARGIN_MS + PRODUCER_EXPIRY_MS))
    }
}
