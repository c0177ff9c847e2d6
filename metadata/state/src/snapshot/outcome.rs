//! Outcomes as messages, and back.

use tidelog_types::{
    Generation, LogIndex, Offset, PartitionIndex, ProducerEpoch, ProducerId, Sequence, TopicId,
};

use super::SnapshotError;
use super::read::OrField;
use crate::command::{BatchOutcome, BatchRefusal, Outcome, Refusal};
use crate::config::{ConfigError, KEYS};
use crate::group::command::{GroupLimit, GroupOutcome, GroupRefusal, OffsetOutcome};
use crate::wire::refusal::Refusal as WireRefusal;
use crate::wire::{self, BatchOutcomeKind as Kind, OutcomeDone, RefusalReason};

impl From<&Outcome> for wire::Outcome {
    fn from(outcome: &Outcome) -> Self {
        use wire::outcome::Outcome as Wire;
        let done = |done: OutcomeDone| Wire::Done(done.into());
        let outcome = match outcome {
            Outcome::TopicCreated(topic) => Wire::TopicCreated(topic.0),
            Outcome::TopicUpdated => done(OutcomeDone::TopicUpdated),
            Outcome::PartitionsAdded => done(OutcomeDone::PartitionsAdded),
            Outcome::TopicDeleted => done(OutcomeDone::TopicDeleted),
            Outcome::TruncationNoted => done(OutcomeDone::TruncationNoted),
            Outcome::RecordsDeleted { log_start } => Wire::RecordsDeleted(log_start.get()),
            Outcome::ProducerReady { id, epoch } => {
                Wire::ProducerReady(wire::ProducerReady { id: id.get(), epoch: epoch.get().into() })
            }
            Outcome::SegmentCommitted(slices) => Wire::SegmentCommitted(wire::SegmentCommitted {
                slices: slices.iter().map(|batches| slice_outcome(batches)).collect(),
            }),
            Outcome::ProducersExpired(count) => Wire::ProducersExpired(*count),
            Outcome::Group(outcome) => match outcome {
                GroupOutcome::Joined => done(OutcomeDone::Joined),
                GroupOutcome::PatternResolved => done(OutcomeDone::PatternResolved),
                GroupOutcome::Left => done(OutcomeDone::Left),
                GroupOutcome::Expired => done(OutcomeDone::Expired),
                GroupOutcome::Released(count) => Wire::Released(*count),
                GroupOutcome::Assigned => done(OutcomeDone::Assigned),
                GroupOutcome::OffsetsCommitted(outcomes) => {
                    let outcomes = outcomes.iter().map(|outcome| wire::OffsetOutcome::from(*outcome).into());
                    Wire::OffsetsCommitted(wire::OffsetsCommitted { outcomes: outcomes.collect() })
                }
                GroupOutcome::Deleted => done(OutcomeDone::GroupDeleted),
            },
            Outcome::OffsetsExpired(count) => Wire::OffsetsExpired(*count),
            Outcome::Refused(refusal) => Wire::Refused(refusal.into()),
        };
        Self { outcome: Some(outcome) }
    }
}

impl TryFrom<wire::Outcome> for Outcome {
    type Error = SnapshotError;

    fn try_from(message: wire::Outcome) -> Result<Self, SnapshotError> {
        use wire::outcome::Outcome as Wire;
        Ok(match message.outcome.or_field("outcome")? {
            Wire::Done(done) => match OutcomeDone::try_from(done).or_field("outcome.done")? {
                OutcomeDone::TopicUpdated => Self::TopicUpdated,
                OutcomeDone::PartitionsAdded => Self::PartitionsAdded,
                OutcomeDone::TopicDeleted => Self::TopicDeleted,
                OutcomeDone::TruncationNoted => Self::TruncationNoted,
                OutcomeDone::Joined => Self::Group(GroupOutcome::Joined),
                OutcomeDone::PatternResolved => Self::Group(GroupOutcome::PatternResolved),
                OutcomeDone::Left => Self::Group(GroupOutcome::Left),
                OutcomeDone::Expired => Self::Group(GroupOutcome::Expired),
                OutcomeDone::Assigned => Self::Group(GroupOutcome::Assigned),
                OutcomeDone::GroupDeleted => Self::Group(GroupOutcome::Deleted),
                OutcomeDone::Unspecified => return Err(SnapshotError::Field { field: "outcome.done" }),
            },
            Wire::TopicCreated(topic) => Self::TopicCreated(TopicId(topic)),
            Wire::RecordsDeleted(log_start) => Self::RecordsDeleted {
                log_start: Offset::new(log_start).or_field("outcome.records_deleted")?,
            },
            Wire::ProducerReady(ready) => Self::ProducerReady {
                id: ProducerId::new(ready.id).or_field("outcome.producer_ready.id")?,
                epoch: producer_epoch(ready.epoch.into(), "outcome.producer_ready.epoch")?,
            },
            Wire::SegmentCommitted(committed) => Self::SegmentCommitted(
                committed.slices.into_iter().map(batch_outcomes).collect::<Result<_, _>>()?,
            ),
            Wire::ProducersExpired(count) => Self::ProducersExpired(count),
            Wire::Released(count) => Self::Group(GroupOutcome::Released(count)),
            Wire::OffsetsCommitted(committed) => Self::Group(GroupOutcome::OffsetsCommitted(
                committed.outcomes.into_iter().map(offset_outcome).collect::<Result<_, _>>()?,
            )),
            Wire::OffsetsExpired(count) => Self::OffsetsExpired(count),
            Wire::Refused(refusal) => Self::Refused(refusal.try_into()?),
        })
    }
}

impl From<OffsetOutcome> for wire::OffsetOutcome {
    fn from(outcome: OffsetOutcome) -> Self {
        match outcome {
            OffsetOutcome::Committed => Self::Committed,
            OffsetOutcome::UnknownTopic => Self::UnknownTopic,
            OffsetOutcome::UnknownPartition => Self::UnknownPartition,
            OffsetOutcome::UnknownMember => Self::UnknownMember,
            OffsetOutcome::StaleGeneration => Self::StaleGeneration,
            OffsetOutcome::Superseded => Self::Superseded,
            OffsetOutcome::GroupNotEmpty => Self::GroupNotEmpty,
        }
    }
}

pub(super) fn offset_outcome(value: i32) -> Result<OffsetOutcome, SnapshotError> {
    let field = "offset_outcome";
    Ok(match wire::OffsetOutcome::try_from(value).or_field(field)? {
        wire::OffsetOutcome::Committed => OffsetOutcome::Committed,
        wire::OffsetOutcome::UnknownTopic => OffsetOutcome::UnknownTopic,
        wire::OffsetOutcome::UnknownPartition => OffsetOutcome::UnknownPartition,
        wire::OffsetOutcome::UnknownMember => OffsetOutcome::UnknownMember,
        wire::OffsetOutcome::StaleGeneration => OffsetOutcome::StaleGeneration,
        wire::OffsetOutcome::Superseded => OffsetOutcome::Superseded,
        wire::OffsetOutcome::GroupNotEmpty => OffsetOutcome::GroupNotEmpty,
        wire::OffsetOutcome::Unspecified => return Err(SnapshotError::Field { field }),
    })
}

pub(super) fn producer_epoch(epoch: i64, field: &'static str) -> Result<ProducerEpoch, SnapshotError> {
    ProducerEpoch::new(i16::try_from(epoch).or_field(field)?).or_field(field)
}

fn slice_outcome(batches: &[BatchOutcome]) -> wire::SliceOutcome {
    let (kinds, values) = batches
        .iter()
        .map(|batch| {
            let (kind, value) = match *batch {
                BatchOutcome::Appended { base_offset } => (Kind::Appended, base_offset.get()),
                BatchOutcome::Duplicate { base_offset } => (Kind::Duplicate, base_offset.get()),
                BatchOutcome::Refused(refusal) => match refusal {
                    BatchRefusal::UnknownTopic => (Kind::UnknownTopic, 0),
                    BatchRefusal::UnknownPartition { partitions } => {
                        (Kind::UnknownPartition, partitions.into())
                    }
                    BatchRefusal::OffsetsExhausted => (Kind::OffsetsExhausted, 0),
                    BatchRefusal::OutOfOrderSequence { expected } => {
                        (Kind::OutOfOrderSequence, expected.get().into())
                    }
                    BatchRefusal::ProducerFenced { current } => (Kind::ProducerFenced, current.get().into()),
                    BatchRefusal::UnknownProducer => (Kind::UnknownProducer, 0),
                },
            };
            (i32::from(kind), value)
        })
        .unzip();
    wire::SliceOutcome { kinds, values }
}

fn batch_outcomes(message: wire::SliceOutcome) -> Result<Vec<BatchOutcome>, SnapshotError> {
    if message.kinds.len() != message.values.len() {
        return Err(SnapshotError::Field { field: "slice_outcome.values" });
    }
    let batch = |(kind, value): (i32, i64)| {
        let field = "slice_outcome.values";
        let refused = |refusal| Ok(BatchOutcome::Refused(refusal));
        match Kind::try_from(kind).or_field("slice_outcome.kinds")? {
            Kind::Appended => Ok(BatchOutcome::Appended { base_offset: Offset::new(value).or_field(field)? }),
            Kind::Duplicate => {
                Ok(BatchOutcome::Duplicate { base_offset: Offset::new(value).or_field(field)? })
            }
            Kind::UnknownTopic => refused(BatchRefusal::UnknownTopic),
            Kind::UnknownPartition => {
                refused(BatchRefusal::UnknownPartition { partitions: u32::try_from(value).or_field(field)? })
            }
            Kind::OffsetsExhausted => refused(BatchRefusal::OffsetsExhausted),
            Kind::OutOfOrderSequence => {
                let expected = i32::try_from(value).or_field(field)?;
                refused(BatchRefusal::OutOfOrderSequence {
                    expected: Sequence::new(expected).or_field(field)?,
                })
            }
            Kind::ProducerFenced => {
                refused(BatchRefusal::ProducerFenced { current: producer_epoch(value, field)? })
            }
            Kind::UnknownProducer => refused(BatchRefusal::UnknownProducer),
            Kind::Unspecified => Err(SnapshotError::Field { field: "slice_outcome.kinds" }),
        }
    };
    message.kinds.into_iter().zip(message.values).map(batch).collect()
}

impl From<&Refusal> for wire::Refusal {
    fn from(refusal: &Refusal) -> Self {
        let reason = |reason: RefusalReason| WireRefusal::Reason(reason.into());
        let refusal = match refusal {
            Refusal::UnknownTopic => reason(RefusalReason::UnknownTopic),
            Refusal::UnknownProducer => reason(RefusalReason::UnknownProducer),
            Refusal::Malformed => reason(RefusalReason::Malformed),
            Refusal::Superseded => reason(RefusalReason::Superseded),
            Refusal::TopicExists { topic } => WireRefusal::TopicExists(topic.0),
            Refusal::UnknownPartition { partitions, asked } => {
                WireRefusal::UnknownPartition(wire::UnknownPartition {
                    partitions: *partitions,
                    asked: asked.get(),
                })
            }
            Refusal::PartitionCount { asked, low, high } => {
                WireRefusal::PartitionCount(wire::PartitionCount { asked: *asked, low: *low, high: *high })
            }
            Refusal::ClusterPartitions { asked, high } => {
                WireRefusal::ClusterPartitions(wire::ClusterPartitions { asked: *asked, high: *high })
            }
            Refusal::Config(ConfigError::UnknownKey { key }) => WireRefusal::ConfigUnknownKey(key.clone()),
            // What is allowed belongs to the key and is looked up again.
            Refusal::Config(ConfigError::Value { key, value, allowed: _ }) => {
                WireRefusal::ConfigValue(wire::ConfigPair {
                    key: (*key).to_owned(),
                    value: Some(value.clone()),
                })
            }
            Refusal::OffsetOutOfRange { start, end } => {
                WireRefusal::OffsetOutOfRange(wire::OffsetRange { start: start.get(), end: end.get() })
            }
            Refusal::ProducerFenced { current } => WireRefusal::ProducerFenced(current.get().into()),
            Refusal::BelowFloor { floor } => WireRefusal::BelowFloor(floor.0),
            Refusal::Group(refusal) => match refusal {
                GroupRefusal::UnknownGroup => reason(RefusalReason::UnknownGroup),
                GroupRefusal::UnknownMember => reason(RefusalReason::UnknownMember),
                GroupRefusal::MemberExists => reason(RefusalReason::MemberExists),
                GroupRefusal::Full { limit } => reason(match limit {
                    GroupLimit::Members => RefusalReason::GroupMembers,
                    GroupLimit::Groups => RefusalReason::Groups,
                    GroupLimit::Partitions => RefusalReason::GroupPartitions,
                    GroupLimit::Bytes => RefusalReason::GroupBytes,
                }),
                GroupRefusal::NotEmpty { members } => WireRefusal::GroupNotEmpty(*members),
                GroupRefusal::StaleGeneration { current } => WireRefusal::StaleGeneration(current.0),
                GroupRefusal::Renewed => reason(RefusalReason::MemberRenewed),
            },
        };
        Self { refusal: Some(refusal) }
    }
}

impl TryFrom<wire::Refusal> for Refusal {
    type Error = SnapshotError;

    fn try_from(message: wire::Refusal) -> Result<Self, SnapshotError> {
        Ok(match message.refusal.or_field("refusal")? {
            WireRefusal::Reason(reason) => {
                let full = |limit| Self::Group(GroupRefusal::Full { limit });
                match RefusalReason::try_from(reason).or_field("refusal.reason")? {
                    RefusalReason::UnknownGroup => Self::Group(GroupRefusal::UnknownGroup),
                    RefusalReason::UnknownMember => Self::Group(GroupRefusal::UnknownMember),
                    RefusalReason::MemberExists => Self::Group(GroupRefusal::MemberExists),
                    RefusalReason::MemberRenewed => Self::Group(GroupRefusal::Renewed),
                    RefusalReason::GroupMembers => full(GroupLimit::Members),
                    RefusalReason::Groups => full(GroupLimit::Groups),
                    RefusalReason::GroupPartitions => full(GroupLimit::Partitions),
                    RefusalReason::GroupBytes => full(GroupLimit::Bytes),
                    RefusalReason::UnknownTopic => Self::UnknownTopic,
                    RefusalReason::UnknownProducer => Self::UnknownProducer,
                    RefusalReason::Malformed => Self::Malformed,
                    RefusalReason::Superseded => Self::Superseded,
                    RefusalReason::Unspecified => {
                        return Err(SnapshotError::Field { field: "refusal.reason" });
                    }
                }
            }
            WireRefusal::TopicExists(topic) => Self::TopicExists { topic: TopicId(topic) },
            WireRefusal::UnknownPartition(unknown) => Self::UnknownPartition {
                partitions: unknown.partitions,
                asked: PartitionIndex::new(unknown.asked).or_field("refusal.unknown_partition.asked")?,
            },
            WireRefusal::PartitionCount(wire::PartitionCount { asked, low, high }) => {
                Self::PartitionCount { asked, low, high }
            }
            WireRefusal::ClusterPartitions(wire::ClusterPartitions { asked, high }) => {
                Self::ClusterPartitions { asked, high }
            }
            WireRefusal::ConfigUnknownKey(key) => Self::Config(ConfigError::UnknownKey { key }),
            WireRefusal::ConfigValue(pair) => {
                let known = KEYS.iter().find(|known| known.name == pair.key);
                let known = known.or_field("refusal.config_value.key")?;
                Self::Config(ConfigError::Value {
                    key: known.name,
                    value: pair.value.or_field("refusal.config_value.value")?,
                    allowed: known.allowed,
                })
            }
            WireRefusal::OffsetOutOfRange(range) => Self::OffsetOutOfRange {
                start: Offset::new(range.start).or_field("refusal.offset_out_of_range.start")?,
                end: Offset::new(range.end).or_field("refusal.offset_out_of_range.end")?,
            },
            WireRefusal::ProducerFenced(epoch) => {
                Self::ProducerFenced { current: producer_epoch(epoch.into(), "refusal.producer_fenced")? }
            }
            WireRefusal::BelowFloor(floor) => Self::BelowFloor { floor: LogIndex(floor) },
            WireRefusal::GroupNotEmpty(members) => Self::Group(GroupRefusal::NotEmpty { members }),
            WireRefusal::StaleGeneration(current) => {
                Self::Group(GroupRefusal::StaleGeneration { current: Generation(current) })
            }
        })
    }
}
