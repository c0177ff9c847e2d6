//! Why a partition could not be read.

use std::time::Duration;

use tidelog_types::{Offset, PartitionIndex, TopicId, TopicName};

/// Why a partition could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
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
    /// The offset is not in the partition; all from `earliest` to `latest` inclusive can be read from.
    #[error("the offset is not in {earliest}..={latest}")]
    OffsetOutOfRange {
        /// Log start offset.
        earliest: Offset,
        /// High watermark.
        latest: Offset,
    },
    /// What the object store holds is damaged, or gone although the metadata refers to it.
    #[error("object {object} is corrupt: {cause}")]
    Corrupt {
        /// The object's name.
        object: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The object store did not answer.
    #[error("the object store is unavailable: {cause}")]
    StorageUnavailable {
        /// What it said.
        cause: String,
    },
    /// The metadata could not be confirmed to be current.
    #[error("the metadata is unavailable: {cause}")]
    MetadataUnavailable {
        /// Why not.
        cause: String,
    },
    /// The request names too many partitions; those beyond the limit are not looked at.
    #[error("the request names more than {max} partitions")]
    TooManyPartitions {
        /// The limit.
        max: usize,
    },
}

impl FetchError {
    /// Whether this says that something does not exist which may exist since.
    pub(crate) fn may_be_outdated(&self) -> bool {
        matches!(
            self,
            Self::UnknownTopic { .. } | Self::TopicIdMismatch { .. } | Self::UnknownPartition { .. }
        )
    }

    /// When asking again makes sense, if it does.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::StorageUnavailable { .. } | Self::MetadataUnavailable { .. } => {
                Some(Duration::from_millis(500))
            }
            _ => None,
        }
    }
}
