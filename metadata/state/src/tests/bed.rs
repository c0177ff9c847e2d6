//! A metadata log with one replica, for tests.

use tidelog_types::{
    AgentInstance, ClusterId, LogIndex, PartitionIndex, Place, ProducerEpoch, ProducerId, ProducerStamp,
    SegmentId, Sequence, TimestampMs, TopicId, TopicName, TopicPartition,
};
use uuid::Uuid;

use super::coherence::assert_coherent;
use crate::command::{
    BatchCommit, BatchOutcome, Command, CommitSegment, Outcome, Proposal, ProposalNumber, SliceCommit,
};
use crate::entry::{Begin, Entry, EntryBody, EntryId, FEATURE_LEVEL, SnapshotRef};
use crate::state::State;
use crate::{Applied, ApplyError};

/// The agent that proposes whatever a test does not propose for another one.
pub const AGENT: AgentInstance = AgentInstance(Uuid::from_u128(0xa));
pub const OTHER_AGENT: AgentInstance = AgentInstance(Uuid::from_u128(0xb));
pub const BATCH_BYTES: u32 = 100;

/// A log and the state that came of it.
pub struct Bed {
    pub state: State,
    /// All entries so far.
    pub entries: Vec<(Place, Entry)>,
    /// The writer's clock.
    pub time: TimestampMs,
    proposals: u64,
}

impl Bed {
    /// A log in its first led epoch.
    pub fn new() -> Self {
        let mut bed = Self::empty();
        bed.apply(EntryBody::Genesis { cluster: ClusterId(Uuid::from_u128(1)) });
        bed.roll(None);
        bed
    }

    /// A log without entries.
    pub fn empty() -> Self {
        Self { state: State::new(), entries: Vec::new(), time: TimestampMs(1_000_000_000), proposals: 0 }
    }

    /// An entry as the next writer would write it.
    pub fn entry(&self, body: EntryBody) -> Entry {
        let id = EntryId(Uuid::from_u128(0xe000 + self.entries.len() as u128));
        Entry { level: FEATURE_LEVEL, id, time: self.time, body }
    }

    /// Applies an entry at the next place; what holds in every state must hold afterwards.
    pub fn apply(&mut self, body: EntryBody) -> Applied {
        let (place, entry) = (self.state.next(), self.entry(body));
        let applied = self.state.apply(place, &entry).expect("the entry fits its place");
        self.entries.push((place, entry));
        assert_coherent(&self.state);
        applied
    }

    /// Applies an entry that is refused, which must change nothing.
    pub fn refused(&mut self, place: Place, body: EntryBody) -> ApplyError {
        let before = self.state.clone();
        let entry = self.entry(body);
        let error = self.state.apply(place, &entry).expect_err("the entry does not fit");
        assert_eq!(self.state, before, "a refused entry changes nothing");
        error
    }

    pub fn begin(&self, snapshot: Option<SnapshotRef>) -> Begin {
        Begin {
            seal: self.state.open_seal().unwrap_or(EntryId(Uuid::nil())),
            leader: AGENT,
            address: "127.0.0.1:7070".into(),
            snapshot,
            digest: self.state.digest(),
        }
    }

    /// Seals the epoch and begins the next; without a snapshot the last one stays in force.
    pub fn roll(&mut self, snapshot: Option<SnapshotRef>) {
        self.apply(EntryBody::Seal);
        let snapshot = snapshot.or_else(|| self.state.snapshot().cloned());
        self.apply(EntryBody::Begin(self.begin(snapshot)));
    }

    /// A snapshot of what the state is now.
    pub fn snapshot_ref(&self) -> SnapshotRef {
        let next = self.state.next();
        SnapshotRef { next, name: format!("{}-{}.snap", next.epoch.0, next.seq.0) }
    }

    /// Proposes a command under a new number, all before it being resolved.
    pub fn run(&mut self, command: Command) -> Outcome {
        self.proposals += 1;
        let number = self.proposals;
        self.propose(proposal(AGENT, number, number, command))
    }

    pub fn propose(&mut self, proposal: Proposal) -> Outcome {
        let applied = self.apply(EntryBody::Batch(vec![proposal.clone()]));
        let [(agent, number, outcome)] = applied.outcomes.as_slice() else { panic!("one outcome") };
        assert_eq!((*agent, *number), (proposal.agent, proposal.number));
        outcome.as_ref().clone()
    }

    pub fn topic(&mut self, name: &str, partitions: u32) -> TopicId {
        match self.run(create(name, partitions)) {
            Outcome::TopicCreated(id) => id,
            other => panic!("{other:?}"),
        }
    }

    pub fn producer(&mut self) -> ProducerId {
        match self.run(Command::InitProducer { existing: None }) {
            Outcome::ProducerReady { id, epoch: ProducerEpoch::ZERO } => id,
            other => panic!("{other:?}"),
        }
    }

    /// Commits a segment of these slices.
    pub fn commit(&mut self, slices: Vec<SliceCommit>) -> Vec<Vec<BatchOutcome>> {
        let id = SegmentId(Uuid::from_u128(0x5e9_0000 + u128::from(self.proposals)));
        match self.run(Command::CommitSegment(segment(self.state.index(), id, slices))) {
            Outcome::SegmentCommitted(outcomes) => outcomes,
            other => panic!("{other:?}"),
        }
    }

    /// Commits a segment of one slice.
    pub fn append(&mut self, at: TopicPartition, batches: Vec<BatchCommit>) -> Vec<BatchOutcome> {
        self.commit(vec![slice(at, 0, batches)]).pop().expect("one slice")
    }
}

pub fn proposal(agent: AgentInstance, number: u64, lowest_unresolved: u64, command: Command) -> Proposal {
    Proposal {
        agent,
        number: ProposalNumber(number),
        lowest_unresolved: ProposalNumber(lowest_unresolved),
        proposed_at: LogIndex(0),
        command,
    }
}

pub fn create(name: &str, partitions: u32) -> Command {
    Command::CreateTopic { name: TopicName::new(name).expect("a name"), partitions, config: Vec::new() }
}

pub fn at(topic: TopicId, partition: i32) -> TopicPartition {
    TopicPartition { topic, partition: PartitionIndex::new(partition).expect("a partition") }
}

pub fn segment(named_at: LogIndex, id: SegmentId, slices: Vec<SliceCommit>) -> CommitSegment {
    let end =
        |slice: &SliceCommit| slice.batches.iter().fold(slice.position, |end, batch| end + batch.length);
    let size_bytes = slices.iter().map(end).max().unwrap_or(0);
    CommitSegment { named_at, id, size_bytes, slices }
}

pub fn slice(partition: TopicPartition, position: u32, batches: Vec<BatchCommit>) -> SliceCommit {
    SliceCommit { partition, position, batches }
}

pub fn batch(records: u32) -> BatchCommit {
    BatchCommit { length: BATCH_BYTES, records, max_timestamp: TimestampMs(7), producer: None }
}

pub fn stamped(records: u32, id: ProducerId, epoch: i16, base_sequence: i32) -> BatchCommit {
    let stamp = ProducerStamp {
        id,
        epoch: ProducerEpoch::new(epoch).expect("an epoch"),
        base_sequence: Sequence::new(base_sequence).expect("a sequence"),
    };
    BatchCommit { producer: Some(stamp), ..batch(records) }
}

pub fn offset(value: i64) -> tidelog_types::Offset {
    tidelog_types::Offset::new(value).expect("an offset")
}

pub fn appended(base: i64) -> BatchOutcome {
    BatchOutcome::Appended { base_offset: offset(base) }
}

pub fn duplicate(base: i64) -> BatchOutcome {
    BatchOutcome::Duplicate { base_offset: offset(base) }
}

/// Appends one batch, which has to be taken.
pub fn append_one(bed: &mut Bed, at: TopicPartition, records: u32) {
    let outcomes = bed.append(at, vec![batch(records)]);
    assert!(matches!(outcomes.as_slice(), [BatchOutcome::Appended { .. }]), "{outcomes:?}");
}
