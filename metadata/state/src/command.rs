//! What can be asked of the cluster's knowledge, and what comes of it.
//!
//! A [`Command`] is proposed by an agent, gets a place in the metadata log inside a [`Proposal`], and has exactly one
//! [`Outcome`], the same on every replica. A refusal is an outcome too.

use tidelog_types::{
    AgentInstance, LogIndex, Offset, PartitionIndex, Place, ProducerEpoch, ProducerId, ProducerStamp,
    SegmentId, Sequence, TimestampMs, TopicId, TopicName, TopicPartition,
};

use crate::config::ConfigError;
use crate::group::command::{GroupCommand, GroupOutcome, GroupRefusal};

/// Number of a proposal among those of one agent instance, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProposalNumber(pub u64);

/// A command with the means to give it effect at most once, however often and through whichever leader it is repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// Who asks.
    pub agent: AgentInstance,
    /// The number of the question; a repeat carries the same.
    pub number: ProposalNumber,
    /// The lowest number whose outcome the agent does not know yet; outcomes below it may be forgotten.
    pub lowest_unresolved: ProposalNumber,
    /// The log index that the agent had applied when it first asked.
    pub proposed_at: LogIndex,
    /// What is asked.
    pub command: Command,
}

/// A change of the cluster's knowledge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Creates a topic with partitions `0..partitions`.
    CreateTopic {
        /// Name, free at that moment.
        name: TopicName,
        /// 1 to [`crate::limits::PARTITIONS_PER_TOPIC_MAX`].
        partitions: u32,
        /// Configuration that differs from the defaults, as `(key, value)`.
        config: Vec<(String, String)>,
    },
    /// Changes a topic's configuration.
    UpdateTopic {
        /// Which topic.
        topic: TopicId,
        /// `(key, Some(value))` sets, `(key, None)` returns to the default.
        config: Vec<(String, Option<String>)>,
    },
    /// Grows a topic to `partitions` partitions in all.
    AddPartitions {
        /// Which topic.
        topic: TopicId,
        /// New total, more than now.
        partitions: u32,
    },
    /// Deletes a topic with all its records.
    DeleteTopic {
        /// Which topic.
        topic: TopicId,
    },
    /// Raises a partition's log start: records before `before` are deleted.
    DeleteRecords {
        /// Which partition.
        partition: TopicPartition,
        /// The new log start, at most the partition's end; `None` means the end.
        before: Option<Offset>,
    },
    /// Allocates a producer id, or raises the epoch of one.
    InitProducer {
        /// The id and epoch to go on from; `None` allocates.
        existing: Option<(ProducerId, ProducerEpoch)>,
    },
    /// Gives the batches of an uploaded segment their offsets.
    CommitSegment(CommitSegment),
    /// Forgets producers that were idle for longer than the limit.
    ExpireProducers {
        /// The proposer's wall clock; the smaller of it and log time decides.
        proposer_time: TimestampMs,
    },
    /// Notes that the metadata log was truncated, and which snapshots were deleted.
    NoteTruncation {
        /// All removable places below this one are gone.
        below: Place,
    },
    /// Changes a consumer group.
    Group(Box<GroupCommand>),
    /// Forgets groups that had no members, and took no commits, for longer than the limit.
    ExpireOffsets {
        /// The proposer's wall clock; the smaller of it and log time decides.
        proposer_time: TimestampMs,
    },
}

/// An uploaded segment and what lies in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitSegment {
    /// First half of the segment's name: the log index that its uploader had applied.
    pub named_at: LogIndex,
    /// Second half of the segment's name.
    pub id: SegmentId,
    /// Size of the object in bytes.
    pub size_bytes: u32,
    /// What lies in it; each partition at most once, in the order of their bytes.
    pub slices: Vec<SliceCommit>,
}

/// The batches of one partition in a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceCommit {
    /// Whose records they are.
    pub partition: TopicPartition,
    /// Where the first batch begins in the object, in bytes.
    pub position: u32,
    /// The batches, one after the other without gaps, 1 or more.
    pub batches: Vec<BatchCommit>,
}

/// One record batch in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchCommit {
    /// Length in bytes.
    pub length: u32,
    /// Number of records, 1 or more.
    pub records: u32,
    /// Largest timestamp of its records.
    pub max_timestamp: TimestampMs,
    /// Who sent it, if that was an idempotent producer.
    pub producer: Option<ProducerStamp>,
}

/// What came of a [`Command`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The topic was created under this id.
    TopicCreated(TopicId),
    /// The topic's configuration was changed.
    TopicUpdated,
    /// The topic has its new partitions.
    PartitionsAdded,
    /// The topic is gone.
    TopicDeleted,
    /// The records are gone; this is the log start now.
    RecordsDeleted {
        /// The partition's log start.
        log_start: Offset,
    },
    /// The producer may send with this id and epoch, from sequence 0.
    ProducerReady {
        /// The producer's id.
        id: ProducerId,
        /// Its epoch.
        epoch: ProducerEpoch,
    },
    /// The segment was looked at; each batch has its own outcome, in the order of the command.
    SegmentCommitted(Vec<Vec<BatchOutcome>>),
    /// This many producers were forgotten.
    ProducersExpired(u32),
    /// The truncation was noted.
    TruncationNoted,
    /// The group was changed.
    Group(GroupOutcome),
    /// This many groups were forgotten.
    OffsetsExpired(u32),
    /// Nothing was changed.
    Refused(Refusal),
}

/// What came of one batch of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchOutcome {
    /// Its records have the offsets from this one on.
    Appended {
        /// Offset of the first record.
        base_offset: Offset,
    },
    /// The same batch was appended before, at this offset; these bytes are not referenced.
    Duplicate {
        /// Offset of the first record of the original.
        base_offset: Offset,
    },
    /// It was not appended.
    Refused(BatchRefusal),
}

/// Why a batch was not appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BatchRefusal {
    /// The topic does not exist (any more).
    #[error("the topic does not exist")]
    UnknownTopic,
    /// The topic has fewer partitions.
    #[error("the topic has {partitions} partitions")]
    UnknownPartition {
        /// How many it has.
        partitions: u32,
    },
    /// The partition has no offsets left.
    #[error("the partition has no offsets left")]
    OffsetsExhausted,
    /// The producer's sequence leaves a gap, or repeats a batch older than the last five.
    #[error("the sequence is out of order, expected is {}", expected.get())]
    OutOfOrderSequence {
        /// The sequence that would be accepted.
        expected: Sequence,
    },
    /// A newer producer with this id exists.
    #[error("a newer producer epoch exists: {}", current.get())]
    ProducerFenced {
        /// The epoch that may send.
        current: ProducerEpoch,
    },
    /// The id was never allocated, or has expired.
    #[error("the producer id is unknown or has expired")]
    UnknownProducer,
}

/// Why a command changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The name is taken.
    #[error("a topic of that name exists")]
    TopicExists {
        /// By this topic.
        topic: TopicId,
    },
    /// The topic does not exist (any more).
    #[error("the topic does not exist")]
    UnknownTopic,
    /// The topic has fewer partitions.
    #[error("the topic has {partitions} partitions, asked for is {asked}")]
    UnknownPartition {
        /// How many it has.
        partitions: u32,
        /// Which one was meant.
        asked: PartitionIndex,
    },
    /// The number of partitions is not allowed.
    #[error("{asked} partitions are not possible, allowed are {low} to {high}")]
    PartitionCount {
        /// What was asked for.
        asked: u32,
        /// Lowest allowed, inclusive.
        low: u32,
        /// Highest allowed, inclusive.
        high: u32,
    },
    /// The cluster has as many partitions as it may.
    #[error("the cluster would have {asked} partitions, allowed are {high}")]
    ClusterPartitions {
        /// What it would have.
        asked: u64,
        /// What is allowed.
        high: u64,
    },
    /// A configuration key or value is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The offset lies outside the partition.
    #[error("the offset lies outside {start}..={end}")]
    OffsetOutOfRange {
        /// Log start.
        start: Offset,
        /// End offset.
        end: Offset,
    },
    /// The producer id was never allocated, or has expired.
    #[error("the producer id is unknown or has expired")]
    UnknownProducer,
    /// A newer producer with this id exists.
    #[error("a newer producer epoch exists: {}", current.get())]
    ProducerFenced {
        /// The epoch that may send.
        current: ProducerEpoch,
    },
    /// The proposal is older than the collection floor. Whether it, or an earlier repeat of it, took effect is
    /// unknown.
    #[error("the proposal is older than the collection floor {floor}")]
    BelowFloor {
        /// The floor.
        floor: LogIndex,
    },
    /// The command contradicts itself, e.g. a slice that ends beyond its object.
    #[error("the command contradicts itself")]
    Malformed,
    /// It concerns a consumer group.
    #[error(transparent)]
    Group(#[from] GroupRefusal),
    /// The agent itself said before that it knows the outcome; a late duplicate.
    #[error("the proposal was resolved before")]
    Superseded,
}
