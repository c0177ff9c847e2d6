//! What goes wrong with groups.

use std::time::Duration;

use tidelog_proto::status::ApiError;
use tidelog_proto::v1::ErrorReason;
use tidelog_types::{PartitionIndex, TopicName};

use super::TopicPartition;
use crate::error::{ConsumeError, RequestError};

/// Why a consumer of a group cannot go on with a partition, or at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// A partition cannot be read. Those that are assigned besides are read on; this one after a [`crate::GroupHandle::seek`].
    #[error(transparent)]
    Consume(#[from] ConsumeError),
    /// The group has committed nothing for the partition, and [`crate::OffsetReset::None`] leaves it to the application where to begin: with
    /// [`crate::GroupHandle::seek`].
    #[error("{topic}[{partition}] has no committed offset to begin at")]
    NoOffset {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: PartitionIndex,
    },
    /// The group does not take this member, and would refuse it again: the member id or instance id is in use, the group is full, or the
    /// request is wrong. The stream is over.
    #[error("{0}")]
    Refused(Box<ApiError>),
    /// Nobody has answered for long. The consumer keeps trying if it is polled again.
    #[error("no answer for {} ms: {cause}", .after.as_millis())]
    Unavailable {
        /// How long.
        after: Duration,
        /// What the last attempt met.
        cause: String,
    },
    /// The consumer's own assignor failed: it panicked. The service asks another member, or this one again, when the rebalance timeout is over.
    #[error("the assignor failed: {0}")]
    Assignor(String),
}

/// Why offsets were not committed. Committing later ones does no harm in any case.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// These partitions were refused; those besides them were committed.
    #[error("{}", refusals(.0))]
    Partitions(Vec<(TopicPartition, ApiError)>),
    /// The request failed; it says whether anything may have been committed.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The consumer is no member of its group at the moment; nothing was committed.
    #[error("the consumer is not a member of its group at the moment")]
    NotMember,
    /// The consumer is gone; it is not known whether the offsets were committed.
    #[error("the consumer is closed")]
    Closed,
}

impl CommitError {
    /// Whether partitions have gone to other members meanwhile, which read on from what was committed before: what was done since is done again.
    pub fn lost_partitions(&self) -> bool {
        match self {
            Self::Partitions(refused) => refused.iter().any(|(_, error)| is_lost(error)),
            Self::NotMember => true,
            Self::Request(_) | Self::Closed => false,
        }
    }
}

fn is_lost(error: &ApiError) -> bool {
    matches!(error.reason, ErrorReason::UnknownMember | ErrorReason::StaleGeneration)
}

fn refusals(refused: &[(TopicPartition, ApiError)]) -> String {
    match refused {
        [] => "no partition was refused".to_owned(),
        [(at, error)] => format!("{at}: {error}"),
        [(at, error), more @ ..] => format!("{at}: {error} (and {} more)", more.len()),
    }
}

/// A partition that is not assigned to the consumer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not assigned to this consumer")]
pub struct NotAssigned(pub TopicPartition);
