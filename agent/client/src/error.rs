//! Errors, told apart by what the caller does next.

use std::time::Duration;

use tidelog_proto::status::ApiError;
use tidelog_proto::v1::ErrorReason;
use tidelog_record::BatchError;
use tidelog_types::{Offset, PartitionIndex, TopicName};
use tonic::Code;

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The text is no address of an agent.
    #[error("endpoint {endpoint:?} {problem}, expected http://HOST:PORT")]
    InvalidEndpoint {
        /// The text.
        endpoint: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Nobody answers there. Trying again later may help.
    #[error("cannot connect to {endpoint}: {cause}")]
    Unreachable {
        /// The address that was tried last.
        endpoint: String,
        /// What the network said.
        cause: String,
    },
    /// Nobody answers in time. Trying again later may help.
    #[error("cannot connect to {endpoint}: no answer within {} ms", .after.as_millis())]
    TimedOut {
        /// The address that was tried last.
        endpoint: String,
        /// How long it was tried.
        after: Duration,
    },
}

/// Why a request about topics, offsets or the service failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No connection; nothing was done.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// What the request names does not exist.
    #[error("{0}")]
    NotFound(Box<ApiError>),
    /// What should be created exists already, or the state forbids what was asked.
    #[error("{0}")]
    Conflict(Box<ApiError>),
    /// The request is wrong; it would fail again.
    #[error("{0}")]
    Invalid(Box<ApiError>),
    /// The caller may not do that.
    #[error("{0}")]
    Denied(Box<ApiError>),
    /// It cannot be done now; nothing was done. Trying again later may help.
    #[error("{0}")]
    Unavailable(Box<ApiError>),
    /// It may have been done, or may yet be.
    #[error("it is not known whether it was done: {0}")]
    OutcomeUnknown(Box<ApiError>),
    /// The service, or what it stores, has a defect.
    #[error("{0}")]
    Failed(Box<ApiError>),
    /// The answer is not what the contract says.
    #[error("the answer is not valid: {0}")]
    Protocol(String),
}

impl RequestError {
    /// Sorts an error of a request. `reads_only`: repeating it does no harm, so that an unknown outcome is only an unavailability.
    pub(crate) fn sort(error: ApiError, reads_only: bool) -> Self {
        let unknown = error.outcome_unknown();
        let error = Box::new(error);
        if unknown && !reads_only {
            return Self::OutcomeUnknown(error);
        }
        match error.code {
            Code::NotFound => Self::NotFound(error),
            Code::AlreadyExists | Code::FailedPrecondition | Code::Aborted => Self::Conflict(error),
            Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented => Self::Invalid(error),
            Code::Unauthenticated | Code::PermissionDenied => Self::Denied(error),
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Self::Unavailable(error),
            Code::ResourceExhausted if error.retry_after.is_some() => Self::Unavailable(error),
            _ => Self::Failed(error),
        }
    }

    /// Whether the service does not know the topic.
    pub fn is_unknown_topic(&self) -> bool {
        matches!(self, Self::NotFound(error) if error.reason == ErrorReason::UnknownTopic)
    }
}

/// Why a record was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProduceError {
    /// The topic could not be looked up; the record was not sent.
    #[error("topic {topic}: {cause}")]
    Topic {
        /// Its name.
        topic: TopicName,
        /// Why.
        cause: RequestError,
    },
    /// The topic has no such partition; the record was not sent.
    #[error("topic {topic} has no partition {partition}, it has {partition_count}, from 0")]
    UnknownPartition {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: PartitionIndex,
        /// How many it has.
        partition_count: u32,
    },
    /// The record is larger than the topic allows; it was not sent.
    #[error(
        "record has {size} bytes as a batch of its own, topic {topic} allows {limit} (max.message.bytes)"
    )]
    TooLarge {
        /// The topic.
        topic: TopicName,
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The record cannot be encoded; it was not sent.
    #[error("{0}")]
    Encode(#[from] BatchError),
    /// The service refused it, and it was not written. It would be refused again.
    #[error("{0}")]
    Refused(Box<ApiError>),
    /// Another producer has taken this producer's id over. It was not written; this producer sends no more.
    #[error("the producer is fenced: {0}")]
    Fenced(Box<ApiError>),
    /// It could not be sent in time, and was not written. It may be sent again.
    #[error("not written within {} ms{}", .after.as_millis(), last_cause(.cause.as_deref()))]
    TimedOut {
        /// The delivery timeout.
        after: Duration,
        /// What the last attempt met.
        cause: Option<Box<str>>,
    },
    /// It may have been written, or may yet be. Sending it again may make it appear twice.
    #[error("it is not known whether it was written: {cause}")]
    OutcomeUnknown {
        /// What the last attempt met.
        cause: Box<str>,
    },
    /// The producer was closed before the record was sent; it was not written.
    #[error("the producer is closed")]
    Closed,
}

fn last_cause(cause: Option<&str>) -> String {
    cause.map(|cause| format!(": {cause}")).unwrap_or_default()
}

impl ProduceError {
    /// Whether the record may be in the log, or may get there.
    pub fn outcome_unknown(&self) -> bool {
        matches!(self, Self::OutcomeUnknown { .. })
    }
}

/// Why a consumer cannot go on with a partition, or at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConsumeError {
    /// The request at the start failed: topic, partition or offset could not be looked up.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The offset is not in the partition (any more). The partition delivers nothing until [`crate::Consumer::seek`].
    #[error("{topic}[{partition}] has no offset {offset}, it holds {earliest} to {latest}")]
    OffsetOutOfRange {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: PartitionIndex,
        /// The offset that was asked for.
        offset: Offset,
        /// Its log start offset, if the service said.
        earliest: String,
        /// Its high watermark, if the service said.
        latest: String,
    },
    /// The service refuses the partition: it does not exist any more, or what it stores is damaged. The partition delivers nothing from now on.
    #[error("{topic}[{partition}] at offset {offset}: {error}")]
    Partition {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: PartitionIndex,
        /// The offset that should have come next.
        offset: Offset,
        /// Why.
        error: Box<ApiError>,
    },
    /// What arrived is damaged, or its offsets do not follow on those before. The partition delivers nothing until [`crate::Consumer::seek`].
    #[error("{topic}[{partition}] at offset {offset}: {problem}")]
    Corrupt {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: PartitionIndex,
        /// The offset that should have come next.
        offset: Offset,
        /// What is wrong.
        problem: String,
    },
    /// Nobody has answered for long. The consumer keeps trying if it is polled again.
    #[error("no answer for {} ms: {cause}", .after.as_millis())]
    Unavailable {
        /// How long.
        after: Duration,
        /// What the last attempt met.
        cause: String,
    },
}
