//! Commits of segments, as agents propose them once per flush.

use tidelog_metadata_state::{
    BatchCommit, Begin, Command, CommitSegment, Entry, EntryBody, EntryId, FEATURE_LEVEL, Outcome, Proposal,
    ProposalNumber, SliceCommit, State,
};
use tidelog_types::{
    AgentInstance, ClusterId, LogIndex, PartitionIndex, ProducerEpoch, ProducerId, ProducerStamp, SegmentId,
    Sequence, TimestampMs, TopicId, TopicName, TopicPartition,
};
use uuid::Uuid;

/// Partitions of the cluster, in topics of 100.
pub const PARTITIONS: usize = 1_000;
/// Partitions that one flush has records of.
pub const SLICES_PER_FLUSH: usize = 50;
/// Producers in the cluster; each sends to every partition.
pub const PRODUCERS: i64 = 50;

const PARTITIONS_PER_TOPIC: usize = 100;
const RECORDS_PER_BATCH: u32 = 10;
const BATCH_BYTES: u32 = 10_240;
const AGENT: AgentInstance = AgentInstance(Uuid::from_u128(0xa));

/// What a flush is made of.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Batches per slice; at most [`PRODUCERS`].
    pub batches: usize,
    /// Whether each batch has a producer of its own.
    pub producers: bool,
}

/// A state of 1,000 partitions.
pub fn new_state() -> State {
    let mut state = State::new();
    let seal = EntryId(Uuid::from_u128(2));
    apply(&mut state, EntryId(Uuid::nil()), EntryBody::Genesis { cluster: ClusterId(Uuid::from_u128(1)) });
    apply(&mut state, seal, EntryBody::Seal);
    let begin = Begin { seal, leader: AGENT, address: String::new(), snapshot: None, digest: state.digest() };
    apply(&mut state, EntryId(Uuid::from_u128(3)), EntryBody::Begin(begin));
    let create = (0..PARTITIONS / PARTITIONS_PER_TOPIC).map(|n| Command::CreateTopic {
        name: TopicName::new(&format!("topic-{n}")).expect("it is a name"),
        partitions: PARTITIONS_PER_TOPIC as u32,
        config: Vec::new(),
    });
    let producers = (0..PRODUCERS).map(|_| Command::InitProducer { existing: None });
    let proposals = create.chain(producers).zip(1..).map(|(command, number)| proposal(number, command));
    apply(&mut state, EntryId(Uuid::from_u128(4)), EntryBody::Batch(proposals.collect()));
    state
}

fn apply(state: &mut State, id: EntryId, body: EntryBody) {
    let entry = Entry { level: FEATURE_LEVEL, id, time: TimestampMs(1_800_000_000_000), body };
    let applied = state.apply(state.next(), &entry).expect("it fits its place");
    let refused = applied.outcomes.iter().any(|(_, _, outcome)| matches!(**outcome, Outcome::Refused(_)));
    assert!(!refused, "all of it is allowed");
}

fn proposal(number: u64, command: Command) -> Proposal {
    Proposal {
        agent: AGENT,
        number: ProposalNumber(number),
        lowest_unresolved: ProposalNumber(number),
        proposed_at: LogIndex(0),
        command,
    }
}

/// Flushes in the order of their proposals. Each takes the next 50 partitions, so that each partition is in every
/// twentieth.
#[derive(Debug)]
pub struct Flushes {
    shape: Shape,
    number: u64,
    turn: usize,
    /// Next sequence of each producer in each partition.
    sequences: Vec<[i32; PRODUCERS as usize]>,
}

impl Flushes {
    /// The flushes of one agent.
    pub fn new(shape: Shape) -> Self {
        Self { shape, number: 1_000, turn: 0, sequences: vec![[0; PRODUCERS as usize]; PARTITIONS] }
    }

    /// The next flush.
    pub fn next_proposal(&mut self) -> Proposal {
        let slices = (0..SLICES_PER_FLUSH).map(|n| self.slice(n)).collect();
        self.turn += 1;
        self.number += 1;
        let commit = CommitSegment {
            named_at: LogIndex(self.number),
            id: SegmentId(Uuid::from_u128(u128::from(self.number) << 64)),
            size_bytes: (SLICES_PER_FLUSH * self.shape.batches) as u32 * BATCH_BYTES,
            slices,
        };
        proposal(self.number, Command::CommitSegment(commit))
    }

    /// An entry that holds the next flush.
    pub fn next_entry(&mut self) -> Entry {
        let proposal = self.next_proposal();
        Entry {
            level: FEATURE_LEVEL,
            id: EntryId(Uuid::from_u128(self.number.into())),
            time: self.time(),
            body: EntryBody::Batch(vec![proposal]),
        }
    }

    /// The writer's time: four flushes a second.
    pub fn time(&self) -> TimestampMs {
        TimestampMs(1_800_000_000_000).saturating_add_ms(self.turn as i64 * 250)
    }

    fn slice(&mut self, n: usize) -> SliceCommit {
        let at = (self.turn * SLICES_PER_FLUSH + n) % PARTITIONS;
        let partition = TopicPartition {
            topic: TopicId(1 + (at / PARTITIONS_PER_TOPIC) as u64),
            partition: PartitionIndex::from_position(at % PARTITIONS_PER_TOPIC).expect("below 2^31"),
        };
        // A partition sees another set of producers at each of its turns.
        let first_producer = self.turn / (PARTITIONS / SLICES_PER_FLUSH) * self.shape.batches;
        let mut batches = Vec::with_capacity(self.shape.batches);
        for batch in 0..self.shape.batches {
            let producer = (first_producer + batch) % PRODUCERS as usize;
            batches.push(BatchCommit {
                length: BATCH_BYTES,
                records: RECORDS_PER_BATCH,
                max_timestamp: self.time().saturating_add_ms(batch as i64),
                producer: self.shape.producers.then(|| self.stamp(at, producer)),
            });
        }
        SliceCommit { partition, position: (n * self.shape.batches) as u32 * BATCH_BYTES, batches }
    }

    fn stamp(&mut self, partition: usize, producer: usize) -> ProducerStamp {
        let next = &mut self.sequences[partition][producer];
        let base_sequence = Sequence::new(*next).expect("not that many records");
        *next += RECORDS_PER_BATCH as i32;
        let id = ProducerId::new(producer as i64).expect("not negative");
        ProducerStamp { id, epoch: ProducerEpoch::ZERO, base_sequence }
    }
}
