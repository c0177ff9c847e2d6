//! Why a batch was not acknowledged.

use std::time::Duration;

use tidelog_metadata_state::BatchRefusal;
use tidelog_types::{PartitionIndex, ProducerEpoch, Sequence, TopicId, TopicName};

/// Why a batch was not acknowledged. All but [`ProduceError::Unknown`] are definite: the batch was not written and
/// never will be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProduceError {
    /// No such topic.
    #[error("topic {topic} does not exist")]
    UnknownTopic {
        /// Its name.
        topic: TopicName,
    },
    /// The topic of that name is another one than the caller means.
    #[error("topic {topic} is not the one with id {wanted}: that one was deleted")]
    TopicIdMismatch {
        /// Its name.
        topic: TopicName,
        /// The id that the caller means.
        wanted: TopicId,
        /// The id of the topic that has the name now.
        found: TopicId,
    },
    /// The topic has fewer partitions.
    #[error("topic {topic} has {partitions} partitions, there is no partition {partition}")]
    UnknownPartition {
        /// Its name.
        topic: TopicName,
        /// The partition that was meant.
        partition: PartitionIndex,
        /// How many there are.
        partitions: u32,
    },
    /// The topic does not exist, and creating it was refused.
    #[error("topic {topic} does not exist and could not be created: {cause}")]
    AutoCreate {
        /// Its name.
        topic: TopicName,
        /// Why not.
        cause: String,
    },
    /// The batch is larger than the topic allows.
    #[error("the batch has {bytes} bytes, the topic takes {max}")]
    TooLarge {
        /// Its size, or as much of it as was looked at.
        bytes: usize,
        /// The topic's `max.message.bytes`.
        max: usize,
    },
    /// The bytes are no record batch, or no records.
    #[error("not a valid batch: {0}")]
    Corrupt(String),
    /// A kind of batch that this version does not take.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// An earlier batch for the same partition, of the same session or producer, failed; this one would change the
    /// order.
    #[error("an earlier append to this partition failed, this one would change the order")]
    EarlierAppendFailed,
    /// The producer's sequence leaves a gap, or repeats a batch too old to be remembered.
    #[error("the sequence is out of order, expected is {}", expected.get())]
    OutOfOrderSequence {
        /// What would be accepted.
        expected: Sequence,
    },
    /// A newer epoch of the producer exists.
    #[error("the producer is fenced: epoch {} exists", current.get())]
    ProducerFenced {
        /// The epoch that may send.
        current: ProducerEpoch,
    },
    /// The producer id was never allocated, or has expired.
    #[error("the producer id is unknown or has expired")]
    UnknownProducer,
    /// The partition has no offsets left.
    #[error("the partition has no offsets left")]
    OffsetsExhausted,
    /// The object store did not take the segment in time.
    #[error("the object store is unavailable: {cause}")]
    StorageUnavailable {
        /// What it said.
        cause: String,
    },
    /// The metadata log did not take the commit.
    #[error("the metadata is unavailable: {cause}")]
    MetadataUnavailable {
        /// What it said.
        cause: String,
    },
    /// The agent is shutting down.
    #[error("the agent is shutting down")]
    Draining,
    /// The batch may have been written, or may yet be.
    #[error("the outcome is unknown: {cause}")]
    Unknown {
        /// Why it is not known.
        cause: String,
    },
}

impl ProduceError {
    /// Whether sending the same again may succeed, and when that makes sense. An unknown outcome is not among these:
    /// only a producer with a stamp can repeat it safely.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::StorageUnavailable { .. } | Self::MetadataUnavailable { .. } => {
                Some(Duration::from_millis(500))
            }
            Self::Draining => Some(Duration::from_millis(100)),
            _ => None,
        }
    }

    pub(crate) fn refused(refusal: BatchRefusal, topic: &TopicName, partition: PartitionIndex) -> Self {
        match refusal {
            BatchRefusal::UnknownTopic => Self::UnknownTopic { topic: topic.clone() },
            BatchRefusal::UnknownPartition { partitions } => {
                Self::UnknownPartition { topic: topic.clone(), partition, partitions }
            }
            BatchRefusal::OffsetsExhausted => Self::OffsetsExhausted,
            BatchRefusal::OutOfOrderSequence { expected } => Self::OutOfOrderSequence { expected },
            BatchRefusal::ProducerFenced { current } => Self::ProducerFenced { current },
            BatchRefusal::UnknownProducer => Self::UnknownProducer,
        }
    }
}
