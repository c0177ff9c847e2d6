//! From the agent's errors to those of the contract.

use tidelog_agent::groups::error::{GroupError, OffsetError};
use tidelog_agent::{AdminError, FetchError, Overloaded, ProduceError};
use tidelog_metadata_state::config::ConfigError;
use tidelog_proto::status::ApiError;
use tidelog_proto::v1::ErrorReason;

/// A call while the agent shuts down.
pub(crate) fn draining() -> ApiError {
    ApiError::new(ErrorReason::Draining, "the agent is shutting down")
        .retry_after(std::time::Duration::from_millis(100))
}

/// Bytes that do not fit the buffers.
pub(crate) fn overloaded(error: &Overloaded) -> ApiError {
    ApiError::new(ErrorReason::BufferFull, error).retry_after(error.retry_after)
}

/// Why a batch was not acknowledged.
pub(crate) fn produce(error: &ProduceError) -> ApiError {
    use ProduceError as E;
    let reason = match error {
        E::UnknownTopic { .. } | E::AutoCreate { .. } => ErrorReason::UnknownTopic,
        E::TopicIdMismatch { .. } => ErrorReason::TopicIdMismatch,
        E::UnknownPartition { .. } => ErrorReason::UnknownPartition,
        E::TooLarge { .. } => ErrorReason::BatchTooLarge,
        E::Corrupt(_) => ErrorReason::CorruptBatch,
        E::Unsupported(_) => ErrorReason::Unsupported,
        E::EarlierAppendFailed => ErrorReason::EarlierAppendFailed,
        E::OutOfOrderSequence { .. } => ErrorReason::OutOfOrderSequence,
        E::ProducerFenced { .. } => ErrorReason::ProducerFenced,
        E::UnknownProducer => ErrorReason::UnknownProducer,
        E::OffsetsExhausted => ErrorReason::OffsetsExhausted,
        E::StorageUnavailable { .. } => ErrorReason::StorageUnavailable,
        E::MetadataUnavailable { .. } => ErrorReason::MetadataUnavailable,
        E::Draining => ErrorReason::Draining,
        E::Unknown { .. } => ErrorReason::OutcomeUnknown,
    };
    let api = match error {
        E::Unknown { cause } => {
            let text = format!("the records may have been written, or may yet be: {cause}");
            ApiError::new(reason, text)
        }
        _ => ApiError::new(reason, error),
    };
    let api = match error {
        E::UnknownTopic { topic } | E::AutoCreate { topic, .. } => api.with("topic", topic),
        E::TopicIdMismatch { topic, found, .. } => api.with("topic", topic).with("topic_id", found),
        E::UnknownPartition { topic, partition, partitions } => {
            api.with("topic", topic).with("partition", partition).with("partition_count", partitions)
        }
        E::TooLarge { bytes, max } => api.with("size", bytes).with("limit", max),
        E::OutOfOrderSequence { expected } => api.with("expected_sequence", expected.get()),
        E::ProducerFenced { current } => api.with("current_epoch", current.get()),
        _ => api,
    };
    match error.retry_after() {
        Some(wait) => api.retry_after(wait),
        None => api,
    }
}

/// Why a partition could not be read.
pub(crate) fn fetch(error: &FetchError) -> ApiError {
    use FetchError as E;
    let api = match error {
        E::UnknownTopic { topic } => ApiError::new(ErrorReason::UnknownTopic, error).with("topic", topic),
        E::TopicIdMismatch { topic, found, .. } => {
            ApiError::new(ErrorReason::TopicIdMismatch, error).with("topic", topic).with("topic_id", found)
        }
        E::UnknownPartition { topic, partition, partitions } => {
            ApiError::new(ErrorReason::UnknownPartition, error)
                .with("topic", topic)
                .with("partition", partition)
                .with("partition_count", partitions)
        }
        E::OffsetOutOfRange { earliest, latest } => ApiError::new(ErrorReason::OffsetOutOfRange, error)
            .with("earliest", earliest)
            .with("latest", latest),
        E::Corrupt { object, .. } => {
            ApiError::new(ErrorReason::StoredDataCorrupt, error).with("object", object)
        }
        E::StorageUnavailable { .. } => ApiError::new(ErrorReason::StorageUnavailable, error),
        E::MetadataUnavailable { .. } => ApiError::new(ErrorReason::MetadataUnavailable, error),
        E::TooManyPartitions { max } => ApiError::new(ErrorReason::RequestTooLarge, error).with("limit", max),
    };
    match error.retry_after() {
        Some(wait) => api.retry_after(wait),
        None => api,
    }
}

/// Why an administrative operation failed.
pub(crate) fn admin(error: &AdminError) -> ApiError {
    use AdminError as E;
    let api = match error {
        E::TopicExists { topic, id } => {
            ApiError::new(ErrorReason::TopicExists, error).with("topic", topic).with("topic_id", id)
        }
        E::UnknownTopic { topic } => ApiError::new(ErrorReason::UnknownTopic, error).with("topic", topic),
        E::TopicIdMismatch { topic, found, .. } => {
            ApiError::new(ErrorReason::TopicIdMismatch, error).with("topic", topic).with("topic_id", found)
        }
        E::UnknownPartition { topic, partition, partitions } => {
            ApiError::new(ErrorReason::UnknownPartition, error)
                .with("topic", topic)
                .with("partition", partition)
                .with("partition_count", partitions)
        }
        E::PartitionCount { low, high, .. } => ApiError::new(ErrorReason::InvalidPartitionCount, error)
            .with("low", low)
            .with("limit", high)
            .violation("partition_count", error),
        E::ClusterPartitions { high, .. } | E::GroupPartitions { high } => {
            ApiError::new(ErrorReason::PartitionLimitReached, error).with("limit", high)
        }
        E::Config(config) => {
            let api = ApiError::new(ErrorReason::InvalidTopicConfig, error).violation("config", error);
            match config {
                ConfigError::UnknownKey { key } => {
                    let allowed = tidelog_metadata_state::config::KEYS.map(|key| key.name).join(", ");
                    api.with("key", key).with("allowed", allowed)
                }
                ConfigError::Value { key, allowed, .. } => api.with("key", key).with("allowed", allowed),
            }
        }
        E::OffsetOutOfRange { earliest, latest } => ApiError::new(ErrorReason::OffsetOutOfRange, error)
            .with("earliest", earliest)
            .with("latest", latest),
        E::UnknownProducer => ApiError::new(ErrorReason::UnknownProducer, error),
        E::ProducerFenced { current } => {
            ApiError::new(ErrorReason::ProducerFenced, error).with("current_epoch", current.get())
        }
        E::MetadataUnavailable { .. } => ApiError::new(ErrorReason::MetadataUnavailable, error),
        E::TooLarge { bytes, max } => {
            ApiError::new(ErrorReason::RequestTooLarge, error).with("size", bytes).with("limit", max)
        }
        E::Unknown { .. } => {
            ApiError::new(ErrorReason::OutcomeUnknown, format!("{error}: it may have taken effect"))
        }
    };
    match error.retry_after() {
        Some(wait) => api.retry_after(wait),
        None => api,
    }
}

/// Why an operation on a group failed.
pub(crate) fn group(error: &GroupError) -> ApiError {
    use GroupError as E;
    let api = match error {
        E::UnknownGroup { group } => ApiError::new(ErrorReason::UnknownGroup, error).with("group", group),
        E::UnknownMember { group, member } => {
            ApiError::new(ErrorReason::UnknownMember, error).with("group", group).with("member_id", member)
        }
        E::MemberExists { group, member } => {
            ApiError::new(ErrorReason::MemberExists, error).with("group", group).with("member_id", member)
        }
        E::Full { limit } => ApiError::new(ErrorReason::GroupFull, error).with("limit", limit.value()),
        E::NotEmpty { group, members } => {
            ApiError::new(ErrorReason::GroupNotEmpty, error).with("group", group).with("members", members)
        }
        E::StaleGeneration { current } => {
            ApiError::new(ErrorReason::StaleGeneration, error).with("generation", current)
        }
        E::Pattern(_) => {
            ApiError::new(ErrorReason::InvalidRequest, error).violation("options.topic_pattern", error)
        }
        E::Malformed(_) => ApiError::new(ErrorReason::InvalidRequest, error),
        E::MetadataUnavailable { .. } => ApiError::new(ErrorReason::MetadataUnavailable, error),
        E::TooLarge { bytes, max } => {
            ApiError::new(ErrorReason::RequestTooLarge, error).with("size", bytes).with("limit", max)
        }
        E::Unknown { .. } => {
            ApiError::new(ErrorReason::OutcomeUnknown, format!("{error}: it may have taken effect"))
        }
    };
    match error.retry_after() {
        Some(wait) => api.retry_after(wait),
        None => api,
    }
}

/// Why one offset was not committed.
pub(crate) fn offset(error: &OffsetError) -> ApiError {
    use OffsetError as E;
    match error {
        E::UnknownTopic { topic } => ApiError::new(ErrorReason::UnknownTopic, error).with("topic", topic),
        E::TopicIdMismatch { topic, found, .. } => {
            ApiError::new(ErrorReason::TopicIdMismatch, error).with("topic", topic).with("topic_id", found)
        }
        E::UnknownPartition { topic, partition, partitions } => {
            ApiError::new(ErrorReason::UnknownPartition, error)
                .with("topic", topic)
                .with("partition", partition)
                .with("partition_count", partitions)
        }
        E::StaleGeneration { current } => {
            ApiError::new(ErrorReason::StaleGeneration, error).with("generation", current)
        }
        E::Group(failed) => group(failed),
    }
}
