//! Names, ids and offsets that every part of Tidelog shares.
//!
//! Each id is a type of its own, so that two of them cannot be swapped by mistake. Constructors that take numbers from
//! outside check their range; arithmetic that could leave the range returns an error or an `Option`.
//!
//! Map: [`name`] topic names · [`offset`] offsets, timestamps, record counts · [`id`] ids of topics, agents, clusters
//! · [`producer`] producer ids, epochs and sequences · [`group`] consumer groups · [`place`] positions in the metadata log.

pub mod group;
pub mod id;
pub mod name;
pub mod offset;
pub mod place;
pub mod producer;

pub use group::{CommitNumber, Generation, GroupName, GroupNameError, InstanceId, MemberId};
pub use id::{AgentInstance, ClusterId, Incarnation, SegmentId, TopicId};
pub use name::{TopicName, TopicNameError};
pub use offset::{Offset, PartitionIndex, TimestampMs, TopicPartition};
pub use place::{LogEpoch, LogIndex, LogSeq, Place, ShardId};
pub use producer::{ProducerEpoch, ProducerId, ProducerStamp, Sequence};

/// A number that came from outside and lies outside its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} is {value}, allowed are {low} to {high}")]
pub struct OutOfRange {
    /// Which quantity it is, e.g. `offset`.
    pub what: &'static str,
    /// The value that was given.
    pub value: i64,
    /// Lowest allowed value, inclusive.
    pub low: i64,
    /// Highest allowed value, inclusive.
    pub high: i64,
}
