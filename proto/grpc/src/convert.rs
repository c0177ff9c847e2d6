//! What comes from outside, checked on its way into the types of `tidelog-types`.
//!
//! Each check returns an [`InvalidField`] that names the field, what it was, and what is allowed. Paths are relative to the message that
//! was given; [`InvalidField::within`] completes them. Map: this file, fields · [`entry`] entries that name a partition ·
//! [`fetch`] how much to read · [`group`] who is who in consumer groups.

pub mod entry;
pub mod fetch;
pub mod group;

use std::fmt;

use tidelog_types::name::TOPIC_NAME_MAX;
use tidelog_types::{
    Offset, OutOfRange, PartitionIndex, ProducerEpoch, ProducerId, ProducerStamp, Sequence, TopicName,
};

use crate::limits;
use crate::status::ApiError;
use crate::v1::{self, ErrorReason};

pub use entry::{PartitionRef, Position, TopicRef, check_entries};
pub use fetch::FetchBounds;

/// A field that is missing or outside what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {description}")]
pub struct InvalidField {
    /// The reason that an error of the service gives, mostly [`ErrorReason::InvalidRequest`].
    pub reason: ErrorReason,
    /// Path to the field, e.g. `partitions[2].offset`.
    pub field: String,
    /// What is wrong and what is allowed.
    pub description: String,
}

impl InvalidField {
    /// A field with what is wrong with it.
    pub fn new(field: &str, description: impl fmt::Display) -> Self {
        Self {
            reason: ErrorReason::InvalidRequest,
            field: field.to_owned(),
            description: description.to_string(),
        }
    }

    /// A field that has to be there and is not.
    pub fn missing(field: &str) -> Self {
        Self::new(field, "is missing")
    }

    /// Puts a parent before the path: `within("partitions[2]")` makes `partitions[2].offset` of `offset`.
    pub fn within(mut self, parent: impl fmt::Display) -> Self {
        self.field = format!("{parent}.{}", self.field);
        self
    }
}

impl From<InvalidField> for ApiError {
    fn from(invalid: InvalidField) -> Self {
        let error = Self::new(invalid.reason, &invalid);
        let error = match invalid.reason {
            ErrorReason::InvalidTopicName => error.with("limit", TOPIC_NAME_MAX),
            ErrorReason::InvalidGroupName => group::describe(error, &invalid.field),
            ErrorReason::RequestTooLarge => error.with("limit", limits::PARTITIONS_PER_REQUEST_MAX),
            _ => error,
        };
        error.violation(invalid.field, invalid.description)
    }
}

impl From<InvalidField> for tonic::Status {
    fn from(invalid: InvalidField) -> Self {
        ApiError::from(invalid).into()
    }
}

/// A topic's name.
pub fn topic_name(field: &str, name: &str) -> Result<TopicName, InvalidField> {
    TopicName::new(name).map_err(|error| InvalidField {
        reason: ErrorReason::InvalidTopicName,
        ..InvalidField::new(field, error)
    })
}

/// A partition's number.
pub fn partition_index(field: &str, value: i32) -> Result<PartitionIndex, InvalidField> {
    PartitionIndex::new(value).map_err(|error| InvalidField::new(field, error))
}

/// An offset.
pub fn offset(field: &str, value: i64) -> Result<Offset, InvalidField> {
    Offset::new(value).map_err(|error| InvalidField::new(field, error))
}

/// A number of partitions, 1 to 2^31 - 1; how many a topic may have, the metadata decides.
pub fn partition_count(field: &str, value: i32) -> Result<u32, InvalidField> {
    positive(field, value)
}

/// The number of topics in a page: the default for 0, the limit for more than that.
pub fn page_size(value: i32) -> Result<usize, InvalidField> {
    match usize::try_from(value) {
        Ok(0) => Ok(limits::PAGE_SIZE_DEFAULT),
        Ok(size) => Ok(size.min(limits::PAGE_SIZE_MAX)),
        Err(_) => Err(out_of_range("page_size", "page size", value.into(), 0, i32::MAX.into())),
    }
}

/// The name that a client gives itself.
pub fn client_id(field: &str, value: &str) -> Result<(), InvalidField> {
    if value.len() > limits::CLIENT_ID_BYTES_MAX {
        let length = i64::try_from(value.len()).unwrap_or(i64::MAX);
        let high = i64::try_from(limits::CLIENT_ID_BYTES_MAX).unwrap_or(i64::MAX);
        return Err(out_of_range(field, "its length in bytes", length, 0, high));
    }
    Ok(())
}

/// The form in which records are wanted.
pub fn record_format(field: &str, value: i32) -> Result<v1::RecordFormat, InvalidField> {
    match v1::RecordFormat::try_from(value) {
        Ok(v1::RecordFormat::Unspecified | v1::RecordFormat::Records) => Ok(v1::RecordFormat::Records),
        Ok(v1::RecordFormat::Batches) => Ok(v1::RecordFormat::Batches),
        Err(_) => {
            let allowed = "allowed are RECORD_FORMAT_RECORDS and RECORD_FORMAT_BATCHES";
            Err(InvalidField::new(field, format_args!("format {value} is unknown, {allowed}")))
        }
    }
}

/// A producer's id and epoch.
pub fn producer_identity(
    identity: &v1::ProducerIdentity,
) -> Result<(ProducerId, ProducerEpoch), InvalidField> {
    Ok((producer_id(identity.producer_id)?, producer_epoch(identity.producer_epoch)?))
}

impl From<(ProducerId, ProducerEpoch)> for v1::ProducerIdentity {
    fn from((id, epoch): (ProducerId, ProducerEpoch)) -> Self {
        Self { producer_id: id.get(), producer_epoch: epoch.get().into() }
    }
}

impl TryFrom<&v1::ProducerStamp> for ProducerStamp {
    type Error = InvalidField;

    fn try_from(stamp: &v1::ProducerStamp) -> Result<Self, InvalidField> {
        let base_sequence = Sequence::new(stamp.base_sequence);
        Ok(Self {
            id: producer_id(stamp.producer_id)?,
            epoch: producer_epoch(stamp.producer_epoch)?,
            base_sequence: base_sequence.map_err(|error| InvalidField::new("base_sequence", error))?,
        })
    }
}

impl From<ProducerStamp> for v1::ProducerStamp {
    fn from(stamp: ProducerStamp) -> Self {
        Self {
            producer_id: stamp.id.get(),
            producer_epoch: stamp.epoch.get().into(),
            base_sequence: stamp.base_sequence.get(),
        }
    }
}

fn producer_id(value: i64) -> Result<ProducerId, InvalidField> {
    ProducerId::new(value).map_err(|error| InvalidField::new("producer_id", error))
}

fn producer_epoch(value: i32) -> Result<ProducerEpoch, InvalidField> {
    let checked = i16::try_from(value).ok().and_then(|epoch| ProducerEpoch::new(epoch).ok());
    checked.ok_or_else(|| out_of_range("producer_epoch", "producer epoch", value.into(), 0, i16::MAX.into()))
}

/// A number of which there must be at least one.
fn positive(field: &str, value: i32) -> Result<u32, InvalidField> {
    match u32::try_from(value) {
        Ok(value) if value > 0 => Ok(value),
        _ => Err(out_of_range(field, "it", value.into(), 1, i32::MAX.into())),
    }
}

/// A number that may be 0.
fn not_negative(field: &str, value: i32) -> Result<u32, InvalidField> {
    u32::try_from(value).map_err(|_| out_of_range(field, "it", value.into(), 0, i32::MAX.into()))
}

fn out_of_range(field: &str, what: &'static str, value: i64, low: i64, high: i64) -> InvalidField {
    InvalidField::new(field, OutOfRange { what, value, low, high })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_errors_with_field_and_limit() {
        for name in ["", ".", "..", "a/b", "a\0b", &"x".repeat(250)] {
            let invalid = topic_name("name", name).expect_err("no topic name");
            let error = ApiError::from(invalid.within("partitions[0]"));
            assert_eq!(error.reason, ErrorReason::InvalidTopicName, "{name:?}");
            assert_eq!(error.metadata["limit"], "249");
            assert_eq!(error.violations[0].0, "partitions[0].name");
        }
        assert_eq!(topic_name("name", "orders").map(|name| name.to_string()), Ok("orders".into()));
    }

    #[test]
    fn numbers_outside_their_range_are_refused() {
        let text = |invalid: InvalidField| invalid.to_string();
        assert_eq!(
            offset("offset", -1).map_err(text),
            Err("offset: offset is -1, allowed are 0 to 9223372036854775807".into())
        );
        assert!(offset("offset", i64::MIN).is_err() && offset("offset", i64::MAX).is_ok());
        assert!(partition_index("partition", -1).is_err() && partition_index("partition", i32::MAX).is_ok());
        assert!(
            partition_count("partition_count", 0).is_err() && partition_count("partition_count", 1).is_ok()
        );
        assert!(record_format("format", 3).is_err() && record_format("format", -1).is_err());
        assert_eq!(record_format("format", 0), Ok(v1::RecordFormat::Records));
        assert!(client_id("client_id", &"x".repeat(250)).is_err() && client_id("client_id", "").is_ok());
    }

    #[test]
    fn pages_have_a_default_and_a_limit() {
        assert_eq!(page_size(0), Ok(100));
        assert_eq!(page_size(7), Ok(7));
        assert_eq!(page_size(i32::MAX), Ok(1000));
        assert!(page_size(-1).is_err());
    }

    #[test]
    fn stamps_go_both_ways_and_are_checked() {
        let stamp =
            v1::ProducerStamp { producer_id: i64::MAX, producer_epoch: 32_767, base_sequence: i32::MAX };
        assert_eq!(ProducerStamp::try_from(&stamp).map(v1::ProducerStamp::from), Ok(stamp));
        for (bad, field) in [
            (v1::ProducerStamp { producer_id: -1, ..stamp }, "producer_id"),
            (v1::ProducerStamp { producer_epoch: -1, ..stamp }, "producer_epoch"),
            (v1::ProducerStamp { producer_epoch: 32_768, ..stamp }, "producer_epoch"),
            (v1::ProducerStamp { base_sequence: -1, ..stamp }, "base_sequence"),
        ] {
            assert_eq!(ProducerStamp::try_from(&bad).map_err(|invalid| invalid.field), Err(field.into()));
        }
        let identity = v1::ProducerIdentity { producer_id: 5, producer_epoch: 0 };
        assert_eq!(producer_identity(&identity).map(v1::ProducerIdentity::from), Ok(identity));
        assert!(producer_identity(&v1::ProducerIdentity { producer_epoch: 70_000, ..identity }).is_err());
    }
}
