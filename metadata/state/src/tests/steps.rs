//! Random histories: steps that mean something in whatever state they meet.

use proptest::prelude::*;
use tidelog_types::{LogIndex, ProducerEpoch, ProducerId, SegmentId, TimestampMs, TopicId, TopicPartition};
use uuid::Uuid;

use super::bed::{Bed, at, batch, create, offset, segment, slice, stamped};
use super::model::Model;
use crate::command::{BatchCommit, BatchOutcome, Command, Outcome, SliceCommit};
use crate::limits::{DESTRUCTION_MARGIN_MS, PRODUCER_EXPIRY_MS};

/// A step; a topic, partition or producer is the n-th of those that there are then, see [`picked`].
#[derive(Debug, Clone)]
pub enum Step {
    Create {
        name: u8,
        partitions: u8,
    },
    Configure {
        topic: u8,
        bytes: u16,
    },
    AddPartitions {
        topic: u8,
        partitions: u8,
    },
    DeleteTopic {
        topic: u8,
    },
    DeleteRecords {
        topic: u8,
        partition: u8,
        before: Option<u8>,
    },
    InitProducer {
        existing: Option<(u8, i8)>,
    },
    Commit(Vec<Part>),
    /// Time goes on, and idle producers expire.
    Expire {
        hours: u8,
    },
    Roll {
        snapshot: bool,
    },
    Truncate,
    /// The last proposal arrives again.
    Repeat,
}

/// What one partition gets in a segment.
#[derive(Debug, Clone)]
pub struct Part {
    topic: u8,
    partition: u8,
    /// Bytes of others before it.
    gap: u8,
    batches: Vec<(u8, Option<Stamp>)>,
}

#[derive(Debug, Clone)]
pub struct Stamp {
    producer: u8,
    epoch_off: i8,
    sequence: Choice,
}

#[derive(Debug, Clone)]
enum Choice {
    Next,
    Again { back: u8 },
    Any(u8),
}

pub fn steps(count: usize) -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(step(), 1..count)
}

fn step() -> impl Strategy<Value = Step> {
    let epoch_off = prop_oneof![8 => Just(0_i8), 1 => Just(-1_i8), 1 => Just(1_i8)];
    prop_oneof![
        3 => (0..3_u8, 0..4_u8).prop_map(|(name, partitions)| Step::Create { name, partitions }),
        1 => (pick(), any::<u16>()).prop_map(|(topic, bytes)| Step::Configure { topic, bytes }),
        1 => (pick(), 0..6_u8).prop_map(|(topic, partitions)| Step::AddPartitions { topic, partitions }),
        1 => pick().prop_map(|topic| Step::DeleteTopic { topic }),
        4 => (pick(), pick(), any::<Option<u8>>())
            .prop_map(|(topic, partition, before)| Step::DeleteRecords { topic, partition, before }),
        3 => proptest::option::of((pick(), epoch_off.clone())).prop_map(|existing| Step::InitProducer { existing }),
        30 => proptest::collection::vec(part(epoch_off), 0..5).prop_map(Step::Commit),
        1 => (0..40_u8).prop_map(|hours| Step::Expire { hours }),
        2 => any::<bool>().prop_map(|snapshot| Step::Roll { snapshot }),
        2 => Just(Step::Truncate),
        2 => Just(Step::Repeat),
    ]
}

/// One of those that there are; rarely [`NONE`].
fn pick() -> impl Strategy<Value = u8> {
    prop_oneof![20 => 0..12_u8, 1 => Just(NONE)]
}

const NONE: u8 = u8::MAX;

/// What a pick means where there are `count`.
fn picked(pick: u8, count: usize) -> Option<usize> {
    if pick == NONE { None } else { usize::from(pick).checked_rem(count) }
}

fn part(epoch_off: impl Strategy<Value = i8> + Clone + 'static) -> impl Strategy<Value = Part> {
    let sequence = prop_oneof![
        6 => Just(Choice::Next),
        3 => (0..7_u8).prop_map(|back| Choice::Again { back }),
        1 => any::<u8>().prop_map(Choice::Any),
    ];
    let stamp = (pick(), epoch_off, sequence).prop_map(|(producer, epoch_off, sequence)| Stamp {
        producer,
        epoch_off,
        sequence,
    });
    let batches = proptest::collection::vec((1..20_u8, proptest::option::weighted(0.7, stamp)), 1..5);
    let gap = prop_oneof![Just(0_u8), 1..9_u8];
    (pick(), pick(), gap, batches).prop_map(|(topic, partition, gap, batches)| Part {
        topic,
        partition,
        gap,
        batches,
    })
}

/// A bed, the model beside it and the last proposal's outcome.
pub struct Walk {
    pub bed: Bed,
    pub model: Model,
    last: Option<(crate::Proposal, Outcome)>,
    /// What came of all batches.
    pub outcomes: Vec<BatchOutcome>,
}

impl Walk {
    /// Begins with something that steps can meet.
    pub fn new() -> Self {
        let mut walk = Self { bed: Bed::new(), model: Model::default(), last: None, outcomes: Vec::new() };
        walk.take(&Step::Create { name: 0, partitions: 2 });
        walk.take(&Step::Create { name: 1, partitions: 1 });
        walk.take(&Step::InitProducer { existing: None });
        walk.take(&Step::InitProducer { existing: None });
        walk
    }

    fn topic(&self, pick: u8) -> TopicId {
        let topics = &self.bed.state.topics;
        let n = picked(pick, topics.len());
        n.and_then(|n| topics.keys().nth(n)).copied().unwrap_or(TopicId(1_000))
    }

    fn partition(&self, topic: u8, partition: u8) -> TopicPartition {
        let topic = self.topic(topic);
        let count = self.bed.state.topic(topic).map_or(0, |topic| topic.partitions.len());
        let partition = picked(partition, count).and_then(|n| i32::try_from(n).ok());
        at(topic, partition.unwrap_or(i32::MAX))
    }

    fn run(&mut self, command: Command) -> Outcome {
        let outcome = self.bed.run(command);
        let (_, entry) = self.bed.entries.last().expect("one was applied");
        let crate::EntryBody::Batch(proposals) = &entry.body else { panic!("it was a batch") };
        self.last = proposals.first().cloned().map(|proposal| (proposal, outcome.clone()));
        outcome
    }

    /// Takes the step, in the state and in the model, and compares.
    pub fn take(&mut self, step: &Step) {
        match step {
            Step::Create { name, partitions } => {
                self.run(create(&format!("topic-{name}"), (*partitions).into()));
            }
            Step::Configure { topic, bytes } => {
                let config = vec![("max.message.bytes".into(), Some(bytes.to_string()))];
                self.run(Command::UpdateTopic { topic: self.topic(*topic), config });
            }
            Step::AddPartitions { topic, partitions } => {
                let (topic, partitions) = (self.topic(*topic), (*partitions).into());
                self.run(Command::AddPartitions { topic, partitions });
            }
            Step::DeleteTopic { topic } => {
                self.run(Command::DeleteTopic { topic: self.topic(*topic) });
            }
            Step::DeleteRecords { topic, partition, before } => {
                let partition = self.partition(*topic, *partition);
                let before = before.map(|before| offset(before.into()));
                let outcome = self.run(Command::DeleteRecords { partition, before });
                if let (Some(model), Outcome::RecordsDeleted { log_start }) =
                    (self.model.partitions.get_mut(&partition), outcome)
                {
                    model.log_start = model.log_start.max(before.map_or(model.end, |before| before.get()));
                    assert_eq!(model.log_start, log_start.get());
                }
            }
            Step::InitProducer { existing } => {
                let existing = existing.map(|(producer, off)| self.stamp_of(producer, off));
                self.run(Command::InitProducer { existing });
            }
            Step::Commit(parts) => self.commit(parts),
            Step::Expire { hours } => {
                self.bed.time = self.bed.time.saturating_add_ms(i64::from(*hours) * 3_600_000);
                let proposer_time = self.bed.time;
                self.run(Command::ExpireProducers { proposer_time });
                let cutoff = proposer_time.0 - PRODUCER_EXPIRY_MS - DESTRUCTION_MARGIN_MS;
                let last_used = self.bed.state.producers.values().map(|producer| producer.last_used);
                assert!(last_used.min().is_none_or(|oldest| oldest >= TimestampMs(cutoff)), "none is left");
            }
            Step::Roll { snapshot } => {
                let snapshot = snapshot.then(|| self.bed.snapshot_ref());
                self.bed.roll(snapshot);
            }
            Step::Truncate => {
                if let Some(below) = self.bed.state.snapshot().map(|snapshot| snapshot.next) {
                    assert_eq!(self.run(Command::NoteTruncation { below }), Outcome::TruncationNoted);
                    assert_eq!(self.bed.state.removable_places(), []);
                }
            }
            Step::Repeat => {
                if let Some((proposal, outcome)) = self.last.clone() {
                    assert_eq!(self.bed.propose(proposal), outcome);
                }
            }
        }
        self.model.follow(&self.bed.state);
    }

    fn stamp_of(&self, producer: u8, epoch_off: i8) -> (ProducerId, ProducerEpoch) {
        let producers = &self.model.producers;
        let known = picked(producer, producers.len()).and_then(|n| producers.iter().nth(n));
        let (id, epoch) =
            known.map_or((ProducerId::new(9_999).expect("an id"), 0), |(id, epoch)| (*id, epoch.get()));
        let epoch = (epoch + i16::from(epoch_off)).max(0);
        (id, ProducerEpoch::new(epoch).expect("an epoch"))
    }

    fn commit(&mut self, parts: &[Part]) {
        let mut position = 0;
        let (mut slices, mut expected) = (Vec::new(), Vec::new());
        for part in parts {
            position += u32::from(part.gap);
            let at = self.partition(part.topic, part.partition);
            let partitions = self.bed.state.topic(at.topic).map(crate::Topic::partition_count);
            let (mut batches, mut outcomes) = (Vec::new(), Vec::<BatchOutcome>::new());
            for (records, stamp) in &part.batches {
                let batch = self.batch(at, (*records).into(), stamp.as_ref());
                outcomes.push(self.model.commit(at, partitions, &batch));
                batches.push(batch);
            }
            let slice: SliceCommit = slice(at, position, batches);
            position = slice.batches.iter().fold(position, |end, batch| end + batch.length);
            slices.push(slice);
            self.outcomes.extend(&outcomes);
            expected.push(outcomes);
        }
        let id = SegmentId(Uuid::from_u128(0x5e9_0000 + self.bed.entries.len() as u128));
        let commit = segment(LogIndex(0), id, slices);
        assert_eq!(self.run(Command::CommitSegment(commit)), Outcome::SegmentCommitted(expected));
    }

    fn batch(&self, at: TopicPartition, records: u32, stamp: Option<&Stamp>) -> BatchCommit {
        let Some(stamp) = stamp else { return batch(records) };
        let (id, epoch) = self.stamp_of(stamp.producer, stamp.epoch_off);
        let next = self.model.expected(at, id, epoch);
        match stamp.sequence {
            Choice::Next => stamped(records, id, epoch.get(), next),
            Choice::Again { back } => {
                let (sequence, records) =
                    self.model.sent(at, id, epoch, back.into()).unwrap_or((next, records));
                stamped(records, id, epoch.get(), sequence)
            }
            Choice::Any(sequence) => stamped(records, id, epoch.get(), sequence.into()),
        }
    }
}
